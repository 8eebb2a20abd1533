"""Ternary and binary weights, as the .tflite holds them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from trained_models import FAMILIES, RETRAIN, Family, data_of, perplexity, shipped, trained

from edgelm.compress import lowbit
from edgelm.errors import RecipeError
from edgelm.recipe_steps import LowBit
from edgelm.recipe_training import NO_TRAINING
from edgelm.spec import Encoding

VALUES = {"ternary": {-1, 0, 1}, "binary": {-1, 1}}
EIGHT_BITS = ("embedding", "head", "hidden")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("values", "scale"), [("ternary", "block32"), ("binary", "row")])
def test_layers_hold_two_or_three_codes_and_training_pays(family: Family, values: str, scale: str) -> None:
    model = trained(family)
    step = LowBit(values, scale=scale, train=dataclasses.replace(RETRAIN, epochs=2))  # type: ignore[arg-type]
    rounded = lowbit.apply(model, dataclasses.replace(step, train=NO_TRAINING), None)
    learned = lowbit.apply(model, step, data_of(model))
    layers = {name: matrix for name, matrix in shipped(learned).items() if not name.startswith(EIGHT_BITS)}
    assert layers
    for name, matrix in layers.items():
        assert set(np.unique(matrix.codes)) <= VALUES[values], name
        assert (matrix.scales.shape[1] > 1) == (scale == "block32" and matrix.codes.shape[1] > 32), name
    assert perplexity(learned) < perplexity(rounded)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_and_head_keep_eight_bits(family: Family) -> None:
    stored = shipped(lowbit.apply(trained(family), LowBit("ternary", train=NO_TRAINING), None))
    assert {matrix.dtype for name, matrix in stored.items() if name.startswith(EIGHT_BITS)} == {"int8"}


def test_layers_kept_float_are_left_alone() -> None:
    model = trained("lstm")
    result = lowbit.apply(model, LowBit("binary", keep_float=("layers.*",), train=NO_TRAINING), None)
    assert np.array_equal(result.weights["layers.0.input.weight"], model.weights["layers.0.input.weight"])
    assert "layers.0.input.weight" not in result.encodings


def test_training_without_text_is_refused() -> None:
    with pytest.raises(RecipeError, match="no text"):
        lowbit.apply(trained("lstm"), LowBit("ternary"), None)


def test_a_float_encoding_of_the_table_is_possible() -> None:
    result = lowbit.apply(trained("lstm"), LowBit("ternary", embedding=Encoding.FLOAT32, train=NO_TRAINING), None)
    assert "embedding.weight" not in result.encodings
