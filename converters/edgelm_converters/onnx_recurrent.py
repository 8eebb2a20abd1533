"""Takes recurrent language models out of ONNX graphs: embedding or one-hot input, recurrent nodes, dense layers, head.

The graph is walked from the scores back to the ids. On that way nodes that only arrange values are passed over: whether they do what a
language model needs is for the proof to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgelm.models.activations import activate
from edgelm.spec import FloatArray
from edgelm_converters.lift import Lift, NotLiftable
from edgelm_converters.model_parts import Affine, RecurrentCell, spec_activation
from edgelm_converters.onnx_activations import activation_at
from edgelm_converters.onnx_cells import cell_of, check_direction, is_cell
from edgelm_converters.onnx_loops import is_loop, loop_cell
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxNode
from edgelm_converters.onnx_single_step import has_states, single_step_cell
from edgelm_converters.onnx_walk import LAYOUT, holds_ids
from edgelm_converters.recurrent_parts import Parts, assemble

_END = (1 << 31) - 1  # exporters write any large number for "to the end"
_SOFTMAX: Mapping[str, str] = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


@dataclass(frozen=True)
class _Table:
    rows: FloatArray | None  # (vocab, width), None for one-hot
    classes: int = 0
    one_hot_input: bool = False


@dataclass(frozen=True)
class _Cell:
    cell: RecurrentCell
    name: str


@dataclass(frozen=True)
class _Scaling:
    scale: FloatArray
    shift: FloatArray


@dataclass(frozen=True)
class _Activation:
    name: str


@dataclass(frozen=True)
class _Last:
    """Only the last position goes on."""


_Piece = _Table | _Cell | Affine | _Scaling | _Activation | _Last


def lift_recurrent(graph: OnnxGraph) -> Lift:
    """Rebuilds a recurrent model.

    Args:
        graph: What `edgelm_converters.onnx_graph.folded` made of a file.

    Returns:
        The lift, in float32; prove it before using it.

    Raises:
        UnsupportedModelError: It is not causal, or no language model.
        NotLiftable: It is no chain, mixes cell kinds or has a node the spec has no place for.

    Example:
        >>> lift_recurrent(folded(read_graph(Path("lstm.onnx")))).spec
        RecurrentSpec(vocab_size=31, embedding_size=16, cell='lstm', units=(16, 16), ...)
    """
    if not has_recurrence(graph):
        raise NotLiftable("no recurrent node: no RNN, GRU or LSTM, and no Loop")
    for node in graph.nodes:
        check_direction(node)
    parts = Parts()
    for piece in _chain(graph, _scores(graph)):
        _add(parts, piece)
    found = assemble(parts)
    weights = {name: np.ascontiguousarray(weight, np.float32) for name, weight in found.weights.items()}
    return Lift(found.spec, weights, found.probabilities, found.last_only, found.one_hot, found.notes)


def has_recurrence(graph: OnnxGraph) -> bool:
    """Whether any node carries states along time, or a state is an input that a matrix multiplies."""
    return any(is_cell(node) or is_loop(node) for node in graph.nodes) or has_states(graph)


def _scores(graph: OnnxGraph) -> str:
    """The output that holds the scores: states, and features that the scores are made of, are passed over."""
    outputs = list(dict.fromkeys(graph.outputs))
    behind = {name: {out for node in graph.ancestors(name) for out in node.outputs} - {name} for name in outputs}
    scores = []
    for name in outputs:
        others = set[str]().union(*(behind[other] for other in outputs if other != name))
        if not all(root in others or _carries(graph, root) for root in _roots(graph, name)):
            scores.append(name)
    if len(scores) != 1:
        raise NotLiftable(f"{len(scores)} outputs that are no states: {', '.join(scores)}")
    return scores[0]


def _carries(graph: OnnxGraph, tensor: str) -> bool:
    """An input, or the result of a recurrent node."""
    node = graph.producer_of(tensor)
    return node is None or is_cell(node) or is_loop(node)


def _roots(graph: OnnxGraph, tensor: str) -> list[str]:
    """The tensors that an output is arranged, selected or put together from."""
    waiting, roots = [tensor], list[str]()
    while waiting:
        name = waiting.pop()
        node = graph.producer_of(name)
        if node is not None and node.op == "Concat":
            waiting += node.inputs
        elif node is not None and node.op in LAYOUT | {"Slice", "Gather"}:
            waiting.append(node.inputs[0])
        else:
            roots.append(name)
    return roots


def _chain(graph: OnnxGraph, scores: str) -> list[_Piece]:
    """What is on the way from the ids to the scores."""
    pieces, tensor = list[_Piece](), scores
    while True:
        found, tensor = _step(graph, tensor)
        pieces += found
        if pieces and isinstance(pieces[-1], _Table):
            return pieces[::-1]


def _step(graph: OnnxGraph, tensor: str) -> tuple[list[_Piece], str]:
    """What the node that makes `tensor` is (nearest first), and the tensor it works on."""
    node = graph.producer_of(tensor)
    if node is None:
        return [_one_hot_input(graph, tensor)], ""
    if not node.domain and node.op in LAYOUT:
        return [], node.inputs[0]
    if is_cell(node):
        cell: list[_Piece] = [_Cell(cell_of(graph, node), node.name)]
        return [_Last(), *cell] if tensor != node.outputs[0] else cell, node.inputs[0]
    if is_loop(node):
        loop = loop_cell(graph, node)
        body: list[_Piece] = [_Cell(loop.cell, node.name)]
        return body if tensor in loop.outputs else [_Last(), *body], loop.sequence
    step = single_step_cell(graph, tensor)
    if step is not None:
        return [_Cell(step.cell, node.name)], step.sequence
    if node.op in _SOFTMAX:
        return [_Activation(_SOFTMAX[node.op])], node.inputs[0]
    activation = activation_at(graph, tensor)
    if activation is not None:
        return [_Activation(activation[0])], activation[1]
    for read in _READERS:
        found = read(graph, node)
        if found is not None:
            return found
    raise NotLiftable(f"node {node.name!r} ({node.op}) is in no recurrent model that edgelm rebuilds")


def _one_hot_input(graph: OnnxGraph, tensor: str) -> _Table:
    given = graph.input(tensor)
    width = given.shape[-1] if given is not None and given.shape and given.dtype.startswith("float") else None
    if not width:
        raise NotLiftable(f"the scores come from {tensor!r}, which is neither looked up nor one-hot rows")
    return _Table(None, width, True)


Found = tuple[list[_Piece], str]


def _lookup(graph: OnnxGraph, node: OnnxNode) -> Found | None:
    """A table of embeddings, or a one-hot encoding."""
    if node.op == "OneHot":
        depth, values = graph.constant(node.inputs[1]), graph.constant(node.inputs[2])
        if depth is None or values is None or depth.size != 1 or values.tolist() != [0, 1]:
            return None
        classes = int(depth.reshape(-1)[0])
        return ([_Table(None, classes)], "") if classes > 1 and holds_ids(graph, node.inputs[0], classes) else None
    table = graph.constant(node.inputs[0]) if node.op == "Gather" else None
    if table is None or table.ndim != 2 or node.attributes.get("axis", 0) or not holds_ids(graph, node.inputs[1], len(table)):
        return None
    return [_Table(_float32(table))], ""


def _selection(graph: OnnxGraph, node: OnnxNode) -> Found | None:
    """The last position, or a slice that takes everything."""
    if node.op == "Gather":
        index = graph.constant(node.inputs[1])
        return ([_Last()], node.inputs[0]) if index is not None and index.size == 1 and index.reshape(-1)[0] == -1 else None
    if node.op != "Slice" or len(node.inputs) < 3:
        return None
    starts, ends = graph.constant(node.inputs[1]), graph.constant(node.inputs[2])
    steps = graph.constant(node.inputs[4]) if len(node.inputs) > 4 else None
    if starts is None or ends is None or (steps is not None and (steps != 1).any()):
        return None
    whole = (ends >= _END).all() and (starts == 0).all()
    last = starts.size == 1 and starts.reshape(-1)[0] == -1
    return ([], node.inputs[0]) if whole else ([_Last()], node.inputs[0]) if last else None


def _product(graph: OnnxGraph, node: OnnxNode) -> Found | None:
    """A product with a constant matrix, Gemm with its bias."""
    if node.op not in ("MatMul", "Gemm") or node.domain or node.attributes.get("transA", 0):
        return None
    matrix = graph.constant(node.inputs[1])
    if matrix is None or matrix.ndim != 2:
        return None
    weight = _float32(matrix if node.attributes.get("transB", 0) else matrix.T) * np.float32(node.attributes.get("alpha", 1.0))
    bias = None
    if len(node.inputs) > 2 and node.inputs[2]:
        added = graph.constant(node.inputs[2])
        if added is None:
            return None
        bias = np.broadcast_to(_float32(added), (1, len(weight)))[0] * np.float32(node.attributes.get("beta", 1.0))
    return [Affine(weight, bias)], node.inputs[0]


def _scaling(graph: OnnxGraph, node: OnnxNode) -> Found | None:
    """A constant that is added or multiplied, by feature."""
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first, second = (graph.constant(name) for name in node.inputs)
    if (first is None) == (second is None) or (first is not None and node.op in ("Sub", "Div")):
        return None
    value = first if second is None else second
    if value is None or value.size != max(value.shape[-1:], default=1):
        return None
    constant = _float32(value).reshape(-1) if value.size > 1 else _float32(value).reshape(())
    zero, one = np.zeros((), np.float32), np.ones((), np.float32)
    pieces = {
        "Add": lambda: _Scaling(one, constant),
        "Sub": lambda: _Scaling(one, -constant),
        "Mul": lambda: _Scaling(constant, zero),
        "Div": lambda: _Scaling(1 / constant, zero),
    }
    return [pieces[node.op]()], node.inputs[1 if second is None else 0]


def _float32(array: Array) -> FloatArray:
    return np.asarray(array, np.float32)


_READERS: tuple[Callable[[OnnxGraph, OnnxNode], Found | None], ...] = (_lookup, _selection, _product, _scaling)


def _add(parts: Parts, piece: _Piece) -> None:
    """Adds what comes next, seen from the ids."""
    if isinstance(piece, _Table):
        parts.table, parts.classes, parts.one_hot = piece.rows, piece.classes, piece.one_hot_input
    elif isinstance(piece, _Cell):
        if parts.last_only:
            raise NotLiftable(f"recurrent node {piece.name!r} reads a single step")
        parts.add_cell(piece.cell, piece.name)
    elif isinstance(piece, _Last):
        parts.last_only = True
    elif not parts.cells:
        _add_before(parts, piece)
    elif isinstance(piece, Affine):
        parts.add_dense(piece)
    elif isinstance(piece, _Scaling):
        parts.scale(piece.scale, piece.shift)
    elif parts.dense and parts.dense[-1].activation == "linear" and parts.pending is None:
        parts.dense[-1] = Affine(parts.dense[-1].weight, parts.dense[-1].bias, piece.name)
    else:
        raise NotLiftable(f"a {piece.name} behind a recurrent layer")


def _add_before(parts: Parts, piece: Affine | _Scaling | _Activation) -> None:
    """What stands in front of the recurrent layers sees one token at a time, so the table takes it."""
    last = parts.prefix.pop() if parts.prefix else None
    if not isinstance(last, Affine) or last.activation != "linear" or isinstance(piece, Affine):
        parts.prefix += [last] if last is not None else []
        last = None
    if isinstance(piece, Affine):
        parts.prefix.append(piece)
    elif isinstance(piece, _Scaling):
        parts.prefix.append(last.scaled(piece.scale, piece.shift) if last else lambda x: x * piece.scale + piece.shift)
    else:
        activation = spec_activation(piece.name)
        parts.prefix.append(Affine(last.weight, last.bias, activation) if last else lambda x: activate(activation, x))
