"""One measurement is one fresh process: how it is started for each kind of host, and what is read from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import EdgeLMError
from peers import models
from peers.cells import ENVIRONMENT, LITERT_LM, LLAMA, OURS_NATIVE, WORKER, Cell
from peers.environments import ENVIRONMENTS, HOME, WORKERS, PeerUnavailableError, last_words
from peers.machine import Others

PROMPT, CHAT = 32, 128
"""Tokens of the prompt of a start, and of a session with the prompt."""
DEEP = 512
"""Tokens before a deep decode; models of no more positions have none."""
SPOKEN, SPOKEN_PREFILL = 48, 40
"""Tokens whose logits are compared: so many in one call, the others one by one."""

Item = tuple[Any, ...]
PLANS: Mapping[tuple[str, str], tuple[Item, ...]] = {
    ("recurrent", "time"): (("decode", 0, 50, 400),),
    ("transformer", "time"): (("prefill", 128, 3), ("decode", 100, 4, 20)),
    ("transformer", "deep"): (("prefill", DEEP, 1), ("decode", DEEP, 2, 12)),
}
"""Family and verb -> what a process does: ("prefill", tokens, times), ("decode", depth, warm-up, steps)."""

VERBS = ("time", "deep", "start", "session", "launch")
"""`start`: a fresh process to the first token; `session`: peak memory; `launch`: edgelm's native host without its weight cache."""
PATIENCE_S = 1800.0
AMX = "EDGELM_BENCH_AMX"
"""Environment variable, set by `--amx`: processes may use the CPU's matrix unit. Otherwise the kernel refuses it to all of them."""


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Attributes:
        seconds: From its start to its end.
        peak_mb: The most memory it held, MB of 10^6 bytes.
        others: Cores that other processes used meanwhile.
    """

    seconds: float
    peak_mb: float
    others: float


def run(command: Sequence[str | Path]) -> Finished:
    """Runs a command to its end.

    Raises:
        PeerUnavailableError: It failed; its last words are the message.
    """
    others = Others()
    environment = {**os.environ, "PYTHONPATH": str(WORKERS), "TOKENIZERS_PARALLELISM": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        result, said = Path(folder, "took.json"), Path(folder, "output")
        launcher = [sys.executable, "-S", "-E", WORKERS / "launch.py", result, *([] if AMX in os.environ else ["--no-amx"]), *command]
        with said.open("wb") as output:
            subprocess.run([str(word) for word in launcher], stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
        words = last_words(said.read_text(errors="replace"))
        if not result.exists():
            raise PeerUnavailableError(f"{Path(command[0]).name} cannot be started: {words}")
        took = json.loads(result.read_text())
    if took["code"]:
        raise PeerUnavailableError(f"{Path(command[0]).name} ended with {took['code']}: {words}")
    return Finished(took["seconds"], took["peak_mb"], others.cores(took["cpu_seconds"]))


def measure(cell: Cell, verb: str, threads: int) -> dict[str, Any]:
    """One measurement: figure -> milliseconds (a list for what was repeated) or MB, and `others`.

    Raises:
        PeerUnavailableError: The process failed.
    """
    hosts: Mapping[str, Callable[[Cell, str, int], dict[str, Any]]] = {OURS_NATIVE: by_runner, LLAMA: by_llama_host}
    return hosts.get(cell.peer, by_worker)(cell, verb, threads)


def verbs_of(cell: Cell) -> tuple[str, ...]:
    """The measurements a cell has."""
    found = ["time", "deep"] if cell.spec.family == "transformer" and models.SHAPES[cell.model].context > DEEP else ["time"]
    if cell.peer == LITERT_LM:
        return tuple(found)
    if cell.host == "native":
        found.append("start")
    found.append("session")
    return (*found, "launch") if cell.peer == OURS_NATIVE else tuple(found)


def python_of(cell: Cell) -> Path:
    """The interpreter of the cell's worker."""
    if cell.peer in ENVIRONMENT:
        return ENVIRONMENTS[ENVIRONMENT[cell.peer]].python
    return HOME.parents[1] / ".venv" / "bin" / "python"


def work(cell: Cell, verb: str, threads: int, **given: Any) -> tuple[dict[str, Any], Finished]:
    """Runs the cell's worker; its result."""
    shape = models.SHAPES[cell.model]
    ids = models.prompt(cell.spec, shape.context)
    job = {
        "model": cell.model,
        "form": cell.form,
        "source": str(cell.source),
        "artifact": str(cell.artifact),
        "family": cell.spec.family,
        "context": shape.context,
        "threads": threads,
        "ids": ids,
        "prefill": PROMPT,
        "plan": [],
        "logits": "",
        **given,
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, result = Path(folder, "job.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(job))
        finished = run([python_of(cell), WORKERS / f"{WORKER[cell.peer]}.py", verb, asked, result])
        return json.loads(result.read_text()), finished


def by_worker(cell: Cell, verb: str, threads: int) -> dict[str, Any]:
    """A host in Python."""
    if verb == "session":
        found, finished = work(cell, "session", threads, ids=models.prompt(cell.spec, CHAT))
        return {**found, "peak_mb": finished.peak_mb, "others": finished.others}
    found, finished = work(cell, "time", threads, plan=PLANS[cell.spec.family, verb])
    return {**found["timed"], "load_ms": found["load_ms"], "others": finished.others}


def by_llama_host(cell: Cell, verb: str, threads: int) -> dict[str, Any]:
    """llama.cpp's native host."""
    program = ENVIRONMENTS["llama"].folder / "bin" / "llama_host"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out")
        common = [program, {"start": "tokens", "session": "tokens"}.get(verb, "time"), cell.artifact, "--threads", str(threads)]
        if verb in ("start", "session"):
            return of_process(verb, run([*common, "--ids", ids(cell, verb), "--prefill", str(PROMPT), "--outputs", target]))
        plan = ",".join(item_text(item) for item in PLANS[cell.spec.family, verb])
        finished = run([*common, "--ids", joined(models.prompt(cell.spec, 640)), "--plan", plan, "--json", target])
        found = json.loads(target.read_text())
        return {**found["timed"], "load_ms": found["load_ms"], "others": finished.others}


def by_runner(cell: Cell, verb: str, threads: int) -> dict[str, Any]:
    """Edgelm's native runner, with its weight cache; `launch` is the first start, which writes the cache."""
    cache = cell.artifact.with_suffix(f".{threads}{'.amx' if AMX in os.environ else ''}.weights")  # LiteRT aborts at the other kind
    common = [cell.artifact, "--threads", str(threads), "--weight-cache", cache]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out")
        if verb in ("start", "session", "launch"):
            if verb == "launch":
                cache.unlink(missing_ok=True)
            words = ["--ids", ids(cell, verb), "--prefill", str(PROMPT), "--outputs", target]
            return of_process(verb, run([runner(), "tokens", *common, *words]))
        found: dict[str, Any] = {}
        others = 0.0
        for kind, depth, *counts in PLANS[cell.spec.family, verb]:
            warm_up, steps = counts if kind == "decode" else (0, 1)
            finished = run(
                [runner(), "bench", *common, "--prompt", str(depth), "--warmup", str(warm_up), "--tokens", str(steps), "--json", target]
            )
            report = json.loads(target.read_text())
            found |= {f"{kind}:{depth}": timed_by_runner(report, kind), "load_ms": report["load_ms"]}
            others = max(others, finished.others)
        return {**found, "others": others}


def timed_by_runner(report: Mapping[str, Any], kind: str) -> list[float]:
    """Milliseconds out of a profile report.

    Raises:
        PeerUnavailableError: The runner took the prompt one by one.
    """
    if kind == "decode":
        return [ms for times in report["decode"]["signature_ms"].values() for ms in times]
    if not report["prefill"]:
        raise PeerUnavailableError("the artifact has no prefill for a prompt of this length")
    return list(report["prefill"]["ms"])


def of_process(verb: str, finished: Finished) -> dict[str, Any]:
    """What a whole process of a native host tells."""
    figure = {"start": {"start_ms": 1e3 * finished.seconds}, "launch": {"launch_ms": 1e3 * finished.seconds}}.get(verb, {})
    return {**figure, **({"peak_mb": finished.peak_mb} if verb == "session" else {}), "others": finished.others}


def runner() -> Path:
    """The native runner, built when it is not there yet.

    Raises:
        PeerUnavailableError: It cannot be built here.
    """
    from edgelm.device.runner import BLOCKS_VERSION, host_runner

    library = next((ENVIRONMENTS[ENVIRONMENT[OURS_NATIVE]].folder / "lib").glob("python*/site-packages/ai_edge_litert/libLiteRt.so"), None)
    if library is None:
        raise PeerUnavailableError("its LiteRT is not installed: python benchmarks/bench.py prepare")
    try:
        return host_runner(HOME / "cache", library=library, version=BLOCKS_VERSION)
    except EdgeLMError as error:
        raise PeerUnavailableError(str(error)) from error


def spoken(cell: Cell) -> NDArray[np.float32]:
    """The logits (calls, vocab) of the cell to the tokens that the reference was given, too.

    Raises:
        PeerUnavailableError: The process failed.
    """
    tokens = models.prompt(cell.spec, SPOKEN)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "logits.npy")
        if cell.peer not in (LLAMA, OURS_NATIVE):
            work(cell, "logits", 1, ids=tokens, prefill=SPOKEN_PREFILL, logits=str(target))
            return np.asarray(np.load(target), np.float32)
        program = runner() if cell.peer == OURS_NATIVE else ENVIRONMENTS["llama"].folder / "bin" / "llama_host"
        run([program, "tokens", cell.artifact, "--ids", joined(tokens), "--prefill", str(SPOKEN_PREFILL), "--outputs", target])
        return np.fromfile(target, np.float32).reshape(-1, cell.spec.vocab_size)


def ids(cell: Cell, verb: str) -> str:
    """The tokens of a verb, as a native host takes them."""
    return joined(models.prompt(cell.spec, CHAT if verb == "session" else PROMPT))


def joined(tokens: Sequence[int]) -> str:
    """Such as `5,17,3`."""
    return ",".join(map(str, tokens))


def item_text(item: Item) -> str:
    """An item of a plan as `llama_host` reads it, such as `decode:100+4+20`."""
    kind, size, *counts = item
    return f"{kind}:{size}" + ("x" if kind == "prefill" else "+") + "+".join(map(str, counts))
