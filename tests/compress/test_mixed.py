"""Mixed precision: the exact choice, the measure behind it, and the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from calibrated_models import LSTM, SPECS, divergence, documents, step_data, trained, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from test_quantize_step import stored_on_grid

from edgelm.compress import mixed, quantize
from edgelm.compress.knapsack import Option, choose
from edgelm.errors import RecipeError
from edgelm.recipe_steps import Mixed, Quantize
from edgelm.spec import Encoding

OPTIONS = st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=3, max_size=3)
ENCODINGS = (Encoding.INT4, Encoding.INT4_BLOCK32, Encoding.INT8)


@settings(deadline=None, max_examples=30)
@given(drawn=st.lists(OPTIONS, min_size=1, max_size=5), slack=st.integers(0, 60))
def test_no_other_choice_within_the_budget_loses_less(drawn: list[list[tuple[int, float]]], slack: int) -> None:
    table = {f"m{i}": [Option(e, *pair) for e, pair in zip(ENCODINGS, pairs, strict=True)] for i, pairs in enumerate(drawn)}
    budget = slack + sum(min(option.size for option in options) for options in table.values())
    chosen = choose(table, budget)
    picked = [next(option for option in options if option.encoding is chosen[name]) for name, options in table.items()]
    assert sum(option.size for option in picked) <= budget
    best = min(sum(o.loss for o in every) for every in itertools.product(*table.values()) if sum(o.size for o in every) <= budget)
    assert sum(option.loss for option in picked) == pytest.approx(best)


def test_the_budget_is_spent_where_it_pays() -> None:
    small = Option(Encoding.INT4, 10, 0.5)
    table = {"a": [small, Option(Encoding.INT8, 20, 0.4)], "b": [small, Option(Encoding.INT8, 20, 0.1)]}
    assert choose(table, 30) == {"a": Encoding.INT4, "b": Encoding.INT8}
    assert choose(table, 40) == {"a": Encoding.INT8, "b": Encoding.INT8}


def test_many_matrices_of_few_shapes_stay_quick() -> None:
    random = np.random.default_rng(0)
    sizes = [(4_718_592, 8_912_896), (1_048_576, 2_100_000), (300_000, 590_000)]
    table = {
        f"m{i}": [Option(Encoding.INT4, sizes[i % 3][0], random.random()), Option(Encoding.INT8, sizes[i % 3][1], random.random() / 10)]
        for i in range(210)
    }
    assert len(choose(table, 500_000_000)) == 210


@pytest.mark.parametrize("kind", SPECS)
def test_the_file_is_within_the_budget_and_on_the_chosen_grids(kind: str) -> None:
    model = untrained(SPECS[kind])
    step = Mixed(size_factor=1.2, calibration_tokens=200, clip="mse")
    chosen = mixed.apply(model, step, step_data(model))
    names = mixed.matrices(model)
    budget = 1.2 * sum(mixed.stored_size(model, name, Encoding.INT4_BLOCK32) for name in names)
    assert sum(mixed.stored_size(model, name, chosen.encoding(name)) for name in names) <= budget
    dtypes = stored_on_grid(chosen)
    assert set(dtypes) == set(names)
    assert set(dtypes.values()) == {"int8", "int4"}  # 20 % more pay for some 8-bit matrices, not for all


def test_a_matrix_the_predictions_do_not_need_gets_the_few_bits() -> None:
    model = untrained(LSTM)
    idle = model.float32("layers.0.recurrent.weight") * np.float32(1e-4)
    model = model.replace(weights={**model.weights, "layers.0.recurrent.weight": idle})
    sizes = {name: mixed.stored_size(model, name, Encoding.INT8) for name in mixed.matrices(model)}
    budget = sum(sizes.values()) - sizes["layers.0.recurrent.weight"] // 4  # all in 8 bits, but for one large matrix
    factor = budget / sum(mixed.stored_size(model, name, Encoding.INT4_BLOCK32) for name in sizes)
    chosen = mixed.apply(model, Mixed(size_factor=factor, calibration_tokens=200), step_data(model))
    assert chosen.encoding("layers.0.recurrent.weight") is Encoding.INT4_BLOCK32
    assert chosen.encoding("layers.0.input.weight") is Encoding.INT8


def test_sensitivity_falls_with_bits_and_is_not_measured_without_a_choice() -> None:
    model = untrained(LSTM)
    windows = [document.astype(np.int32) for document in documents(5, 0)]
    candidates = {name: [Encoding.INT4, Encoding.INT8, Encoding.FLOAT16, Encoding.FLOAT32] for name in mixed.matrices(model)}
    candidates["hidden.0.weight"] = [Encoding.INT4]
    losses = mixed.sensitivities(model, candidates, Mixed(), windows)
    for name in ("embedding.weight", "layers.0.input.weight"):
        of = losses[name]
        assert of[Encoding.INT4] > of[Encoding.INT8] > of[Encoding.FLOAT16] > of[Encoding.FLOAT32] - 1e-9
    assert losses["hidden.0.weight"] == {Encoding.INT4: 0.0}


def test_a_budget_that_cannot_be_met_names_the_one_that_can() -> None:
    model = untrained(LSTM)
    with pytest.raises(RecipeError, match=r"size_factor = 0\.5 allows") as error:
        mixed.apply(model, Mixed(size_factor=0.5), step_data(model))
    assert error.value.allowed == "size_factor of at least 1"
    with pytest.raises(RecipeError, match="size_factor"):
        mixed.apply(model, Mixed(keep_float=("embedding.weight",)), step_data(model))


def test_mixed_wants_text_and_candidates() -> None:
    with pytest.raises(RecipeError, match="mixed wants text"):
        mixed.apply(untrained(LSTM), Mixed(), None)
    with pytest.raises(RecipeError, match="candidates is empty"):
        mixed.apply(untrained(LSTM), Mixed(candidates=()), step_data(untrained(LSTM)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_half_as_many_bytes_again_are_well_spent(kind: str) -> None:
    model = trained(kind)
    data, held_out = step_data(model), documents(40, 9)
    block = Encoding.INT4_BLOCK32
    plain = quantize.apply(model, Quantize(block, block, block, clip="mse"), data)
    chosen = mixed.apply(model, Mixed(size_factor=1.5, calibration_tokens=1000, clip="mse"), data)
    assert divergence(model, chosen, held_out) < divergence(model, plain, held_out)
