"""What every worker shares: a job comes in as JSON, its result goes out as JSON. Runs in the peers' environments: NumPy only.

    python WORKER.py VERB JOB.json RESULT.json

VERB `convert` writes the artifact from the source folder; `logits` saves what the model says to a few tokens; `time` follows a plan
of prefills and decodes; `session` is a short chat, for memory and start-up. A worker gives `run` a function that opens a session.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        model: `m1`, `m2`, `m3`, or a bundled one.
        family: `recurrent` or `transformer`.
        form: How the peer stores the weights, such as `int8`.
        source: The folder the peer converts from.
        artifact: What it converts to: a file or a folder.
        context: Slots of the cache.
        threads: Of the peer.
        ids: Tokens.
        prefill: How many of them are taken in one call, by `logits` and `session`.
        plan: By `time`: ("prefill", tokens, times) and ("decode", depth, warm-up, steps).
        logits: Where `logits` saves its rows.
    """

    model: str
    family: str
    form: str
    source: Path
    artifact: Path
    context: int
    threads: int
    ids: tuple[int, ...]
    prefill: int
    plan: tuple[tuple[Any, ...], ...]
    logits: Path

    @classmethod
    def read(cls, path: Path) -> Job:
        """From the JSON that the benchmark wrote."""
        plain = json.loads(path.read_text())
        paths = {name: Path(plain.pop(name)) for name in ("source", "artifact", "logits")}
        return cls(**plain | paths | {"ids": tuple(plain["ids"]), "plan": tuple(tuple(item) for item in plain["plan"])})


class Session(Protocol):
    """A loaded model in the middle of a text."""

    def reset(self) -> None:
        """Forgets the text."""

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """Takes tokens in one call (or one by one where the peer has no prefill); the logits (vocab,) after the last."""


Open = Callable[[Job], Session]
Convert = Callable[[Job], Mapping[str, float] | None]
"""Writes the artifact; seconds of its stages where it counts them."""


def run(convert: Convert, open_session: Open) -> None:
    """The worker's main function."""
    verb, job, result = sys.argv[1], Job.read(Path(sys.argv[2])), Path(sys.argv[3])
    verbs: Mapping[str, Callable[[], dict[str, Any]]] = {
        "convert": lambda: converted(job, convert),
        "logits": lambda: spoken(job, open_session(job)),
        "time": lambda: timed(job, open_session),
        "session": lambda: chat(job, open_session),
    }
    result.write_text(json.dumps(verbs[verb]()))


def converted(job: Job, convert: Convert) -> dict[str, Any]:
    """Seconds of the conversion in this process; the caller counts those of the whole process and its memory."""
    start = time.perf_counter()
    stages = convert(job) or {}
    return {"seconds": time.perf_counter() - start, "bytes": size(job.artifact), "stages": dict(stages)}


def spoken(job: Job, session: Session) -> dict[str, Any]:
    """Saves float32 logits: a row after the prefill, one after each further token."""
    rows = [np.array(session.take(job.ids[: job.prefill]), np.float32).ravel()]
    rows += [np.array(session.take([token]), np.float32).ravel() for token in job.ids[job.prefill :]]
    np.save(job.logits, np.stack(rows))
    return {"rows": len(rows)}


def timed(job: Job, open_session: Open) -> dict[str, Any]:
    """Milliseconds of each item of the plan."""
    start = time.perf_counter()
    session = open_session(job)
    load = since(start)
    session.take(job.ids[:1])
    return {"load_ms": load, "timed": {f"{item[0]}:{item[1]}": follow(job, session, item) for item in job.plan}}


def follow(job: Job, session: Session, item: tuple[Any, ...]) -> list[float]:
    """Milliseconds of the runs of one item.

    Raises:
        ValueError: The job has too few tokens for it.
    """
    needed = item[1] if item[0] == "prefill" else sum(item[1:])
    if needed > len(job.ids):
        raise ValueError(f"{item} wants {needed} tokens, the job has {len(job.ids)}")
    found = []
    if item[0] == "prefill":
        _, tokens, times = item
        for _ in range(times):
            session.reset()
            start = time.perf_counter()
            session.take(job.ids[:tokens])
            found.append(since(start))
        return found
    _, depth, warm_up, steps = item
    session.reset()
    if depth:
        session.take(job.ids[:depth])
    for i in range(warm_up + steps):
        start = time.perf_counter()
        session.take(job.ids[depth + i : depth + i + 1])
        if i >= warm_up:
            found.append(since(start))
    return found


def chat(job: Job, open_session: Open) -> dict[str, Any]:
    """A prompt and the tokens after it; milliseconds from the start of loading to the first logits, cold and once more warm."""
    before = resident_mb()
    start = time.perf_counter()
    session = open_session(job)
    session.take(job.ids[: job.prefill])
    first = since(start)
    for token in job.ids[job.prefill :]:
        session.take([token])
    session.reset()
    start = time.perf_counter()
    session.take(job.ids[: job.prefill])
    return {"first_ms": first, "warm_first_ms": since(start), "before_mb": before, "peak_mb": peak_mb()}


def since(start: float) -> float:
    """Milliseconds."""
    return 1e3 * (time.perf_counter() - start)


def resident_mb() -> float:
    """Resident memory of this process, MB of 10^6 bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def peak_mb() -> float:
    """The most this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder that hold the model (external weights count, tokenizers do not, in any peer)."""
    if path.is_file():
        return path.stat().st_size - attached_tokenizer(path)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and ("onnx" in file.name or file.suffix == ".tflite"))


def attached_tokenizer(path: Path) -> int:
    """Bytes of the tokenizer that edgelm attaches to a .tflite as in a ZIP archive."""
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as attached:
        return sum(entry.compress_size for entry in attached.infolist() if entry.filename == "tokenizer.json")


def llama_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face folder in float32, by the checkpoint's names."""
    plain = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        found[name] = widened(np.frombuffer(plain, np.uint16, (end - start) // 2, 8 + length + start)).reshape(entry["shape"])
    return found


def lstm_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of edgelm's own folder, float32, by canonical names."""
    plain = next(folder.glob("*.safetensors")).read_bytes()
    length = int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(plain, np.float32, int(np.prod(entry["shape"])), 8 + length + entry["data_offsets"][0]).reshape(entry["shape"])
        for name, entry in header.items()
    }


def recurrent_layers(weights: Mapping[str, np.ndarray]) -> int:
    """How many layers an LSTM has."""
    return sum(name.endswith("recurrent.weight") for name in weights)


def linear_layers(weights: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (outputs, inputs) and biases of the linear layers between the last LSTM and the head."""
    count = sum(name.startswith("hidden.") and name.endswith(".weight") for name in weights)
    return [(weights[f"hidden.{n}.weight"], weights[f"hidden.{n}.bias"]) for n in range(count)]


def widened(bits: np.ndarray) -> np.ndarray:
    """Float32 of bfloat16 bit patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
