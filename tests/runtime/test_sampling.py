from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgelm.errors import RuntimeFailure
from edgelm.runtime.sampling import GREEDY, SamplingSettings, candidates, choose, ranked, sample, softmax, top

# few distinct values, so that ties are common
logit_rows = hnp.arrays(np.float32, st.integers(1, 40), elements=st.integers(-6, 6).map(lambda n: n / 2))


@given(logit_rows, st.integers(1, 45))
def test_ranked_is_a_stable_sort(logits, n):
    assert ranked(logits, n).tolist() == sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:n]


@given(logit_rows, st.floats(0.01, 1), st.integers(0, 40), st.floats(0.1, 5))
def test_nucleus_is_the_smallest_set_that_holds_top_p(logits, top_p, top_k, temperature):
    full, mass = candidates(logits, SamplingSettings(temperature, top_k))
    ids, kept = candidates(logits, SamplingSettings(temperature, top_k, top_p))
    assert len(full) == min(top_k or len(logits), len(logits))
    assert ids.tolist() == full[: len(ids)].tolist()
    assert kept.sum() == pytest.approx(1)
    assert mass[: len(ids)].sum() >= top_p - 1e-12 or len(ids) == len(full)
    assert len(ids) == 1 or mass[: len(ids) - 1].sum() < top_p + 1e-12
    np.testing.assert_allclose(kept, mass[: len(ids)] / mass[: len(ids)].sum())


@given(logit_rows, st.integers(0, 2**32 - 1))
def test_equal_seeds_draw_equal_tokens_among_the_candidates(logits, seed):
    options = SamplingSettings(temperature=0.7, top_k=5, top_p=0.9)
    one, two = (sample(logits, options, np.random.default_rng(seed)) for _ in range(2))
    assert one == two and one in candidates(logits, options)[0]


@given(logit_rows)
def test_greedy_takes_the_first_of_the_highest_and_draws_nothing(logits):
    rng = np.random.default_rng(0)
    assert sample(logits, GREEDY, rng) == int(logits.argmax())
    assert rng.random() == np.random.default_rng(0).random()


@given(logit_rows, st.floats(0, 1, exclude_max=True))
def test_choose_inverts_the_cumulative_distribution(logits, uniform):
    ids, mass = candidates(logits, SamplingSettings())
    index = ids.tolist().index(choose(logits, SamplingSettings(), uniform))
    assert mass[:index].sum() <= uniform + 1e-9 and uniform - 1e-9 <= mass[: index + 1].sum()


def test_draws_follow_the_probabilities():
    logits = np.log([0.5, 0.3, 0.2])
    rng = np.random.default_rng(0)
    counts = np.bincount([sample(logits, SamplingSettings(), rng) for _ in range(5_000)], minlength=3)
    np.testing.assert_allclose(counts / 5_000, [0.5, 0.3, 0.2], atol=0.03)  # four standard deviations of 0.007


def test_worked_example():
    settings_ = SamplingSettings(top_p=0.7)
    assert [choose(np.log([0.2, 0.5, 0.3]), settings_, u) for u in (0.0, 0.6, 0.63, 0.999999)] == [1, 1, 2, 2]
    assert [i for i, _ in top(np.log([0.2, 0.5, 0.3]), 2)] == [1, 2]
    np.testing.assert_allclose([p for _, p in top(np.log([0.2, 0.5, 0.3]), 2)], [0.5, 0.3])


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    penalised, mass = candidates(logits, SamplingSettings(repetition_penalty=2.0), recent=[0, 0, 2])
    expected = softmax(np.array([1.0, 1.5, -2.0]))
    assert penalised.tolist() == [1, 0, 2]
    np.testing.assert_allclose(mass, expected[[1, 0, 2]])
    assert logits[0] == 2.0, "the caller's logits stay as they are"


def test_forbidden_tokens_are_never_drawn():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0])
    assert {choose(logits, SamplingSettings(), u) for u in np.linspace(0, 0.999999, 50)} == {1, 3}


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3))
def test_extreme_logits_do_not_overflow(temperature):
    assert choose(np.array([1e4, -1e4], np.float32), SamplingSettings(temperature), 0.5) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("repetition_penalty", 0), ("temperature", float("nan"))],
)
def test_illegal_settings_are_refused(name, value):
    with pytest.raises(RuntimeFailure, match=name) as caught:
        SamplingSettings(**{name: value})
    assert caught.value.allowed


def test_nan_is_refused():
    with pytest.raises(RuntimeFailure, match="NaN"):
        choose(np.array([0.0, np.nan]), GREEDY, 0.0)
