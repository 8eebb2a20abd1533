"""Writes tiny recurrent language models as ONNX files node by node, in all the spellings that exporters use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCAB, WIDTH, UNITS = 13, 6, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


class Writer:
    """Nodes and weights of one graph; tensors are named after their number, behind a prefix where a body needs its own names."""

    def __init__(self, seed: int = 0, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._random = np.random.default_rng(seed)

    def random(self, *shape: int) -> np.ndarray:
        return self._random.normal(0, 0.6, shape).astype(np.float32)

    def const(self, array: Any, dtype: Any = None) -> str:
        name = f"{self._prefix}w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """One node; the name of its output, or the names of all of them."""
        names = [f"{self._prefix}t{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name: str, kind: int, *shape: int | str) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, tensor: str, name: str, kind: int = TensorProto.FLOAT) -> None:
        self.nodes.append(helper.make_node("Identity", [tensor], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def model(self, opset: int = 17, ir_version: int = 8, **domains: int) -> Any:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(key.replace("_", "."), value) for key, value in domains.items())]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="handmade")

    def save(self, path: Path, **options: Any) -> Path:
        onnx.save(self.model(**options), str(path))
        return path


def recurrent(
    cell: str = "LSTM",
    *,
    layers: int = 1,
    bias: bool = True,
    layout: str = "transposed",
    states: str = "none",
    attributes: Mapping[str, Any] | None = None,
    peepholes: bool = False,
    lengths: bool = False,
    ids: int = TensorProto.INT64,
    shape: tuple[int | str, int | str] = ("batch", "time"),
    prefix: str = "",
    body: str = "",
    last: str = "",
    head: str = "matmul",
    end: str = "",
    traced: int = 0,
) -> Writer:
    """A recurrent language model.

    Args:
        cell: RNN, GRU or LSTM.
        layers: Recurrent nodes.
        bias: Each node has its B.
        layout: `transposed` (ids batch first, nodes time first), `time first` (ids, too).
        states: `none`, `zeros` (computed from the shape), `inputs` (and outputs), `learned`.
        attributes: Of the recurrent nodes.
        peepholes: The LSTM has a P.
        lengths: The nodes have sequence_lens, one shorter than the sequence.
        ids: Element type of the ids.
        shape: Of the ids.
        prefix: Between table and first node: `projection`, `onehot` (instead of the table), `rows` (one-hot rows as input).
        body: Behind the nodes: `gelu`, `tanh gelu`, `silu`, `relu`, `projection`, `residual`.
        last: Selects the last step: `gather`, `slice`, `state` (Y_h).
        head: `matmul` (with Add), `gemm` (on flattened rows), `tied`, `no bias`.
        end: `softmax`, `log_softmax` or nothing.
        traced: Tokens that a reshape is made for, whatever `shape` says; 0 for none.
    """
    w = Writer()
    table = w.random(VOCAB, UNITS if head == "tied" else WIDTH)
    width = table.shape[1]
    x, width = _read(w, table, width, ids, shape, prefix)
    if traced:
        x = w.add("Reshape", x, w.const([-1, traced, width], np.int64))
    if layout == "transposed":
        x = w.add("Transpose", x, perm=[1, 0, 2])
    ends: list[list[str]] = []
    for layer in range(layers):
        y, final = _node(w, x, width, cell, bias, states, attributes or {}, peepholes, lengths, layer, layers)
        ends.append(final)
        x, width = w.add("Squeeze", y, w.const([1], np.int64)), UNITS
    if last == "state":
        x = w.add("Squeeze", ends[-1][0], w.const([0], np.int64))
    elif layout == "transposed":
        x = w.add("Transpose", x, perm=[1, 0, 2])
    x = _select(w, x, last)
    x, width = _body(w, x, width, body)
    x = _head(w, x, width, table, head)
    if end:
        x = w.add({"softmax": "Softmax", "log_softmax": "LogSoftmax"}[end], x, axis=-1)
    w.output(x, "scores")
    if states == "inputs":
        for number, kind in enumerate("hc"[: len(ends[0])]):
            parts = [final[number] for final in ends]
            w.output(w.add("Concat", *parts, axis=0), f"{kind}_out")
    return w


def _read(w: Writer, table: np.ndarray, width: int, ids: int, shape: tuple[int | str, ...], prefix: str) -> tuple[str, int]:
    if prefix == "rows":
        return w.input("rows", TensorProto.FLOAT, *shape, VOCAB), VOCAB
    tokens = w.input("tokens", ids, *shape)
    if prefix == "onehot":
        return w.add("OneHot", tokens, w.const([VOCAB], np.int64), w.const([0, 1], np.float32)), VOCAB
    x = w.add("Gather", w.const(table), tokens)
    if prefix == "projection":
        x = w.add("Add", w.add("MatMul", x, w.const(w.random(width, 4))), w.const(w.random(4)))
        width = 4
    return x, width


def _node(
    w: Writer,
    x: str,
    width: int,
    cell: str,
    bias: bool,
    states: str,
    attributes: Mapping[str, Any],
    peepholes: bool,
    lengths: bool,
    layer: int,
    layers: int,
) -> tuple[str, list[str]]:
    rows = GATES[cell] * UNITS
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    inputs = [x, w.const(w.random(directions, rows, width)), w.const(w.random(directions, rows, UNITS))]
    inputs.append(w.const(w.random(directions, 2 * rows)) if bias else "")
    batch = w.add("Gather", w.add("Shape", x), w.const([1], np.int64))
    inputs.append(w.add("Expand", w.const([2], np.int32), batch) if lengths else "")
    for kind in "hc"[: 2 if cell == "LSTM" else 1]:
        inputs.append(_state(w, kind, states, batch, layer, layers))
    inputs += [w.const(w.random(1, 3 * UNITS))] if peepholes else []
    y, *final = w.add(cell, *inputs, outputs=3 if cell == "LSTM" else 2, hidden_size=UNITS, **attributes)
    return y, final


def _state(w: Writer, kind: str, states: str, batch: str, layer: int, layers: int) -> str:
    if states == "none":
        return ""
    if states == "inputs":
        name = f"{kind}_in"
        if all(given.name != name for given in w.inputs):
            w.input(name, TensorProto.FLOAT, layers, "batch", UNITS)
        bounds = (w.const([at], np.int64) for at in (layer, layer + 1, 0))
        return w.add("Slice", name, *bounds)
    shape = w.add("Concat", w.const([1], np.int64), batch, w.const([UNITS], np.int64), axis=0)
    if states == "learned":
        return w.add("Expand", w.const(w.random(1, 1, UNITS)), shape)
    return w.add("ConstantOfShape", shape)


def _select(w: Writer, x: str, last: str) -> str:
    if last == "gather":
        return w.add("Gather", x, w.const(-1, np.int64), axis=1)
    if last == "slice":
        bounds = [w.const(value, np.int64) for value in ([-1], [np.iinfo(np.int64).max], [1])]
        return w.add("Squeeze", w.add("Slice", x, *bounds), w.const([1], np.int64))
    return x


def _body(w: Writer, x: str, width: int, body: str) -> tuple[str, int]:
    if not body:
        return x, width
    inner = w.add("Add", w.add("MatMul", x, w.const(w.random(width, 7))), w.const(w.random(7)))
    scalar = lambda value: w.const(value, np.float32)  # noqa: E731 - a short name for what follows
    if body == "gelu":
        shifted = w.add("Add", w.add("Erf", w.add("Div", inner, scalar(2**0.5))), scalar(1))
        return w.add("Mul", w.add("Mul", inner, shifted), scalar(0.5)), 7
    if body == "tanh gelu":
        cubic = w.add("Add", inner, w.add("Mul", w.add("Pow", inner, scalar(3)), scalar(0.044715)))
        bent = w.add("Add", w.add("Tanh", w.add("Mul", cubic, scalar((2 / np.pi) ** 0.5))), scalar(1))
        return w.add("Mul", w.add("Mul", inner, scalar(0.5)), bent), 7
    if body == "silu":
        return w.add("Mul", inner, w.add("Sigmoid", inner)), 7
    if body == "relu":
        return w.add("Relu", inner), 7
    if body == "residual":
        back = w.add("MatMul", w.add("Tanh", inner), w.const(w.random(7, width)))
        return w.add("Add", x, back), width
    return inner, 7


def _head(w: Writer, x: str, width: int, table: np.ndarray, head: str) -> str:
    if head == "tied":
        return w.add("MatMul", x, w.const(table.T))
    matrix = w.random(width, VOCAB)
    if head == "gemm":
        flat = w.add("Reshape", x, w.const([-1, width], np.int64))
        return w.add("Gemm", flat, w.const(matrix.T), w.const(w.random(VOCAB)), transB=1)
    product = w.add("MatMul", x, w.const(matrix))
    return product if head == "no bias" else w.add("Add", product, w.const(w.random(VOCAB)))


def spelled_out(cell: str, layers: int = 2) -> Writer:
    """A model of one token whose cells are written as torch exports its LSTMCell, GRUCell and RNNCell: products and single elements."""
    w = Writer()
    gates = GATES[cell]
    tokens = w.input("tokens", TensorProto.INT64, "batch", 1)
    x, width = w.add("Gather", w.const(w.random(VOCAB, WIDTH)), w.add("Gather", tokens, w.const(-1, np.int64), axis=1)), WIDTH
    kinds = "hc" if cell == "LSTM" else "h"
    states = {kind: w.input(f"{kind}_in", TensorProto.FLOAT, layers, "batch", UNITS) for kind in kinds}
    made: dict[str, list[str]] = {kind: [] for kind in kinds}
    for layer in range(layers):
        old = {kind: w.add("Gather", name, w.const(layer, np.int64), axis=0) for kind, name in states.items()}
        read = w.add("Gemm", x, w.const(w.random(gates * UNITS, width)), w.const(w.random(gates * UNITS)), transB=1)
        kept = w.add("Gemm", old["h"], w.const(w.random(gates * UNITS, UNITS)), w.const(w.random(gates * UNITS)), transB=1)
        new = {"LSTM": _lstm_cell, "GRU": _gru_cell, "RNN": _rnn_cell}[cell](w, read, kept, old)
        for kind, name in new.items():
            made[kind].append(w.add("Unsqueeze", name, w.const([0], np.int64)))
        x, width = new["h"], UNITS
    w.output(w.add("Gemm", x, w.const(w.random(UNITS, VOCAB)), w.const(w.random(VOCAB))), "scores")
    for kind, names in made.items():
        w.output(w.add("Concat", *names, axis=0), f"{kind}_out")
    return w


def _lstm_cell(w: Writer, read: str, kept: str, old: Mapping[str, str]) -> dict[str, str]:
    i, f, g, o = w.add("Split", w.add("Add", kept, read), w.const([UNITS] * 4, np.int64), outputs=4, axis=1)
    fresh = w.add("Mul", w.add("Sigmoid", i), w.add("Tanh", g))
    c = w.add("Add", w.add("Mul", w.add("Sigmoid", f), old["c"]), fresh)
    return {"h": w.add("Mul", w.add("Sigmoid", o), w.add("Tanh", c)), "c": c}


def _gru_cell(w: Writer, read: str, kept: str, old: Mapping[str, str]) -> dict[str, str]:
    """torch's: gates r z n, and h = n + z * (h - n)."""
    sizes = w.const([UNITS] * 3, np.int64)
    (xr, xz, xn), (hr, hz, hn) = (w.add("Split", product, sizes, outputs=3, axis=1) for product in (read, kept))
    r, z = w.add("Sigmoid", w.add("Add", xr, hr)), w.add("Sigmoid", w.add("Add", xz, hz))
    n = w.add("Tanh", w.add("Add", xn, w.add("Mul", r, hn)))
    return {"h": w.add("Add", n, w.add("Mul", z, w.add("Sub", old["h"], n)))}


def _rnn_cell(w: Writer, read: str, kept: str, old: Mapping[str, str]) -> dict[str, str]:
    return {"h": w.add("Tanh", w.add("Add", read, kept))}
