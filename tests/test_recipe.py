from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm import recipe
from edgelm.compress import quantize
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe import Recipe
from edgelm.recipe_steps import STEPS, Cluster, Distill, LowBit, Prune, Qat, Quantize, Step, step_to_dict
from edgelm.recipe_training import Training
from edgelm.spec import Encoding, RecurrentSpec, weight_shapes

WITHOUT_DATA = ["float16", "float32", "int4", "int4-block32", "int8", "int8-tflite2.14"]
TRAINED = ["2of4-int8", "binary-qat", "cluster16-int8", "distill-int8", "full-int8-qat", "int4-qat", "int8-qat", "pcqat", "pqat"]
WITH_DATA = [*TRAINED, "int4-block32-all", "mixed", "prune80-int8", "structure30-int8", "ternary-qat"]


def make_model() -> LanguageModel:
    spec = RecurrentSpec(vocab_size=12, embedding_size=8, cell="lstm", units=(8,), tied_head=True)
    return LanguageModel(spec, {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(spec).items()})


def quantize_step(text: str) -> Quantize:
    step = recipe.parse("mine", text).steps[0]
    assert isinstance(step, Quantize)
    return step


def test_every_shipped_recipe_loads_describes_itself_and_says_whether_it_wants_data() -> None:
    texts = recipe.shipped()
    assert list(texts) == sorted(WITHOUT_DATA + WITH_DATA)
    for name in texts:
        loaded = recipe.load(name)
        assert loaded.description
        assert loaded.wants_data == (name in WITH_DATA)
        assert recipe.from_dict(json.loads(json.dumps(loaded.to_dict()))) == loaded


def test_int4_block32_keeps_the_embedding_at_eight_bits() -> None:
    step = quantize_step(recipe.shipped()["int4-block32"])
    encodings = quantize.apply(make_model(), step, None).encodings
    assert encodings["embedding.weight"] is Encoding.INT8
    assert encodings["layers.0.recurrent.weight"] is Encoding.INT4_BLOCK32
    assert "layers.0.input.bias" not in encodings


def test_keep_float_patterns() -> None:
    step = quantize_step('[[steps]]\ntechnique = "quantize"\nweights = "int8"\nkeep_float = ["layers.0.r*"]')
    encodings = quantize.apply(make_model(), step, None).encodings
    assert encodings["layers.0.recurrent.weight"] is Encoding.FLOAT32
    assert encodings["layers.0.input.weight"] is Encoding.INT8


def test_embedding_follows_weights_and_head_follows_embedding() -> None:
    qat = recipe.parse("mine", '[[steps]]\ntechnique = "qat"\nweights = "int4-block32"\nembedding = "int8"').steps[0]
    assert isinstance(qat, Qat)
    assert (qat.embedding, qat.head) == (Encoding.INT8, Encoding.INT8)
    lowbit = recipe.parse("mine", '[[steps]]\ntechnique = "lowbit"\nvalues = "binary"\nembedding = "int4"').steps[0]
    assert isinstance(lowbit, LowBit)
    assert lowbit.head is Encoding.INT8, "lowbit has a default of its own"


@pytest.mark.parametrize(("technique", "needed"), [("lowbit", 'values = "ternary"'), ("distill", ""), ("prune", "")])
def test_a_partial_train_table_keeps_the_defaults_of_its_technique(technique: str, needed: str) -> None:
    step = recipe.parse("mine", f'[[steps]]\ntechnique = "{technique}"\n{needed}\n[steps.train]\nepochs = 3').steps[0]
    usual = next(item.default for item in dataclasses.fields(STEPS[technique]) if item.name == "train")
    assert step.train == dataclasses.replace(usual, epochs=3)  # type: ignore[union-attr]
    assert step_to_dict(step)["train"] == {"epochs": 3.0}


def test_a_value_that_equals_the_general_default_but_not_the_techniques_survives() -> None:
    step = LowBit("binary", train=Training(learning_rate=Training().learning_rate))
    again = recipe.from_dict(Recipe("mine", "", (step,)).to_dict()).steps[0]
    assert again == step


QAT = '[[steps]]\ntechnique = "qat"\nweights = "int8"\n'
PRUNE = '[[steps]]\ntechnique = "prune"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[steps]]\ntechnique = "quantize"\nwieghts = "int8"', "did you mean 'weights'"),
        ('[[steps]]\ntechnique = "quantise"\nweights = "int8"', "did you mean 'quantize'"),
        ('[[steps]]\ntechnique = "quantize"\nweights = "int9"', "did you mean 'int"),
        ('[[steps]]\ntechnique = "quantize"', r"step 1 \(quantize\): key 'weights' is missing"),
        ('from = "litert"\n[[steps]]\ntechnique = "quantize"\nweights = "int8"', "did you mean 'form'"),
        ('name = "x"\n[[steps]]\ntechnique = "quantize"\nweights = "int8"', "'name' is not known"),
        ('form = "litter"\n[[steps]]\ntechnique = "quantize"\nweights = "int8"', "did you mean 'litert'"),
        ("steps = 3", "has no steps"),
        ("[[steps", "is not TOML"),
        ('[[steps]]\ntechnique = "quantize"\nweights = "int8"\nkeep_float = "all"', "keep_float: met 'all'"),
        ('[[steps]]\ntechnique = "quantize"\nweights = "int8"\nkeep_float = [3]', "keep_float: met 3"),
        (QAT + "[steps.train]\nepoch = 1", r"step 1 \(qat\), table train: 'epoch' is not known \(did you mean 'epochs'\?\)"),
        (QAT + "train = 3", "table train: met 3"),
        (QAT + '[steps.train]\nepochs = "two"', "key epochs: met 'two'"),
        (QAT + "[steps.train]\nepochs = true", "key epochs: met True"),
        (QAT + "[steps.train]\nepochs = nan", "key epochs: met nan"),
        (QAT + "[steps.train]\nbatch_size = 2.5", "key batch_size: met 2.5"),
        (QAT + "[steps.train]\nbatch_size = 0", r"step 1 \(qat\), table train: training: batch_size = 0"),
        (QAT + 'preserve = ["zeros"]', "key preserve: 'zeros' is not known"),
        (QAT + "[steps.train]\nteacher = 1", "'1' is not known"),
        (PRUNE + "sparsity = 1.5", r"step 1 \(prune\): prune: sparsity = 1.5"),
        (PRUNE + 'pattern = "2of4"', "pattern = '2of4'"),
        (PRUNE + "schedule = [0.5]", "key schedule: met"),
        (PRUNE + "schedule = [0.5, 0.2]", r"schedule = \[0.5, 0.2\]"),
        ('[[steps]]\ntechnique = "distill"\nstudent = "small"', "key student: met 'small'"),
        (QAT + PRUNE, "recipe mine: illegal order qat -> prune"),
    ],
)
def test_a_bad_recipe_is_refused_by_key_with_the_nearest_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        recipe.parse("mine", text)
    assert caught.value.fix


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'int4-block32'"):
        recipe.load("int4-blok32")


def test_dense_layers_before_the_head_count_as_head() -> None:
    spec = dataclasses.replace(make_model().spec, tied_head=False, hidden=({"size": 8},))
    model = LanguageModel(spec, {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(spec).items()})
    encodings = quantize.apply(model, quantize_step(recipe.shipped()["int4-block32"]), None).encodings
    assert encodings["hidden.0.weight"] is Encoding.INT8
    assert encodings["layers.0.input.weight"] is Encoding.INT4_BLOCK32


# --- any recipe survives being written down -------------------------------------------------------------------------------------


def values_of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    """Legal values of a field."""
    special: dict[str, st.SearchStrategy[Any]] = {
        "train": st.builds(Training, epochs=st.floats(0, 9), seed=st.integers(0, 99), alpha=st.floats(0, 1), batch_size=st.integers(1, 64)),
        "pattern": st.sampled_from(["unstructured", "2:4", "1x16"]),
        "preserve": st.just(()),  # nothing goes with start = gptq; the shipped recipes are written down with theirs
        "schedule": st.sampled_from([(0.0, 0.6), (0.1, 1.0)]),
        "sparsity_of": st.dictionaries(st.text(max_size=5), st.floats(0, 0.99), max_size=2),
        "student": st.dictionaries(st.sampled_from(["units", "layers"]), st.integers(1, 9)),
        "size_factor": st.floats(0.5, 2),
        "amount": st.floats(0.1, 1),
        "temperature": st.floats(0.5, 4),
        "clusters": st.integers(2, 255),
    }
    if name in special:
        return special[name]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Encoding or origin is Literal:
        return st.sampled_from(list(Encoding) if hint is Encoding else parts)
    if origin is tuple:
        return st.lists(values_of(parts[0], ""), max_size=3).map(tuple)
    plain = {float: st.floats(0, 0.9), int: st.integers(1, 4096), bool: st.booleans(), str: st.text(max_size=5)}
    return plain[hint]


def steps() -> st.SearchStrategy[Step]:
    built = []
    for kind in STEPS.values():
        hints = typing.get_type_hints(kind)
        built.append(st.builds(kind, **{f.name: values_of(hints[f.name], f.name) for f in dataclasses.fields(kind)}))
    return st.one_of(built)


@settings(deadline=None)  # a busy machine takes a second for a millisecond now and then
@given(step=steps(), form=st.sampled_from(recipe.FORMS), description=st.text(max_size=9))
def test_a_recipe_of_any_step_survives_the_manifest(step: Step, form: recipe.Form, description: str) -> None:
    written = Recipe("mine", description, (step,), form)
    plain = json.dumps(written.to_dict(), sort_keys=True)
    assert recipe.from_dict(json.loads(plain)) == written
    assert json.dumps(recipe.from_dict(json.loads(plain)).to_dict(), sort_keys=True) == plain


def test_what_equals_the_default_is_not_written() -> None:
    assert step_to_dict(Prune()) == {"technique": "prune"}
    assert step_to_dict(Distill(train=Distill().train)) == {"technique": "distill"}
    assert step_to_dict(Cluster(clusters=8)) == {"technique": "cluster", "clusters": 8}


@pytest.mark.parametrize("name", sorted(recipe.shipped()))
def test_shipped_recipes_survive_the_manifest(name: str) -> None:
    loaded = recipe.load(name)
    assert recipe.from_dict(loaded.to_dict()) == loaded


def test_gptq_leaves_nothing_to_preserve() -> None:
    with pytest.raises(RecipeError, match="start = gptq with preserve"):
        Qat(Encoding.INT8, Encoding.INT8, Encoding.INT8, start="gptq", preserve=("sparsity",))
