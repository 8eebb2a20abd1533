"""K-means on the numbers of a matrix: few whole codes for all of it, and a scale for each row.

The rows of a language model's matrices differ in size (those of frequent and of rare words above all), so one set of shared values for the
raw weights serves none of them well. Here each row is divided by its root mean square first; what the clusters share are codes from
-127 to 127, and a row's weights are its scale times codes. As int8 has a scale for each row anyway, the file is no larger, and at most
`clusters` different bytes occur in a matrix, which is what makes it compressible.

Lloyd's iterations go on to their end; TF-MOT's clustering stops at the centroids it begins with and leaves the rest to training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.recipe_steps import CentroidStart
from edgelm.spec import FloatArray

LARGEST_CODE = 127
SMALLEST_SCALE = 1e-12
"""Of a row without weights: runtimes refuse scales that are zero or subnormal."""
MOST_ITERATIONS = 400
_SAMPLE = 1 << 22
"""Weights that the codes are fitted to at most: more do not move 255 means, and sorting them takes their memory several times."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Clustered:
    """A matrix of few values.

    Attributes:
        codebook: (k,) int8, ascending: the codes that occur.
        scales: (rows, 1) float32.
        weights: (rows, columns) float32: scales times codes.
    """

    codebook: NDArray[np.int8]
    scales: NDArray[np.float32]
    weights: NDArray[np.float32]


def cluster(weight: FloatArray, clusters: int, start: CentroidStart = "kmeans++", *, preserve_sparsity: bool = False) -> Clustered:
    """Fits codes and row scales to a matrix.

    Args:
        weight: (rows, columns).
        clusters: Codes at most, 2 to 255.
        start: Where k-means begins.
        preserve_sparsity: One code is 0, zero weights have it, and the others are fitted to the weights that are not zero.

    Raises:
        UnsupportedModelError: A weight is NaN or infinite.

    Example:
        >>> cluster(np.array([[1.0, 1.1, -1.0], [0.1, 0.11, -0.1]]), clusters=2).weights.round(2)
        array([[ 1.05,  1.05, -1.  ],
               [ 0.1 ,  0.1 , -0.1 ]], dtype=float32)
    """
    weight = np.asarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise UnsupportedModelError(
            "a weight is NaN or infinite", fix="look at the training run: its last good checkpoint has finite weights"
        )
    counted = weight != 0 if preserve_sparsity else np.ones(weight.shape, np.bool_)
    scales = np.sqrt(np.square(weight).sum(1, keepdims=True) / np.maximum(1, counted.sum(1, keepdims=True)))
    scales = np.maximum(scales, SMALLEST_SCALE)  # (rows, 1)
    values, importance = _sample((weight / scales)[counted], np.broadcast_to(scales**2, weight.shape)[counted])
    centroids = lloyd(values, importance, start_values(values, clusters, start, zero=preserve_sparsity), zero=preserve_sparsity)
    unit = max(float(np.abs(centroids).max(initial=0)), SMALLEST_SCALE) / LARGEST_CODE
    codebook = np.unique(np.rint(centroids / unit)).astype(np.int8)
    codes = _codes(weight, scales * unit, codebook, counted)
    refined = _least_squares(weight, codes, scales * unit)
    codes = _codes(weight, refined, codebook, counted)
    return Clustered(codebook, refined, codes * refined)


def joined(names: Sequence[str]) -> list[list[str]]:
    """Groups of matrices that the file keeps in one tensor: q, k, v of a block, and gate and up.

    Example:
        >>> joined(["embedding.weight", "layers.0.q.weight", "layers.0.k.weight"])
        [['embedding.weight'], ['layers.0.q.weight', 'layers.0.k.weight']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        place = re.sub(r"\.(q|k|v)\.weight$", ".qkv", re.sub(r"\.(gate|up)\.weight$", ".gate+up", name))
        groups.setdefault(place, []).append(name)
    return list(groups.values())


def nearest(values: NDArray[Any], centroids: NDArray[Any]) -> NDArray[np.intp]:
    """The index of the nearest of some ascending centroids, for each value.

    Example:
        >>> nearest(np.array([-3.0, 0.4, 0.6]), np.array([-1, 0, 1])).tolist()
        [0, 1, 2]
    """
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    return np.searchsorted(middles, values)


def start_values(values: Values, clusters: int, start: CentroidStart, *, zero: bool) -> Values:
    """The centroids k-means begins with: ascending, at most `clusters`, one of them 0 with `zero`.

    `kmeans++` and `linear` are TF-MOT's. `density` puts equally many values around each centroid; TF-MOT's reads the distribution off 30
    points and gives several centroids one place: of normal weights 16 clusters then left an error of 0.0140, where 0.0095 is the least.
    Few values are their own centroids.
    """
    own: Values = np.unique(np.append(values, 0.0) if zero else values)
    if len(own) <= clusters:
        return own
    if start == "density":
        count = clusters - 1 if zero else clusters
        quantiles: Values = np.quantile(values, (np.arange(count) + 0.5) / count)
        quantiles = np.append(quantiles, 0.0) if zero else quantiles
        return np.sort(quantiles)
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_centroids as starts

    kinds = {"kmeans++": starts.KmeansPlusPlusCentroidsInitialisation, "linear": starts.LinearCentroidsInitialisation}
    found = kinds[start](tf.constant(values, tf.float32), clusters, preserve_sparsity=zero).get_cluster_centroids()
    centroids: Values = found.numpy().astype(np.float64)
    return np.sort(centroids)


def lloyd(values: Values, importance: Values, centroids: Values, *, zero: bool = False) -> Values:
    """Moves every centroid to the weighted mean of the values nearest to it, until none moves (Lloyd 1982).

    Sorted values make an iteration a few differences of running sums, so that a million values take a second.

    Args:
        values: (n,).
        importance: (n,) weights of their squared errors.
        centroids: (k,) ascending.
        zero: A centroid that is 0 stays there.

    Returns:
        (k,) ascending.
    """
    order = np.argsort(values)
    ordered = values[order]
    masses = np.concatenate([[0.0], np.cumsum(importance[order])])
    moments = np.concatenate([[0.0], np.cumsum(importance[order] * ordered)])
    fixed = (centroids == 0) & zero
    for _ in range(MOST_ITERATIONS):
        edges = np.concatenate([[0], np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2), [len(ordered)]])
        mass, moment = np.diff(masses[edges]), np.diff(moments[edges])
        moved = np.where((mass > 0) & ~fixed, moment / np.where(mass > 0, mass, 1), centroids)
        if np.allclose(moved, centroids, rtol=0, atol=1e-6):
            return moved
        centroids = moved
    return centroids


def _sample(values: FloatArray, importance: FloatArray) -> tuple[Values, Values]:
    if len(values) > _SAMPLE:
        kept = np.random.default_rng(0).integers(0, len(values), _SAMPLE)
        values, importance = values[kept], importance[kept]
    return values.astype(np.float64), importance.astype(np.float64)


def _codes(
    weight: NDArray[np.float32], scales: NDArray[np.float32], codebook: NDArray[np.int8], counted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(rows, columns): the nearest code of each weight, as float32; 0 where a zero weight is kept."""
    return np.where(counted, codebook[nearest(weight / scales, codebook)], 0).astype(np.float32)


def _least_squares(weight: NDArray[np.float32], codes: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, 1): the scale of the least squared error for given codes; as it was where all codes of a row are 0."""
    square = np.square(codes).sum(1, keepdims=True)
    best = (weight * codes).sum(1, keepdims=True) / np.maximum(square, 1)
    return np.where(best > SMALLEST_SCALE, best, scales).astype(np.float32)
