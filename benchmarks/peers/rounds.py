"""The clock: processes of all cells one after the other, round by round, so that ratios are of neighbours in time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peers import machine, prepare, processes
from peers.cells import Cell
from peers.environments import PeerUnavailableError
from peers.store import Sample, Store

MACHINE = "machine"


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        cells: Which.
        rounds: How many.
        verbs: Of `processes.VERBS`.
        threads: Numbers of threads; only `time` and `deep` are measured with more than one.
        patience: Seconds to wait before a round for a quiet machine.
    """

    cells: Sequence[Cell]
    rounds: int
    verbs: Sequence[str]
    threads: Sequence[int]
    patience: float

    def steps(self) -> Iterator[tuple[Cell, str, int]]:
        """A round: verb by verb, all cells of a model in turn."""
        for verb in self.verbs:
            for threads in self.threads:
                for cell in self.cells:
                    if verb in processes.verbs_of(cell) and (threads == 1 or verb in ("time", "deep")):
                        yield cell, verb, threads


def run(plan: Plan, store: Store) -> None:
    """Measures what the store does not have yet."""
    ready = []
    for cell in plan.cells:
        if reason := prepare.artifact_missing(cell):
            print(f"{cell.name}: left out: {reason}", file=sys.stderr, flush=True)
        else:
            ready.append(cell)
    plan = Plan(ready, plan.rounds, plan.verbs, plan.threads, plan.patience)
    for number in range(plan.rounds):
        waiting = [step for step in plan.steps() if not store.has((number, step[0].name, step[1], step[2]))]
        if not waiting:
            continue
        load = machine.wait_for_quiet(plan.patience)
        if load > machine.QUIET:
            print(f"round {number + 1}: others use {load:.2f} cores; its figures are marked", file=sys.stderr, flush=True)
        measure_bandwidth(plan, store, number)
        for cell, verb, threads in waiting:
            print(f"round {number + 1}: {cell.name} {verb}, {threads} thread{'s' * (threads > 1)}", file=sys.stderr, flush=True)
            store.add(measured(number, cell, verb, threads))


def measured(number: int, cell: Cell, verb: str, threads: int) -> Sample:
    """One sample; a failure is one, too."""
    try:
        figures = processes.measure(cell, verb, threads)
    except PeerUnavailableError as error:
        print(f"{cell.name} {verb}: {error}", file=sys.stderr, flush=True)
        return Sample(number, cell.name, verb, threads, error=str(error))
    others = figures.pop("others")
    return Sample(number, cell.name, verb, threads, figures, others)


def measure_bandwidth(plan: Plan, store: Store, number: int) -> None:
    """Reads as many bytes as each cell's weights have; once for cells whose weights are as large."""
    rates: dict[tuple[int, int], list[float]] = {}
    for cell in plan.cells:
        for threads in plan.threads:
            key = (round(cell.weight_bytes / 1e6), threads)
            name = f"{MACHINE}/{cell.name}"
            if store.has((number, name, "read", threads)):
                continue
            if key not in rates:
                try:
                    rates[key] = machine.bandwidth(cell.weight_bytes, threads)
                except PeerUnavailableError as error:
                    store.add(Sample(number, name, "read", threads, error=str(error)))
                    continue
            store.add(Sample(number, name, "read", threads, {"gigabytes_per_second": rates[key]}))
