"""Float weights to the bytes a .tflite stores, and back.

All encodings are symmetric (zero point 0), as TFLite's hybrid kernels want their weights:
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Encoding, FloatArray

BLOCK_COLUMNS = 32
"""Columns of a row that share one scale in `Encoding.INT4_BLOCK32`."""

_LARGEST = {Encoding.INT8: 127, Encoding.INT4: 7, Encoding.INT4_BLOCK32: 7}

# Weights are float32 products of integer and scale: dividing them again is off by 127 * 2^-23 at most.
_OFF_GRID = 1e-3

# One step holds this many weights: their float32 temporaries (512 KB) stay in the cache, and 135 M weights never exist twice.
_CHUNK_WEIGHTS = 1 << 17

# XNNPACK refuses scales that are zero or subnormal, so rows without any weight get the smallest normal number.
_SMALLEST_SCALE = {np.dtype(np.float32): float(np.finfo(np.float32).tiny), np.dtype(np.float16): float(np.finfo(np.float16).tiny)}


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight as the artifact stores it.

    Attributes:
        encoding: How `data` and `scales` are to be read.
        shape: Shape of the weight, (rows, columns); (rows,) for float32 vectors.
        data: The raw bytes, 1-D uint8; int4 values are packed over the whole tensor, low nibble first.
        scales: float32 (rows,) for int8 and int4; float16 (rows, columns / 32) for int4-block32; None for floats.
    """

    encoding: Encoding
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    scales: NDArray[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of data and scales.

        Example: int8 (10000, 96) takes 960,000 + 40,000 bytes.
        """
        return int(self.data.nbytes) + (0 if self.scales is None else int(self.scales.nbytes))


def quantize(
    weight: FloatArray, encoding: Encoding, scales: NDArray[np.float32] | None = None, *, name: str = "a weight"
) -> QuantizedTensor:
    """Rounds a weight to `encoding`: half to even, scale = max |w| / 127 (int8) or / 7 (int4) of each row or block.

    Args:
        weight: (rows, columns) float32 or float16, memory-mapped or not; (rows,) is taken for float32 only.
        encoding: The encoding to store it in.
        scales: float32 (rows, blocks), one block a row for int8 and int4, where the weight lies on a grid already: it is stored as
            weight / scale, exactly. For integer encodings only.
        name: Of the weight, for errors about its scales.

    Raises:
        UnsupportedModelError: A weight is NaN or infinite, is too large for float16, the shape does not fit the encoding, or the weight
            is not on the grid of its scales.

    Example:
        >>> q = quantize(np.array([[1.0, -0.5]], np.float32), Encoding.INT8)
        >>> q.data.view(np.int8).tolist(), float(q.scales[0]) == np.float32(1 / 127)
        ([127, -64], True)
        >>> q = quantize(np.array([[1.0, -0.5]], np.float32), Encoding.INT8, np.array([[0.5]], np.float32))
        >>> q.data.view(np.int8).tolist(), q.scales.tolist()
        ([2, -1], [0.5])
    """
    _check_shape(weight, encoding)
    if scales is None:
        return _QUANTIZERS[encoding](weight)
    if encoding not in _LARGEST:
        raise ValueError(f"{name} has scales, which {encoding} does not take")
    return _quantize_integer(weight, encoding, _checked_scales(weight, encoding, scales, name), name)


def _block_count(encoding: Encoding, columns: int) -> int:
    """Scales that a row of `columns` weights has in an integer encoding."""
    return columns // BLOCK_COLUMNS if encoding is Encoding.INT4_BLOCK32 else 1


def dequantize(q: QuantizedTensor) -> NDArray[np.float32]:
    """The float32 weight, (rows, columns), that a runtime computes with."""
    if q.encoding is Encoding.FLOAT32:
        return q.data.view(np.float32).reshape(q.shape)
    if q.encoding is Encoding.FLOAT16:
        return q.data.view(np.float16).astype(np.float32).reshape(q.shape)
    values = integer_values(q)  # (rows, columns)
    if q.scales is None:
        raise ValueError(f"a {q.encoding} tensor without scales")
    rows, columns = values.shape
    scales = np.asarray(q.scales, np.float32).reshape(rows, -1, 1)  # (rows, blocks, 1)
    return (values.reshape(rows, scales.shape[1], -1) * scales).reshape(rows, columns).astype(np.float32, copy=False)


def integer_values(q: QuantizedTensor) -> NDArray[np.int8]:
    """The int8 values, (rows, columns), of an int8 or int4 tensor, before scales."""
    if q.encoding is Encoding.INT8:
        return q.data.view(np.int8).reshape(q.shape)
    if q.encoding in (Encoding.INT4, Encoding.INT4_BLOCK32):
        return unpack_int4(q.data, int(np.prod(q.shape))).reshape(q.shape)
    raise ValueError(f"a {q.encoding} tensor has no integer values")


def pack_int4(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Packs int8 values of [-8, 7] two to a byte, the first in the low nibble; an odd count is padded with 0.

    Example:
        >>> pack_int4(np.array([1, -1, 7], np.int8)).tolist()
        [241, 7]
    """
    nibbles = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    pairs = nibbles.view("<u2")  # the second in the high byte
    return ((pairs & np.uint16(0x0F)) | (pairs >> np.uint16(4) & np.uint16(0xF0))).astype(np.uint8)


def unpack_int4(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """The first `count` int8 values of bytes that `pack_int4` wrote."""
    values = np.empty(packed.size * 2, np.int8)
    signed = packed.view(np.int8)
    values[0::2] = (signed << 4) >> 4
    values[1::2] = signed >> 4
    return values[:count]


def _check_shape(weight: FloatArray, encoding: Encoding) -> None:
    if weight.ndim != 2 and encoding is not Encoding.FLOAT32:
        raise UnsupportedModelError(
            f"a weight of shape {weight.shape} cannot be stored as {encoding}", allowed="matrices; vectors stay float32"
        )
    if weight.size == 0:
        raise UnsupportedModelError(f"a weight of shape {weight.shape} has no values")
    if encoding is Encoding.INT4_BLOCK32 and weight.shape[1] % BLOCK_COLUMNS:
        raise UnsupportedModelError(
            f"a weight of {weight.shape[1]} columns cannot be stored as {encoding}",
            allowed=f"columns in multiples of {BLOCK_COLUMNS}",
            fix="store this weight as int4 or int8",
        )


def _row_chunks(weight: FloatArray) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    step = max(1, _CHUNK_WEIGHTS // max(1, weight[0].size))
    step += step % 2  # an even number of rows ends on a byte of int4 values
    for start in range(0, weight.shape[0], step):
        rows = slice(start, min(start + step, weight.shape[0]))
        yield rows, np.asarray(weight[rows], dtype=np.float32)


def _quantize_float32(weight: FloatArray) -> QuantizedTensor:
    values = np.ascontiguousarray(weight, dtype=np.float32)
    for _, chunk in _row_chunks(values.reshape(values.shape[0], -1)):
        _require_finite(chunk)
    return QuantizedTensor(Encoding.FLOAT32, values.shape, values.reshape(-1).view(np.uint8))


def _quantize_float16(weight: FloatArray) -> QuantizedTensor:
    values = np.empty(weight.shape, np.float16)
    for rows, chunk in _row_chunks(weight):
        _require_finite(chunk)
        if np.abs(chunk).max() > np.finfo(np.float16).max:
            raise UnsupportedModelError(f"a weight of {np.abs(chunk).max():g} is too large for float16", allowed="up to 65504")
        values[rows] = chunk
    return QuantizedTensor(Encoding.FLOAT16, weight.shape, values.reshape(-1).view(np.uint8))


def _quantize_integer(
    weight: FloatArray, encoding: Encoding, fixed: NDArray[np.float32] | None = None, name: str = "a weight"
) -> QuantizedTensor:
    """int8 and int4: the scales of a row's blocks (`fixed`, or from the largest weights), then its values."""
    rows, columns = weight.shape
    blocks, largest = _block_count(encoding, columns), _LARGEST[encoding]
    scales = np.empty((rows, blocks), _scale_dtype(encoding))
    data = np.empty((rows * columns * encoding.bits + 7) // 8, np.uint8)

    for part, chunk in _row_chunks(weight):
        blocked = chunk.reshape(chunk.shape[0], blocks, -1)  # (rows, blocks, columns of a block)
        scratch = np.abs(blocked)
        scales[part] = _block_scales(scratch, largest, scales.dtype) if fixed is None else fixed[part]
        if fixed is not None:
            _require_on_grid(blocked, scales[part], largest, name)
        # The nearest integers; none exceeds the largest, since scales come from the largest weights or were checked against them.
        np.divide(blocked, scales[part].astype(np.float32)[:, :, None], out=scratch)
        np.rint(scratch, out=scratch)
        stored = data[part.start * columns * encoding.bits // 8 :][: (scratch.size * encoding.bits + 7) // 8]
        if encoding is Encoding.INT8:
            np.copyto(stored.view(np.int8), scratch.reshape(-1), casting="unsafe")
        else:
            stored[...] = pack_int4(scratch.astype(np.int8))

    return QuantizedTensor(encoding, weight.shape, data, scales if encoding is Encoding.INT4_BLOCK32 else scales.reshape(-1))


def _scale_dtype(encoding: Encoding) -> np.dtype[Any]:
    return np.dtype(np.float16 if encoding is Encoding.INT4_BLOCK32 else np.float32)


def _checked_scales(weight: FloatArray, encoding: Encoding, scales: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Given scales that a file can hold; those below the smallest (of a block of zeros) become it."""
    wanted, dtype = (weight.shape[0], _block_count(encoding, weight.shape[1])), _scale_dtype(encoding)
    if scales.shape != wanted:
        raise UnsupportedModelError(f"{name} has scales of shape {scales.shape}", allowed=f"{wanted} for {encoding} {weight.shape}")
    held = np.maximum(scales.astype(np.float32), np.float32(_SMALLEST_SCALE[dtype]))  # NaN stays NaN
    if not (held <= np.finfo(dtype).max).all():
        raise UnsupportedModelError(f"{name} has scales that {dtype} cannot hold", allowed=f"finite ones up to {np.finfo(dtype).max:g}")
    if dtype == np.float16 and (held != _round_to_bfloat16(held)).any():
        raise UnsupportedModelError(f"{name} has block scales of more than 8 significant bits", allowed="scales that bfloat16 can hold")
    return held


def _require_on_grid(blocked: NDArray[np.float32], scales: NDArray[Any], largest: int, name: str) -> None:
    """The values of `blocked` (rows, blocks, columns of a block) are `scales` (rows, blocks) times integers up to `largest`."""
    _require_finite(blocked)
    scaled = blocked / scales.astype(np.float32)[:, :, None]
    off = float(np.abs(scaled - np.rint(scaled)).max())
    if off > _OFF_GRID:
        raise UnsupportedModelError(
            f"{name} lies up to {off:.3g} of a scale beside the grid of its scales",
            allowed=f"up to {_OFF_GRID:g}",
            fix="a step that changes a weight must drop its scales or change them too",
        )
    peak = float(np.abs(scaled).max())
    if peak > largest + _OFF_GRID:
        raise UnsupportedModelError(f"{name} has values of {peak:.0f} times its scale", allowed=f"-{largest} to {largest}")


def _block_scales(sizes: NDArray[np.float32], largest: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Scales (rows, blocks) of weights with these absolute values (rows, blocks, columns of a block)."""
    peak = _peaks(sizes)  # NaN and infinity reach it
    _require_finite(peak)
    scales = np.maximum(peak / np.float32(largest), np.float32(_SMALLEST_SCALE[dtype]))
    if dtype == np.float16:
        scales = _round_to_bfloat16(scales)
    if scales.max() > np.finfo(dtype).max:
        raise UnsupportedModelError(f"a weight of {peak.max():g} needs a scale that {dtype} cannot hold")
    rounded: NDArray[Any] = scales.astype(dtype)
    return rounded


def _peaks(sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest of each block, (rows, blocks)."""
    largest, columns = sizes.reshape(-1), sizes.shape[2]
    while columns <= BLOCK_COLUMNS and columns % 2 == 0:  # reduceat is slow where blocks are short
        largest, columns = np.maximum(largest[0::2], largest[1::2]), columns // 2
    return np.maximum.reduceat(largest, np.arange(0, largest.size, columns)).reshape(sizes.shape[:2])


def _round_to_bfloat16(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest values with 8 significant bits: XNNPACK cuts the float16 scales of blocks to bfloat16.

    Cutting shrinks weights by up to 0.8 %; scales that are bfloat16 already (and float16: 11 bits) mean the same to every kernel.
    """
    return ((scales.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)


def _require_finite(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise UnsupportedModelError(
            "a weight is NaN or infinite", fix="look at the training run: its last good checkpoint has finite weights"
        )


_QUANTIZERS: dict[Encoding, Callable[[FloatArray], QuantizedTensor]] = {
    Encoding.FLOAT32: _quantize_float32,
    Encoding.FLOAT16: _quantize_float16,
    Encoding.INT8: lambda weight: _quantize_integer(weight, Encoding.INT8),
    Encoding.INT4: lambda weight: _quantize_integer(weight, Encoding.INT4),
    Encoding.INT4_BLOCK32: lambda weight: _quantize_integer(weight, Encoding.INT4_BLOCK32),
}
