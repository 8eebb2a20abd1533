"""Where the time of an artifact goes on this machine: by signature, by source layer, by op.

Two measurements meet here. Whole calls are timed without a profiler, as an app makes them. By turns with them, LiteRT's profiler tells
the ops apart (`edgelm.validate.op_profiler`), which slows the calls down: op times are scaled to the whole calls, and the factor is kept
(`slowdown`). The profiler cuts times to whole microseconds, so that ops do not add up to a call: the difference is `rest_us`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm import artifact as artifacts
from edgelm.device.runner import litert_library
from edgelm.errors import ArtifactError, RuntimeFailure
from edgelm.tflite.reader import read

OnStage = Callable[[str, int, int], None]
WORKER = "edgelm.validate.host_profile_worker"
PATIENCE_S = 300.0


@dataclass(frozen=True)
class OpTime:
    """One op of a signature.

    Attributes:
        name: Of the op in the file, such as `FULLY_CONNECTED`.
        layer: The source layer it came from, such as `layers.0`, `embedding`, `head`.
        us: Its part of an unprofiled call, microseconds; 0 for less than the profiler's microsecond.
        kernel: What ran it, such as `Fully Connected (NC, QD8, F32, QC8W) GEMM`; empty where it was fused into its neighbour.
        delegated: XNNPACK ran it.
        reason: Why XNNPACK did not.
    """

    name: str
    layer: str
    us: float
    kernel: str
    delegated: bool
    reason: str = ""


@dataclass(frozen=True)
class SignatureProfile:
    """One signature.

    Attributes:
        signature: Its name.
        runs: Calls that were timed without the profiler.
        ms: A call, 5th percentile, ms.
        ms_median: The median, ms.
        ms_p95: The 95th percentile, ms.
        slowdown: How many times as long the calls took whose ops were timed.
        ops: Each op that runs, in order; none where they could not be told apart.
    """

    signature: str
    runs: int
    ms: float
    ms_median: float
    ms_p95: float
    slowdown: float
    ops: tuple[OpTime, ...]

    @property
    def rest_us(self) -> float:
        """What of `ms` is in no op, us: the runtime's own work, and the parts of microseconds that the profiler cuts off."""
        return self.ms * 1e3 - sum(op.us for op in self.ops)

    @property
    def us_by_layer(self) -> dict[str, float]:
        """Microseconds of each source layer, in the order of the graph."""
        totals: dict[str, float] = {}
        for op in self.ops:
            totals[op.layer] = totals.get(op.layer, 0.0) + op.us
        return totals


@dataclass(frozen=True)
class HostProfile:
    """An artifact on this machine; `host_profile_report` shows it.

    Attributes:
        name: The artifact's, or the file's stem.
        runtime: Name and version.
        threads: Of the runtime.
        signatures: In the order of the file.
        no_ops: Why ops were not told apart; empty where they were.
    """

    name: str
    runtime: str
    threads: int
    signatures: tuple[SignatureProfile, ...]
    no_ops: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with basis and the rest of each signature."""
        plain = dataclasses.asdict(self)
        for values, signature in zip(plain["signatures"], self.signatures, strict=True):
            values["rest_us"] = round(signature.rest_us, 2)
        return {"schema": "edgelm-host-profile/1", "basis": "measured", **plain}


def profile_host(
    artifact: Path, *, threads: int = 1, seconds: float = 1.0, on_stage: OnStage = lambda stage, done, total: None
) -> HostProfile:
    """Times every signature of an artifact on this machine, whole and op by op, in a process of its own.

    Args:
        artifact: A folder or `.tflite` that edgelm wrote, or any `.tflite` with signatures.
        threads: Of the runtime.
        seconds: Time to spend on each signature.
        on_stage: Progress: stage, done, total.

    Raises:
        ArtifactError: No such file, it cannot be read, or has no signature.
        RuntimeFailure: The runtime cannot run it.
        MissingDependencyError: ai-edge-litert's C library is not installed.
    """
    file = artifact / artifacts.MODEL if artifact.is_dir() else artifact
    try:
        model = read(file.read_bytes())
    except OSError as error:
        raise ArtifactError(f"no artifact at {artifact}: {error.strerror}", fix="edgelm convert MODEL -o FOLDER") from error
    if not model.signatures:
        raise ArtifactError(f"{file} has no signature", allowed="a .tflite written by edgelm convert", fix="edgelm convert MODEL -o FOLDER")
    on_stage(f"timing {len(model.signatures)} signatures and their ops", 0, 0)
    name = artifact.name if artifact.is_dir() else artifact.stem
    found = _measured(file, threads, seconds)
    signatures = tuple(SignatureProfile(**{**one, "ops": tuple(OpTime(**op) for op in one["ops"])}) for one in found["signatures"])
    return HostProfile(name, found["runtime"], threads, signatures, found["no_ops"])


def _measured(file: Path, threads: int, seconds: float) -> dict[str, Any]:
    """What the worker process found; LiteRT's C library and its Python one are better not in one process with the rest."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "profile.json"
        command = [sys.executable, "-m", WORKER, str(file), str(result), str(litert_library()), str(threads), str(seconds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise RuntimeFailure(f"profiling {file.name} took over {error.timeout:.0f} s", fix="profile a smaller model") from error
        if not result.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeFailure(f"profiling {file.name} ended with code {done.returncode}: {last}")
        answer: dict[str, Any] = json.loads(result.read_text())
    if "error" in answer:
        raise RuntimeFailure(answer["error"], allowed=answer["allowed"], fix=answer["fix"])
    return answer
