"""Sharing: one table for both ends, one copy of equal layers, fewer neurons, fewer columns; in the file, and worth retraining."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
from trained_models import DOCUMENTS, RETRAIN, SPECS, VOCAB, Family, data_of, perplexity, trained

from edgelm.compress import low_rank, merge, plain, share, tied
from edgelm.errors import RecipeError
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.models import keras_model, reference
from edgelm.recipe_steps import Finetune, Share
from edgelm.recipe_training import NO_TRAINING
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, weight_shapes
from edgelm.tflite import reader
from edgelm.tflite.reader import TfliteModel

IDS = np.stack([document[:24] for document in DOCUMENTS[:4]])
UNTIED: dict[Family, ModelSpec] = {
    "lstm": RecurrentSpec(VOCAB, 16, "lstm", (64,)),
    "transformer": dataclasses.replace(SPECS["transformer"], tied_head=False),
}
DEEP: dict[Family, ModelSpec] = {
    "lstm": RecurrentSpec(VOCAB, 32, "lstm", (32, 32, 32)),
    "transformer": dataclasses.replace(SPECS["transformer"], layers=4),
}


def _fresh(spec: ModelSpec) -> LanguageModel:
    rng = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if "norm" in name else (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in weight_shapes(spec).items()
    }
    return LanguageModel(spec, weights)


@lru_cache
def _trained(spec: ModelSpec) -> LanguageModel:
    return plain.apply(_fresh(spec), Finetune(RETRAIN), data_of(_fresh(spec)))


def _file(model: LanguageModel, encoding: Encoding = Encoding.FLOAT32) -> TfliteModel:
    encodings = {name: encoding for name, weight in model.weights.items() if weight.ndim == 2}
    return reader.read(direct.lower(model.replace(encodings=encodings)).tflite)


def _weight_bytes(model: LanguageModel) -> int:
    """Bytes of the matrices in the int8 file; a shared buffer counts once."""
    return sum(_file(model, Encoding.INT8).bytes_by_weight().values())


def _shape(model: LanguageModel, name: str) -> tuple[int, ...]:
    return _file(model).tensor(name).shape


@pytest.mark.slow
@pytest.mark.parametrize("family", UNTIED)
def test_a_tied_head_reads_the_embedding_in_the_file(family: Family) -> None:
    model = _trained(UNTIED[family])
    at_once, retrained = (share.apply(model, Share("tie", train=train), data_of(model)) for train in (NO_TRAINING, RETRAIN))
    assert at_once.parameters < model.parameters
    assert len(_tables(at_once)) == 1 < len(_tables(model))
    assert perplexity(retrained) < perplexity(at_once)


def _tables(model: LanguageModel) -> set[int]:
    """The buffers of int8 matrices with a row for each word."""
    tensors = [tensor for subgraph in _file(model, Encoding.INT8).tensors for tensor in subgraph]
    return {tensor.buffer for tensor in tensors if tensor.dtype == "int8" and tensor.nbytes and tensor.shape[0] == VOCAB}


def test_tables_that_are_maps_of_one_are_tied_without_loss() -> None:
    model = _fresh(RecurrentSpec(VOCAB, 16, "gru", (24,)))
    mixing = np.random.default_rng(1).standard_normal((16, 24)).astype(np.float32)
    model = model.replace(weights={**model.weights, "head.weight": model.float32("embedding.weight") @ mixing})
    result = share.apply(model, Share("tie", train=NO_TRAINING), None)
    assert result.spec.tied_head
    assert np.allclose(reference.logits(result, IDS), reference.logits(model, IDS), atol=1e-4)


def test_what_is_tied_already_and_what_would_grow_is_refused() -> None:
    with pytest.raises(RecipeError, match="already"):
        share.apply(_fresh(SPECS["lstm"]), Share("tie", train=NO_TRAINING), None)
    with pytest.raises(RecipeError, match="grows"):
        share.apply(_fresh(RecurrentSpec(VOCAB, 64, "lstm", (64,))), Share("tie", train=NO_TRAINING), None)
    with pytest.raises(RecipeError, match="gates"):
        share.apply(_fresh(RecurrentSpec(VOCAB, 64, "lstm", (16,), gate_embedding=True)), Share("tie", train=NO_TRAINING), None)


@pytest.mark.slow
@pytest.mark.parametrize("family", DEEP)
def test_shared_layers_are_one_copy_in_the_file_and_stay_so_in_training(family: Family) -> None:
    model = _trained(DEEP[family])
    at_once, retrained = (share.apply(model, Share("layers", 0.5, train=train), data_of(model)) for train in (NO_TRAINING, RETRAIN))
    groups = share.layer_groups(model.spec, 0.5)
    assert tied.copies(keras_model.from_language_model(retrained)) == groups
    assert _weight_bytes(retrained) < 0.75 * _weight_bytes(model)
    assert perplexity(retrained) < perplexity(at_once)


def test_runs_of_equal_layers_are_shared() -> None:
    assert share.layer_groups(DEEP["transformer"], 0.5) == [[0, 1], [2, 3]]
    assert share.layer_groups(DEEP["transformer"], 0.25) == [[0, 1, 2, 3]]
    assert share.layer_groups(RecurrentSpec(VOCAB, 16, "gru", (32, 32, 32)), 0.5) == [[1, 2]]  # the first is stored otherwise
    with pytest.raises(RecipeError, match="no two layers"):
        share.apply(_fresh(SPECS["lstm"]), Share("layers", 0.5, train=NO_TRAINING), None)


@pytest.mark.slow
def test_copies_are_kept_equal_by_their_mean() -> None:
    model = share.apply(_fresh(DEEP["transformer"]), Share("layers", 0.5, train=NO_TRAINING), None)
    keras = keras_model.from_language_model(model)
    average = tied.keep_tied(keras)
    assert average is not None
    kernels = [keras.get_layer(f"layers_{i}_q").kernel for i in range(4)]
    before = [kernel.numpy() for kernel in kernels]
    kernels[0].assign_add(np.full(kernels[0].shape, 2, np.float32))
    average(0)
    after = [kernel.numpy() for kernel in kernels]
    assert np.allclose(after[0], before[0] + 1, atol=1e-6)
    assert np.array_equal(after[0], after[1])
    assert np.array_equal(after[2], before[2])
    assert tied.keep_tied(keras_model.from_language_model(_fresh(DEEP["transformer"]))) is None


MERGED = {
    "lstm": (RecurrentSpec(VOCAB, 16, "lstm", (32, 24), hidden=(DenseLayer(16),), tied_head=True), "layers.0.recurrent.weight", (64, 16)),
    "gru": (RecurrentSpec(VOCAB, 16, "gru", (32,), hidden=(DenseLayer(20, "relu"),)), "layers.0.recurrent.weight", (48, 16)),
    "gates": (RecurrentSpec(VOCAB, 96, "lstm", (24,), gate_embedding=True), "layers.0.recurrent.weight", (48, 12)),
    "transformer": (SPECS["transformer"], "layers.0.down.weight", (32, 32)),
    "plain ffn": (dataclasses.replace(SPECS["transformer"], gated=False, ffn_bias=True, activation="relu"), "layers.1.up.weight", (32, 32)),
}


@pytest.mark.parametrize("kind", MERGED)
def test_twin_neurons_are_merged_without_loss(kind: str) -> None:
    spec, name, shape = MERGED[kind]
    result = share.apply(_with_twins(_fresh(spec)), Share("neurons", 0.5, train=NO_TRAINING), None)
    assert result.weights[name].shape == shape
    assert np.allclose(reference.logits(result, IDS), reference.logits(_with_twins(_fresh(spec)), IDS), atol=1e-4)


def _with_twins(model: LanguageModel) -> LanguageModel:
    """The second half of all neurons has the incoming weights of the first half."""
    weights = {name: weight.copy() for name, weight in model.weights.items()}
    for dimension, size in merge.mergeable(model.spec).items():
        half = size // 2
        for name, weight_axes in merge.axes(model.spec).items():
            for number, axis in enumerate(weight_axes):
                if axis.dimension == dimension and (number == 0 or name == "embedding.weight"):
                    by_gate = np.moveaxis(weights[name], number, 0).reshape(axis.copies, size, -1)
                    by_gate[:, half : 2 * half] = by_gate[:, :half]
                    weights[name] = np.moveaxis(by_gate.reshape(np.moveaxis(weights[name], number, 0).shape), 0, number)
    return model.replace(weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lstm", "transformer"])
def test_merged_neurons_make_smaller_shapes_in_the_file(family: Family) -> None:
    model = trained(family)
    at_once, retrained = (share.apply(model, Share("neurons", 0.5, train=train), data_of(model)) for train in (NO_TRAINING, RETRAIN))
    names = {"lstm": "layers.0.weight", "transformer": "layers.0.down.weight"}
    assert _shape(model, names[family])[1] - _shape(retrained, names[family])[1] == 32
    assert perplexity(retrained) < perplexity(at_once)


def test_units_that_are_the_tied_table_are_not_merged() -> None:
    with pytest.raises(RecipeError, match="tied head"):
        share.apply(_fresh(RecurrentSpec(VOCAB, 16, "lstm", (16,), tied_head=True)), Share("neurons", train=NO_TRAINING), None)


FACTORED = {
    "tied": RecurrentSpec(VOCAB, 16, "lstm", (24,), hidden=(DenseLayer(16),), tied_head=True),
    "tied behind tanh": RecurrentSpec(VOCAB, 16, "lstm", (24,), hidden=(DenseLayer(16, "tanh"),), tied_head=True),
    "untied": RecurrentSpec(VOCAB, 16, "gru", (24,)),
    "projected": RecurrentSpec(VOCAB, 16, "gru", (24,), embedding_projection=12),
    "gates": RecurrentSpec(VOCAB, 96, "lstm", (24,), gate_embedding=True),
}


@pytest.mark.parametrize("kind", FACTORED)
def test_tables_of_half_rank_are_factorised_without_loss(kind: str) -> None:
    model = _fresh(FACTORED[kind])
    tables = {name: _of_half_rank(model.float32(name)) for name in ("embedding.weight", "head.weight") if name in model.weights}
    model = model.replace(weights={**model.weights, **tables})
    result = share.apply(model, Share("low-rank", 0.5, train=NO_TRAINING), None)
    assert isinstance(result.spec, RecurrentSpec)
    assert result.spec.embedding_size == min(VOCAB, model.weights["embedding.weight"].shape[1]) // 2
    assert result.parameters < model.parameters
    assert np.allclose(reference.logits(result, IDS), reference.logits(model, IDS), atol=1e-3)


def _of_half_rank(table: np.ndarray) -> np.ndarray:
    left, right = low_rank.factors(table, min(table.shape) // 2)
    return left @ right.T


@pytest.mark.slow
def test_a_factorised_table_is_smaller_in_the_file() -> None:
    model = trained("lstm")
    at_once, retrained = (share.apply(model, Share("low-rank", 0.5, train=train), data_of(model)) for train in (NO_TRAINING, RETRAIN))
    assert _shape(retrained, "embedding.weight") == (VOCAB, 16)
    assert perplexity(retrained) < perplexity(at_once)


def test_frequent_words_lose_least() -> None:
    table = np.random.default_rng(0).standard_normal((20, 8))
    counts = np.array([1000.0] * 2 + [1.0] * 18)
    errors = [np.square(table - left @ right.T).sum(1) for left, right in (low_rank.factors(table, 3, counts), low_rank.factors(table, 3))]
    assert errors[0][:2].sum() < 0.1 * errors[1][:2].sum()
    assert errors[0].sum() > errors[1].sum()


def test_a_transformer_has_no_place_for_factors() -> None:
    with pytest.raises(RecipeError, match="transformer"):
        share.apply(_fresh(SPECS["transformer"]), Share("low-rank", 0.5, train=NO_TRAINING), None)


def test_training_without_text_is_refused() -> None:
    with pytest.raises(RecipeError, match="no text"):
        share.apply(_fresh(SPECS["lstm"]), Share("neurons"), None)
