"""Compensated rounding: on the grid, and nearer to the outputs than the nearest weights are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.compress.clipping import LARGEST, find_scales, in_blocks, on_grid
from edgelm.compress.gptq import compensated, output_error, sparsified
from edgelm.compress.sparsity_patterns import keep_mask, parse_pattern
from edgelm.spec import Encoding

ENCODINGS = tuple(LARGEST)


def problem(seed: int, rows: int = 16, columns: int = 64, tokens: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and the sum of x x^T of correlated inputs, as those of language models are."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((columns, columns)) * np.exp(-np.arange(columns) / 16)[:, None]
    x = random.standard_normal((tokens, columns)) @ mixing  # (tokens, columns)
    return random.standard_normal((rows, columns)).astype(np.float32), x.T @ x


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), encoding=st.sampled_from(ENCODINGS), clip=st.sampled_from(["max", "mse"]))
def test_rounded_weights_are_on_the_grid_of_their_scales(seed: int, encoding: Encoding, clip: str) -> None:
    weight, product = problem(seed)
    rounded, scales = compensated(weight, product, encoding, clip)  # type: ignore[arg-type]
    codes = in_blocks(rounded, encoding) / scales[:, :, None]
    assert np.abs(codes).max() <= LARGEST[encoding] * (1 + 1e-6)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)  # codes up to 127 in float32
    np.testing.assert_array_equal(on_grid(rounded, scales, encoding), rounded)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), encoding=st.sampled_from(ENCODINGS))
def test_the_output_error_is_never_above_that_of_the_nearest_weights(seed: int, encoding: Encoding) -> None:
    weight, product = problem(seed)
    rounded, _ = compensated(weight, product, encoding, "max")
    nearest = on_grid(weight, find_scales(weight, encoding, "max"), encoding)
    assert output_error(weight, rounded, product) < output_error(weight, nearest, product)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_independent_inputs_leave_nothing_to_compensate(encoding: Encoding) -> None:
    weight, _ = problem(0)
    rounded, scales = compensated(weight, np.eye(64), encoding, "max")
    np.testing.assert_array_equal(rounded, on_grid(weight, scales, encoding))


def test_columns_across_the_lazy_steps_are_compensated_like_one_by_one() -> None:
    """The textbook recursion with the whole inverse, column after column, on a matrix wider than one step."""
    weight, product = problem(3, rows=4, columns=160)
    rounded, scales = compensated(weight, product, Encoding.INT4, "max", damping=0.01)
    hessian = product + 0.01 * np.diag(product).mean() * np.eye(160)
    left, expected = weight.astype(np.float64), np.zeros((4, 160))
    for column in range(160):
        inverse = np.linalg.inv(hessian[column:, column:])
        expected[:, column] = np.clip(np.rint(left[:, column] / scales[:, 0]), -7, 7) * scales[:, 0]
        error = (left[:, column] - expected[:, column]) / inverse[0, 0]
        left[:, column:] -= np.outer(error, inverse[0])
    same = np.isclose(rounded, expected, atol=1e-5)
    assert same.mean() > 0.97  # float32 sums tip a few ties, and what follows them


def test_zeros_stay_zeros() -> None:
    weight, product = problem(1)
    weight[np.abs(weight) < 0.8] = 0
    rounded, _ = compensated(weight, product, Encoding.INT8, "max")
    assert not rounded[weight == 0].any()


def test_inputs_that_were_never_met_are_no_obstacle() -> None:
    weight, product = problem(2)
    product[5], product[:, 5] = 0, 0
    rounded, _ = compensated(weight, product, Encoding.INT8, "mse")
    assert np.isfinite(rounded).all()
    silent, scales = compensated(weight, np.zeros((64, 64)), Encoding.INT8, "max")
    np.testing.assert_array_equal(silent, on_grid(weight, scales, Encoding.INT8))


# --- zeros instead of a grid -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), pattern=st.sampled_from(["unstructured", "2:4", "1x8", "2x4"]))
def test_pruned_with_compensation_the_pattern_holds_and_the_outputs_are_nearer(seed: int, pattern: str) -> None:
    weight, product = problem(seed, columns=160)  # more than one part of 128 columns
    parsed = parse_pattern(pattern)
    pruned = sparsified(weight, product, parsed, 0.5)
    assert (pruned == 0).mean() == pytest.approx(0.5, abs=0.01)
    if parsed.group:
        assert ((pruned.reshape(16, -1, 4) != 0).sum(2) == 2).all()
    else:
        assert (keep_mask(pruned, parsed, 0.5) >= (pruned != 0)).all()  # whole blocks
    smallest = np.where(keep_mask(weight, parsed, 0.5), weight, 0)
    assert output_error(weight, pruned, product) < 0.5 * output_error(weight, smallest, product)  # measured: up to 0.28


def test_independent_inputs_lose_the_smallest_weights() -> None:
    weight, _ = problem(0)
    pruned = sparsified(weight, np.eye(64), parse_pattern("2:4"), 0.5)
    np.testing.assert_array_equal(pruned, np.where(keep_mask(weight, parse_pattern("2:4"), 0.5), weight, 0))
