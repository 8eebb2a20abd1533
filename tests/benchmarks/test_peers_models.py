"""The benchmarked models: shapes, folders, and the reference that peers are compared with."""

from __future__ import annotations

import dataclasses
import json

import job as jobs
import ml_dtypes
import numpy as np
import pytest
from peers import models, reference
from peers.cells import streamed_bytes

from edgelm import source
from edgelm.model import LanguageModel
from edgelm.spec import DenseLayer, RecurrentSpec, TransformerSpec, weight_shapes

LLAMA = TransformerSpec(
    vocab_size=300, width=24, layers=2, heads=4, kv_heads=2, head_dim=6, ffn_size=40, max_positions=32, rope_theta=100.0
)
LSTM = RecurrentSpec(50, 8, "lstm", (8, 8), tied_head=True, head_bias=False)
PROJECTED = RecurrentSpec(50, 8, "lstm", (12,), hidden=(DenseLayer(8),), tied_head=True)


def test_the_models_have_the_sizes_the_issue_names():
    millions = {name: round(models.parameters(shape.spec) / 1e6, 1) for name, shape in models.SHAPES.items()}
    assert millions == {"m1": 3.6, "m2": 134.5, "m3": 15.2, "keyboard-lstm": 2.3, "chat-transformer": 3.0}


def test_bundled_models_have_their_trained_weights():
    for name in (models.KEYBOARD, models.CHAT):
        weights, trained = models.SHAPES[name].weights(), models.bundled(name).weights
        assert weights.keys() == trained.keys()
        for key, value in weights.items():
            np.testing.assert_allclose(value, trained[key], rtol=2**-8)  # bfloat16 has 8 bits


def test_weights_are_the_same_every_time_and_fit_bfloat16():
    once, again = dict(models.random_weights(LLAMA)), dict(models.random_weights(LLAMA))
    for name, value in once.items():
        np.testing.assert_array_equal(value, again[name])
        np.testing.assert_array_equal(value, value.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_a_huggingface_folder_is_read_back_as_the_same_model(tmp_path):
    models.write_huggingface(LLAMA, dict(models.random_weights(LLAMA)), tmp_path / "folder")
    read = source.load(tmp_path / "folder").model
    assert isinstance(read, LanguageModel)
    assert {field: getattr(read.spec, field) for field in ("width", "heads", "kv_heads", "rope_theta")} == {
        "width": 24, "heads": 4, "kv_heads": 2, "rope_theta": 100.0,
    }  # fmt: skip
    for name, value in models.random_weights(LLAMA):
        np.testing.assert_array_equal(np.asarray(read.weights[name], np.float32), value)


def test_workers_read_the_folders_without_edgelm(tmp_path):
    models.write_huggingface(LLAMA, dict(models.random_weights(LLAMA)), tmp_path / "llama")
    models.write(models.Shape("m1", "", LSTM), tmp_path / "lstm")
    tensors = jobs.llama_tensors(tmp_path / "llama")
    for name, value in models.random_weights(LLAMA):
        np.testing.assert_array_equal(tensors[models.huggingface_name(name)], value)
    tensors = jobs.lstm_tensors(tmp_path / "lstm")
    for name, value in models.random_weights(LSTM):
        np.testing.assert_array_equal(tensors[name], value)


@pytest.mark.parametrize("spec", [LLAMA, dataclasses.replace(LLAMA, kv_heads=4), LSTM, PROJECTED])
def test_the_reference_computes_what_edgelm_computes(spec):
    weights, tokens = dict(models.random_weights(spec)), [3, 17, 42, 17, 9, 30]
    expected = source.source_logits_of(LanguageModel(spec, weights))(np.array([tokens]))[0]
    np.testing.assert_allclose(reference.logits(spec, weights, tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_reference_computes_what_transformers_computes(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    models.write_huggingface(LLAMA, dict(models.random_weights(LLAMA)), tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([[5, 9, 250, 11]])).logits[0].numpy()
    np.testing.assert_allclose(reference.logits(LLAMA, dict(models.random_weights(LLAMA)), [5, 9, 250, 11]), expected, rtol=1e-4, atol=1e-4)


def test_the_tokenizer_has_a_token_for_every_row():
    plain = models.tokenizer(32_000)
    assert sorted(plain["model"]["vocab"].values()) == list(range(32_000))
    assert json.loads(json.dumps(plain))["model"]["vocab"]["</s>"] == 2


def test_streamed_bytes_count_scales_and_the_head_once():
    matrices = [shape for shape in weight_shapes(LSTM).values() if len(shape) == 2]
    weights, rows = sum(a * b for a, b in matrices), sum(a for a, _ in matrices)
    assert streamed_bytes(LSTM, "int8", ours=True) == weights + 4 * rows
    assert streamed_bytes(LSTM, "Q4_0-pure", ours=False) == weights * 4.5 / 8
    head = 50 * 8
    assert streamed_bytes(LSTM, "int4-block32", ours=True) == (weights - head) * 4.5 / 8 + head + 4 * 50
