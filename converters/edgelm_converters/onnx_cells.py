"""ONNX's recurrent nodes as cells in the spec's layout.

ONNX keeps the gates of an LSTM in the order i o f c, those of a GRU in z r h, and the biases of input and recurrent products apart
(https://onnx.ai/onnx/operators/onnx__LSTM.html); the spec's orders are i f g o and z r h.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Activation, Cell, FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, RecurrentCell
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxNode
from edgelm_converters.onnx_ops import trace
from edgelm_converters.onnx_ops_recurrent import DEFAULT_ACTIVATIONS, GATES

_CELLS: Mapping[str, Cell] = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}
_ORDER: Mapping[str, tuple[int, ...]] = {"RNN": (0,), "GRU": (0, 1, 2), "LSTM": (0, 2, 3, 1)}
_ACTIVATIONS: Mapping[str, Activation] = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid"}
_PROBE = 5  # for every free size


def is_cell(node: OnnxNode) -> bool:
    """An RNN, GRU or LSTM."""
    return node.op in GATES and not node.domain


def cell_of(graph: OnnxGraph, node: OnnxNode) -> RecurrentCell:
    """The cell of a recurrent node.

    Raises:
        UnsupportedModelError: It reads the future.
        NotLiftable: Clipping, peepholes, coupled gates, sequences of several lengths, weights that are computed, initial states other than
            zeros and inputs, an activation that the spec does not have.
    """
    check_direction(node)
    _check_options(node)
    w, r = _weight(graph, node, 1)[0], _weight(graph, node, 2)[0]
    units = r.shape[1]
    bias = _weight(graph, node, 3)[0] if _given(node, 3) else np.zeros(2 * len(w), np.float32)
    if w.shape[0] != GATES[node.op] * units or r.shape[0] != len(w) or bias.shape != (2 * len(w),):
        raise NotLiftable(f"node {node.name!r} ({node.op}) has weights of shapes {w.shape}, {r.shape}, {bias.shape}")
    _check_operands(graph, node)
    w, r, input_bias, recurrent_bias = (_ordered(node.op, array) for array in (w, r, bias[: len(w)], bias[len(w) :]))
    gates, candidate = _activations(node)
    reset_after = node.op == "GRU" and bool(node.attributes.get("linear_before_reset", 0))
    return RecurrentCell(
        cell=_CELLS[node.op],
        activation=candidate,
        recurrent_activation=gates,
        reset_after=reset_after or node.op != "GRU",
        input=Affine(w, input_bias if reset_after else input_bias + recurrent_bias),
        recurrent=r,
        recurrent_bias=recurrent_bias if reset_after else None,
    )


def check_direction(node: OnnxNode) -> None:
    """Raises for a node that reads the future."""
    direction = node.attributes.get("direction", "forward")
    if is_cell(node) and direction != "forward":
        raise UnsupportedModelError(
            f"node {node.name!r} ({node.op}) is {direction}: it reads the tokens that are to be predicted, so it is not causal",
            allowed="recurrent layers that read left to right",
            fix="train the model with bidirectional=False",
        )


def _given(node: OnnxNode, number: int) -> bool:
    return len(node.inputs) > number and bool(node.inputs[number])


def _check_options(node: OnnxNode) -> None:
    refused = {
        "clips what its activations take": node.attributes.get("clip") is not None,
        "has peepholes": _given(node, 7),
        "couples input and forget gate": bool(node.attributes.get("input_forget", 0)),
    }
    for what, found in refused.items():
        if found:
            raise NotLiftable(f"node {node.name!r} ({node.op}) {what}")


def _weight(graph: OnnxGraph, node: OnnxNode, number: int) -> FloatArray:
    array = graph.constant(node.inputs[number]) if _given(node, number) else None
    if array is None or array.ndim != (2 if number == 3 else 3) or array.shape[0] != 1:
        raise NotLiftable(f"the weights of node {node.name!r} ({node.op}) are computed, or of an unusual shape")
    return np.asarray(array, np.float32)


def _ordered(op: str, rows: Array) -> FloatArray:
    """Gates along the first axis, in the spec's order."""
    gates = np.split(rows, GATES[op])
    return np.concatenate([gates[number] for number in _ORDER[op]])


def _activations(node: OnnxNode) -> tuple[Activation, Activation]:
    """Of the gates, and of the candidate and the output."""
    names = [str(name) for name in node.attributes.get("activations") or DEFAULT_ACTIVATIONS[node.op]]
    scaled = any(node.attributes.get(f"activation_{kind}") for kind in ("alpha", "beta"))
    found = [_ACTIVATIONS.get(name.lower()) for name in names]
    wanted = len(DEFAULT_ACTIVATIONS[node.op])
    if None in found or scaled or len(found) != wanted or found[-1] != found[-1 if wanted < 3 else 1]:
        raise NotLiftable(f"node {node.name!r} ({node.op}) has the activations {', '.join(names)}{' with parameters' * scaled}")
    gates, candidate = (found[0] if wanted > 1 else "sigmoid"), found[-1]
    return gates or "sigmoid", candidate or "tanh"


def _check_operands(graph: OnnxGraph, node: OnnxNode) -> None:
    """Sees to it that sequences are whole, and that initial states are zeros when all inputs are.

    Which state input belongs to which layer is left to the proof, which feeds the states back.
    """
    names = {number: node.inputs[number] for number in (4, 5, 6) if _given(node, number)}
    feeds = {
        given.name: np.zeros([_PROBE if size is None else size for size in given.shape], given.dtype)
        for given in graph.inputs
        if given.dtype != "bfloat16"
    }
    values = trace(graph, feeds, *names.values()) if names else {}
    for number, name in names.items():
        value = values.get(name)
        if value is None:
            raise NotLiftable(f"what node {node.name!r} ({node.op}) begins with cannot be computed")
        if number == 4:
            ids = values.get(node.inputs[0])
            if ids is not None and not np.all(value == ids.shape[1 if node.attributes.get("layout", 0) else 0]):
                raise NotLiftable(f"node {node.name!r} ({node.op}) has sequences of several lengths")
        elif value.any():
            raise NotLiftable(f"node {node.name!r} ({node.op}) begins with a learned state")
