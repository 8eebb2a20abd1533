"""Computes the parts of a graph that depend on no token: positions, position tables and attention masks.

Models build them from the shape of their input (`range(shape(ids)[1])`, `cumsum(ones_like(ids)) - 1`). Here they are evaluated for
two different inputs; what comes out the same is a constant of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_wiring import IDENTITIES, Operand, Wiring, operation, option, slice_index, weight_of
from edgelm_converters.lift import NotLiftable

Array = NDArray[Any]


def constant_of(wiring: Wiring, operand: Operand, time: int) -> Array | None:
    """The value of an operand that depends on no token.

    Args:
        wiring: The model.
        operand: A node's name or a constant.
        time: Tokens in the input; position tables and masks are as long.

    Returns:
        The array for inputs of shape (1, time), or None when it depends on the tokens or cannot be computed here.
    """
    if not isinstance(operand, str):
        return operand
    ids = np.zeros((1, time), np.int64)
    first, second = _evaluate(wiring, operand, ids), _evaluate(wiring, operand, ids + 1)
    same = first is not None and second is not None and np.array_equal(first, second)
    return first if same else None


def input_length(wiring: Wiring) -> int | None:
    """The model's fixed number of tokens, None where any will do."""
    shapes = [
        node.config.get("batch_shape") or node.config.get("batch_input_shape") for node in wiring.graph.nodes if node.kind == "InputLayer"
    ]
    return next((int(shape[1]) for shape in shapes if shape and len(shape) > 1 and shape[1]), None)


def table_length(wiring: Wiring, name: str) -> int | None:
    """Rows of the shortest table that `name` looks positions up in; None when there is none."""
    rows = [
        weight_of(node, "embeddings").shape[0]
        for node in wiring.ancestors(name)
        if operation(node) == "Embedding" and constant_of(wiring, node.inputs[0], time=2) is not None
    ]
    cut = [wiring.operands(node)[0] for node in wiring.ancestors(name) if operation(node) == "StridedSlice"]
    rows += [table.shape[-2] for table in cut if not isinstance(table, str) and table.ndim >= 2]
    return min(rows, default=None)


def _evaluate(wiring: Wiring, name: str, ids: Array) -> Array | None:
    """The value of node `name` for the input `ids`, computed in the graph's order; None when it cannot be."""
    wanted = {node.name for node in wiring.ancestors(name)}
    values: dict[str, Array | None] = {}
    for node in wiring.graph.nodes:
        if node.name in wanted:
            values[node.name] = ids if node.kind == "InputLayer" else _compute(wiring, node, values)
    return values[name]


def _compute(wiring: Wiring, node: LayerNode, values: Mapping[str, Array | None]) -> Array | None:
    operands = [values[operand] if isinstance(operand, str) else operand for operand in wiring.operands(node)]
    known = [operand for operand in operands if operand is not None]
    if not known or len(known) < len(operands):
        return None
    compute = _COMPUTE.get(operation(node), _hidden)
    try:
        with np.errstate(invalid="ignore"):  # what depends on the tokens is not a number here
            return np.asarray(compute(node, known))
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, NotLiftable):
        return None  # not the call that the table below knows: no constant


def _hidden(node: LayerNode, operands: list[Array]) -> Array:
    """Stands for what a layer makes of the tokens: of the right shape, and not a number, so that it equals nothing."""
    kernel = node.weights.get("kernel")
    width = operands[0].shape[-1] if kernel is None else kernel.shape[-1]
    return operands[0] if operation(node) in IDENTITIES else np.full((*operands[0].shape[:-1], width), np.nan)


def _ones(node: LayerNode, operands: list[Array]) -> Array:
    return np.ones([int(size) for operand in operands for size in np.atleast_1d(operand)])


def _arange(node: LayerNode, operands: list[Array]) -> Array:
    return np.arange(*(operand.item() for operand in operands[:3]))


def _axis(node: LayerNode) -> int:
    axis = option(node, "axis")
    return int(node.arguments["1"] if axis is None else axis)


def _band(node: LayerNode, operands: list[Array]) -> Array:
    rows, columns = np.indices(operands[0].shape[-2:])
    lower, upper = int(node.arguments["num_lower"]), int(node.arguments["num_upper"])
    keep = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    return np.where(keep, operands[0], 0)


def _strided_slice(node: LayerNode, operands: list[Array]) -> Array:
    """TensorFlow's slice of a constant: bits of the masks stand for omitted bounds."""
    if any(node.arguments.get(f"{name}_mask") for name in ("ellipsis", "new_axis", "shrink_axis")):
        raise NotLiftable(f"{node.name!r} slices in a way edgelm does not follow")
    array, *bounds = operands
    index = []
    for axis, (begin, end, step) in enumerate(zip(*(bound.tolist() for bound in bounds), strict=True)):
        open_start, open_end = (int(node.arguments.get(name, 0)) >> axis & 1 for name in ("begin_mask", "end_mask"))
        index.append(slice(None if open_start else begin, None if open_end else end, step))
    sliced: Array = array[tuple(index)]
    return sliced


_COMPUTE: Mapping[str, Callable[[LayerNode, list[Array]], Any]] = {
    "Add": lambda node, operands: operands[0] + operands[1],
    "Arange": _arange,
    "BandPart": _band,
    "BroadcastTo": lambda node, operands: np.broadcast_to(operands[0], [int(size) for size in operands[1]]),
    "Cumsum": lambda node, operands: np.cumsum(operands[0], axis=_axis(node)),
    "Embedding": lambda node, operands: weight_of(node, "embeddings")[operands[0].astype(np.int64)],
    "ExpandDims": lambda node, operands: np.expand_dims(operands[0], _axis(node)),
    "GetItem": lambda node, operands: operands[0][slice_index(node)],
    "Greater": lambda node, operands: operands[0] > operands[1],
    "GreaterEqual": lambda node, operands: operands[0] >= operands[1],
    "Less": lambda node, operands: operands[0] < operands[1],
    "LessEqual": lambda node, operands: operands[0] <= operands[1],
    "LogicalNot": lambda node, operands: np.logical_not(operands[0]),
    "Multiply": lambda node, operands: operands[0] * operands[1],
    "Ones": _ones,
    "OnesLike": lambda node, operands: np.ones_like(operands[0]),
    "Reshape": lambda node, operands: operands[0].reshape([int(size) for size in operands[1]]),
    "Shape": lambda node, operands: np.array(operands[0].shape),
    "Stack": lambda node, operands: np.stack(operands),
    "StridedSlice": _strided_slice,
    "Subtract": lambda node, operands: operands[0] - operands[1],
    "Transpose": lambda node, operands: operands[0].T,
    "Tril": lambda node, operands: np.tril(operands[0], int(option(node, "k", 0))),
    "ZerosLike": lambda node, operands: np.zeros_like(operands[0]),
}
