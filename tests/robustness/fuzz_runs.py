"""Runs the fuzz worker over many cases; starts it anew behind a case that killed it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

WORKER = Path(__file__).with_name("fuzz_worker.py")
BATCH_SECONDS = 600
MOST_DEATHS = 5


@dataclass
class Found:
    """What many cases ended in: `outcomes` counts them, `failures` are those that must not be, `peak` is the memory in bytes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak: int = 0


def fuzz(kind: str, source: Path, target: Path, *, seed: int, cases: int) -> Found:
    """Damages `source` in `cases` ways and reads each; `target` is a folder for the damaged models."""
    found, first = Found(), 0
    target.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    while first < cases and len(found.failures) < MOST_DEATHS:
        task = {"kind": kind, "source": str(source), "target": str(target), "seed": seed, "first": first, "last": cases}
        command = [sys.executable, str(WORKER), json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=BATCH_SECONDS, check=False)
        first = _take(done, found, first, cases)
    return found


def _take(done: subprocess.CompletedProcess[str], found: Found, first: int, cases: int) -> int:
    """Counts the outcomes; the case to go on with."""
    begun = first - 1
    for line in done.stdout.splitlines():
        word, number, *rest = line.split(maxsplit=2)
        if word == "begin":
            begun = int(number)
        elif word == "peak":
            found.peak = max(found.peak, int(number))
        else:
            result = rest[0]
            found.outcomes[result.split(":")[0]] += 1
            if result.startswith("escaped"):
                found.failures.append(f"case {number} {result}")
    if done.returncode == 0:
        return cases
    found.failures.append(f"case {begun} ended the process: {done.returncode} {done.stderr[-300:]}")
    return begun + 1
