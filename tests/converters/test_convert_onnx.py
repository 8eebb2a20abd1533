"""The whole path from ONNX: exporters' files go in, lifted and proven models, opaque ones, or one clear error come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from handmade_onnx import UNITS, VOCAB, Writer, recurrent  # noqa: E402
from onnx import TensorProto  # noqa: E402

from edgelm import source  # noqa: E402
from edgelm.errors import MissingDependencyError, SourceError, UnsupportedModelError  # noqa: E402
from edgelm.lower.direct import lower  # noqa: E402
from edgelm.model import LanguageModel, OpaqueGraph  # noqa: E402
from edgelm.runtime.session import open_session  # noqa: E402
from edgelm.spec import RecurrentSpec  # noqa: E402
from edgelm_converters import onnx_session  # noqa: E402
from edgelm_converters.onnx import read  # noqa: E402
from edgelm_converters.onnx_graph import folded, read_graph  # noqa: E402
from edgelm_converters.onnx_recurrent import lift_recurrent  # noqa: E402

MAX_DIFFERENCE = 1e-4  # the limit; float32 sums in another order stay near 1e-6


def test_the_file_ending_leads_here(tmp_path: Path) -> None:
    loaded = source.load(recurrent().save(tmp_path / "chat.onnx")).model
    assert isinstance(loaded, LanguageModel) and loaded.name == "chat" and loaded.source_sha256
    assert loaded.origin is not None and loaded.origin.framework.startswith("onnxruntime")


def convolution(w: Writer) -> Writer:
    """A causal language model of no family."""
    x = w.add("Gather", w.const(w.random(VOCAB, UNITS)), w.input("ids", TensorProto.INT64, "batch", "time"))
    x = w.add("Transpose", x, perm=[0, 2, 1])
    x = w.add("Conv", x, w.const(w.random(VOCAB, UNITS, 3)), pads=[2, 0])
    w.output(w.add("Transpose", x, perm=[0, 2, 1]), "scores")
    return w


def test_what_is_not_recognised_goes_as_it_is(tmp_path: Path) -> None:
    imported = read(convolution(Writer()).save(tmp_path / "model.onnx"), name="other")
    model = imported.model
    assert isinstance(model, OpaqueGraph) and model.origin is not None and model.call is not None
    assert (model.name, model.format, model.time, model.vocab_size, model.last_only) == ("other", "onnx", 64, VOCAB, False)
    assert model.origin.why
    assert imported.source_logits(np.zeros((2, 5), np.int32)).shape == (2, 5, VOCAB)


def test_what_the_opaque_way_holds_its_other_inputs_at(tmp_path: Path) -> None:
    w = recurrent("GRU", states="inputs", layers=2, body="residual", shape=("batch", 12))
    w.input("attention_mask", TensorProto.INT64, "batch", "time")
    w.input("position_ids", TensorProto.INT64, "batch", "time")
    model = read(w.save(tmp_path / "model.onnx")).model
    assert isinstance(model, OpaqueGraph) and model.call is not None
    held = model.call.held
    np.testing.assert_array_equal(held["h_in"], np.zeros((2, 1, UNITS)))
    np.testing.assert_array_equal(held["attention_mask"], np.ones((1, 12)))
    np.testing.assert_array_equal(held["position_ids"], np.arange(12)[None])
    assert model.call.ids_shape == (1, 12) and model.time == 12


def no_weights(folder: Path) -> Path:
    """Exported without weights: they are inputs."""
    model = recurrent().model()
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.graph.ClearField("initializer")
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def not_causal(folder: Path) -> Path:
    w = Writer()
    x = w.add("Gather", w.const(w.random(VOCAB, UNITS)), w.input("ids", TensorProto.INT64, "batch", "time"))
    pooled = w.add("Add", x, w.add("ReduceMean", x, axes=[1]))
    w.output(w.add("MatMul", pooled, w.const(w.random(UNITS, VOCAB))), "scores")
    return w.save(folder / "model.onnx")


def image_model(folder: Path) -> Path:
    w = Writer()
    x = w.add("Conv", w.input("pixels", TensorProto.FLOAT, "batch", 3, 8, 8), w.const(w.random(4, 3, 3, 3)))
    w.output(w.add("MatMul", w.add("Flatten", x), w.const(w.random(144, 10))), "classes")
    return w.save(folder / "model.onnx")


def other_vocabulary(folder: Path) -> Path:
    w = Writer()
    x = w.add("Gather", w.const(w.random(VOCAB, UNITS)), w.input("ids", TensorProto.INT64, "batch", "time"))
    w.output(w.add("MatMul", x, w.const(w.random(UNITS, 4))), "tags")
    return w.save(folder / "model.onnx")


def one_token_without_states(folder: Path) -> Path:
    w = Writer()
    x = w.add("Gather", w.const(w.random(VOCAB, UNITS)), w.input("ids", TensorProto.INT64, "batch", 1))
    w.output(w.add("MatMul", x, w.const(w.random(UNITS, VOCAB))), "scores")
    return w.save(folder / "model.onnx")


FAILING: dict[str, tuple[Any, type[Exception], str]] = {
    "no weights": (no_weights, SourceError, r"holds no weights; w0 \(13, 6\) is an input"),
    "not causal": (not_causal, UnsupportedModelError, "not causal|earlier positions see later tokens"),
    "an image model": (image_model, UnsupportedModelError, r"none of its inputs is looked up.*pixels float32 \(any, 3, 8, 8\)"),
    "another vocabulary": (other_vocabulary, UnsupportedModelError, "13 tokens"),
    "one token, no states": (one_token_without_states, UnsupportedModelError, "one token at a time"),
    "unlifted, one token": (
        lambda folder: recurrent(states="inputs", shape=(1, 1), body="residual").save(folder / "model.onnx"),
        UnsupportedModelError,
        "was not recognised.*does not take one window",
    ),
    "unlifted, one-hot rows": (
        lambda folder: recurrent(prefix="rows", body="residual").save(folder / "model.onnx"),
        UnsupportedModelError,
        "was not recognised.*does not take one window",
    ),
    "the runtime refuses": (
        lambda folder: recurrent(attributes={"direction": "sideways"}).save(folder / "model.onnx"),
        UnsupportedModelError,
        "sideways",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), FAILING.values(), ids=FAILING.keys())
def test_failing_kinds_give_one_clear_error(build: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        read(build(tmp_path))


def test_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="onnxruntime") as raised:
        onnx_session.open_session(recurrent().save(tmp_path / "model.onnx"))
    assert "pip install" in raised.value.fix


def loop(w: Writer, update_gate_first: bool = True) -> Writer:
    """A GRU of one Loop, as tf2onnx writes it: the sequence is looked up by a counter that the body carries."""
    table, width = w.random(VOCAB, 6), 6
    x = w.add("Gather", w.const(table), w.input("ids", TensorProto.INT64, "batch", "time"))
    x = w.add("Transpose", x, perm=[1, 0, 2])
    size = w.add("Gather", w.add("Shape", x), w.const(0, np.int64))
    batch = w.add("Gather", w.add("Shape", x), w.const([1], np.int64))
    zeros = w.add("ConstantOfShape", w.add("Concat", batch, w.const([UNITS], np.int64), axis=0))
    b = Writer(1, prefix="body_")
    body_inputs = [("step", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("place", TensorProto.INT64, [])]
    body_inputs.append(("h", TensorProto.FLOAT, [None, UNITS]))
    gates = b.add("Add", b.add("MatMul", b.add("Gather", x, "place"), "kernel"), "bias")
    xz, xr, xh = b.add("Split", gates, outputs=3, axis=-1)
    hz, hr, hh = b.add("Split", b.add("Add", b.add("MatMul", "h", "inner"), "inner_bias"), outputs=3, axis=-1)
    z, r = b.add("Sigmoid", b.add("Add", xz, hz)), b.add("Sigmoid", b.add("Add", xr, hr))
    z = z if update_gate_first else b.add("Sub", b.const(1, np.float32), z)
    candidate = b.add("Tanh", b.add("Add", xh, b.add("Mul", r, hh)))
    kept, fresh = b.add("Mul", z, "h"), b.add("Mul", b.add("Sub", b.const(1, np.float32), z), candidate)
    state = b.add("Add", kept, fresh)
    place, again, y = b.add("Add", "place", b.const(1, np.int64)), b.add("Identity", "go"), b.add("Identity", state)
    shapes = {"kernel": (width, 3 * UNITS), "inner": (UNITS, 3 * UNITS), "bias": (3 * UNITS,), "inner_bias": (3 * UNITS,)}
    w.weights += [onnx.numpy_helper.from_array(w.random(*shape), name) for name, shape in shapes.items()]
    info = [onnx.helper.make_tensor_value_info(*given) for given in body_inputs]
    results = [(again, TensorProto.BOOL), (place, TensorProto.INT64), (state, TensorProto.FLOAT), (y, TensorProto.FLOAT)]
    outs = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in results]
    body = onnx.helper.make_graph(b.nodes, "body", info, outs, b.weights)
    sequence = w.add("Loop", size, w.const(True, np.bool_), w.const(0, np.int64), zeros, outputs=3, body=body)[2]
    y = w.add("MatMul", w.add("Transpose", sequence, perm=[1, 0, 2]), w.const(w.random(UNITS, VOCAB)))
    w.output(y, "scores")
    return w


def test_a_loop_is_recognised_by_what_its_body_computes(tmp_path: Path) -> None:
    model = read(loop(Writer()).save(tmp_path / "model.onnx")).model
    assert isinstance(model, LanguageModel), model.origin
    assert isinstance(model.spec, RecurrentSpec) and model.spec.cell == "gru" and model.spec.reset_after


def test_a_loop_of_no_cell_says_so(tmp_path: Path) -> None:
    model = read(loop(Writer(), update_gate_first=False).save(tmp_path / "model.onnx")).model
    assert isinstance(model, OpaqueGraph) and model.origin is not None
    assert "(Loop) is no RNN, GRU or LSTM step" in model.origin.why


KERAS = {
    "lstm": lambda kl: kl.LSTM(12, return_sequences=True),
    "gru": lambda kl: kl.GRU(12, return_sequences=True),
    "gru, reset before": lambda kl: kl.GRU(12, return_sequences=True, reset_after=False),
    "rnn": lambda kl: kl.SimpleRNN(12, return_sequences=True),
    "lstm, last step": lambda kl: kl.LSTM(12),
}


@pytest.mark.slow  # TensorFlow and tf2onnx take seconds each
@pytest.mark.parametrize("library", ["tf_keras", "keras"])
@pytest.mark.parametrize("kind", KERAS)
def test_tf2onnx_exports_lift(library: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras, tf = pytest.importorskip(library), pytest.importorskip("tensorflow")
    monkeypatch.setattr(np, "object", object, raising=False)  # tf2onnx 1.16 still uses numpy's old names
    monkeypatch.setattr(np, "bool", bool, raising=False)
    tf2onnx = pytest.importorskip("tf2onnx")
    kl = keras.layers
    layers = [kl.Input((None,), dtype="int32"), kl.Embedding(VOCAB, 8), KERAS[kind](kl), kl.Dense(VOCAB, "softmax")]
    model = keras.Sequential(layers)
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(number).normal(0, 0.5, weight.shape))
    signature = [tf.TensorSpec((None, None), tf.int32, name="ids")]
    proto, _ = tf2onnx.convert.from_function(tf.function(lambda ids: model(ids)), input_signature=signature, opset=15)
    onnx.save(proto, str(tmp_path / "model.onnx"))
    imported = read(tmp_path / "model.onnx")
    assert isinstance(imported.model, LanguageModel), imported.model.origin
    ids = np.random.default_rng(5).integers(0, VOCAB, (1, 32), dtype=np.int32)
    session = open_session(lower(imported.model).tflite)
    scores = np.stack([np.array(session.step(int(token))) for token in ids[0]])
    wanted = np.log(np.asarray(model(ids)).reshape(-1, VOCAB))
    scores = scores[-len(wanted) :]
    assert np.abs((scores - scores.mean(-1, keepdims=True)) - (wanted - wanted.mean(-1, keepdims=True))).max() <= MAX_DIFFERENCE


def test_lift_alone_reads_no_runtime(tmp_path: Path) -> None:
    """The lift works on data: names mean nothing to it."""
    model = recurrent(layers=2, body="gelu").model()
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, str(tmp_path / "model.onnx"))
    spec = lift_recurrent(folded(read_graph(tmp_path / "model.onnx"))).spec
    assert isinstance(spec, RecurrentSpec) and spec.units == (UNITS, UNITS)


@pytest.mark.data
def test_a_model_with_caches_and_masks_runs(data_folder: Path) -> None:
    """A toy of onnxruntime's own tests in the signature of LFM2: six caches, positions and a mask beside the ids."""
    imported = read(data_folder / "models" / "ortgenai_tiny_random_lfm2_onnx" / "decoder.onnx")
    assert isinstance(imported.model, OpaqueGraph) and imported.model.vocab_size == 1000
    assert imported.source_logits(np.zeros((1, 4), np.int32)).shape == (1, 4, 1000)
