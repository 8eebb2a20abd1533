"""The process behind `measurement.measure`: `python -m edgelm.validate.measure_worker MODEL RESULT RUNTIME THREADS SECONDS`.

Writes a JSON object to the file RESULT, as the runtimes write to stdout and stderr: the fields of `Measurement`, or `error`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import EdgeLMError
from edgelm.runtime.base import Session
from edgelm.runtime.engine import RUNTIMES
from edgelm.runtime.session import open_session
from edgelm.validate.measurement import Measurement

STATUS = Path("/proc/self/status")
WARM_UP_STEPS = 3
MIN_RUNS = 5
PROBE_TOKENS = 4096
PROBE_SEED = 7
FILL_CHUNK = 64
MAX_LOADS = 5
RELOAD_MS = 1000.0
"""A model is loaded again until so much time went into it: one load alone is easily disturbed by other processes."""


def worker(model: Path, runtime: str, threads: int, seconds: float) -> Measurement:
    """Loads a model and times its steps, in this process; `measurement.measure` says what comes out.

    Raises:
        RuntimeFailure: The model cannot be loaded or run.
    """
    importlib.import_module(RUNTIMES.get(runtime, "numpy"))  # the runtime's own code shall not count as the model's
    before = _memory_mb("VmRSS")
    session, loads = _load(model, runtime, threads)
    first_mb = _memory_mb("VmRSS")
    tokens = np.random.default_rng(PROBE_SEED).integers(0, session.vocab_size, PROBE_TOKENS).tolist()
    position = _fill_context(session, tokens, seconds)
    times = _timed_steps(session, tokens, seconds)
    peak_mb = _memory_mb("VmHWM")
    while len(loads) < MAX_LOADS and sum(one.first_token_ms for one in loads) < RELOAD_MS:
        loads += _load(model, runtime, threads)[1]
    fastest = min(loads, key=lambda one: one.first_token_ms)

    def growth(now: float | None) -> float | None:
        return None if now is None or before is None else max(now - before, 0.0)

    return Measurement(
        runtime=session.runtime,
        threads=threads,
        load_ms=fastest.load_ms,
        first_token_ms=fastest.first_token_ms,
        step_ms_best=min(times),
        step_ms_median=float(np.median(times)),
        step_ms_p95=float(np.percentile(times, 95)),
        runs=len(times),
        position=position,
        load_mb=growth(loads[0].resident_mb),
        first_step_mb=growth(first_mb),
        peak_mb=growth(peak_mb),
    )


@dataclass(frozen=True)
class _Load:
    """One time a model was loaded."""

    load_ms: float
    first_token_ms: float
    resident_mb: float | None


def _load(model: Path, runtime: str, threads: int) -> tuple[Session[Any], list[_Load]]:
    began = time.perf_counter()
    session = open_session(model, runtime=runtime, threads=threads)
    loaded, resident_mb = time.perf_counter(), _memory_mb("VmRSS")
    session.step(0)
    ended = time.perf_counter()
    return session, [_Load((loaded - began) * 1e3, (ended - began) * 1e3, resident_mb)]


def _fill_context(session: Session[Any], tokens: list[int], seconds: float) -> int:
    """Fills three quarters of a context that has an end, where steps are slowest, or as much as `seconds` allow; the position reached."""
    session.reset()
    wanted = min(3 * session.max_positions // 4, len(tokens)) if session.max_positions else 0
    deadline = time.perf_counter() + seconds
    while session.position < wanted and time.perf_counter() < deadline:
        session.prefill(tokens[session.position : min(session.position + FILL_CHUNK, wanted)])
    return session.position


def _timed_steps(session: Session[Any], tokens: list[int], seconds: float) -> list[float]:
    """Times of steps, ms: after a warm-up, for `seconds`, at least `MIN_RUNS`; a full context goes back to where it was."""
    start = session.snapshot()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    for run in range(WARM_UP_STEPS + len(tokens)):
        if session.max_positions is not None and session.position >= session.max_positions:
            session.restore(start)
        began = time.perf_counter()
        session.step(tokens[run % len(tokens)])
        ended = time.perf_counter()
        if run >= WARM_UP_STEPS:
            times.append((ended - began) * 1e3)
        if ended > deadline and len(times) >= MIN_RUNS:
            break
    return times


def _memory_mb(field: str) -> float | None:
    """`VmRSS` (resident now) or `VmHWM` (its peak) of this process, MB; None where there is no /proc."""
    if not STATUS.is_file():
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else None


def main(arguments: list[str]) -> None:
    """Measures and writes the result file."""
    model, result, runtime, threads, seconds = arguments
    answer: dict[str, Any]
    try:
        answer = dataclasses.asdict(worker(Path(model), runtime, int(threads), float(seconds)))
    except EdgeLMError as error:
        answer = {"error": error.what, "allowed": error.allowed, "fix": error.fix}
    Path(result).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
