"""Choosing the next token, defined exactly enough to be mirrored in another language.

All functions are pure and compute in float64; sums of probabilities run from first to last, so that another language gets the same
bits (numpy's own `sum` adds in pairs). Wherever tokens are ranked, the higher logit comes first and, among equal ones, the
lower id. The order of the steps is: repetition penalty, temperature, top-k, softmax, top-p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RuntimeFailure

Logits = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SamplingSettings:
    """How `sample` chooses.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token (greedy).
        top_k: Only the k likeliest tokens are drawn from; 0 for all.
        top_p: Nucleus sampling (Holtzman et al. 2020): only the fewest likeliest tokens whose probabilities sum to at least
            top_p are drawn from; 1 for all. With top-k, the probabilities are those among the k.
        repetition_penalty: Keskar et al. 2019: positive logits of recent tokens are divided by it, others multiplied; 1 for none.
        seed: Of the generator a continuation draws from; `sample` is given a generator instead.

    Raises:
        RuntimeFailure: A value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1 (all)"),
            ("repetition_penalty", self.repetition_penalty > 0, "more than 0; 1 for none"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not good:
                raise RuntimeFailure(f"{name} = {getattr(self, name)}", allowed=allowed)


GREEDY = SamplingSettings(temperature=0.0)


def sample(logits: Logits, settings: SamplingSettings, rng: np.random.Generator, recent: Sequence[int] = ()) -> int:
    """Draws a token id; the same generator state gives the same id.

    Args:
        logits: (vocab,).
        settings: How to choose. Greedy draws no random number.
        rng: Source of one uniform number in [0, 1).
        recent: Ids the repetition penalty applies to.

    Raises:
        RuntimeFailure: The logits hold NaN.
    """
    return choose(logits, settings, 0.0 if settings.temperature == 0 else rng.random(), recent)


def choose(logits: Logits, settings: SamplingSettings, uniform: float, recent: Sequence[int] = ()) -> int:
    """The token a uniform number in [0, 1) stands for: the first candidate, likeliest first, whose cumulative probability exceeds it.

    Raises:
        RuntimeFailure: The logits hold NaN.

    Example:
        >>> choose(np.log([0.2, 0.5, 0.3]), SamplingSettings(top_p=0.7), 0.6)  # candidates 1 (0.625) and 2 (0.375)
        1
    """
    ids, mass = candidates(logits, settings, recent)
    index = int(np.searchsorted(np.cumsum(mass), uniform, side="right"))
    return int(ids[min(index, len(ids) - 1)])  # rounding can leave the sum a little below 1


def candidates(logits: Logits, settings: SamplingSettings, recent: Sequence[int] = ()) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that can be drawn, likeliest first, and their probabilities (sum 1).

    Raises:
        RuntimeFailure: The logits hold NaN.
    """
    scores = _penalised(np.asarray(logits, np.float64), settings.repetition_penalty, recent)  # (vocab,)
    if settings.temperature == 0:
        return ranked(scores, 1), np.ones(1)
    scores = scores / settings.temperature
    ids = ranked(scores, settings.top_k or len(scores))  # (candidates,)
    mass = softmax(scores[ids])
    if settings.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(mass), settings.top_p, side="left")) + 1
        ids, mass = ids[:kept], mass[:kept] / np.cumsum(mass[:kept])[-1]
    return ids, mass


def top(logits: Logits, n: int) -> list[tuple[int, float]]:
    """The n likeliest token ids with their probabilities among all tokens, likeliest first.

    Raises:
        RuntimeFailure: The logits hold NaN.

    Example:
        >>> top(np.log(np.array([0.2, 0.5, 0.3])), 2)
        [(1, 0.5), (2, 0.3)]
    """
    mass = softmax(logits)
    return [(int(i), float(mass[i])) for i in ranked(logits, n)]


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities (vocab,) in float64."""
    scores = np.asarray(logits, np.float64)
    powers: NDArray[np.float64] = np.exp(scores - scores.max())
    mass: NDArray[np.float64] = powers / np.cumsum(powers)[-1]
    return mass


def ranked(logits: Logits, n: int) -> NDArray[np.int64]:
    """Ids of the n highest logits, highest first, lower id first among equals.

    Raises:
        RuntimeFailure: The logits hold NaN.
    """
    if np.isnan(logits).any():
        raise RuntimeFailure("the logits hold NaN", fix="edgelm check FOLDER: its parity section shows where the artifact goes wrong")
    if n >= len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, len(logits) - n)[len(logits) - n]  # the n-th highest value
    above = np.flatnonzero(logits > least)
    equal = np.flatnonzero(logits == least)[: n - len(above)]
    return np.concatenate((above[np.argsort(-logits[above], kind="stable")], equal))


def _penalised(scores: NDArray[np.float64], penalty: float, recent: Sequence[int]) -> NDArray[np.float64]:
    if penalty == 1 or not recent:
        return scores
    ids = np.unique(np.asarray(recent, np.int64))
    scores = scores.copy()
    scores[ids] = np.where(scores[ids] > 0, scores[ids] / penalty, scores[ids] * penalty)
    return scores
