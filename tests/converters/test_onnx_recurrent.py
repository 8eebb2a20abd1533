"""Recurrent ONNX models in all spellings: lifted, proven against onnxruntime, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from handmade_onnx import UNITS, VOCAB, Writer, recurrent, spelled_out  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from edgelm.errors import UnsupportedModelError  # noqa: E402
from edgelm.lower.direct import lower  # noqa: E402
from edgelm.model import LanguageModel, OpaqueGraph  # noqa: E402
from edgelm.runtime.session import open_session  # noqa: E402
from edgelm.spec import DenseLayer, RecurrentSpec  # noqa: E402
from edgelm_converters.onnx import read  # noqa: E402

# float32 sums in another order: a dozen units differ by about 1e-7
MAX_DIFFERENCE = 1e-5

LIFTED: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {"cell": "GRU"},
    "gru, reset after": {"cell": "GRU", "attributes": {"linear_before_reset": 1}},
    "rnn": {"cell": "RNN"},
    "rnn, relu": {"cell": "RNN", "attributes": {"activations": ["Relu"]}},
    "lstm, other activations": {"attributes": {"activations": ["HardSigmoid", "Relu", "Relu"]}},
    "no bias": {"bias": False},
    "gru, no bias": {"cell": "GRU", "bias": False, "attributes": {"linear_before_reset": 1}},
    "three layers": {"layers": 3},
    "states of zeros": {"states": "zeros", "layers": 2},
    "states as inputs": {"states": "inputs", "layers": 2},
    "gru, states as inputs": {"cell": "GRU", "states": "inputs", "layers": 3, "attributes": {"linear_before_reset": 1}},
    "rnn, states as inputs": {"cell": "RNN", "states": "inputs"},
    "one token at a time": {"states": "inputs", "layers": 2, "shape": (1, 1)},
    "time first": {"layout": "time first"},
    "time first, states, flat head": {"layout": "time first", "states": "inputs", "head": "gemm", "end": "log_softmax"},
    "fixed time": {"shape": (1, 9)},
    "fixed time, last": {"shape": ("batch", 9), "last": "gather"},
    "traced time": {"traced": 9},
    "int32 ids": {"ids": TensorProto.INT32},
    "last by gather": {"last": "gather"},
    "last by slice": {"last": "slice"},
    "last by state": {"last": "state", "cell": "GRU"},
    "tied": {"head": "tied"},
    "flat gemm": {"head": "gemm"},
    "no head bias": {"head": "no bias"},
    "softmax": {"end": "softmax"},
    "log softmax": {"end": "log_softmax"},
    "gelu": {"body": "gelu"},
    "tanh gelu": {"body": "tanh gelu"},
    "silu": {"body": "silu"},
    "relu": {"body": "relu"},
    "linear hidden layer": {"body": "projection"},
    "projected embedding": {"prefix": "projection"},
    "one-hot of ids": {"prefix": "onehot"},
    "one-hot rows": {"prefix": "rows"},
}


@pytest.mark.parametrize("options", LIFTED.values(), ids=LIFTED.keys())
def test_lifts_and_proves(options: dict[str, Any], tmp_path: Path) -> None:
    model = read(recurrent(**options).save(tmp_path / "model.onnx")).model
    assert isinstance(model, LanguageModel), model.origin
    assert model.origin is not None and model.origin.proof is not None
    assert model.origin.way == "lifted"
    assert model.origin.proof.max_abs_difference <= MAX_DIFFERENCE
    assert model.origin.proof.top1_agreement == 1.0
    states = options.get("states") == "inputs" and options.get("shape") != (1, 1)
    assert ("token by token" in model.origin.why) == states


def test_spec_says_what_the_graph_has(tmp_path: Path) -> None:
    lifted = read(recurrent("GRU", layers=2, body="tanh gelu", attributes={"linear_before_reset": 1}).save(tmp_path / "m.onnx")).model
    assert isinstance(lifted, LanguageModel)
    hidden = (DenseLayer(7, "gelu_tanh"),)
    assert lifted.spec == RecurrentSpec(VOCAB, 6, "gru", (UNITS, UNITS), reset_after=True, hidden=hidden)
    tied = read(recurrent(head="tied").save(tmp_path / "tied.onnx")).model
    assert isinstance(tied, LanguageModel) and isinstance(tied.spec, RecurrentSpec)
    assert tied.spec.tied_head and not tied.spec.head_bias and "head.weight" not in tied.weights


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_tflite_follows_the_source_over_32_steps(cell: str, tmp_path: Path) -> None:
    attributes = {"linear_before_reset": 1} if cell == "GRU" else {}
    imported = read(recurrent(cell, layers=2, states="inputs", attributes=attributes).save(tmp_path / "model.onnx"))
    assert isinstance(imported.model, LanguageModel)
    ids = np.random.default_rng(2).integers(0, VOCAB, (1, 32), dtype=np.int32)
    session = open_session(lower(imported.model).tflite)
    scores = np.stack([np.array(session.step(int(token))) for token in ids[0]])
    assert np.abs(scores - imported.source_logits(ids)[0]).max() <= 1e-4  # the issue's own limit


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_cells_that_are_spelled_out(cell: str, layers: int, tmp_path: Path) -> None:
    imported = read(spelled_out(cell, layers).save(tmp_path / "model.onnx"))
    assert isinstance(imported.model, LanguageModel), imported.model.origin
    spec = imported.model.spec
    assert isinstance(spec, RecurrentSpec)
    assert (spec.cell, spec.units, spec.activation) == (cell.lower(), (UNITS,) * layers, "tanh")
    assert imported.model.origin is not None and imported.model.origin.proof is not None
    assert imported.model.origin.proof.max_abs_difference <= MAX_DIFFERENCE


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "clip": ({"attributes": {"clip": 3.0}}, "clips"),
    "peepholes": ({"peepholes": True}, "peepholes"),
    "learned state": ({"states": "learned"}, "learned state"),
    "lengths": ({"lengths": True}, "several lengths"),
    "activations": ({"attributes": {"activations": ["Sigmoid", "Softsign", "Tanh"]}}, "Softsign"),
    "residual": ({"body": "residual"}, "Add"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_goes_as_it_is_and_says_why(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    model = read(recurrent(**options).save(tmp_path / "model.onnx")).model
    assert isinstance(model, OpaqueGraph) and model.origin is not None and model.call is not None
    assert reason in model.origin.why and model.origin.way == "graph"
    assert (model.vocab_size, model.call.ids, model.call.scores, model.call.ids_shape) == (VOCAB, "tokens", "scores", (1, model.time))


@pytest.mark.parametrize("direction", ["bidirectional", "reverse"])
def test_reading_the_future_is_refused(direction: str, tmp_path: Path) -> None:
    w = Writer()
    x = w.add("Transpose", w.add("Gather", w.const(w.random(VOCAB, 6)), w.input("ids", TensorProto.INT64, "b", "t")), perm=[1, 0, 2])
    count = 1 + (direction == "bidirectional")
    weights = w.const(w.random(count, 4 * UNITS, 6)), w.const(w.random(count, 4 * UNITS, UNITS))
    y = w.add("LSTM", x, *weights, hidden_size=UNITS, direction=direction)
    flat = w.add("Reshape", w.add("Transpose", y, perm=[2, 0, 1, 3]), w.const([0, 0, -1], np.int64))
    w.output(w.add("MatMul", flat, w.const(w.random(count * UNITS, VOCAB))), "scores")
    with pytest.raises(UnsupportedModelError, match="not causal"):
        read(w.save(tmp_path / "model.onnx"))


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    w = Writer()
    x = w.add("Transpose", w.add("Gather", w.const(w.random(VOCAB, 6)), w.input("ids", TensorProto.INT64, "b", "t")), perm=[1, 0, 2])
    _, h = w.add("GRU", x, w.const(w.random(1, 3 * UNITS, 6)), w.const(w.random(1, 3 * UNITS, UNITS)), outputs=2, hidden_size=UNITS)
    w.output(w.add("MatMul", w.add("Squeeze", h, w.const([0], np.int64)), w.const(w.random(UNITS, 3))), "classes")
    with pytest.raises(UnsupportedModelError, match="classifier"):
        read(w.save(tmp_path / "model.onnx"))


def test_swapped_states_are_not_proven(tmp_path: Path) -> None:
    """Whole sequences from zero states are right, but the state that comes back is another one."""
    w = recurrent("GRU", layers=2, states="inputs")
    concat = next(node for node in w.nodes if node.op_type == "Concat")
    names = list(concat.input)
    concat.ClearField("input")
    concat.input.extend(reversed(names))
    model = read(w.save(tmp_path / "model.onnx")).model
    assert isinstance(model, OpaqueGraph) and model.origin is not None
    assert "fed back" in model.origin.why


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_lifted_and_proven_in_single(half: int, tmp_path: Path) -> None:
    model = recurrent(layers=2).model(opset=22, ir_version=10)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
            tensor.CopyFrom(helper.make_tensor(tensor.name, half, tensor.dims, values))
    for value in model.graph.output:
        value.type.tensor_type.elem_type = half
    path = tmp_path / "half.onnx"
    onnx.save(model, str(path))
    lifted = read(path).model
    assert isinstance(lifted, LanguageModel) and lifted.origin is not None and lifted.origin.proof is not None
    assert lifted.origin.proof.max_abs_difference <= MAX_DIFFERENCE
    assert all(weight.dtype == np.float32 for weight in lifted.weights.values())


def test_int8_weights_are_lifted(tmp_path: Path) -> None:
    w = Writer()
    table = w.add("DequantizeLinear", w.const(np.arange(-39, 39).reshape(VOCAB, 6), np.int8), w.const(0.02, np.float32))
    x = w.add("Transpose", w.add("Gather", table, w.input("ids", TensorProto.INT64, "b", "t")), perm=[1, 0, 2])
    y = w.add("RNN", x, w.const(w.random(1, UNITS, 6)), w.const(w.random(1, UNITS, UNITS)), hidden_size=UNITS)
    y = w.add("Transpose", w.add("Squeeze", y, w.const([1], np.int64)), perm=[1, 0, 2])
    w.output(w.add("MatMul", y, w.const(w.random(UNITS, VOCAB))), "scores")
    assert isinstance(read(w.save(tmp_path / "model.onnx")).model, LanguageModel)


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23, 24])
def test_every_opset(opset: int, tmp_path: Path) -> None:
    path = recurrent(layers=2, states="inputs").save(tmp_path / "model.onnx", opset=opset, ir_version=13 if opset == 24 else 8)
    assert isinstance(read(path).model, LanguageModel)


def test_external_data(tmp_path: Path) -> None:
    model = recurrent(layers=2).model()
    onnx.save(model, str(tmp_path / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=0)
    assert isinstance(read(tmp_path / "model.onnx").model, LanguageModel)
