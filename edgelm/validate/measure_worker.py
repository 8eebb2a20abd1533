"""Measures memory and time of one model in a process of its own: `python -m edgelm.validate.measure_worker MODEL RESULT ...`.

A fresh process is needed because the peak of memory use never goes down again, and because the caller's other models would be counted.
The result is a JSON object of `Measurement`'s fields, written to the file RESULT (the runtimes write to stdout and stderr).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelm.errors import EdgeLMError

if TYPE_CHECKING:
    from edgelm.runtime.base import Session

STATUS = Path("/proc/self/status")
WARM_UP_STEPS = 3
MIN_RUNS = 5
MAX_RUNS = 5000
PROBE_SEED = 7


@dataclass(frozen=True)
class Measurement:
    """What one model costs on this machine.

    Attributes:
        runtime: Name and version.
        threads: Of the runtime's pool.
        load_ms: Opening the file and preparing the first signature, ms.
        first_token_ms: From opening the file to the first logits, ms.
        step_ms_median: One step, ms.
        step_ms_p95: 95th percentile, ms.
        runs: Steps that were timed.
        position: Tokens in the context when the timed steps began; steps of a transformer grow slower with it.
        load_mb: Growth of resident memory by loading, MB (10^6 bytes); None where the system does not say (no /proc).
        first_step_mb: Growth by loading and the first step, MB.
        peak_mb: The most the process grew by at any time, MB.
    """

    runtime: str
    threads: int
    load_ms: float
    first_token_ms: float
    step_ms_median: float
    step_ms_p95: float
    runs: int
    position: int
    load_mb: float | None
    first_step_mb: float | None
    peak_mb: float | None


def measure(model: Path, runtime: str, threads: int, seconds: float) -> Measurement:
    """Loads a model and times its steps; see `Measurement`.

    Args:
        model: A .tflite file.
        runtime: `ai-edge-litert` or `tflite-runtime`.
        threads: Threads of the runtime's pool.
        seconds: Time to spend on timed steps, at least `MIN_RUNS` of them.

    Raises:
        RuntimeFailure: The model cannot be loaded or run.
    """
    from edgelm.runtime.engine import _interpreter_class  # importing the runtime must not count as the model's memory or time
    from edgelm.runtime.session import open_session

    _interpreter_class(runtime)
    before = _memory_mb("VmRSS")
    began = time.perf_counter()
    session = open_session(model, runtime=runtime, threads=threads)
    loaded, loaded_mb = time.perf_counter(), _memory_mb("VmRSS")
    session.step(0)
    first, first_mb = time.perf_counter(), _memory_mb("VmRSS")
    times, position = _timed_steps(session, seconds)
    peak = _memory_mb("VmHWM")

    def growth(now: float | None) -> float | None:
        return None if now is None or before is None else max(now - before, 0.0)

    return Measurement(
        runtime=session.runtime,
        threads=threads,
        load_ms=(loaded - began) * 1e3,
        first_token_ms=(first - began) * 1e3,
        step_ms_median=float(np.median(times)),
        step_ms_p95=float(np.percentile(times, 95)),
        runs=len(times),
        position=position,
        load_mb=growth(loaded_mb),
        first_step_mb=growth(first_mb),
        peak_mb=growth(peak),
    )


def _timed_steps(session: Session[Any], seconds: float) -> tuple[list[float], int]:
    """Times of steps with random tokens, ms, behind a context that is as long as the model allows (or empty if it has no end)."""
    tokens = np.random.default_rng(PROBE_SEED).integers(0, session.vocab_size, MAX_RUNS).tolist()
    room = session.max_positions
    position = max(room - room // 4, 0) if room else 0  # the last quarter of a transformer's context: its longest rung
    session.reset()
    for token in tokens[:WARM_UP_STEPS] if not position else tokens[:position]:
        session.step(token)
    return _steps_from(session, tokens, seconds, position)
