"""Which weights of a matrix are pruned: single ones, N of every M neighbours, or whole blocks.

All of it is numpy on canonical (out, in) matrices, the orientation that is shipped: neighbours are neighbours in a row of the .tflite
tensor, which is what a sparse kernel reads one after another.

Example:
    >>> keep_mask(np.array([[0.9, 0.1, -0.5, 0.2]]), parse_pattern("2:4"), 0.5)
    array([[ True, False,  True, False]])
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RecipeError
from edgelm.spec import FloatArray


@dataclass(frozen=True)
class Pattern:
    """The shape of what is pruned as one.

    Attributes:
        kept: N of N:M; 0 without such groups.
        group: M of N:M: neighbours in a row; the columns that are left over at the end of a row stay as they are.
        rows: Rows of a block.
        columns: Columns of a block; blocks are cut off at the edges of a matrix.
    """

    kept: int = 0
    group: int = 0
    rows: int = 1
    columns: int = 1


def parse_pattern(text: str) -> Pattern:
    """Reads `unstructured`, `N:M` or `RxC`.

    Raises:
        RecipeError: It is none of them.
    """
    if text == "unstructured":
        return Pattern()
    found = re.fullmatch(r"(\d+)([:x])(\d+)", text)
    if found:
        first, second = int(found[1]), int(found[3])
        if found[2] == ":" and 0 < first < second:
            return Pattern(kept=first, group=second)
        if found[2] == "x" and first and second:
            return Pattern(rows=first, columns=second)
    raise RecipeError(f"prune: pattern = {text!r}", allowed="unstructured, N:M with 0 < N < M (2:4), RxC (1x16)")


def magnitudes(weight: FloatArray, pattern: Pattern) -> FloatArray:
    """What weights are ranked by: |w| of each, or its mean over each block.

    Returns:
        (rows, columns), or (row blocks, column blocks).
    """
    magnitude: FloatArray = np.abs(np.asarray(weight, np.float32))
    if pattern.rows == pattern.columns == 1:
        return magnitude
    row_starts, column_starts = np.arange(0, weight.shape[0], pattern.rows), np.arange(0, weight.shape[1], pattern.columns)
    sums = np.add.reduceat(np.add.reduceat(magnitude, row_starts, axis=0), column_starts, axis=1)
    heights = np.diff(np.append(row_starts, weight.shape[0]))
    widths = np.diff(np.append(column_starts, weight.shape[1]))
    means: FloatArray = sums / np.outer(heights, widths).astype(np.float32)
    return means


def keep_mask(weight: FloatArray, pattern: Pattern, sparsity: float) -> NDArray[np.bool_]:
    """Where weights stay when the smallest go.

    Args:
        weight: (rows, columns).
        pattern: Of N:M, only weights that are not among the N largest of their group go, the smallest first.
        sparsity: Share of the weights (or blocks) that goes, rounded to a whole number; more than N:M allows is as much as it allows.

    Returns:
        (rows, columns), True for what stays. Zeros go first, so a mask that is computed again from masked weights is the same.
    """
    ranked = magnitudes(weight, pattern)
    if pattern.group:
        ranked = np.where(_largest_of_group(ranked, pattern), np.inf, ranked)
    count = min(round(sparsity * ranked.size), int(np.isfinite(ranked).sum()))
    keep = np.ones(ranked.size, bool)
    if count:
        keep[np.argpartition(ranked, count - 1, axis=None)[:count]] = False
    keep = keep.reshape(ranked.shape)
    return keep.repeat(pattern.rows, 0).repeat(pattern.columns, 1)[: weight.shape[0], : weight.shape[1]]


def _largest_of_group(magnitude: FloatArray, pattern: Pattern) -> NDArray[np.bool_]:
    """(rows, columns), True for the N largest of each M neighbours, and for columns behind the last whole group."""
    rows, columns = magnitude.shape
    whole = columns - columns % pattern.group
    groups = magnitude[:, :whole].reshape(rows, -1, pattern.group)
    order = np.argsort(-groups, axis=2, kind="stable")
    largest: NDArray[Any] = np.zeros(groups.shape, bool)
    np.put_along_axis(largest, order[:, :, : pattern.kept], True, axis=2)
    kept = np.ones((rows, columns), bool)
    kept[:, :whole] = largest.reshape(rows, whole)
    return kept
