"""Calibration: the ranges that activations keep when they are int8 with scales fixed in the file.

A float model reads text, and every site of `edgelm.models.static_sites` is told the values that pass. A range is then chosen for the
least squared rounding error (as Banner et al. 2019 choose clipping): a few values far out are clipped where that makes the steps of
the others smaller. Logits are not clipped at the top, where the words are that matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.models.reference_static import StaticSession
from edgelm.models.static_sites import int8_affine, round_to_int8
from edgelm.spec import FloatArray, RecurrentSpec, TransformerSpec

Ranges = dict[str, tuple[float, float]]

SAMPLE = 1 << 14
"""Values of a site that clipping looks at."""
SHARES = np.linspace(1.0, 0.3, 8)
"""Of the lowest and of the highest value: the ends that are tried."""
SATURATED = 6.25
"""sigmoid(-6.25) is 0.0019 and tanh(6.25) 0.99999: beyond, the outputs of int8 kernels (steps of 1/256 and 1/128) do not change."""
STREAMS, CHUNK = 8, 64
"""Windows read side by side, and tokens of each at once: their logits take 20 MB for 10,000 words."""
LOGIT_MARGIN = 1.1
"""Text that was not seen may have a surer word than the surest that was."""


def calibrate(model: LanguageModel, windows: Sequence[NDArray[np.integer[Any]]]) -> Ranges:
    """The ranges of a model's activations on some text.

    Args:
        model: Its float weights are used as they are.
        windows: Token ids, (time,) each, from an empty state each; `StepData.calibration` gives them.

    Returns:
        Site -> (lowest, highest), lowest <= 0 <= highest.

    Raises:
        UnsupportedModelError: An activation is not finite.
    """
    seen: dict[str, _Seen] = {}

    def observe(site: str, x: FloatArray) -> None:
        seen.setdefault(site, _Seen(site)).add(x)

    for batch in _batches(model, windows):
        session = StaticSession(model, len(batch), observe=observe)
        for start in range(0, batch.shape[1], CHUNK):
            session.extend(batch[:, start : start + CHUNK])
    return {site: _range(model, site, values) for site, values in seen.items()}


def _batches(model: LanguageModel, windows: Sequence[NDArray[np.integer[Any]]]) -> Iterator[NDArray[np.integer[Any]]]:
    """Windows (streams, time) of one length side by side, cut to what the model can read at once."""
    longest = model.spec.max_positions if isinstance(model.spec, TransformerSpec) else 1 << 31
    parts = [window[start : start + longest] for window in windows for start in range(0, len(window), longest)]
    for _, same in itertools.groupby(sorted(parts, key=len), len):
        group = list(same)
        for start in range(0, len(group), STREAMS):
            yield np.stack(group[start : start + STREAMS])


class _Seen:
    """The ends of a site's values, and a random sample of them (an even one would see a few columns only)."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.low = self.high = 0.0
        self._kept: list[FloatArray] = []
        self._count = 0
        self._every = 1
        self._random = np.random.default_rng(0)

    def add(self, x: FloatArray) -> None:
        """Takes values of any shape."""
        flat = x.reshape(-1)
        if not np.isfinite(flat).all():
            raise UnsupportedModelError(
                f"activation {self.site} is NaN or infinite on the calibration text", fix="look at the training run"
            )
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        taken = flat[self._random.integers(len(flat), size=-(-len(flat) // self._every))]
        self._kept.append(taken)
        self._count += len(taken)
        while self._count > 2 * SAMPLE:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._count, self._every = len(self._kept[0]), 2 * self._every

    @property
    def sample(self) -> FloatArray:
        """(n,) values."""
        return np.concatenate(self._kept)


def _range(model: LanguageModel, site: str, seen: _Seen) -> tuple[float, float]:
    low, high = seen.low, max(seen.high, seen.low + 1e-6)
    if site == "head:out":
        return low, high * LOGIT_MARGIN
    if isinstance(model.spec, RecurrentSpec) and _saturates(model.spec, site):
        return max(low, -SATURATED), min(high, SATURATED)
    sample = np.clip(seen.sample, low, high)
    errors: Mapping[tuple[float, float], float] = {
        (low * below, high * above): float(np.square(round_to_int8(sample, int8_affine(low * below, high * above)) - sample).mean())
        for below in SHARES
        for above in SHARES
    }
    return min(errors, key=lambda ends: errors[ends])


def _saturates(spec: RecurrentSpec, site: str) -> bool:
    """The site feeds squashing functions only."""
    squashing = ("sigmoid", "tanh")
    if site.endswith(":candidate"):
        return spec.activation in squashing
    both = spec.activation in squashing and (spec.cell == "rnn" or spec.recurrent_activation in squashing)
    gates_only = spec.cell == "gru" and spec.recurrent_activation in squashing
    return site.endswith(":gates") and (both or gates_only)
