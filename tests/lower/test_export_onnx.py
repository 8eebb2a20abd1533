"""Exported ONNX files: what they compute in onnxruntime, and what of them is stored how."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import test_recurrent
import test_static
import test_transformer
from lowered_models import encoded, random_model
from onnx import numpy_helper
from onnx_runs import OnnxRun, step_by_step

from edgelm.errors import UnsupportedModelError
from edgelm.lower import onnx_builder
from edgelm.lower.direct import lower
from edgelm.lower.onnx_writer import write_onnx
from edgelm.model import LanguageModel
from edgelm.models import reference, reference_static
from edgelm.runtime.onnx_session import open_onnx
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec
from edgelm.tflite import reader
from edgelm.tflite.quantize import integer_values, quantize
from edgelm_converters.onnx import read

# Float32 sums in another order; the logits of these models are of size 1 to 10.
TOLERANCE = 1e-4
STEPS = 36

RECURRENT = RecurrentSpec(50, 32, "lstm", (64, 32), hidden=(DenseLayer(32),), tied_head=True)
TRANSFORMER = TransformerSpec(50, width=32, layers=2, heads=4, kv_heads=2, head_dim=16, ffn_size=96, max_positions=40)
SPECS: dict[str, ModelSpec] = {
    **test_recurrent.SPECS,
    "cifg-hard-sigmoid": RecurrentSpec(24, 16, "cifg", (8,), recurrent_activation="hard_sigmoid"),
    "gru-gelu-reset-before": RecurrentSpec(24, 16, "gru", (8,), "gelu", reset_after=False),
    **test_transformer.SPECS,
}


def ids_for(spec: ModelSpec, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(3).integers(0, spec.vocab_size, (batch, STEPS))


def difference(model: LanguageModel, onnx_file: bytes, ids: np.ndarray) -> float:
    return float(np.abs(step_by_step(onnx_file, ids) - reference.logits(model, ids)).max())


@pytest.mark.parametrize("name", SPECS)
def test_every_option_computes_what_the_reference_does(name: str) -> None:
    model = random_model(SPECS[name])
    written, ids = write_onnx(model), ids_for(SPECS[name])
    assert difference(model, written.onnx, ids) < TOLERANCE
    run = OnnxRun(written.onnx, len(ids))
    halves = np.concatenate([run(ids[:, :20]), run(ids[:, 20:])], axis=1)
    assert np.abs(halves - reference.logits(model, ids)).max() < TOLERANCE


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("spec", [RECURRENT, replace(RECURRENT, cell="cifg"), replace(RECURRENT, cell="gru"), TRANSFORMER])
def test_weights_stay_as_small_as_their_encoding(spec: ModelSpec, encoding: Encoding) -> None:
    model = encoded(random_model(spec), encoding)
    written = write_onnx(model)
    assert set(written.encodings.values()) <= {encoding, Encoding.FLOAT32}
    assert difference(written.rounded, written.onnx, ids_for(spec)) < TOLERANCE
    initializers = onnx.load_from_string(written.onnx).graph.initializer
    stored = {tensor.name: len(tensor.raw_data) for tensor in initializers}
    for name, weight in model.weights.items():
        if weight.ndim == 2:
            assert stored[name] == weight.size * encoding.bits / 8, name
    matrices = sum(weight.size for weight in model.weights.values() if weight.ndim == 2)
    others = sum(weight.nbytes for weight in model.weights.values() if weight.ndim == 1)
    # Besides: scales (at most 4.5 bytes a row, there are 5 rows for 100 weights at least), names and nodes, 17 KB for two layers.
    assert len(written.onnx) < matrices * (encoding.bits / 8 + 0.25) + others + 17_000


def test_integers_and_scales_are_those_of_the_tflite() -> None:
    model = encoded(random_model(replace(TRANSFORMER, tied_head=False)), Encoding.INT8)
    tensors = {tensor.name: tensor for tensor in onnx.load_from_string(write_onnx(model).onnx).graph.initializer}
    in_tflite = {tensor.name: tensor for graph in reader.read(lower(model).tflite).tensors for tensor in graph}
    for name in ("embedding.weight", "layers.1.o.weight", "layers.0.down.weight"):  # what the .tflite joins with nothing else
        scales = numpy_helper.to_array(tensors[f"{name}:scales"])
        assert np.array_equal(scales, in_tflite[name].quantization.scales)
        stored = numpy_helper.to_array(tensors[name])
        integers = stored if name == "embedding.weight" else stored.T
        assert np.array_equal(integers, integer_values(quantize(model.weights[name], Encoding.INT8)))


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32])
def test_fixed_scales_are_kept(encoding: Encoding) -> None:
    rng = np.random.default_rng(1)
    model = encoded(random_model(RECURRENT), encoding)
    name = "layers.0.input.weight"
    rows, columns = model.weights[name].shape
    blocks = columns // 32 if encoding is Encoding.INT4_BLOCK32 else 1
    scales = np.exp2(rng.integers(-8, -4, (rows, blocks))).astype(np.float32)
    integers = rng.integers(-3, 4, (rows, blocks, columns // blocks))  # never the largest: scales from weights would be other ones
    weight = (integers * scales[:, :, None]).reshape(rows, columns).astype(np.float32)
    written = write_onnx(model.replace(weights={**model.weights, name: weight}, scales={name: scales}))
    assert np.array_equal(written.rounded.weights[name], weight)
    assert difference(written.rounded, written.onnx, ids_for(RECURRENT)) < TOLERANCE


def test_four_bit_columns_that_do_not_fit_become_int8_and_are_named() -> None:
    spec = RecurrentSpec(24, 12, "gru", (20,))
    written = write_onnx(encoded(random_model(spec), Encoding.INT4_BLOCK32))
    assert written.encodings["layers.0.input.weight"] is Encoding.INT8
    assert "int4-block32 takes columns in multiples of 32" in written.notes[0]
    assert difference(written.rounded, written.onnx, ids_for(spec)) < TOLERANCE


def test_a_tied_table_is_stored_once() -> None:
    tied, untied = (write_onnx(random_model(replace(TRANSFORMER, tied_head=tied))).onnx for tied in (True, False))
    assert len(untied) - len(tied) > 0.95 * 4 * TRANSFORMER.vocab_size * TRANSFORMER.width
    names = [tensor.name for tensor in onnx.load_from_string(tied).graph.initializer]
    assert "head.weight" not in names


# Scan bodies are in the static models, and every site of a norm, a gate and a product.
@pytest.mark.parametrize("name", ["lstm", "gru-reset-before", "cifg-2-layers", "rnn-gate-embedding", "activation-silu", "llama", "gpt2"])
def test_ranges_become_quantize_pairs_where_the_simulation_rounds(name: str) -> None:
    model = test_static.static_model(name)
    written = write_onnx(model)
    ids = ids_for(model.spec, batch=1)
    got, wanted = step_by_step(written.onnx, ids), reference_static.logits(written.rounded, ids)
    step = np.float32((model.ranges["head:out"][1] - model.ranges["head:out"][0]) / 255)
    # Sums in another order round to the neighbouring integer now and then, which grows to some steps behind it.
    assert np.mean(np.abs(got - wanted) < step / 2) > 0.98
    assert np.abs(got - wanted).max() < 6 * step
    assert np.abs(reference.logits(written.rounded, ids) - wanted).max() > step / 2, "rounding of activations can be seen"


def test_inputs_and_outputs_have_the_names_that_servers_know() -> None:
    run = OnnxRun(write_onnx(random_model(TRANSFORMER)).onnx)
    inputs = {each.name: (each.type, each.shape) for each in run.session.get_inputs()}
    assert inputs["input_ids"] == ("tensor(int64)", ["batch", "time"])
    assert inputs["past_key_values.1.value"] == ("tensor(float)", ["batch", 2, "past", 16])
    assert run.outputs == ["logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value"]
    assert run(ids_for(TRANSFORMER, 1)[:, :5]).shape == (1, 5, 50)
    assert run.states["past_key_values.0.key"].shape == (1, 2, 5, 16)
    run = OnnxRun(write_onnx(random_model(RECURRENT)).onnx)
    assert [each.name for each in run.session.get_inputs()] == ["input_ids", "h_0", "c_0", "h_1", "c_1"]
    assert run.outputs == ["logits", "present.h_0", "present.c_0", "present.h_1", "present.c_1"]


def test_more_positions_than_the_model_has_are_refused_by_the_engine() -> None:
    run = OnnxRun(write_onnx(random_model(TRANSFORMER)).onnx)
    run(np.zeros((1, 40), np.int64))
    with pytest.raises(Exception, match="out of data bounds"):
        run(np.zeros((1, 1), np.int64))


def test_metadata_says_what_the_file_is() -> None:
    model = encoded(random_model(RECURRENT), Encoding.INT8).replace(source_sha256="abc", tokenizer='{"model": {}}')
    proto = onnx.load_from_string(write_onnx(model).onnx)
    facts = {each.key: each.value for each in proto.metadata_props}
    assert proto.producer_name == "edgelm"
    assert json.loads(facts["edgelm.spec"])["units"] == [64, 32]
    assert json.loads(facts["edgelm.encodings"])["embedding.weight"] == "int8"
    assert (facts["edgelm.source_sha256"], facts["edgelm.tokenizer"]) == ("abc", '{"model": {}}')
    large = model.replace(tokenizer="x" * 2_000_000)
    assert len(write_onnx(large).onnx) < 1_000_000


def test_only_standard_ops_are_written() -> None:
    for spec in (RECURRENT, TRANSFORMER):
        proto = onnx.load_from_string(write_onnx(encoded(random_model(spec), Encoding.INT4)).onnx)
        assert [(each.domain, each.version) for each in proto.opset_import] == [("", 21)]
        assert {node.domain for node in proto.graph.node} == {""}


def test_weights_too_large_for_one_file_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_builder, "LARGEST_FILE", 10_000)
    with pytest.raises(UnsupportedModelError, match="one ONNX file does not hold"):
        write_onnx(random_model(TRANSFORMER))


def test_a_session_goes_on_where_its_snapshot_was_taken() -> None:
    session = open_onnx(write_onnx(random_model(TRANSFORMER)).onnx, max_positions=40)
    ids = ids_for(TRANSFORMER, 1)[0].tolist()
    session.prefill(ids[:10])
    kept = session.snapshot()
    first = session.step(ids[10]).copy()
    session.prefill(ids[11:20])
    session.restore(kept)
    assert np.array_equal(session.step(ids[10]), first)
    assert session.position == 11


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.INT8])
@pytest.mark.parametrize(
    "name", ["lstm-2-layers", "gru-reset-before", "tied", "hidden", "gpt2", "llama", "partial-rotary", "gpt-neox", "gemma"]
)
def test_what_was_exported_is_read_again_as_the_same_model(name: str, encoding: Encoding, tmp_path: Path) -> None:
    model = encoded(random_model(SPECS[name]), encoding)
    written = write_onnx(model)
    (tmp_path / "model.onnx").write_bytes(written.onnx)
    again = read(tmp_path / "model.onnx").model
    assert isinstance(again, LanguageModel), again.origin
    assert again.spec == model.spec
    ids = ids_for(model.spec)
    assert np.abs(reference.logits(again, ids) - reference.logits(written.rounded, ids)).max() < TOLERANCE
