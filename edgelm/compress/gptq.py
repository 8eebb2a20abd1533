"""Rounding with compensation: each column's error is spread over the columns that are still to be rounded.

GPTQ (Frantar et al. 2023) keeps the outputs W x on calibration text, instead of the weights, near the original.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.clipping import LARGEST, Clip, Scales, find_scales
from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS

DAMPING = 0.01
"""Share of the mean of the Hessian's diagonal that is added to it: directions that the text never took must stay where they are."""

_COLUMNS_A_STEP = 128  # errors reach the columns further on once in so many: one large product instead of many small ones


def compensated(
    weight: NDArray[np.float32], product: NDArray[np.float64], encoding: Encoding, clip: Clip, damping: float = DAMPING
) -> tuple[NDArray[np.float32], Scales]:
    """Rounds a matrix, so that sum |W x - W' x|^2 over the calibration text is small.

    Columns are taken by falling sum of x^2, so that the errors of the important ones are compensated by many. Scales are chosen before,
    with that sum as the importance of a column. Zeros stay zeros.

    Args:
        weight: (rows, columns).
        product: (columns, columns) sum of x x^T over the inputs x.
        encoding: int8, int4 or int4-block32.
        clip: As in `find_scales`.
        damping: See `DAMPING`.

    Returns:
        The weights on the grid (rows, columns), and its scales (rows, blocks).
    """
    energy = np.diag(product)  # (columns,)
    order = np.argsort(-energy, kind="stable")
    factor = _inverse_factor(product[np.ix_(order, order)], damping)
    scales = find_scales(weight, encoding, clip, energy + damping * energy.mean() + np.finfo(np.float32).tiny)
    blocks = order // BLOCK_COLUMNS if encoding is Encoding.INT4_BLOCK32 else np.zeros_like(order)
    rounded = np.empty_like(weight)
    rounded[:, order] = _round_columns(weight[:, order], scales[:, blocks], factor, LARGEST[encoding])
    return rounded, scales


def _inverse_factor(product: NDArray[np.float64], damping: float) -> NDArray[np.float32]:
    """Upper triangular U with U^T U = the inverse of the damped Hessian, (columns, columns)."""
    mean = float(np.diag(product).mean()) or 1.0  # inputs that are all zero leave nothing to compensate
    inverse = np.linalg.inv(product + damping * mean * np.eye(len(product)))
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float32)


def _round_columns(
    weight: NDArray[np.float32], scales: NDArray[np.float32], factor: NDArray[np.float32], largest: int
) -> NDArray[np.float32]:
    """All (rows, columns) in the order of rounding; `scales` has one for each weight."""
    left = weight.copy()  # what is still to be expressed
    rounded = np.zeros_like(weight)
    for start in range(0, weight.shape[1], _COLUMNS_A_STEP):
        end = min(start + _COLUMNS_A_STEP, weight.shape[1])
        errors = np.empty((len(weight), end - start), np.float32)
        for column in range(start, end):
            scale = scales[:, column]
            nearest = np.clip(np.rint(left[:, column] / scale), -largest, largest) * scale
            rounded[:, column] = np.where(weight[:, column] == 0, 0, nearest)
            error = errors[:, column - start] = (left[:, column] - rounded[:, column]) / factor[column, column]
            left[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded


def output_error(weight: NDArray[np.float32], rounded: NDArray[np.float32], product: NDArray[np.floating[Any]]) -> float:
    """Sum |W x - W' x|^2 over the inputs that `product` sums up."""
    difference = weight.astype(np.float64) - rounded
    return float(((difference @ product) * difference).sum())
