from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Encoding
from edgelm.tflite.quantize import QuantizedTensor, dequantize, integer_values, pack_int4, quantize, unpack_int4

INTEGERS = (Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32)
LARGEST = {Encoding.INT8: 127, Encoding.INT4: 7, Encoding.INT4_BLOCK32: 7}

# Within what models hold; beyond 458,000 a block's float16 scale overflows, which is tested by itself.
VALUES = st.floats(-1000, 1000, width=32)
MATRICES = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 3).map(lambda n: 32 * n)), elements=VALUES)


def scale_of_each_weight(q: QuantizedTensor) -> np.ndarray:
    rows, columns = q.shape
    scales = np.asarray(q.scales, np.float64).reshape(rows, -1)
    return np.repeat(scales, columns // scales.shape[1], axis=1)


@given(MATRICES, st.sampled_from(INTEGERS))
def test_integer_error_is_at_most_half_a_scale(weight: np.ndarray, encoding: Encoding) -> None:
    q = quantize(weight, encoding)
    error = np.abs(dequantize(q).astype(np.float64) - weight)
    # a block's scale is rounded to 8 bits, by up to 2^-8, which moves its largest value (7 scales) by 7 * 2^-8 scales; float32 by far less
    slack = 7 * 2.0**-8 if encoding is Encoding.INT4_BLOCK32 else 1e-4
    assert (error <= scale_of_each_weight(q) * (0.5 + slack)).all()


@given(MATRICES, st.sampled_from(INTEGERS))
def test_largest_integer_is_symmetric_and_reached(weight: np.ndarray, encoding: Encoding) -> None:
    values = integer_values(quantize(weight, encoding))
    largest = 127 if encoding is Encoding.INT8 else 7
    assert values.min() >= -largest
    assert values.max() <= largest
    peaks = np.abs(weight).max(axis=1)
    if encoding is not Encoding.INT4_BLOCK32:
        assert (np.abs(values).max(axis=1)[peaks > 1e-30] == largest).all()


@given(MATRICES)
def test_scales_of_blocks_are_bfloat16_so_that_xnnpack_cuts_nothing(weight: np.ndarray) -> None:
    scales = quantize(weight, Encoding.INT4_BLOCK32).scales.astype(np.float32)
    assert not (scales.view(np.uint32) & 0xFFFF).any()


@given(MATRICES)
def test_float_encodings_keep_what_they_can(weight: np.ndarray) -> None:
    assert np.array_equal(dequantize(quantize(weight, Encoding.FLOAT32)), weight)
    assert np.array_equal(dequantize(quantize(weight, Encoding.FLOAT16)), weight.astype(np.float16).astype(np.float32))


@given(MATRICES, st.sampled_from(INTEGERS))
def test_values_on_the_grid_are_kept_exactly(weight: np.ndarray, encoding: Encoding) -> None:
    on_grid = dequantize(quantize(weight, encoding))
    again = quantize(on_grid, encoding)
    assert np.allclose(dequantize(again), on_grid, rtol=1e-2, atol=1e-6)


@given(st.sampled_from(INTEGERS), st.integers(0, 2**32 - 1), st.integers(1, 127))
def test_given_scales_are_kept_and_the_weight_with_them(encoding: Encoding, seed: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    largest = min(largest, LARGEST[encoding])
    blocks = 2 if encoding is Encoding.INT4_BLOCK32 else 1
    codes = rng.integers(-largest, largest + 1, (3, 64))
    scales = np.exp(rng.uniform(-9, 3, (3, blocks))).astype(np.float32)  # the least is twice the smallest normal float16
    if encoding is Encoding.INT4_BLOCK32:
        scales = (scales.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # bfloat16
    weight = (codes.reshape(3, blocks, -1) * scales[:, :, None]).reshape(3, 64).astype(np.float32)
    q = quantize(weight, encoding, scales)
    assert np.array_equal(integer_values(q), codes)
    assert np.array_equal(dequantize(q), weight)
    assert np.array_equal(np.asarray(q.scales, np.float32).reshape(3, blocks), scales)


@pytest.mark.parametrize("encoding", INTEGERS)
def test_what_is_not_on_the_grid_of_its_scales_is_refused_by_name(encoding: Encoding) -> None:
    largest, scale = LARGEST[encoding], np.full((2, 1), 0.5, np.float32)
    weight = np.full((2, 32), 0.5 * largest, np.float32)
    assert np.array_equal(dequantize(quantize(weight, encoding, scale)), weight)
    beside = weight.copy()
    beside[1, 31] += 1e-3
    with pytest.raises(UnsupportedModelError, match=r"head lies up to 0\.002 of a scale beside"):
        quantize(beside, encoding, scale, name="head")
    beyond = weight.copy()
    beyond[0, 0] += 0.5
    with pytest.raises(UnsupportedModelError, match=f"head has values of {largest + 1} times its scale"):
        quantize(beyond, encoding, scale, name="head")
    beside[1, 31] = np.nan
    with pytest.raises(UnsupportedModelError, match="NaN or infinite"):
        quantize(beside, encoding, scale)


def test_scales_that_a_file_cannot_hold_are_refused_by_name() -> None:
    weight = np.ones((2, 64), np.float32)
    with pytest.raises(UnsupportedModelError, match=r"head has scales of shape \(2, 1\)"):
        quantize(weight, Encoding.INT4_BLOCK32, np.ones((2, 1), np.float32), name="head")
    with pytest.raises(UnsupportedModelError, match="8 significant bits"):
        quantize(weight, Encoding.INT4_BLOCK32, np.full((2, 2), 1 + 2.0**-8, np.float32))
    for bad in (np.nan, np.inf):
        with pytest.raises(UnsupportedModelError, match="cannot hold"):
            quantize(weight, Encoding.INT8, np.full((2, 1), bad, np.float32))
    with pytest.raises(ValueError, match="float32 does not take"):
        quantize(weight, Encoding.FLOAT32, np.ones((2, 1), np.float32))


@pytest.mark.parametrize("encoding", INTEGERS)
def test_a_row_of_zeros_may_have_the_scale_zero(encoding: Encoding) -> None:
    weight = np.stack([np.zeros(32), np.ones(32)]).astype(np.float32)
    q = quantize(weight, encoding, np.array([[0.0], [1.0]], np.float32))
    assert np.array_equal(dequantize(q), weight)
    assert (q.scales >= np.finfo(q.scales.dtype).tiny).all()  # XNNPACK refuses zero and subnormal scales


@given(hnp.arrays(np.int8, st.integers(1, 65), elements=st.integers(-8, 7)))
def test_int4_packing_round_trips(values: np.ndarray) -> None:
    packed = pack_int4(values)
    assert packed.nbytes == (values.size + 1) // 2
    assert np.array_equal(unpack_int4(packed, values.size), values)


def test_int4_packs_the_low_nibble_first() -> None:
    assert pack_int4(np.array([1, -2, 3], np.int8)).tolist() == [0xE1, 0x03]


def test_rounding_is_half_to_even() -> None:
    q = quantize(np.array([[127.0, 0.5, 1.5, 2.5, -0.5]], np.float32), Encoding.INT8)
    assert integer_values(q).tolist() == [[127, 0, 2, 2, 0]]


@pytest.mark.parametrize("encoding", Encoding)
def test_rows_of_zeros_stay_zeros_with_a_normal_scale(encoding: Encoding) -> None:
    q = quantize(np.zeros((3, 32), np.float32), encoding)
    assert not dequantize(q).any()
    if q.scales is not None:
        assert (q.scales >= np.finfo(q.scales.dtype).tiny).all()  # XNNPACK refuses zero and subnormal scales


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", Encoding)
def test_weights_that_are_not_finite_are_refused(encoding: Encoding, bad: float) -> None:
    weight = np.ones((4, 32), np.float32)
    weight[2, 3] = bad
    with pytest.raises(UnsupportedModelError, match="NaN or infinite"):
        quantize(weight, encoding)


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="33 columns"):
        quantize(np.ones((2, 33), np.float32), Encoding.INT4_BLOCK32)
    with pytest.raises(UnsupportedModelError, match="int8"):
        quantize(np.ones(8, np.float32), Encoding.INT8)
    with pytest.raises(UnsupportedModelError, match="too large for float16"):
        quantize(np.full((2, 2), 1e6, np.float32), Encoding.FLOAT16)
    with pytest.raises(UnsupportedModelError, match="float16 cannot hold"):
        quantize(np.full((2, 32), 1e6, np.float32), Encoding.INT4_BLOCK32)


def test_vectors_and_float16_sources_are_taken() -> None:
    assert dequantize(quantize(np.arange(3, dtype=np.float32), Encoding.FLOAT32)).tolist() == [0, 1, 2]
    weight = np.linspace(-1, 1, 64, dtype=np.float16).reshape(2, 32)
    assert np.abs(dequantize(quantize(weight, Encoding.INT8)) - weight).max() <= 0.5 / 127


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3000), st.sampled_from((Encoding.INT8, Encoding.INT4)))
def test_chunks_do_not_show(rows: int, encoding: Encoding) -> None:
    weight = np.random.default_rng(rows).standard_normal((rows, 999)).astype(np.float32)  # an odd width: rows share bytes of int4
    q = quantize(weight, encoding)
    last = quantize(weight[-1:], encoding)
    assert np.array_equal(integer_values(q)[-1:], integer_values(last))


def test_sizes() -> None:
    weight = np.ones((100, 64), np.float32)
    sizes = {encoding: quantize(weight, encoding).nbytes for encoding in Encoding}
    assert sizes == {"float32": 25_600, "float16": 12_800, "int8": 6_800, "int4": 3_600, "int4-block32": 3_600}


@pytest.mark.slow
def test_a_model_of_135_million_weights_takes_seconds_and_little_memory() -> None:
    weight = np.zeros((33_554, 576), np.float32)  # 19.3 M weights, a seventh of SmolLM-135M
    weight[:, ::2] = 1.0
    tracemalloc.start()
    start = time.process_time()
    for encoding in INTEGERS:
        quantize(weight, encoding)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 5 s for all 135 M weights; three encodings of a seventh of them, and twice the time because other work shares the machine
    assert seconds < 2 * 5 * 3 / 7
    # the result (19 MB for int8) and the temporaries of one chunk (under 20 MB), never a float32 copy (77 MB)
    assert peak < 45e6
