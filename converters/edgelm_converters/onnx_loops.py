"""Recurrent layers that an exporter wrote as a Loop: one step in the body, the sequence looked up by the counter.

tf2onnx does so for Keras' SimpleRNN and for activations its own rewriting does not know. Which cell the body is, is not read off its
nodes: its matrices are taken out, and the cells they may belong to are run beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgelm.model import LanguageModel
from edgelm.models.reference import ReferenceSession
from edgelm.spec import Activation, Cell, FloatArray, RecurrentSpec
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, RecurrentCell
from edgelm_converters.onnx_fold import folded
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxInput, OnnxNode
from edgelm_converters.onnx_ops import trace
from edgelm_converters.onnx_walk import arranged_from

_GATED: tuple[Activation, ...] = ("sigmoid", "hard_sigmoid")
_INNER: tuple[Activation, ...] = ("tanh", "relu", "sigmoid", "gelu", "silu", "hard_sigmoid", "linear")
_ORDERS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "rnn": ((0,),),
    "gru": ((0, 1, 2), (1, 0, 2)),
    "lstm": ((0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1)),
}
"""Where the spec's gates stand: in Keras and torch, then torch's GRU (r z n), TensorFlow 1's LSTM (i g f o), ONNX's (i o f g)."""
_CLOSE = 1e-5  # a few steps of float32 sums
_ROWS, _STEPS = 3, 3  # that a body is compared on


@dataclass(frozen=True)
class LoopCell:
    """A recurrent layer in a Loop.

    Attributes:
        cell: The cell.
        sequence: Tensor of its inputs, (time, batch, features).
        outputs: Outputs of the Loop that hold all steps; the others hold the last one.
    """

    cell: RecurrentCell
    sequence: str
    outputs: tuple[str, ...]


def is_loop(node: OnnxNode) -> bool:
    """A Loop or Scan."""
    return node.op in ("Loop", "Scan") and not node.domain


def loop_cell(graph: OnnxGraph, node: OnnxNode) -> LoopCell:
    """The recurrent layer that a Loop is.

    Raises:
        NotLiftable: It is a Scan, goes through several sequences, or its body is no cell of the spec.
    """
    body = node.attributes.get("body")
    if node.op != "Loop" or not isinstance(body, OnnxGraph) or len(body.inputs) < 3:
        raise NotLiftable(f"node {node.name!r} is a {node.op}, whose body edgelm does not read")
    step = _step(graph, node, body)
    cell = cell_of_step(step)
    if cell is not None:
        return LoopCell(cell, step.sequence, node.outputs[len(body.inputs) - 2 :])
    raise NotLiftable(f"the body of node {node.name!r} (Loop) is no RNN, GRU or LSTM step")


@dataclass(frozen=True)
class Step:
    """One step of a recurrent layer as a function.

    Attributes:
        graph: The step; what stays the same in all steps is a constant of it.
        x: Tensor of the position's features, an input of the graph.
        sequence: Where it is looked up, outside.
        states: State inputs -> the outputs they become.
    """

    graph: OnnxGraph
    x: str
    sequence: str
    states: Mapping[str, str]


def _step(graph: OnnxGraph, node: OnnxNode, body: OnnxGraph) -> Step:
    carried = [given.name for given in body.inputs[2:]]
    becomes = dict(zip(carried, body.outputs[1:], strict=False))
    if len(node.inputs) != len(body.inputs) or len(body.outputs) < len(carried) + 1:
        raise NotLiftable(f"node {node.name!r} (Loop) carries other values than its body")
    outer = dict(zip(carried, node.inputs[2:], strict=True))
    fixed = {name: graph.constants[outer[name]] for name in carried if becomes[name] == name and outer[name] in graph.constants}
    inside = [name for name, array in graph.constants.items() if name not in body.constants]
    constants = {**{name: graph.constants[name] for name in inside}, **body.constants, **fixed}
    lookups = [each for each in body.nodes if each.op == "Gather" and each.inputs[0] not in constants and each.inputs[0] not in carried]
    if len(lookups) != 1:
        raise NotLiftable(f"node {node.name!r} (Loop) goes through {len(lookups)} sequences")
    (lookup,) = lookups
    floats = {given.name: given for given in body.inputs[2:] if given.dtype == "float32" and given.name not in fixed}
    inputs = (OnnxInput(lookup.outputs[0], "float32", ()), *floats.values())
    nodes = tuple(each for each in body.nodes if each is not lookup)
    outputs = tuple(becomes[name] for name in floats)
    if not floats or any(not name for name in outputs):
        raise NotLiftable(f"node {node.name!r} (Loop) carries no states")
    inner = folded(dataclasses.replace(body, nodes=nodes, constants=constants, inputs=inputs, outputs=outputs))
    return Step(inner, lookup.outputs[0], lookup.inputs[0], dict(zip(floats, inner.outputs, strict=True)))


def cell_of_step(step: Step) -> RecurrentCell | None:
    """The cell that computes what a step computes; None when no cell of the spec does."""
    return next((cell for cell in _candidates(step) if _agrees(step, cell)), None)


def _matrices(step: Step) -> Iterator[tuple[str, FloatArray]]:
    """(what it is multiplied with, matrix (out, in)) of all products."""
    for node in step.graph.nodes:
        matrix = step.graph.constant(node.inputs[1]) if node.op in ("MatMul", "Gemm") else None
        if matrix is not None and matrix.ndim == 2:
            outward = matrix if node.attributes.get("transB", 0) else matrix.T
            yield arranged_from(step.graph, node.inputs[0]), np.asarray(outward, np.float32)


def _candidates(step: Step) -> Iterator[RecurrentCell]:
    """Cells that the body's matrices fit, likeliest first."""
    products = list(_matrices(step))
    read = [matrix for name, matrix in products if name == step.x]
    units = next((matrix.shape[1] for name, matrix in products if name in step.states), 0)
    recurrent = [matrix for name, matrix in products if name != step.x and matrix.shape[1] == units]  # a GRU may have its candidate's apart
    if len(read) != 1 or not units or sum(map(len, recurrent)) != len(read[0]):
        return
    w, r = read[0], np.concatenate(recurrent)
    kind = {1: "rnn", 3: "gru", 4: "lstm"}.get(len(r) // r.shape[1])
    if kind is None or len(r) % r.shape[1]:
        return
    biases = [array.reshape(-1) for array in step.graph.constants.values() if array.dtype == np.float32 and array.size == len(r)]
    pairs = itertools.product((*biases, np.zeros(len(r), np.float32)), repeat=2)
    for (first, second), order, inner, gates in itertools.product(pairs, _ORDERS[kind], _INNER, _GATED):
        sorted_rows = [np.concatenate([np.split(rows, len(order))[gate] for gate in order]) for rows in (w, r, first, second)]
        for reset_after in (True, False) if kind == "gru" else (True,):
            yield _cell(kind, inner, gates, reset_after, *sorted_rows)


def _cell(
    kind: str, inner: Activation, gates: Activation, reset_after: bool, w: FloatArray, r: FloatArray, first: FloatArray, second: FloatArray
) -> RecurrentCell:
    cells: Mapping[str, Cell] = {"rnn": "rnn", "gru": "gru", "lstm": "lstm"}
    both = kind == "gru" and reset_after
    bias = first if both else first + second
    return RecurrentCell(cells[kind], inner, gates, reset_after or kind != "gru", Affine(w, bias), r, second if both else None)


def _agrees(step: Step, cell: RecurrentCell) -> bool:
    """Whether the body, run a few times from zeros, comes to the states that the cell comes to."""
    names = ("h_0", "c_0") if cell.cell == "lstm" else ("h_0",)
    if len(step.states) != len(names):
        return False
    features = np.random.default_rng(0).normal(0, 1, (_STEPS, _ROWS, cell.input.weight.shape[1])).astype(np.float32)
    wanted = _states(cell, features)
    made: dict[str, Array] = {name: np.zeros((_ROWS, cell.units), np.float32) for name in step.states}
    for x in features:
        values = trace(step.graph, {step.x: x, **made}, *step.states.values())
        if not all(output in values for output in step.states.values()):
            return False
        made = {name: values[output] for name, output in step.states.items()}
    orders = itertools.permutations(made.values())
    return any(all(_close(met, wanted[name]) for met, name in zip(order, names, strict=True)) for order in orders)


def _close(met: Array, wanted: Array) -> bool:
    return met.shape == wanted.shape and np.allclose(met, wanted, atol=_CLOSE)


def _states(cell: RecurrentCell, features: FloatArray) -> Mapping[str, Array]:
    """The states of the reference after features (steps, rows, width), which are the rows of its embedding table."""
    steps, rows, width = features.shape
    spec = RecurrentSpec(
        steps * rows,
        width,
        cell.cell,
        (cell.units,),
        activation=cell.activation,
        recurrent_activation=cell.recurrent_activation,
        reset_after=cell.reset_after,
        head_bias=False,
    )
    weights = {
        "embedding.weight": features.reshape(-1, width),
        "layers.0.input.weight": cell.input.weight,
        "layers.0.input.bias": cell.input.bias_or_zero(),
        "layers.0.recurrent.weight": cell.recurrent,
        "head.weight": np.zeros((steps * rows, cell.units), np.float32),
    }
    if cell.recurrent_bias is not None:
        weights["layers.0.recurrent.bias"] = cell.recurrent_bias
    session = ReferenceSession(LanguageModel(spec, weights), batch=rows)
    session.extend(np.arange(steps * rows).reshape(steps, rows).T)
    return session.state
