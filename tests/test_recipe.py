from __future__ import annotations

import numpy as np
import pytest

from edgelm import recipe
from edgelm.compress import quantize
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.spec import Encoding, RecurrentSpec, weight_shapes


def make_model() -> LanguageModel:
    spec = RecurrentSpec(vocab_size=12, embedding_size=8, cell="lstm", units=(8,), tied_head=True)
    return LanguageModel(spec, {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(spec).items()})


def test_every_shipped_recipe_loads_and_describes_itself() -> None:
    texts = recipe.shipped()
    assert list(texts) == ["float16", "float32", "int4", "int4-block32", "int8", "int8-tflite2.14"]
    for name in texts:
        loaded = recipe.load(name)
        assert loaded.description
        assert loaded.to_dict()["steps"]


def test_int4_block32_keeps_the_embedding_at_eight_bits() -> None:
    step = recipe.load("int4-block32").steps[0]
    encodings = quantize.apply(make_model(), step).encodings
    assert encodings["embedding.weight"] is Encoding.INT8
    assert encodings["layers.0.recurrent.weight"] is Encoding.INT4_BLOCK32
    assert "layers.0.input.bias" not in encodings


def test_keep_float_patterns() -> None:
    text = '[[steps]]\ntechnique = "quantize"\nweights = "int8"\nkeep_float = ["layers.0.r*"]'
    encodings = quantize.apply(make_model(), recipe.parse("mine", text).steps[0]).encodings
    assert encodings["layers.0.recurrent.weight"] is Encoding.FLOAT32
    assert encodings["layers.0.input.weight"] is Encoding.INT8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[steps]]\ntechnique = "quantize"\nwieghts = "int8"', "did you mean 'weights'"),
        ('[[steps]]\ntechnique = "quantise"\nweights = "int8"', "did you mean 'quantize'"),
        ('[[steps]]\ntechnique = "quantize"\nweights = "int9"', "did you mean 'int"),
        ('[[steps]]\ntechnique = "quantize"', "'weights' is missing"),
        ('from = "litert"\n[[steps]]\ntechnique = "quantize"\nweights = "int8"', "did you mean 'form'"),
        ('form = "litter"\n[[steps]]\ntechnique = "quantize"\nweights = "int8"', "did you mean 'litert'"),
        ("steps = 3", "has no steps"),
        ("[[steps", "is not TOML"),
        ('[[steps]]\ntechnique = "quantize"\nweights = "int8"\nkeep_float = "all"', "keep_float"),
    ],
)
def test_a_bad_recipe_is_refused_by_key_with_the_nearest_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.parse("mine", text)


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'int4-block32'"):
        recipe.load("int4-blok32")


def test_dense_layers_before_the_head_count_as_head() -> None:
    step = recipe.load("int4-block32").steps[0]
    assert quantize.chosen_encoding("hidden.0.weight", step) is Encoding.INT8
    assert quantize.chosen_encoding("layers.0.input.weight", step) is Encoding.INT4_BLOCK32
