"""Fits a latency profile to this machine: under a minute of small graphs, then `edgelm.device.fit`.

The profile it gives is as true as the models it predicts are like language models; `benchmarks/latency.py` shows how true, on models
that are not among the graphs it was fitted to.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from edgelm.device import profile as profiles
from edgelm.device.calibrate import Calibration
from edgelm.device.cost import step_cost
from edgelm.device.fit import Groups, Observation, fit
from edgelm.device.latency import call_ms
from edgelm.device.latency_figures import CacheLevel, LatencyModel
from edgelm.device.profile import DeviceProfile
from edgelm.runtime.engine import Call, Engine
from edgelm.tflite.reader import read
from edgelm.validate.host_graphs import graphs
from edgelm.validate.timed_calls import fill, time_calls

OnStage = Callable[[str, int, int], None]

LEVELS_MB = (1.6, 2.2, 3, 6, 12, 24)
"""Sizes of working sets whose bandwidth is fitted; between them it is interpolated."""
ROUNDS = 10
SLICE_S = 0.012
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
    observations = measure_graphs(on_stage)
    on_stage("fitting the figures", 0, 0)
    return fit_host(observations)


def measure_graphs(on_stage: OnStage) -> tuple[Observation, ...]:
    """Every signature of every graph, timed in rounds."""
    costs, calls, weights = {}, {}, {}
    for number, graph in enumerate(graphs()):
        on_stage("writing small graphs", number, 0)
        tflite = graph.write()
        engine, model = Engine(tflite), read(tflite)
        for signature in engine.signatures:
            label = f"{graph.label}: {signature}"
            calls[label], costs[label] = _ready(engine.call(signature)), step_cost(model, signature)
            weights[label] = graph.weight
    found = time_calls(calls, rounds=ROUNDS, slice_s=SLICE_S, on_round=lambda done, total: on_stage("timing them", done, total))
    return tuple(Observation(label, costs[label], ms, weights[label]) for label, ms in found.items())


def _ready(call: Call) -> Call:
    fill(call, vocab=100)
    return call


def fit_host(observations: tuple[Observation, ...]) -> Calibration:
    """Fits the host's figures to measured calls; the start is the shipped profile `host`."""
    shipped = profiles.load(profiles.HOST)
    start = dataclasses.replace(shipped.latency, cache=_levels(shipped.latency))
    found = fit(observations, start, _groups(start), SPREAD)
    before, after = (tuple(call_ms(one.cost, model) for one in observations) for model in (start, found))
    misses = [math.log(predicted / one.ms) for predicted, one in zip(after, observations, strict=True)]
    uncertainty = max(SMALLEST_UNCERTAINTY, math.exp(float(np.percentile(np.abs(misses), 95))))
    source = (
        f"fitted by edgelm profiles calibrate --host to {len(observations)} calls of small graphs, lower quartiles of {ROUNDS} rounds; "
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
