"""Norms of a transformer's residual stream and the matrices that read it.

What is folded into the weights: the weight (and bias) of a norm into the projections that read it, unless those are 4-bit or have
fixed scales, whose grid it would break; the score scale into q, unless that has blocks of fixed scales. Projections of one tensor are one
matrix where they are stored alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.layers import LayerBuilder
from edgelm.spec import Encoding, FloatArray, TransformerSpec
from edgelm.tflite.graph import Tensor


class Projections:
    """The norms and projections of one signature.

    Args:
        spec: Of the model.
        layers: Of the signature.
    """

    def __init__(self, spec: TransformerSpec, layers: LayerBuilder) -> None:
        self.spec = spec
        self.layers = layers
        self.g = layers.g
        self.model = layers.store.model

    def norm(self, x: Tensor, name: str, *, scaled: bool = True) -> Tensor:
        """LayerNorm or RMSNorm of x (rows, width); without its weight and bias where they are folded."""
        g = self.g
        if self.spec.norm == "layer":
            x = g.sub(x, g.mean(x, -1))
        x = self.rms(x)
        if not scaled:
            return x
        x = g.mul(x, g.constant(self.model.float32(f"{name}.weight")))
        return g.add(x, g.constant(self.model.float32(f"{name}.bias"))) if self.spec.norm == "layer" else x

    def rms(self, x: Tensor) -> Tensor:
        """X (..., size) divided by the root mean square of each row."""
        g = self.g
        return g.mul(x, g.rsqrt(g.add(g.mean(g.mul(x, x), -1), self.spec.norm_eps)))

    def project(self, x: Tensor, at: str, names: Sequence[str], norm: str) -> Tensor:
        """Projections `names` of `at` side by side, (rows, all outputs), of x (rows, width), behind its norm if `norm` names one."""
        parts = self.products(x, at, names, norm)
        return parts[0] if len(parts) == 1 else self.g.concatenate(parts)

    def products(self, x: Tensor, at: str, names: Sequence[str], norm: str) -> list[Tensor]:
        """As `project`, one tensor for each product that they became."""
        paths = [f"{at}.{name}" if at else name for name in names]
        kinds = [self._kind(f"{path}.weight") for path in paths]
        foldable = not self.layers.static and all(encoding.bits > 4 and not fixed for encoding, fixed, _ in kinds)
        folded = norm if foldable else ""
        if norm:
            x = self.norm(x, norm, scaled=not folded)
        return [
            self._joined(x, [path for path, _ in group], folded)
            for _, group in itertools.groupby(zip(paths, kinds, strict=True), lambda pair: pair[1])
        ]

    def folds_score_scale(self, name: str) -> bool:
        """Whether projection `name`, a q, carries the score scale: fixed scales of blocks, short floats, are not multiplied."""
        if self.spec.qk_norm or self.layers.static:
            return False
        encoding, fixed, _ = self._kind(f"{name}.weight")
        return not (fixed and encoding is Encoding.INT4_BLOCK32)

    def _kind(self, name: str) -> tuple[Encoding, bool, str]:
        """What weights are joined by: how a projection's weight can be stored, whether its scales are fixed, and its output's range."""
        store = self.layers.store
        fixed = store.fixed_scales(name, self.spec.width) is not None
        return store.possible(name, self.spec.width), fixed, name if self.layers.static else ""

    def _joined(self, x: Tensor, paths: Sequence[str], norm: str) -> Tensor:
        """Matrices of one kind as one product, with a norm's weight in their columns and its bias in theirs."""
        names = [f"{path}.weight" for path in paths]
        scale = self.model.float32(f"{norm}.weight") if norm else np.float32(1)  # (width,)

        def build() -> FloatArray:
            parts = [self.model.weights[name] for name in names]
            matrix = np.empty((sum(len(part) for part in parts), self.spec.width), np.float32)
            starts = np.cumsum([len(part) for part in parts])[:-1]
            for path, rows in zip(paths, np.split(matrix, starts), strict=True):
                np.multiply(self.model.float32(f"{path}.weight"), self._row_scale(path) * scale, out=rows)
            return matrix

        biases = [bias for path in paths if (bias := self._bias(path, norm)) is not None]  # all or none have one
        bias = np.concatenate(biases) if biases else None
        return self.layers.dense(x, "+".join(names), names, build, bias, scales=self._joined_scales(paths))

    def _joined_scales(self, paths: Sequence[str]) -> NDArray[np.float32] | None:
        fixed = [(self.layers.store.fixed_scales(f"{path}.weight", self.spec.width), self._row_scale(path)) for path in paths]
        parts = [scales * factor for scales, factor in fixed if scales is not None]  # all or none have some
        return np.concatenate(parts) if parts else None

    def _row_scale(self, name: str) -> np.float32:
        """What the rows of projection `name` are multiplied by: those of q carry the score scale, unless a norm or a MUL does."""
        return np.float32(self.spec.score_scale if name.endswith(".q") and self.folds_score_scale(name) else 1)

    def _bias(self, path: str, norm: str) -> NDArray[np.float32] | None:
        """(rows,): the projection's own bias and what a folded LayerNorm's bias becomes behind its matrix; None where both are absent."""
        bias = self.model.float32(f"{path}.bias") if f"{path}.bias" in self.model.weights else None
        if norm and self.spec.norm == "layer":
            folded: NDArray[np.float32] = self.model.float32(f"{path}.weight") @ self.model.float32(f"{norm}.bias")
            bias = folded if bias is None else bias + folded
        return None if bias is None else bias * self._row_scale(path)
