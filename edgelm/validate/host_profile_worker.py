"""The process behind `host_profile.profile_host`: `python -m edgelm.validate.host_profile_worker MODEL RESULT LIBRARY THREADS SECONDS`.

Writes a JSON object to the file RESULT: `runtime`, `no_ops` and the fields of each `SignatureProfile`, or `error`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import EdgeLMError
from edgelm.runtime.engine import Engine
from edgelm.tflite.reader import OpInfo, TfliteModel, read
from edgelm.validate.delegation import delegation
from edgelm.validate.op_layers import kernels_of_ops, layers
from edgelm.validate.op_profiler import KernelEvent, OpProfiler, ProfiledCall
from edgelm.validate.timed_calls import FAST

RUNTIME = "ai-edge-litert"
WARM_UP = 2
TURN = 10
MIN_RUNS = 20
MAX_RUNS = 2000
BLOCKS = "LiteRT's C library, whose profiler tells ops apart, does not load weights in 4-bit blocks; its Python one runs them"
FASTEST = 0.5
"""Share of the profiled calls whose mean is taken, the fastest: interruptions only add time, and a mean tells parts of a microsecond."""


def worker(model: Path, library: Path, threads: int, seconds: float) -> dict[str, Any]:
    """Times the signatures of a model.

    Raises:
        RuntimeFailure: The model cannot be loaded or run.
    """
    parsed = read(model.read_bytes())
    no_ops = BLOCKS if parsed.has_int4_blocks else ""
    engine, profiler = Engine(model, threads=threads), None if no_ops else OpProfiler(library, model, threads)
    found = []
    for number, signature in enumerate(parsed.signatures):
        call = engine.call(signature.name)
        if profiler:
            profiler.open(number)
        whole, profiled = _in_turns(call.invoke, profiler.run if profiler else None, seconds)
        fast, median, p95 = (float(value) for value in np.percentile(whole, (FAST, 50, 95)))
        figures = {"signature": signature.name, "runs": len(whole), "ms": fast, "ms_median": median, "ms_p95": p95}
        slowdown, ops = 1.0, []
        if profiled:
            kernels, us, call_us = _kernel_times(profiled)
            slowdown = call_us / (fast * 1e3)
            ops = _op_times([op for op in parsed.ops if op.subgraph == signature.subgraph], parsed, kernels, us / slowdown)
        found.append({**figures, "slowdown": slowdown, "ops": ops})
    return {"runtime": engine.runtime, "signatures": found, "no_ops": no_ops}


def _in_turns(
    run: Callable[[], None], profile: Callable[[], ProfiledCall] | None, seconds: float
) -> tuple[list[float], list[ProfiledCall]]:
    """Calls without and with the profiler, by turns so that a slow moment of the machine hits both: wall-clock times, ms, and events."""
    times: list[float] = []
    profiled: list[ProfiledCall] = []
    end = time.perf_counter() + seconds
    while len(times) < MAX_RUNS and (len(times) < MIN_RUNS or time.perf_counter() < end):
        for number in range(WARM_UP + TURN):
            began = time.perf_counter()
            run()
            if number >= WARM_UP:
                times.append((time.perf_counter() - began) * 1e3)
        if profile:
            profiled += [profile() for _ in range(WARM_UP + TURN)][WARM_UP:]
    return times, profiled


def _kernel_times(calls: list[ProfiledCall]) -> tuple[tuple[KernelEvent, ...], NDArray[np.float64], float]:
    """The kernels of a call, what each took in the fastest calls, and what those calls took, us."""
    alike = sorted((call for call in calls if len(call.kernels) == len(calls[-1].kernels)), key=lambda call: call.us)
    fastest = alike[: max(1, round(FASTEST * len(alike)))]
    us = np.array([[event.us for event in call.kernels] for call in fastest], float)  # (calls, kernels)
    return fastest[0].kernels, us.mean(axis=0), max(float(np.mean([call.us for call in fastest])), 1.0)


def _op_times(ops: list[OpInfo], model: TfliteModel, events: tuple[KernelEvent, ...], us: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The fields of an `OpTime` for each op."""
    found = []
    for op, layer, places in zip(ops, layers(ops, model), kernels_of_ops(ops, events), strict=True):
        own = any(not events[place].in_xnnpack for place in places)
        kernel = " + ".join(dict.fromkeys(events[place].kernel for place in places))
        reason = delegation(op, model, RUNTIME).reason or "the runtime kept it from XNNPACK" if own else ""
        total = round(float(us[places].sum()), 2) if places else 0.0
        found.append({"name": op.name, "layer": layer, "us": total, "kernel": kernel, "delegated": not own, "reason": reason})
    return found


def main(arguments: list[str]) -> None:
    """Measures and writes the result file."""
    model, result, library, threads, seconds = arguments
    answer: dict[str, Any]
    try:
        answer = worker(Path(model), Path(library), int(threads), float(seconds))
    except EdgeLMError as error:
        answer = {"error": error.what, "allowed": error.allowed, "fix": error.fix}
    Path(result).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
