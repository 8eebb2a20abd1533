"""Grids: what they round to, and the gradients they let through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgelm.spec import Encoding
from edgelm.tflite.quantize import dequantize, quantize

ENCODINGS = [Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32]
WEIGHTS = arrays(np.float32, (4, 64), elements=st.floats(-4, 4, width=32))
FEW = settings(max_examples=25, deadline=None)  # the first example imports TensorFlow


@given(weight=WEIGHTS, encoding=st.sampled_from(ENCODINGS))
@FEW
def test_the_integer_grid_is_that_of_post_training_rounding(weight: NDArray[np.float32], encoding: Encoding) -> None:
    from edgelm.compress.grids import IntegerGrid, times

    trained = times(*IntegerGrid(encoding).snap(weight, {})).numpy()
    rounded = dequantize(quantize(weight, encoding))
    # both divide by the same scale, but for ties of bfloat16 scales and rows below the smallest scale; so by half a step at most
    step = np.abs(weight).max() / 7 * 2**-7 + 2.0**-14
    assert np.abs(np.abs(trained - weight).max() - np.abs(rounded - weight).max()) <= step


@given(weight=WEIGHTS, encoding=st.sampled_from(ENCODINGS))
@FEW
def test_a_snapped_weight_is_stored_exactly(weight: NDArray[np.float32], encoding: Encoding) -> None:
    from edgelm.compress.grids import IntegerGrid, times

    codes, scales = IntegerGrid(encoding).snap(weight, {})
    shipped = times(codes, scales).numpy()
    assert np.array_equal(dequantize(quantize(shipped, encoding, scales=scales.numpy())), shipped)


@given(weight=WEIGHTS)
@FEW
def test_least_error_scales_are_no_worse_than_the_largest_weight(weight: NDArray[np.float32]) -> None:
    from edgelm.compress.grids import least_error_scales

    def error(scales: NDArray[np.float32]) -> NDArray[np.float32]:
        rounded: NDArray[np.float32] = np.square(np.clip(np.rint(weight / scales), -7, 7) * scales - weight).sum(axis=1)
        return rounded

    largest = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 7, 2.0**-100)
    # the winner was compared by sums in another order
    assert (error(least_error_scales(weight, Encoding.INT4, 7)) <= error(largest) * (1 + 1e-5) + 1e-6).all()


def test_gradients_pass_straight_through_and_reach_the_scale() -> None:
    import tensorflow as tf

    from edgelm.compress.grids import LearnedGrid

    weight = tf.constant([[0.9, -0.3, 0.1, 2.0]])
    log_scale = tf.Variable([[0.0]])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        total = tf.reduce_sum(LearnedGrid(Encoding.INT4, largest=1).pass_through(weight, {"log_scale": log_scale}))
    by_weight, by_scale = tape.gradient(total, [weight, log_scale])
    assert by_weight.numpy().tolist() == [[1, 1, 1, 1]]
    # code - w of each in range (1 - 0.9, 0 + 0.3, 0 - 0.1), and the code of the one beyond: 0.1 + 0.3 - 0.1 + 1
    assert float(by_scale[0, 0]) == pytest.approx(1.3)


def test_a_mask_keeps_zeros() -> None:
    from edgelm.compress.grids import IntegerGrid, times

    mask = np.array([[1, 0, 1, 0]], np.float32)
    assert times(*IntegerGrid(Encoding.INT8, mask).snap(np.ones((1, 4), np.float32), {})).numpy().tolist() == [[1, 0, 1, 0]]
