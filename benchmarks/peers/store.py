"""What was measured, a line of JSON each, so that a run goes on where it was interrupted."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOWER_QUARTILE = 0.25


@dataclass(frozen=True)
class Sample:
    """One finished measurement, or why there is none.

    Attributes:
        round: From 0.
        cell: Its name, or `machine` for the bandwidth.
        verb: What was done.
        threads: Of the peer.
        figures: Name -> value, or the values of repetitions.
        others: Cores that other processes used meanwhile.
        error: Why it failed; empty when it did not.
    """

    round: int
    cell: str
    verb: str
    threads: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    others: float = 0.0
    error: str = ""

    @property
    def key(self) -> tuple[int, str, str, int]:
        """What the measurement is of."""
        return self.round, self.cell, self.verb, self.threads


class Store:
    """The lines of one run.

    Args:
        path: Of the file; made with the first sample.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.samples = [Sample(**json.loads(line)) for line in lines]

    def has(self, key: tuple[int, str, str, int]) -> bool:
        """It was measured, and did not fail."""
        return any(sample.key == key and not sample.error for sample in self.samples)

    def add(self, sample: Sample) -> None:
        """Keeps a sample, in the file, too."""
        self.samples.append(sample)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(sample)) + "\n")


Rounds = dict[int, float]
"""Round -> the figure of that round's process: the median of its repetitions."""


def by_figure(samples: Iterable[Sample]) -> dict[tuple[str, str], Rounds]:
    """(cell, figure) -> its rounds; figures of several threads end in `@2`."""
    found: dict[tuple[str, str], Rounds] = {}
    for sample in samples:
        for name, value in sample.figures.items():
            key = (sample.cell, name if sample.threads == 1 else f"{name}@{sample.threads}")
            found.setdefault(key, {})[sample.round] = statistics.median(value) if isinstance(value, list) else value
    return found


def lower_quartile(values: Sequence[float]) -> float:
    """Of few values: the one at a quarter of the sorted values.

    Example: of 5, 1, 3, 4, 2 it is 2.
    """
    ordered = sorted(values)
    return ordered[int(LOWER_QUARTILE * (len(ordered) - 1) + 0.5)]


def ratio(over: Rounds, under: Rounds) -> float | None:
    """The median over the rounds of one figure over another, both of the same round; None when they share none.

    Example: {0: 3.0, 1: 8.0} over {0: 2.0, 1: 4.0} is 1.75.
    """
    shared = sorted(over.keys() & under.keys())
    return statistics.median(over[i] / under[i] for i in shared) if shared else None
