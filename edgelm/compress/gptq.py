"""Rounding and pruning with compensation: each column's error is spread over the columns that are still to come.

GPTQ (Frantar et al. 2023) keeps the outputs W x on calibration text, instead of the weights, near the original; SparseGPT (Frantar &
Alistarh 2023) does the same where weights become zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.clipping import LARGEST, Clip, Scales, find_scales
from edgelm.compress.sparsity_patterns import Pattern, keep_mask
from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS

DAMPING = 0.1
"""Share of the mean of the Hessian's diagonal that is added to it: directions that the text hardly took must stay near where they were."""

RoundColumn = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]

COLUMNS_A_STEP = 128
"""Errors reach the columns further on once in so many: one large product instead of many small ones."""


def compensated(
    weight: NDArray[np.float32], product: NDArray[np.float64], encoding: Encoding, clip: Clip, damping: float = DAMPING
) -> tuple[NDArray[np.float32], Scales]:
    """Rounds a matrix, so that sum |W x - W' x|^2 over the calibration text is small.

    The scale of a row is chosen before its first column, the scale of a block when the errors of the blocks before it have reached it;
    for `mse` a column counts as much as its sum of x^2. Zeros stay zeros.

    Args:
        weight: (rows, columns).
        product: (columns, columns) sum of x x^T over the inputs x.
        encoding: int8, int4 or int4-block32.
        clip: As in `find_scales`.
        damping: See `DAMPING`.

    Returns:
        The weights on the grid (rows, columns), and its scales (rows, blocks).
    """
    rows, columns = weight.shape
    block = BLOCK_COLUMNS if encoding is Encoding.INT4_BLOCK32 else columns
    energy = _damped(product, damping).diagonal()
    scales = np.empty((rows, columns // block), np.float32)

    def on_grid(column: int, left: NDArray[np.float32]) -> NDArray[np.float32]:
        if column % block == 0:
            part = slice(column, column + block)
            scales[:, column // block] = find_scales(left[:, :block], encoding, clip, energy[part])[:, 0]
        scale = scales[:, column // block]
        nearest = np.clip(np.rint(left[:, 0] / scale), -LARGEST[encoding], LARGEST[encoding]) * scale
        return np.where(weight[:, column] == 0, np.float32(0), nearest)

    return spread(weight, product, on_grid, damping), scales


def sparsified(
    weight: NDArray[np.float32], product: NDArray[np.float64], pattern: Pattern, sparsity: float, damping: float = DAMPING
) -> NDArray[np.float32]:
    """Sets weights to zero, so that sum |W x - W' x|^2 over the calibration text is small.

    What goes is chosen when the errors of the columns before have reached it: for each group of N:M, otherwise for 128 columns at a time,
    by |w| over the standard deviation that the other columns leave it, as in SparseGPT.

    Args:
        weight: (rows, columns).
        product: As of `compensated`.
        pattern: Its groups or blocks divide 128 columns.
        sparsity: Share of the weights that goes, of every 128 columns.
        damping: See `DAMPING`.

    Returns:
        The weights that are left, moved to make up for the others, and zeros; (rows, columns).
    """
    deviation = _inverse_factor(_damped(product, damping)).diagonal()  # (columns,)
    keep = np.ones(weight.shape, bool)
    width = pattern.group or COLUMNS_A_STEP

    def chosen(column: int, left: NDArray[np.float32]) -> NDArray[np.float32]:
        if column % width == 0:
            part = slice(column, column + width)
            keep[:, part] = keep_mask(left[:, :width] / deviation[part], pattern, sparsity)
        return np.where(keep[:, column], left[:, 0], np.float32(0))

    return spread(weight, product, chosen, damping)


def spread(
    weight: NDArray[np.float32], product: NDArray[np.float64], rounding: RoundColumn, damping: float = DAMPING
) -> NDArray[np.float32]:
    """Rounds a matrix column by column; the error of each is spread over those after it.

    Args:
        weight: (rows, columns).
        product: As of `compensated`.
        rounding: (column, what is left to express of this column and of those after it, (rows, columns - column)) -> the column as it
            is stored, (rows,). Columns further on than the next multiple of 128 have not met the latest errors yet.
        damping: See `DAMPING`.

    Returns:
        The rounded weights, (rows, columns).
    """
    rows, columns = weight.shape
    factor = _inverse_factor(_damped(product, damping))
    left = weight.copy()
    rounded = np.zeros_like(weight)
    for start in range(0, columns, COLUMNS_A_STEP):
        end = min(start + COLUMNS_A_STEP, columns)
        errors = np.empty((rows, end - start), np.float32)
        for column in range(start, end):
            rounded[:, column] = rounding(column, left[:, column:])
            error = errors[:, column - start] = (left[:, column] - rounded[:, column]) / factor[column, column]
            left[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded


def _damped(product: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    mean = float(np.diag(product).mean()) or 1.0  # inputs that are all zero leave nothing to compensate
    return product + damping * mean * np.eye(len(product))


def _inverse_factor(hessian: NDArray[np.float64]) -> NDArray[np.float32]:
    """Upper triangular U with U^T U = the inverse, (columns, columns)."""
    inverse = np.linalg.inv(hessian)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float32)


def output_error(weight: NDArray[np.float32], rounded: NDArray[np.float32], product: NDArray[np.floating[Any]]) -> float:
    """Sum |W x - W' x|^2 over the inputs that `product` sums up."""
    difference = weight.astype(np.float64) - rounded
    return float(((difference @ product) * difference).sum())
