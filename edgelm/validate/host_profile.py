"""Where the time of an artifact goes on this machine: by signature, by source layer, by op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class OpTime:
    """One op of a signature.

    Attributes:
        name: Of the op in the file, such as `FULLY_CONNECTED`.
        layer: The source layer it came from, such as `layers.0`, `embedding`, `head`.
        us: Time of one run, microseconds; 0 for less than the profiler's microsecond.
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
        ms: A call, lower quartile, ms.
        ms_median: The median, ms.
        ms_p95: The 95th percentile, ms.
        ops: Each op that runs, in order, with times of profiled calls.
        rest_us: What of `ms` is in no op: the runtime's own work, and the parts of a microsecond that the profiler cuts off.
    """

    signature: str
    runs: int
    ms: float
    ms_median: float
    ms_p95: float
    ops: tuple[OpTime, ...]
    rest_us: float


@dataclass(frozen=True)
class HostProfile:
    """An artifact on this machine; `host_profile_report.report` and `report_flame.render_flame` show it."""

    name: str
    runtime: str
    threads: int
    load_ms: float
    signatures: tuple[SignatureProfile, ...]


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
        ArtifactError: No such file, or it cannot be read.
        RuntimeFailure: The runtime cannot run it.
    """
    raise NotImplementedError
