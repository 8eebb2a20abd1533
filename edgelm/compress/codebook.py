"""The grid of shared values: a matrix keeps to few codes while it is trained; importing this module imports TensorFlow and TF-MOT.

TF-MOT's cluster-preserving quantizer (CQAT) keeps the centroids of raw weights and rounds them to int8 afterwards; here the centroids
are the int8 codes themselves (`edgelm.compress.kmeans`), so that what is trained is what is shipped. As in TF-MOT, weights go to the
nearest centroid at every step, and the centroids are trained. Row scales are trained too.

`codebook_grids(model, names, preserve_sparsity=...)` makes the grids of a model that was clustered before:

    grids = codebook_grids(model, names)  # matrices that have no row scales are left out
    trained = constrained.constrain(model, grids)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from edgelm.compress.grids import Grid, Tensor, Variables, straight_through, times
from edgelm.compress.kmeans import LARGEST_CODE, joined, nearest
from edgelm.model import LanguageModel
from edgelm.spec import Encoding


class Codebook:
    """Codes that one or more matrices share, trained together.

    Args:
        codes: (k,) whole numbers from -127 to 127.
        zero: 0 is one of them and stays.
    """

    def __init__(self, codes: NDArray[Any], *, zero: bool = False) -> None:
        ascending = np.unique(codes).astype(np.float32)
        self.zero = zero
        self.start = ascending[ascending != 0] if zero else ascending
        self.variable: Any = None

    def build(self, layer: Any, name: str) -> Any:
        """The variable, (k,) codes / 127; it belongs to the layer that asks first."""
        if self.variable is None:
            start = tf.constant_initializer(self.start / LARGEST_CODE)
            self.variable = layer.add_weight(name + "_codebook", self.start.shape, initializer=start)
        return self.variable

    def exact(self, variable: Tensor) -> Tensor:
        """(k,) ascending codes before rounding, with their gradient."""
        codes = tf.clip_by_value(variable * LARGEST_CODE, -LARGEST_CODE, LARGEST_CODE)
        return tf.sort(tf.concat([codes, [0.0]], 0) if self.zero else codes)


class CodebookGrid(Grid):
    """Row scale times the nearest code of a codebook.

    Args:
        codebook: Its codes; grids of matrices that the file joins have one in common.
        scales: (rows, 1) to start with.
        mask: (rows, columns), 0 where weights stay zero; None for no mask.
        frozen: Each weight keeps the code, by rank, that it begins with.
    """

    encoding = Encoding.INT8

    def __init__(
        self, codebook: Codebook, scales: NDArray[np.float32], mask: NDArray[np.float32] | None = None, *, frozen: bool = False
    ) -> None:
        self.codebook, self.scales, self.mask, self.frozen = codebook, scales, mask, frozen
        self.index: NDArray[np.int32] | None = None  # (rows, columns), of a frozen grid

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Log-scales (rows, 1), so that a step changes them by a share, and the codebook."""
        start = np.log(self.scales)
        if self.frozen:
            codes = np.unique(np.append(self.codebook.start, 0.0)) if self.codebook.zero else self.codebook.start
            self.index = nearest(self.start / self.scales, codes).astype(np.int32)
        log_scale = layer.add_weight(name + "_log_scale", start.shape, initializer=tf.constant_initializer(start))
        return {"log_scale": log_scale, "codebook": self.codebook.build(layer, name)}

    def snap(self, weight: Tensor, variables: Variables) -> tuple[Tensor, Tensor]:
        """The nearest codes, and the scales."""
        scales = tf.exp(variables["log_scale"])
        codes = tf.round(self.codebook.exact(variables["codebook"]))
        return self._masked(tf.gather(codes, self._index(weight / scales, codes))), scales

    def pass_through(self, weight: Tensor, variables: Variables) -> Tensor:
        """Gradients: of a weight as it is; of a code, the sum over its weights; of a scale as in LSQ (Esser et al. 2020)."""
        scales = tf.exp(variables["log_scale"])  # (rows, 1)
        exact = self.codebook.exact(variables["codebook"])
        rounded = tf.round(exact)  # (k,)
        if self.index is not None:
            return self._masked(tf.gather(straight_through(rounded, exact), self.index)) * scales
        ratio = weight / scales
        index = tf.stop_gradient(self._index(ratio, rounded))
        codes = self._masked(tf.gather(rounded, index))
        inside = (ratio >= rounded[0]) & (ratio <= rounded[-1])
        slope = tf.stop_gradient(tf.where(inside, codes - self._masked(ratio), codes))
        moved_codes = self._masked(tf.gather(exact - tf.stop_gradient(exact), index)) * tf.stop_gradient(scales)
        moved_scales = (scales - tf.stop_gradient(scales)) * slope
        return straight_through(times(codes, scales), self._masked(weight)) + moved_codes + moved_scales

    def _index(self, ratio: Tensor, codes: Tensor) -> Tensor:
        return _nearest(ratio, codes) if self.index is None else self.index

    def _masked(self, values: Tensor) -> Tensor:
        return values if self.mask is None else values * self.mask


def codebook_grids(
    model: LanguageModel, names: Sequence[str], *, preserve_sparsity: bool = False, frozen: bool = False
) -> dict[str, CodebookGrid]:
    """Grids that keep the clusters of a model: codebooks and scales are read from its weights.

    Args:
        model: After a `cluster` step; its weights are whole multiples of its scales.
        names: Canonical names of matrices.
        preserve_sparsity: Zero weights stay zero.
        frozen: Each weight keeps its code, by rank.

    Returns:
        Grids of the matrices that have row scales and whole codes; the others are left out.
    """
    codes: dict[str, NDArray[np.float32]] = {}
    for name in names:
        scales = model.scales.get(name)
        if scales is not None and scales.shape[1] == 1:
            found = np.unique(np.rint(model.float32(name) / scales))
            if np.abs(found).max() <= LARGEST_CODE:
                codes[name] = found
    return shared_grids(model, codes, model.scales, preserve_sparsity=preserve_sparsity, frozen=frozen)


def shared_grids(
    model: LanguageModel,
    codes: Mapping[str, NDArray[Any]],
    scales: Mapping[str, NDArray[np.float32]],
    *,
    preserve_sparsity: bool,
    frozen: bool = False,
) -> dict[str, CodebookGrid]:
    """Grids of matrices, one codebook for those that end up in one tensor (`joined`).

    Args:
        model: Whose zero weights stay, with `preserve_sparsity`.
        codes: Name -> (k,) codes of the matrix.
        scales: Name -> (rows, 1).
        preserve_sparsity: Zero weights stay zero.
        frozen: Each weight keeps its code, by rank.
    """
    grids: dict[str, CodebookGrid] = {}
    for group in joined(list(codes)):
        book = Codebook(np.concatenate([codes[name] for name in group]), zero=preserve_sparsity)
        for name in group:
            mask = (model.float32(name) != 0).astype(np.float32) if preserve_sparsity else None
            grids[name] = CodebookGrid(book, np.asarray(scales[name], np.float32), mask, frozen=frozen)
    return grids


def _nearest(values: Tensor, ascending: Tensor) -> Tensor:
    """Index of the nearest code, in the shape of `values`."""
    middles = (ascending[1:] + ascending[:-1]) / 2
    return tf.reshape(tf.searchsorted(middles, tf.reshape(values, (-1,))), values.shape)
