"""Quantization-aware training: the grid that was trained is the grid in the file, and training pays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from trained_models import FAMILIES, RETRAIN, Family, data_of, perplexity, shipped, trained

from edgelm.compress import qat
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Qat
from edgelm.recipe_training import NO_TRAINING, Training
from edgelm.spec import Encoding
from edgelm.tflite import reader

INT8, BLOCKS = Encoding.INT8, Encoding.INT4_BLOCK32


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32])
def test_the_file_holds_exactly_what_was_trained(family: Family, encoding: Encoding) -> None:
    model = trained(family)
    result = qat.apply(model, Qat(encoding, encoding, encoding, train=RETRAIN), data_of(model))
    stored = shipped(result)
    assert stored
    for name, matrix in stored.items():
        assert np.array_equal(matrix.codes, np.concatenate([_codes(result, part) for part in _parts(name)])), name
        if ".q." not in name:  # the row scales of q have the scale of the attention scores in them
            assert np.array_equal(matrix.weight, np.concatenate([result.float32(part) for part in _parts(name)])), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_can_begin_at_the_points_that_gptq_chooses(family: Family) -> None:
    model = trained(family)
    step = Qat(BLOCKS, BLOCKS, BLOCKS, start="gptq", train=NO_TRAINING)
    compensated = qat.apply(model, step, data_of(model))
    nearest = qat.apply(model, dataclasses.replace(step, start="nearest"), data_of(model))
    assert perplexity(compensated) < perplexity(nearest)
    for name, matrix in shipped(compensated).items():
        assert np.array_equal(matrix.codes, np.concatenate([_codes(compensated, part) for part in _parts(name)])), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_scales_alone_learn_between_codes_that_stay(family: Family) -> None:
    model = trained(family)
    step = Qat(BLOCKS, BLOCKS, BLOCKS, start="gptq", learn="scales", train=NO_TRAINING)
    begun = qat.apply(model, step, data_of(model))
    learned = qat.apply(model, dataclasses.replace(step, train=RETRAIN), data_of(model))
    assert perplexity(learned) < perplexity(begun)
    before, after = shipped(begun), shipped(learned)
    assert all(np.array_equal(before[name].codes, matrix.codes) for name, matrix in after.items())
    assert any(not np.array_equal(before[name].weight, matrix.weight) for name, matrix in after.items())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_the_grid_beats_rounding_to_it(family: Family) -> None:
    model = trained(family)
    rounded, learned = (
        qat.apply(model, Qat(Encoding.INT4, Encoding.INT4, Encoding.INT4, train=train), data_of(model)) for train in (NO_TRAINING, RETRAIN)
    )
    assert perplexity(learned) < perplexity(rounded)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_preserved_zeros_are_zeros_in_the_file(family: Family) -> None:
    model = trained(family)
    weights = {name: np.where(np.abs(w) > np.median(np.abs(w)), w, 0) if w.ndim == 2 else w for name, w in model.weights.items()}
    half = model.replace(weights=weights)
    stored = shipped(qat.apply(half, Qat(INT8, INT8, INT8, preserve=("sparsity",), train=RETRAIN), data_of(model)))
    for name, matrix in stored.items():
        zeros = np.concatenate([weights[part] for part in _parts(name)]) == 0
        assert not matrix.codes[zeros].any(), name


def test_coverage_says_what_is_trained_and_why_not() -> None:
    model = trained("lstm")
    step = Qat(BLOCKS, INT8, Encoding.FLOAT16, keep_float=("layers.0.input.*",))
    rows = {row.name: row for row in qat.coverage(model, step)}
    assert rows["layers.0.recurrent.weight"].how == "QAT"
    assert rows["embedding.weight"].encoding is INT8
    assert (rows["layers.0.input.weight"].how, rows["layers.0.input.weight"].why) == ("float", "kept float by the recipe")
    assert rows["hidden.0.weight"].how == "post-training"


def test_nothing_is_changed_in_the_model_that_is_given() -> None:
    model = trained("lstm")
    before = {name: weight.copy() for name, weight in model.weights.items()}
    qat.apply(model, Qat(INT8, INT8, INT8, train=Training(epochs=0.1, sequence_length=32)), data_of(model))
    assert all(np.array_equal(before[name], weight) for name, weight in model.weights.items())
    assert not model.scales


def _codes(model: LanguageModel, name: str) -> NDArray[np.float32]:
    """The whole numbers that training ended at, (rows, columns)."""
    rows, blocks = model.scales[name].shape
    blocked = model.float32(name).reshape(rows, blocks, -1) / model.scales[name][:, :, None]
    return np.rint(blocked).reshape(rows, -1)


def _parts(name: str) -> list[str]:
    """The canonical weights in a stored matrix; names are joined by + where rows are."""
    return [part.partition(":")[0] for part in name.split("+")]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_static_activations_make_every_product_int8(family: Family) -> None:
    model = trained(family)
    result = qat.apply(model, Qat(INT8, INT8, INT8, activations="static", train=RETRAIN), data_of(model))
    assert result.ranges
    content = reader.read(direct.lower(result).tflite)
    products = [op for op in content.ops if op.name == "FULLY_CONNECTED"]
    assert products
    for op in products:
        kinds = {content.tensors[op.subgraph][index].dtype for index in (*op.inputs[:2], *op.outputs)}
        assert kinds == {"int8"}
