"""Recurrent models as ONNX: LSTM, GRU and RNN ops where they can say what the model does, else Scan over a cell of plain ops.

    input_ids int64 (batch, time), h_0 float32 (batch, units), ...  ->  logits float32 (batch, time, vocab), present.h_0, ...

The states are those of `RecurrentSpec.state_names`. Scan is used for activations that the ops lack, for a first layer whose input products
are the embedding, and where activations are int8 inside of the cell.

A CIFG is an LSTM whose input gate reads the negated weights of its forget gate, since 1 - sigmoid(a) = sigmoid(-a): the attribute
`input_forget` says the same, but TensorRT refuses it. The file holds three gates; the fourth is made when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.onnx_cells import ScanCell
from edgelm.lower.onnx_layers import OnnxLayers
from edgelm.lower.onnx_weights import gates_layout
from edgelm.spec import Activation, Cell, RecurrentSpec

PRESENT = "present."
"""Prefix of the outputs that are the next call's states."""

_OPS: Mapping[Cell, tuple[str, tuple[int, ...]]] = {
    "rnn": ("RNN", (0,)),
    "gru": ("GRU", (0, 1, 2)),
    "lstm": ("LSTM", (0, 3, 1, 2)),  # i f g o -> i o f c
    "cifg": ("LSTM", (0, 1, 2)),  # f g o, see _four_gates
}
"""Cell -> ONNX op, and the canonical gate at each place of the stored matrices."""

_GATE_ACTIVATIONS: Mapping[Activation, str] = {"sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid"}
_CANDIDATE_ACTIVATIONS: Mapping[Activation, str] = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "linear": "Affine"}
_PARAMETERS: Mapping[str, tuple[float, float]] = {"HardSigmoid": (0.2, 0.5), "Affine": (1.0, 0.0)}
"""Activation of a recurrent op -> its alpha and beta."""


def write_recurrent(spec: RecurrentSpec, layers: OnnxLayers) -> None:
    """Writes the graph of a recurrent model."""
    g = layers.g
    ids = g.input("input_ids", "int64", ("batch", "time"))
    states = {name: g.input(name, "float32", ("batch", spec.state_size(name))) for name in spec.state_names}
    x = layers.lookup(g.op("Transpose", ids, perm=(1, 0)), "embedding.weight")  # (time, batch, embedding_size)
    if spec.embedding_projection:
        x = layers.dense(x, "embedding_projection")
    new_states: dict[str, str] = {}
    for index in range(len(spec.units)):
        names = [name for name in spec.state_names if name.endswith(f"_{index}")]
        write = _native if _is_native(spec, index, layers) else _scanned
        x, new = write(spec, index, layers, x, tuple(states[name] for name in names))  # (time, batch, units)
        new_states |= dict(zip(names, new, strict=True))
    for index, dense in enumerate(spec.hidden):
        x = layers.activate(dense.activation, layers.dense(x, f"hidden.{index}"))
    g.output("logits", layers.head(g.op("Transpose", x, perm=(1, 0, 2))), "float32", ("batch", "time", spec.vocab_size))
    for name, state in new_states.items():
        g.output(PRESENT + name, state, "float32", ("batch", spec.state_size(name)))


def _is_native(spec: RecurrentSpec, index: int, layers: OnnxLayers) -> bool:
    """Whether the recurrent op of ONNX computes layer `index`."""
    gates_known = spec.cell == "rnn" or spec.recurrent_activation in _GATE_ACTIVATIONS
    fed_with_products = index == 0 and spec.gate_embedding
    return not layers.static and not fed_with_products and gates_known and spec.activation in _CANDIDATE_ACTIVATIONS


def _native(spec: RecurrentSpec, index: int, layers: OnnxLayers, x: str, states: tuple[str, ...]) -> tuple[str, list[str]]:
    """One layer as LSTM, GRU or RNN: x (time, batch, inputs) -> (time, batch, units), and the new states (batch, units)."""
    g, at, (op, order) = layers.g, f"layers.{index}", _OPS[spec.cell]
    w, r = (layers.weights.matrix(f"{at}.{kind}.weight", gates_layout(order)) for kind in ("input", "recurrent"))  # (1, rows, columns)
    if spec.cell == "cifg":
        w, r = (_four_gates(layers, matrix) for matrix in (w, r))
    bias = g.initializer(f"{at}.bias", _bias(spec, index, layers))  # (1, 2 * rows)
    starts = [g.op("Unsqueeze", state, g.ints(0)) for state in states]  # (1, batch, units)
    reset = {"linear_before_reset": int(spec.reset_after)} if spec.cell == "gru" else {}
    outputs = g.ops(op, x, w, r, bias, "", *starts, outputs=1 + len(states), hidden_size=spec.units[index], **_activations(spec), **reset)
    every, *last = (g.op("Squeeze", output, g.ints(axis)) for output, axis in zip(outputs, (1, 0, 0), strict=False))
    return every, last


def _activations(spec: RecurrentSpec) -> dict[str, Any]:
    """The op's activations: gates, candidate and, of an LSTM, cell output; alphas and betas for those that take them."""
    candidate = _CANDIDATE_ACTIVATIONS[spec.activation]
    if spec.cell == "rnn":
        names = [candidate]
    else:
        names = [_GATE_ACTIVATIONS[spec.recurrent_activation], *[candidate] * (1 if spec.cell == "gru" else 2)]
    taken = [_PARAMETERS[name] for name in names if name in _PARAMETERS]
    parameters = {"activation_alpha": [alpha for alpha, _ in taken], "activation_beta": [beta for _, beta in taken]} if taken else {}
    return {"activations": names, **parameters}


def _four_gates(layers: OnnxLayers, matrix: str) -> str:
    """(1, 3 * units, columns) of a CIFG, f g o -> (1, 4 * units, columns) of an LSTM, i o f c with i = -f."""
    f, candidate, o = layers.g.ops("Split", matrix, outputs=3, axis=1, num_outputs=3)
    return layers.g.op("Concat", layers.g.op("Neg", f), o, f, candidate, axis=1)


def _bias(spec: RecurrentSpec, index: int, layers: OnnxLayers) -> NDArray[np.float32]:
    """Input and recurrent bias side by side in the op's order of gates, (1, 2 * gates * units)."""
    given = layers.model.float32(f"layers.{index}.input.bias")
    recurrent_name = f"layers.{index}.recurrent.bias"
    recurrent = layers.model.float32(recurrent_name) if recurrent_name in layers.model.weights else np.zeros_like(given)
    order = _OPS[spec.cell][1]
    parts = [[np.split(bias, len(order))[gate] for gate in order] for bias in (given, recurrent)]
    if spec.cell == "cifg":
        parts = [[-f, o, f, candidate] for f, candidate, o in parts]
    return np.concatenate([gate for part in parts for gate in part])[None]


def _scanned(spec: RecurrentSpec, index: int, layers: OnnxLayers, x: str, states: tuple[str, ...]) -> tuple[str, list[str]]:
    """One layer as a loop over its cell, as `_native`."""
    g, at = layers.g, f"layers.{index}"
    if index == 0 and spec.gate_embedding:
        products = g.op("Add", x, layers.weights.vector(f"{at}.input.bias"))
    else:
        products = layers.dense(x, f"{at}.input")  # (time, batch, gates * units)
    cell = ScanCell(spec, index, layers)
    outputs = g.ops("Scan", *states, products, outputs=len(states) + 1, num_scan_inputs=1, body=cell.body())
    return outputs[-1], list(outputs[:-1])
