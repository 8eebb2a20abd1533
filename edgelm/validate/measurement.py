"""Memory and time of a model on this machine, measured in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import RuntimeFailure

WORKER = "edgelm.validate.measure_worker"
PATIENCE_S = 300.0
"""Longest a model may take to load and warm up, s; 200 million parameters take under a tenth of it."""


@dataclass(frozen=True)
class Measurement:
    """What one model costs on this machine.

    Attributes:
        runtime: Name and version.
        threads: Of the runtime's pool.
        load_ms: Opening the file and preparing its first signature, ms; part of the fastest of a few tries, as is the next.
        first_token_ms: From opening the file to the first logits, ms.
        step_ms_best: The fastest step, ms: what other processes of the machine disturbed least.
        step_ms_median: One step, ms.
        step_ms_p95: 95th percentile, ms.
        runs: Steps that were timed.
        position: Tokens in the context when the timed steps began; a transformer's steps grow slower with it.
        load_mb: Growth of resident memory by loading, MB (10^6 bytes); None where the system does not say (no /proc).
        first_step_mb: Growth by loading and the first step, MB.
        peak_mb: The most the process grew by at any time, MB.
    """

    runtime: str
    threads: int
    load_ms: float
    first_token_ms: float
    step_ms_best: float
    step_ms_median: float
    step_ms_p95: float
    runs: int
    position: int
    load_mb: float | None
    first_step_mb: float | None
    peak_mb: float | None


def measure(model: Path, *, runtime: str = "ai-edge-litert", threads: int = 1, seconds: float = 3.0) -> Measurement:
    """Loads a model in a fresh process and times its steps.

    A process of its own is needed because the peak of memory use never goes down again, and because what the caller has loaded
    would be counted.

    Args:
        model: A .tflite file with signatures edgelm can run.
        runtime: `ai-edge-litert` or `tflite-runtime`.
        threads: Threads of the runtime's pool.
        seconds: Time to spend on timed steps.

    Raises:
        RuntimeFailure: The model cannot be loaded or run, or the process died of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "measurement.json"
        arguments = [str(model), str(result), runtime, str(threads), str(seconds)]
        command = [sys.executable, "-m", WORKER, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S + seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise RuntimeFailure(f"measuring {model.name} took over {error.timeout:.0f} s", fix="measure a smaller model") from error
        if not result.is_file():
            raise RuntimeFailure(f"measuring {model.name} on {runtime} {_death(done.returncode)}: {_last_line(done.stderr)}")
        answer = json.loads(result.read_text())
    if "error" in answer:
        raise RuntimeFailure(answer["error"], allowed=answer["allowed"], fix=answer["fix"])
    return Measurement(**answer)


def _death(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with code {returncode}"
    return f"died of {signal.Signals(-returncode).name}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
