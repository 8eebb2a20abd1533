"""Evaluates ONNX nodes with numpy: what constant folding, the lifts and their checks compute with.

The operations follow https://onnx.ai/onnx/operators; float16 and bfloat16 are computed in float32. What is not in a table here is not
computed: `evaluate` says so by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgelm_converters import onnx_ops_attention, onnx_ops_norms
from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxNode
from edgelm_converters.onnx_operands import Compute
from edgelm_converters.onnx_ops_arithmetic import ARITHMETIC
from edgelm_converters.onnx_ops_recurrent import RECURRENT
from edgelm_converters.onnx_ops_shapes import SHAPES

_TABLES: Mapping[str, Mapping[str, Compute]] = {
    "": {**SHAPES, **ARITHMETIC, **RECURRENT, **onnx_ops_norms.NORMS, **onnx_ops_attention.ATTENTION},
    "com.microsoft": {**onnx_ops_norms.MICROSOFT, **onnx_ops_attention.MICROSOFT},
}
"""Domain -> operation -> how it is computed."""

OPERATIONS = frozenset(_TABLES[""])
"""ONNX's own operations that are computed here."""


def computable(node: OnnxNode) -> bool:
    """Whether `evaluate` knows the operation."""
    return node.op in _TABLES.get(node.domain, {})


def evaluate(node: OnnxNode, inputs: Sequence[Array | None]) -> tuple[Array, ...]:
    """The outputs of one node.

    Args:
        node: The node.
        inputs: Values of its inputs in order, None for optional ones that are left out.

    Returns:
        The first outputs of the operation, as many as are computed here; a node may name fewer.

    Raises:
        NotLiftable: The operation is in no table, the values do not fit it, or the result would be too large.

    Example:
        >>> evaluate(OnnxNode("n", "Add", "", ("a", "b"), ("c",), {}), [np.ones(2), np.ones(2)])
        (array([2., 2.]),)
    """
    compute = _TABLES.get(node.domain, {}).get(node.op)
    if compute is None:
        raise NotLiftable(f"node {node.name!r} is {node.op}, which edgelm does not compute")
    try:
        with np.errstate(all="ignore"):  # infinities are what masks are made of
            result = compute(node, inputs)
    except (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError) as error:
        raise NotLiftable(f"node {node.name!r} ({node.op}) cannot be computed: {error}") from error
    return result if isinstance(result, tuple) else (result,)


def trace(graph: OnnxGraph, feeds: Mapping[str, Array], *wanted: str) -> dict[str, Array]:
    """Evaluates as much of a graph as follows from some inputs.

    Args:
        graph: The graph.
        feeds: Input name -> value; inputs that are left out, and all that depends on them, have no value.
        wanted: Tensors to stop at; without any, all are computed.

    Returns:
        Tensor name -> value, constants and feeds included. Nodes that cannot be computed have none.
    """
    values: dict[str, Array] = {**graph.constants, **feeds}
    for node in graph.ancestors(*wanted) if wanted else graph.nodes:
        if not all(not name or name in values for name in node.inputs) or not computable(node):
            continue
        try:
            made = evaluate(node, [values[name] if name else None for name in node.inputs])
        except NotLiftable:
            continue  # who needs the value finds none
        values |= {name: value for name, value in zip(node.outputs, made, strict=False) if name}
    return values
