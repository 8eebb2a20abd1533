"""Fits the figures of a latency model to measured calls.

Each call gives one equation: the model's time for its cost is what was measured. The unknowns are factors on figures of a starting
profile, in logarithms, so that a figure stays positive and twice as much is as far away as half as much. They minimise

    sum over calls ((ln predicted - ln measured) / NOISE)^2 + sum over factors (ln factor / spread)^2

by Levenberg and Marquardt's method; calls that miss by more than a few times the noise count as much as their root (Huber 1964). The
second sum is what is believed beforehand: figures that no call tells anything about keep their start, and two calls cannot move
twenty figures to absurd places.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.device.cost import OpCost, StepCost
from edgelm.device.latency import call_ms
from edgelm.device.latency_figures import LatencyModel

NOISE = 0.05
"""Relative error of a measured call beyond which it counts less."""
HUBER = 3.0
MAX_ITERATIONS = 40
STEP = 0.02
CONVERGED = 1e-4

Groups = Mapping[str, tuple[str, ...]]
"""Name of a factor -> the figures it multiplies: `dram_gb_s`, `one_row.int8`, `cache.0.gb_s`."""

SHARES = ("int8_stream", "int8_ragged")
_SCALED_TOTALS = ("macs", "functions", "weight_bytes", "state_bytes", "activation_bytes", "packed_bytes", "repeats")


@dataclass(frozen=True)
class Observation:
    """One measured call.

    Attributes:
        label: For people: model and signature.
        cost: What the call does.
        ms: What it took.
        weight: How many calls it counts as.
    """

    label: str
    cost: StepCost
    ms: float
    weight: float = 1.0


def fit(observations: Sequence[Observation], start: LatencyModel, groups: Groups, spread: float) -> LatencyModel:
    """The latency model that explains the calls best.

    Args:
        observations: Measured calls, at least one.
        start: Figures believed beforehand.
        groups: Which of them may change, and which change together.
        spread: Standard deviation of a factor's logarithm, as it is believed beforehand: ln 2 lets a factor of 2 pass easily.

    Returns:
        `start` with other figures; basis, source, uncertainty and sizes of caches are as they were.

    Example:
        Two chains of products that took 1 and 2 ms where `start` says 0.5 and 1 ms, with `{"memory": ("dram_gb_s",)}` and a spread
        of ln 2, give half the bandwidth.
    """
    costs = [_merged(one.cost) for one in observations]
    measured = np.log([one.ms for one in observations])
    counts = np.array([one.weight for one in observations])

    def misses(factors: NDArray[np.float64]) -> NDArray[np.float64]:
        model = scaled(start, groups, np.exp(factors))
        missed: NDArray[np.float64] = (np.log([call_ms(cost, model) for cost in costs]) - measured) / NOISE
        return missed

    def loss(missed: NDArray[np.float64], factors: NDArray[np.float64]) -> float:
        size = np.abs(missed)
        return float(np.where(size < HUBER, size**2, 2 * HUBER * size - HUBER**2) @ counts + ((factors / spread) ** 2).sum())

    factors = np.zeros(len(groups))
    missed = misses(factors)
    damping, best = 1.0, loss(missed, factors)
    for _ in range(MAX_ITERATIONS):
        slopes = _slopes(misses, factors, missed)
        weights = counts * np.minimum(1.0, HUBER / np.maximum(np.abs(missed), 1e-9))
        normal = slopes.T @ (slopes * weights[:, None]) + np.eye(len(factors)) / spread**2
        gradient = slopes.T @ (weights * missed) + factors / spread**2
        before = best
        while damping < 1e6:
            tried = factors - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            found = misses(tried)
            if loss(found, tried) < best:
                factors, missed, best, damping = tried, found, loss(found, tried), damping / 3
                break
            damping *= 3
        if before - best < CONVERGED * before:
            break
    return scaled(start, groups, np.exp(factors))


def scaled(start: LatencyModel, groups: Groups, factors: NDArray[np.float64]) -> LatencyModel:
    """`start` with the figures of each group multiplied by its factor; a share stays at most 1."""
    model = start
    for names, factor in zip(groups.values(), factors, strict=True):
        for name in names:
            model = _multiplied(model, name.split("."), float(factor))
    return model


def _slopes(misses: Any, factors: NDArray[np.float64], missed: NDArray[np.float64]) -> NDArray[np.float64]:
    """How the misses change with each factor, (calls, factors)."""
    columns = []
    for index in range(len(factors)):
        moved = factors.copy()
        moved[index] += STEP
        columns.append((misses(moved) - missed) / STEP)
    return np.stack(columns, axis=1)


def _multiplied(model: Any, path: Sequence[str], factor: float) -> Any:
    """A dataclass with the figure at `path` multiplied."""
    name, *rest = path
    value = getattr(model, name)
    if rest and isinstance(value, tuple):
        index = int(rest[0])
        changed = (*value[:index], _multiplied(value[index], rest[1:], factor), *value[index + 1 :])
        return dataclasses.replace(model, **{name: changed})
    if rest:
        return dataclasses.replace(model, **{name: _multiplied(value, rest, factor)})
    product = min(value * factor, 1.0) if name in SHARES else value * factor
    return dataclasses.replace(model, **{name: product})


def _merged(cost: StepCost) -> StepCost:
    """The same cost with equal ops as one: an op's time is proportional to its totals, and predictions are made thousands of times."""
    ops = tuple(_times(op, count) for op, count in Counter(cost.ops).items())
    return dataclasses.replace(cost, ops=ops)


def _times(op: OpCost, count: int) -> OpCost:
    return dataclasses.replace(op, **{name: getattr(op, name) * count for name in _SCALED_TOTALS})
