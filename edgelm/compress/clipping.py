"""Integer grids: the scale of each row or block, and weights rounded to it.

A weight w of a row or block with scale s is stored as the whole number nearest to w / s, half to even, within [-127, 127] (int8) or
[-7, 7] (int4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS

Clip = Literal["max", "mse"]
Scales = NDArray[np.float32]
"""(rows, blocks); one block a row for int8 and int4."""

LARGEST = {Encoding.INT8: 127, Encoding.INT4: 7, Encoding.INT4_BLOCK32: 7}
"""Encoding -> largest whole number."""

SHARES = np.linspace(1.0, 0.5, 26, dtype=np.float32)
"""What `mse` tries, as shares of the scale that reaches the largest weight; below half of it too many weights are cut off."""

_ROWS_A_STEP = 1024

# Kernels refuse subnormal scales, and those of blocks are stored as float16.
_SMALLEST = {
    Encoding.INT8: np.finfo(np.float32).tiny,
    Encoding.INT4: np.finfo(np.float32).tiny,
    Encoding.INT4_BLOCK32: np.float32(np.finfo(np.float16).tiny),
}


def find_scales(weight: NDArray[np.float32], encoding: Encoding, clip: Clip, importance: NDArray[np.floating[Any]] | None = None) -> Scales:
    """The scale of each row or block, as the file can hold it: those of blocks are bfloat16 numbers.

    Args:
        weight: (rows, columns).
        encoding: int8, int4 or int4-block32.
        clip: `max` reaches the largest weight; `mse` has the least squared error over `SHARES` of that scale.
        importance: (columns,) what the squared error in a column counts for `mse`; None for 1.

    Example:
        >>> find_scales(np.array([[7, 0.5, -3.5]], np.float32), Encoding.INT4, "max")
        array([[1.]], dtype=float32)
    """
    counts = (
        None if importance is None else in_blocks(np.asarray(importance, np.float32)[None], encoding)
    )  # (1, blocks, columns of a block)
    return np.concatenate([_find(part, encoding, clip, counts) for part in _row_parts(weight)])


def on_grid(weight: NDArray[np.float32], scales: Scales, encoding: Encoding) -> NDArray[np.float32]:
    """The nearest weights that the scales can express, (rows, columns)."""
    blocked = in_blocks(weight, encoding)
    codes = np.clip(np.rint(blocked / scales[:, :, None]), -LARGEST[encoding], LARGEST[encoding])
    rounded: NDArray[np.float32] = (codes * scales[:, :, None]).reshape(weight.shape)
    return rounded


def in_blocks(weight: NDArray[np.float32], encoding: Encoding) -> NDArray[np.float32]:
    """(rows, columns) -> (rows, blocks, columns of a block)."""
    rows, columns = weight.shape
    return weight.reshape(rows, columns // BLOCK_COLUMNS if encoding is Encoding.INT4_BLOCK32 else 1, -1)


def _row_parts(weight: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(weight), _ROWS_A_STEP):
        yield weight[start : start + _ROWS_A_STEP]


def _find(weight: NDArray[np.float32], encoding: Encoding, clip: Clip, counts: NDArray[np.float32] | None) -> Scales:
    blocked = in_blocks(weight, encoding)  # (rows, blocks, columns of a block)
    widest = np.abs(blocked).max(axis=2) / np.float32(LARGEST[encoding])  # (rows, blocks)
    best = _storable(widest, encoding)
    if clip == "max":
        return best
    least = _squared_error(blocked, best, encoding, counts)
    for share in SHARES[1:]:
        scales = _storable(widest * share, encoding)
        error = _squared_error(blocked, scales, encoding, counts)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def _squared_error(
    blocked: NDArray[np.float32], scales: Scales, encoding: Encoding, counts: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Of each row and block, (rows, blocks)."""
    wide = scales[:, :, None]
    error = np.clip(np.rint(blocked / wide), -LARGEST[encoding], LARGEST[encoding]) * wide - blocked
    squared = error * error if counts is None else error * error * counts
    total: NDArray[np.float32] = squared.sum(axis=2)
    return total


def _storable(scales: NDArray[np.float32], encoding: Encoding) -> Scales:
    scales = np.maximum(scales, np.float32(_SMALLEST[encoding]))
    if encoding is not Encoding.INT4_BLOCK32:
        return scales
    return ((scales.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)  # 8 significant bits
