"""The recurrent operations of ONNX (RNN, GRU, LSTM) in numpy, as https://onnx.ai/onnx/operators defines them.

Gate order along the rows of W, R and B: LSTM `i o f c`, GRU `z r h`. B holds the biases of W, then those of R. Layout 0 keeps time first,
layout 1 batch first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxNode
from edgelm_converters.onnx_operands import Compute, Operands, optional, required, within_limit
from edgelm_converters.onnx_ops_arithmetic import sigmoid

GATES: Mapping[str, int] = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULT_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}
Activation = Callable[[Array], Array]


@dataclass(frozen=True)
class _Direction:
    """One direction of a recurrent node.

    Attributes:
        w: (gates * units, features).
        r: (gates * units, units).
        wb: Bias of the input products, (gates * units,).
        rb: Bias of the recurrent products, (gates * units,).
        peepholes: (3, units) of an LSTM: i, o, f.
        activations: f, g, h of the definition.
        clip: Applied to what the activations take; None for no limit.
        linear_before_reset: GRU: the reset gate is applied after the recurrent product.
    """

    w: Array
    r: Array
    wb: Array
    rb: Array
    peepholes: Array
    activations: tuple[Activation, ...]
    clip: float | None
    linear_before_reset: bool

    def clipped(self, x: Array) -> Array:
        """`x` within the node's limit."""
        return x if self.clip is None else np.clip(x, -self.clip, self.clip)


def activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """One of the activations that the attribute `activations` names.

    Raises:
        NotLiftable: Unknown.
    """
    scaled = {"affine": (1.0, 0.0), "hardsigmoid": (0.2, 0.5), "leakyrelu": (0.01, 0.0), "scaledtanh": (1.0, 1.0), "elu": (1.0, 0.0)}
    first, second = scaled.get(name.lower(), (1.0, 0.0))
    a, b = first if alpha is None else alpha, second if beta is None else beta
    table: Mapping[str, Activation] = {
        "affine": lambda x: a * x + b,
        "elu": lambda x: np.where(x >= 0, x, a * np.expm1(x)),
        "hardsigmoid": lambda x: np.clip(a * x + b, 0, 1),
        "leakyrelu": lambda x: np.where(x >= 0, x, a * x),
        "relu": lambda x: np.maximum(x, 0),
        "scaledtanh": lambda x: a * np.tanh(b * x),
        "sigmoid": sigmoid,
        "softplus": lambda x: np.logaddexp(x, 0),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "tanh": np.tanh,
    }
    if name.lower() not in table:
        raise NotLiftable(f"the activation {name} of a recurrent node")
    return table[name.lower()]


def _activations(node: OnnxNode, directions: int) -> list[Activation]:
    names = node.attributes.get("activations") or DEFAULT_ACTIVATIONS[node.op] * directions
    alphas, betas = list(node.attributes.get("activation_alpha", ())), list(node.attributes.get("activation_beta", ()))
    takes = {"alpha": ("affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh"), "beta": ("affine", "hardsigmoid", "scaledtanh")}
    found = []
    for name in names:  # the lists hold values for those activations only that take some
        alpha = alphas.pop(0) if alphas and name.lower() in takes["alpha"] else None
        beta = betas.pop(0) if betas and name.lower() in takes["beta"] else None
        found.append(activation(name, alpha, beta))
    return found


def _directions(node: OnnxNode, x: Operands) -> list[_Direction]:
    w, r, b, peepholes = required(x, 1), required(x, 2), optional(x, 3), optional(x, 7)
    count, rows, units = w.shape[0], w.shape[1], r.shape[2]
    b = np.zeros((count, 2 * rows), w.dtype) if b is None else b
    p = np.zeros((count, 3 * units), w.dtype) if peepholes is None else peepholes
    activations = _activations(node, count)
    each = len(DEFAULT_ACTIVATIONS[node.op])
    return [
        _Direction(
            w[i],
            r[i],
            b[i, :rows],
            b[i, rows:],
            p[i].reshape(3, units),
            tuple(activations[i * each : (i + 1) * each]),
            node.attributes.get("clip"),
            bool(node.attributes.get("linear_before_reset", 0)),
        )
        for i in range(count)
    ]


def _rnn(cell: _Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return cell.activations[0](cell.clipped(x @ cell.w.T + h @ cell.r.T + cell.wb + cell.rb)), c


def _gru(cell: _Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    f, g = cell.activations
    xz, xr, xh = np.split(x @ cell.w.T + cell.wb, 3, axis=-1)
    rz, rr, rh = np.split(cell.r, 3)
    bz, br, bh = np.split(cell.rb, 3)
    z, r = f(cell.clipped(xz + h @ rz.T + bz)), f(cell.clipped(xr + h @ rr.T + br))
    recurrent = r * (h @ rh.T + bh) if cell.linear_before_reset else (r * h) @ rh.T + bh
    return (1 - z) * g(cell.clipped(xh + recurrent)) + z * h, c


def _lstm(cell: _Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    f, g, out = cell.activations
    i, o, forget, candidate = np.split(x @ cell.w.T + h @ cell.r.T + cell.wb + cell.rb, 4, axis=-1)
    pi, po, pf = cell.peepholes
    i, forget = f(cell.clipped(i + pi * c)), f(cell.clipped(forget + pf * c))
    c = forget * c + i * g(cell.clipped(candidate))
    return f(cell.clipped(o + po * c)) * out(c), c


_CELLS: Mapping[str, Callable[[_Direction, Array, Array, Array], tuple[Array, Array]]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def _recurrent(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """Y (time, directions, batch, units), Y_h and, of an LSTM, Y_c (directions, batch, units); batch first with layout 1."""
    if node.attributes.get("input_forget", 0):
        raise NotLiftable(f"node {node.name!r} couples input and forget gate")
    batch_first = bool(node.attributes.get("layout", 0))
    data = required(x, 0).swapaxes(0, 1) if batch_first else required(x, 0)  # (time, batch, features)
    time, batch, _ = data.shape
    lengths = optional(x, 4)
    if lengths is not None and not np.array_equal(lengths, np.full(batch, time)):
        raise NotLiftable(f"node {node.name!r} has sequences of several lengths")
    cells = _directions(node, x)
    units = cells[0].r.shape[1]
    y = np.empty(within_limit((time, len(cells), batch, units)), data.dtype)
    last_h, last_c = (np.empty((len(cells), batch, units), data.dtype) for _ in range(2))
    for number, cell in enumerate(cells):
        h, c = (_initial(optional(x, operand), number, (batch, units), batch_first, data.dtype) for operand in (5, 6))
        backward = node.attributes.get("direction", "forward") == "reverse" or number == 1
        for step in range(time)[:: -1 if backward else 1]:
            h, c = _CELLS[node.op](cell, data[step], h, c)
            y[step, number] = h
        last_h[number], last_c[number] = h, c
    if batch_first:
        y, last_h, last_c = y.transpose(2, 0, 1, 3), last_h.swapaxes(0, 1), last_c.swapaxes(0, 1)
    return (y, last_h, last_c) if node.op == "LSTM" else (y, last_h)


def _initial(state: Array | None, number: int, shape: tuple[int, int], batch_first: bool, dtype: np.dtype[np.generic]) -> Array:
    """The initial state of one direction, (batch, units)."""
    if state is None:
        return np.zeros(shape, dtype)
    return state[:, number] if batch_first else state[number]


RECURRENT: Mapping[str, Compute] = dict.fromkeys(GATES, _recurrent)
