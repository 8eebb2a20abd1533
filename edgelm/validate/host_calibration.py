"""Fits a latency profile to this machine: under a minute of small graphs, then `edgelm.device.fit`.

The profile it gives is as true as the models it predicts are like language models; `benchmarks/latency.py` shows how true, on models
that are not among the graphs it was fitted to.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.device import profile as profiles
from edgelm.device.calibrate import Calibration
from edgelm.device.cost import StepCost, step_cost
from edgelm.device.fit import Groups, Observation, fit
from edgelm.device.latency import call_ms
from edgelm.device.latency_figures import CacheLevel, LatencyModel
from edgelm.device.profile import DeviceProfile
from edgelm.tflite.reader import read
from edgelm.validate.host_graphs import graphs
from edgelm.validate.timed_calls import TimedFile, time_files

OnStage = Callable[[str, int, int], None]

LEVELS_MB = (1.2, 1.6, 2.2, 3, 6, 12, 24)
"""Sizes of working sets whose bandwidth is fitted; between them it is interpolated."""
OPENINGS, ROUNDS = 4, 3
SLICE_S = 0.018
VOCAB = 100
"""Ids of lookups; every table of the graphs has more rows."""
SPREAD = math.log(3.0)
"""How far a figure may easily be from its start: the start is another machine's."""
PLAIN = (
    "dram_gb_s",
    "int8_stream",
    "int8_ragged",
    "attention_gb_s",
    "elementwise_gb_s",
    "functions_g_s",
    "per_op_us",
    "per_product_us",
    "per_own_op_us",
    "per_call_us",
)
KINDS = ("int8", "int4", "int4_block", "float")
SMALLEST_UNCERTAINTY = 1.2


def calibrate_host(*, on_stage: OnStage = lambda stage, done, total: None) -> Calibration:
    """Measures this machine and fits a profile of the name `host` to it.

    Args:
        on_stage: Progress: stage, done, total.
    """
    made = graph_files(on_stage)
    found = time_files(
        made.files,
        openings=OPENINGS,
        rounds=ROUNDS,
        slice_s=SLICE_S,
        on_round=lambda done, total: on_stage("timing them", done, total),
    )
    on_stage("fitting the figures", 0, 0)
    return fit_host(made.observed(found))


@dataclass(frozen=True)
class GraphFiles:
    """The micro-benchmark's files, by label.

    Attributes:
        files: The graphs.
        costs: (Label, signature) -> what a call does.
        weights: How much each graph's calls count in the fit.
    """

    files: Mapping[str, TimedFile]
    costs: Mapping[tuple[str, str], StepCost]
    weights: Mapping[str, float]

    def observed(self, milliseconds: Mapping[tuple[str, str], float]) -> tuple[Observation, ...]:
        """The calls with what they took; other labels are left out."""
        return tuple(
            Observation(f"{label}: {signature}", cost, milliseconds[label, signature], self.weights[label])
            for (label, signature), cost in self.costs.items()
        )


def graph_files(on_stage: OnStage) -> GraphFiles:
    """Every graph, written, with the cost of every signature."""
    files: dict[str, TimedFile] = {}
    costs: dict[tuple[str, str], StepCost] = {}
    weights: dict[str, float] = {}
    for number, graph in enumerate(graphs()):
        on_stage("writing small graphs", number, 0)
        tflite = graph.write()
        files[graph.label], weights[graph.label] = TimedFile(tflite, VOCAB), graph.weight
        model = read(tflite)
        costs |= {(graph.label, signature.name): step_cost(model, signature.name) for signature in model.signatures}
    return GraphFiles(files, costs, weights)


def fit_host(observations: tuple[Observation, ...]) -> Calibration:
    """Fits the host's figures to measured calls; the start is the shipped profile `host`."""
    shipped = profiles.load(profiles.HOST)
    start = dataclasses.replace(shipped.latency, cache=_levels(shipped.latency))
    found = _never_faster_from_farther(fit(observations, start, _groups(start), SPREAD))
    before, after = (tuple(call_ms(one.cost, model) for one in observations) for model in (start, found))
    misses = [math.log(predicted / one.ms) for predicted, one in zip(after, observations, strict=True)]
    uncertainty = max(SMALLEST_UNCERTAINTY, math.exp(float(np.percentile(np.abs(misses), 95))))
    source = (
        f"fitted by edgelm profiles calibrate --host to {len(observations)} calls of small graphs, 5th percentiles, {OPENINGS} times; "
        "uncertainty: 19 of 20 of those calls are predicted within it"
    )
    told = dataclasses.replace(found, uncertainty=uncertainty, isolated_factor=1.0, basis="measured", source=source)
    latency: LatencyModel = _rounded(told)
    return Calibration(dataclasses.replace(shipped, device=_device(shipped), latency=latency), observations, before, after)


def _levels(model: LatencyModel) -> tuple[CacheLevel, ...]:
    """Levels at `LEVELS_MB`, each with the bandwidth of the smallest known level that holds it."""
    levels = []
    for size in LEVELS_MB:
        holding = next((level.gb_s for level in model.cache if size * 1024 <= level.size_kb), model.dram_gb_s)
        levels.append(CacheLevel(f"cache of {size:g} MB", size * 1024.0, holding))
    return tuple(levels)


def _never_faster_from_farther(model: LatencyModel) -> LatencyModel:
    """The same with each level at least as fast as those behind it.

    Whether a set that just fits a level stays there depends on the pages it got: one unlucky graph must not make a level look slower
    than the one it falls back to.
    """
    levels: list[CacheLevel] = []
    slowest = model.dram_gb_s
    for level in reversed(model.cache):
        slowest = max(slowest, level.gb_s)
        levels.append(dataclasses.replace(level, gb_s=slowest))
    return dataclasses.replace(model, cache=tuple(reversed(levels)))


def _groups(model: LatencyModel) -> Groups:
    """Every figure by itself."""
    names = [*PLAIN, *(f"cache.{index}.gb_s" for index in range(len(model.cache)))]
    names += [f"{table}.{kind}" for table in ("one_row", "many_rows") for kind in KINDS]
    return {name: (name,) for name in names}


def _device(shipped: DeviceProfile) -> profiles.DeviceInfo:
    return dataclasses.replace(
        shipped.device,
        soc=platform.processor() or platform.machine(),
        cores=f"{os.cpu_count()}x {platform.machine()}",
        basis="measured",
        source="read off this machine's operating system; ram_mb, isa and page_kb as in the shipped profile",
    )


def _rounded(value: Any) -> Any:
    """Every figure with three digits: more would pretend to be known."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, tuple):
        return tuple(_rounded(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{field.name: _rounded(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value
