"""The proof that an artifact computes on arm64 cores what it computes here, which kernels it uses there, and how many instructions.

Each signature is called with what an app gives it (`arm64_calls`), on each class of cores, and the answers are held against LiteRT's
on this host. The cores are emulated (`edgelm.device.emulator`): figures are the same every time, and no time is measured.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from edgelm.device import emulator
from edgelm.device.emulator import Machine
from edgelm.device.profile import DeviceProfile
from edgelm.errors import EmulatorError
from edgelm.report import Check, Report, Table
from edgelm.tflite import reader
from edgelm.tflite.reader import SignatureInfo
from edgelm.validate.arm64_calls import RecordedCall, Tensors, calls_of, record
from edgelm.validate.arm64_limits import LIMITS, Limit, arithmetic_of
from edgelm.validate.arm64_report import TITLE, Job, Result, blocks_table, checks, core_table, signature_table

OnStage = Callable[[str, int, int], None]

ISAS = ("neon", "dotprod", "i8mm")
"""Of device profiles: those of arm64."""

BUDGET_S = 180.0
"""Emulated seconds one process after the other that a proof may take, estimated; signatures beyond it are left out and named."""

PATIENCE_S = 1800.0
REPEATS, CHUNK_REPEATS = 2, 1
"""Runs of a call with one token, whose first run would be counted with what it sets up, and of one with a chunk, where that is nothing."""


@dataclass(frozen=True)
class Proof:
    """What the report says."""

    checks: tuple[Check, ...]
    tables: tuple[Table, ...]


def prove(tflite: bytes, machine: Machine, on_stage: OnStage, *, budget_s: float = BUDGET_S) -> Proof:
    """Runs an artifact's signatures on every core of a machine.

    Args:
        tflite: The file.
        machine: What runs arm64 code.
        on_stage: Progress: stage, done, total.
        budget_s: What it may cost, estimated; the first signature always runs.

    Returns:
        For each core a check of the differences and, where they were counted, the instructions of a token; and the tables behind them.

    Raises:
        RuntimeFailure: The file cannot be run on this host.
    """
    model = reader.read(tflite)
    if model.has_int4_blocks:
        return Proof((Check(TITLE, "not run", basis="read"),), (blocks_table(),))
    arithmetic = arithmetic_of(model)
    limit = LIMITS[arithmetic]
    tokens = {signature.name: _tokens(signature) for signature in model.signatures}
    with tempfile.TemporaryDirectory(prefix="edgelm-arm64.") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(tflite)
        on_stage("running it here for the arm64 proof", 0, 0)
        chosen, seconds = _affordable(model.signatures, len(tflite), len(machine.cores), budget_s)
        calls = record(path, chosen)
        stage = f"proving it on arm64 cores (about {seconds:.0f} s)"
        results: list[Result] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [Job(core, name, tokens[name]) for core in machine.cores for name in calls]
            for result in pool.map(lambda job: _result(job, machine, path, calls[job.signature], limit), jobs):
                on_stage(stage, len(results), len(jobs))
                results.append(result)
    left_out = [name for name in tokens if name not in calls]
    found = tuple(check for core in machine.cores for check in checks(core, results, limit))
    return Proof(found, (core_table(machine, results, arithmetic, left_out), signature_table(results)))


def report(path: Path, machine: Machine, on_stage: OnStage) -> Report:
    """The proof alone, of any .tflite with signatures edgelm can run.

    Raises:
        ArtifactError: It is damaged.
        RuntimeFailure: It cannot be run on this host.
    """
    proof = prove(path.read_bytes(), machine, on_stage)
    words = ("computes the same on arm64 cores", "computes something else on arm64 cores")
    return Report(f"{path.name} on arm64 cores", (("machine", machine.title),), proof.checks, proof.tables, words=words)


def machine_for(profile: DeviceProfile) -> tuple[Machine | None, tuple[str, ...]]:
    """What runs an artifact for that device on arm64 cores here, or a note why nothing does; neither for other devices.

    Args:
        profile: The device and the runtime it ships.
    """
    if profile.device.isa not in ISAS or profile.runtime.name != emulator.RUNTIME:
        return None, ()
    try:
        machine = emulator.find()
    except EmulatorError as error:
        return None, (f"{TITLE} not run: {error.what}; {error.fix}",)
    return machine, () if machine else (f"{TITLE} not run; {emulator.SETUP} fetches the emulator (100 MB)",)


def _affordable(signatures: Sequence[SignatureInfo], nbytes: int, cores: int, budget_s: float) -> tuple[tuple[str, ...], float]:
    """The signatures that fit into the budget, cheapest first, and what they cost, s; the first of them in any case."""
    costs = {signature.name: cores * _seconds(signature, nbytes, len(signatures)) for signature in signatures}
    chosen: list[str] = []
    spent = 0.0
    for name in sorted(costs, key=lambda name: costs[name]):
        if chosen and spent + costs[name] > budget_s:
            break
        chosen.append(name)
        spent += costs[name]
    return tuple(chosen), spent / (os.cpu_count() or 1)


def _seconds(signature: SignatureInfo, nbytes: int, signatures: int) -> float:
    """What one signature costs under QEMU on a desktop core.

    Measured on the bundled models: 0.1 s a MB to pack the weights of a signature, 0.03 s a MB and token, int8 and float32 alike.
    """
    tokens = _tokens(signature)
    return 0.5 + nbytes / 1e6 * (0.1 * signatures + 0.03 * _repeat(tokens) * tokens * calls_of(signature.name))


def _tokens(signature: SignatureInfo) -> int:
    """Tokens a call takes."""
    return max((math.prod(tensor.shape) for tensor in signature.inputs.values() if tensor.dtype.startswith("int")), default=1)


def _repeat(tokens: int) -> int:
    return CHUNK_REPEATS if tokens > 1 else REPEATS


def _result(job: Job, machine: Machine, model: Path, recorded: Sequence[RecordedCall], limit: Limit) -> Result:
    inputs = [call.inputs for call in recorded]
    try:
        run = machine.run(job.core, model, job.signature, inputs, repeat=_repeat(job.tokens), timeout=PATIENCE_S)
    except EmulatorError as error:
        return Result(job, error=error)
    pairs = [(call.outputs, outputs) for call, outputs in zip(recorded, run.outputs, strict=True)]
    counts = {name: int(median(count[name] for count in run.counts)) for name in run.counts[0]} if run.counts else None
    return Result(
        job,
        tuple(_difference(here, there) for here, there in pairs),
        all(same_choice(here, there, limit) for here, there in pairs),
        counts,
    )


def _difference(here: Tensors, there: Tensors) -> float:
    """The largest difference of an output, relative to its largest value here; infinite where one is no number."""
    worst = 0.0
    for name, expected in here.items():
        found = there[name].astype(np.float64)
        if not np.isfinite(found).all():
            return float("inf")
        scale = float(np.abs(expected.astype(np.float64)).max()) or 1.0
        worst = max(worst, float(np.abs(found - expected).max()) / scale)
    return worst


def same_choice(here: Tensors, there: Tensors, limit: Limit) -> bool:
    """Whether the likeliest token is the same, or one that is as likely here within the limit."""
    name = "logits" if "logits" in here else next(iter(here))  # a graph converted as it is has one output
    expected = here[name].reshape(-1, here[name].shape[-1])  # (positions, vocab)
    choice = there[name].reshape(expected.shape).argmax(axis=-1)
    gap = expected.max(axis=-1) - expected[np.arange(len(expected)), choice]
    return bool((gap <= limit.relative * np.abs(expected).max()).all())
