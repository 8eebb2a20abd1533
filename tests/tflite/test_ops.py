"""Every op of the writer, on both runtimes, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
import pytest
from tflite_runtimes import BOTH, LITERT, OLD, interpreter, run

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Encoding
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import dequantize, quantize
from edgelm.tflite.writer import GraphBuilder, ModelBuilder

RANDOM = np.random.default_rng(1)
X = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
Y = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
ROW = RANDOM.standard_normal((1, 4)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


Build = Callable[[GraphBuilder, Tensor, Tensor], Tensor]
OPS: dict[str, tuple[Build, Callable[[np.ndarray, np.ndarray], Any]]] = {
    "add": (lambda g, x, y: g.add(x, y), lambda x, y: x + y),
    "add number": (lambda g, x, y: g.add(x, 2.5), lambda x, y: x + 2.5),
    "add broadcast": (lambda g, x, y: g.add(x, g.constant(ROW)), lambda x, y: x + ROW),
    "sub": (lambda g, x, y: g.sub(x, y), lambda x, y: x - y),
    "sub from number": (lambda g, x, y: g.sub(1.0, x), lambda x, y: 1 - x),
    "mul": (lambda g, x, y: g.mul(x, y), lambda x, y: x * y),
    "maximum": (lambda g, x, y: g.maximum(x, y), np.maximum),
    "minimum": (lambda g, x, y: g.minimum(x, 0.25), lambda x, y: np.minimum(x, 0.25)),
    "squared_difference": (lambda g, x, y: g.squared_difference(x, y), lambda x, y: (x - y) ** 2),
    "square, rsqrt": (lambda g, x, y: g.rsqrt(g.add(g.square(x), 0.1)), lambda x, y: (x**2 + 0.1) ** -0.5),
    "neg": (lambda g, x, y: g.neg(x), lambda x, y: -x),
    "sin": (lambda g, x, y: g.sin(x), lambda x, y: np.sin(x)),
    "cos": (lambda g, x, y: g.cos(x), lambda x, y: np.cos(x)),
    "logistic": (lambda g, x, y: g.logistic(x), lambda x, y: 1 / (1 + np.exp(-x))),
    "tanh": (lambda g, x, y: g.tanh(x), lambda x, y: np.tanh(x)),
    "relu": (lambda g, x, y: g.relu(x), lambda x, y: np.maximum(x, 0)),
    "gelu": (lambda g, x, y: g.gelu(x), lambda x, y: 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))),
    "gelu approximate": (lambda g, x, y: g.gelu(x, approximate=True), lambda x, y: gelu_tanh(x)),
    "softmax": (lambda g, x, y: g.softmax(x), lambda x, y: softmax(x)),
    "mean": (lambda g, x, y: g.mean(x, -1), lambda x, y: x.mean(-1, keepdims=True)),
    "mean without axis": (lambda g, x, y: g.mean(x, 1, keepdims=False), lambda x, y: x.mean(1)),
    "sum": (lambda g, x, y: g.sum(x, -1), lambda x, y: x.sum(-1, keepdims=True)),
    "reshape": (lambda g, x, y: g.reshape(x, (-1, 6)), lambda x, y: x.reshape(4, 6)),
    "split": (lambda g, x, y: g.sub(*g.split(x, 2)), lambda x, y: x[..., :2] - x[..., 2:]),
    "slice": (lambda g, x, y: g.slice(x, -1, 1, 2), lambda x, y: x[..., 1:3]),
    "slice to the end": (lambda g, x, y: g.slice(x, 1, 1, -1), lambda x, y: x[:, 1:]),
    "concatenate": (lambda g, x, y: g.concatenate([x, y], 1), lambda x, y: np.concatenate([x, y], 1)),
    "transpose": (lambda g, x, y: g.transpose(x, (2, 0, 1)), lambda x, y: x.transpose(2, 0, 1)),
    "transpose five axes": (
        lambda g, x, y: g.transpose(g.reshape(x, (1, 2, 3, 2, 2)), (0, 3, 1, 4, 2)),
        lambda x, y: x.reshape(1, 2, 3, 2, 2).transpose(0, 3, 1, 4, 2),
    ),
    "slice five axes": (lambda g, x, y: g.slice(g.reshape(x, (1, 2, 3, 2, 2)), 2, 1, 2), lambda x, y: x.reshape(1, 2, 3, 2, 2)[:, :, 1:]),
    "batch_matmul": (lambda g, x, y: g.batch_matmul(x, g.transpose(y, (0, 2, 1))), lambda x, y: x @ y.transpose(0, 2, 1)),
    "batch_matmul transposed": (lambda g, x, y: g.batch_matmul(x, y, transpose_b=True), lambda x, y: x @ y.transpose(0, 2, 1)),
    "cast": (lambda g, x, y: g.cast(g.cast(x, "int32"), "float32"), lambda x, y: np.trunc(x)),
    "gather axis 1": (lambda g, x, y: g.gather(x, g.constant(np.array([2, 0], np.int32)), axis=1), lambda x, y: x[:, [2, 0]]),
}


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize("name", OPS)
def test_op_equals_numpy(name: str, runtime: str) -> None:
    build, reference = OPS[name]
    model = ModelBuilder()
    g = model.subgraph("main")
    x, y = g.input("x", X.shape), g.input("y", Y.shape)
    output = build(g, x, y)
    g.output("out", output)
    g.output("unused", g.add(x, y))  # some ops use x only: signatures want every input to be used
    wanted = np.asarray(reference(X, Y))
    got = run(runtime, model.finish(), {"x": X, "y": Y})["out"]
    assert got.shape == wanted.shape == output.shape
    assert np.abs(got - wanted).max() < 2e-5  # float32 rounding; XNNPACK's tanh and exp are good to about 1e-6


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize("name", [name for name in OPS if "five axes" not in name])
def test_op_follows_a_resized_batch(name: str, runtime: str) -> None:
    build, reference = OPS[name]
    model = ModelBuilder()
    g = model.subgraph("main")
    x, y = g.input("x", (1, *X.shape[1:])), g.input("y", (1, *Y.shape[1:]))
    g.output("out", build(g, x, y))
    g.output("unused", g.add(x, y))
    wanted = np.asarray(reference(X, Y))
    got = run(runtime, model.finish(), {"x": X, "y": Y})["out"]  # a signature runner resizes its inputs to what it gets
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < 2e-5


def dense_model(
    encoding: Encoding, *, bias: bool, scaled_after: bool = False, activation: Any = None, columns: int = 64
) -> tuple[bytes, Any]:
    weight = RANDOM.standard_normal((40, columns)).astype(np.float32) * np.exp(RANDOM.standard_normal((40, 1))).astype(np.float32)
    q = quantize(weight, encoding)
    offset = np.linspace(-1, 1, 40, dtype=np.float32)
    model = ModelBuilder()
    g = model.subgraph("main")
    x = g.input("x", (1, 5, columns))
    constant = g.constant(offset) if bias else None
    if scaled_after:
        y = g.mul(g.fully_connected(x, g.weight_per_tensor("w", q)), g.row_scales(q))
        y = g.add(y, constant) if constant else y
    else:
        y = g.fully_connected(x, g.weight("w", q), constant, activation)
    g.output("y", y)
    return model.finish(), (dequantize(q), offset if bias else 0)


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("encoding", Encoding)
def test_fully_connected_in_every_encoding(encoding: Encoding, bias: bool) -> None:
    data, (weight, offset) = dense_model(encoding, bias=bias)
    x = RANDOM.standard_normal((1, 5, 64)).astype(np.float32)
    got = run(LITERT, data, {"x": x})["y"]
    # integer weights round the inputs to 8 bits: half of 1/127 of the largest, spread over 64 columns
    assert relative(got, x @ weight.T + offset) < (1e-5 if encoding in ("float32", "float16") else 0.02)


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32])
def test_integer_weights_are_computed_exactly(encoding: Encoding) -> None:
    data, (weight, _) = dense_model(encoding, bias=False)
    rows = np.eye(64, dtype=np.float32)[None]  # inputs of 0 and 1 survive rounding to 8 bits: what comes out is the weight
    litert = interpreter(LITERT, data)
    got = litert.get_signature_runner("main")(x=rows)["y"][0]
    assert relative(got, weight.T) < 1e-6


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16])
def test_float_weights_run_on_the_old_runtime(encoding: Encoding) -> None:
    data, (weight, offset) = dense_model(encoding, bias=True)
    x = RANDOM.standard_normal((1, 5, 64)).astype(np.float32)
    assert relative(run(OLD, data, {"x": x})["y"], x @ weight.T + offset) < 1e-5


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32])
def test_the_old_runtime_refuses_row_scales_instead_of_lying(encoding: Encoding) -> None:
    data, _ = dense_model(encoding, bias=False)
    with pytest.raises(ValueError, match=r"FULLY_CONNECTED.*version '12'"):
        interpreter(OLD, data)


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize("bias", [True, False])
def test_row_scales_after_the_product_run_on_both(bias: bool, runtime: str) -> None:
    data, (weight, offset) = dense_model(Encoding.INT8, bias=bias, scaled_after=True)
    x = RANDOM.standard_normal((1, 5, 64)).astype(np.float32)
    assert relative(run(runtime, data, {"x": x})["y"], x @ weight.T + offset) < 0.02  # inputs rounded to 8 bits


def test_fused_activation() -> None:
    data, (weight, offset) = dense_model(Encoding.FLOAT32, bias=True, activation="relu")
    x = RANDOM.standard_normal((1, 5, 64)).astype(np.float32)
    assert relative(run(LITERT, data, {"x": x})["y"], np.maximum(x @ weight.T + offset, 0)) < 1e-5


def test_odd_columns_of_int4_weights() -> None:
    data, (weight, _) = dense_model(Encoding.INT4, bias=False, columns=63)
    got = run(LITERT, data, {"x": np.eye(63, dtype=np.float32)[None, :5]})["y"][0]
    assert relative(got, weight.T[:5]) < 1e-6


TABLE = RANDOM.standard_normal((50, 96)).astype(np.float32) * np.exp(RANDOM.standard_normal((50, 1))).astype(np.float32)
IDS = np.array([7, 0, 49, 7], np.int32)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_embedding_lookup_reads_the_rows(encoding: Encoding) -> None:
    q = quantize(TABLE, encoding)
    model = ModelBuilder()
    g = model.subgraph("main")
    g.output("rows", g.embedding_lookup(g.input("ids", (4,), "int32"), g.weight("table", q)))
    data = model.finish()
    assert np.allclose(run(LITERT, data, {"ids": IDS})["rows"], dequantize(q)[IDS], rtol=1e-6)
    if encoding in (Encoding.FLOAT32, Encoding.FLOAT16):
        assert np.allclose(run(OLD, data, {"ids": IDS})["rows"], dequantize(q)[IDS], rtol=1e-6)
    else:  # version 3 would load there and read zeros
        with pytest.raises(ValueError, match=r"EMBEDDING_LOOKUP.*version '4'"):
            interpreter(OLD, data)


@pytest.mark.parametrize("runtime", BOTH)
def test_gathered_int8_rows_with_gathered_scales_run_on_both(runtime: str) -> None:
    q = quantize(TABLE, Encoding.INT8)
    model = ModelBuilder()
    g = model.subgraph("main")
    ids = g.input("ids", (4,), "int32")
    rows = g.dequantize(g.gather(g.weight_per_tensor("table", q), ids))
    g.output("rows", g.mul(rows, g.gather(g.row_scales(q, column=True), ids)))
    assert np.allclose(run(runtime, model.finish(), {"ids": IDS})["rows"], dequantize(q)[IDS], rtol=1e-6)


def test_tables_no_runtime_can_look_up_are_refused() -> None:
    g = ModelBuilder().subgraph("main")
    ids = g.input("ids", (1,), "int32")
    with pytest.raises(UnsupportedModelError, match="31 columns"):
        g.embedding_lookup(ids, g.weight("odd", quantize(TABLE[:, :31], Encoding.INT4)))
    with pytest.raises(UnsupportedModelError, match="one axis"):
        g.embedding_lookup(g.input("ids2", (1, 1), "int32"), g.weight("floats", quantize(TABLE, Encoding.FLOAT32)))


def test_shapes_that_do_not_fit_are_refused_while_building() -> None:
    g = ModelBuilder().subgraph("main")
    x = g.input("x", (1, 8))
    for bad in (
        lambda: g.add(x, g.input("y", (1, 7))),
        lambda: g.fully_connected(x, g.weight("w", quantize(TABLE, Encoding.FLOAT32))),
        lambda: g.reshape(x, (3, -1)),
        lambda: g.slice(x, 1, 6, 3),
        lambda: g.batch_matmul(x, x),
    ):
        with pytest.raises(UnsupportedModelError):
            bad()
