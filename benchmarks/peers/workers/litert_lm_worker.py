"""LiteRT-LM: times litert-torch's bundle by its own benchmark command, which takes a prompt and the tokens after it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from job import Job

PROGRAM = Path(sys.executable).with_name("litert-lm")


def benchmark(job: Job, prefill: int, decode: int) -> tuple[float, float]:
    """Milliseconds of the prompt, and of a token after it."""
    words = ["--backend", "cpu", "--cpu-thread-count", str(job.threads), "--prefill-tokens", str(prefill), "--decode-tokens", str(decode)]
    words += ["--max-num-tokens", str(job.context)]
    done = subprocess.run([PROGRAM, "benchmark", job.artifact / "model.litertlm", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return 1e3 * prefill / rate(done.stdout, "Prefill speed"), 1e3 / rate(done.stdout, "Decode speed")


def rate(text: str, name: str) -> float:
    """Tokens a second of a line such as `Prefill speed: 210.50 tokens/s`."""
    found = re.search(name + r"[^\d]*([\d.]+)", text, re.IGNORECASE)
    if not found:
        raise SystemExit(f"litert-lm benchmark prints no {name}: {text[-200:]}")
    return float(found[1])


def main() -> None:
    """Items of a plan are put together: a prefill and a decode each take one call."""
    verb, job, result = sys.argv[1], Job.read(Path(sys.argv[2])), Path(sys.argv[3])
    if verb != "time":
        raise SystemExit(f"LiteRT-LM's benchmark cannot do {verb}")
    timed: dict[str, list[float]] = {}
    for kind, size, *counts in job.plan:
        prefill, decode = benchmark(job, size, counts[1] if kind == "decode" else 1)
        timed[f"{kind}:{size}"] = [decode if kind == "decode" else prefill]
    result.write_text(json.dumps({"load_ms": 0.0, "timed": timed}))


if __name__ == "__main__":
    main()
