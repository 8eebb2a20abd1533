"""What a run on a device measured: the JSON report `edgelm-profile/1`, read strictly, and its statistics.

The command-line runner, the demo app's benchmark screen and the profiling of this host write the same file, so that a phone without
a cable is as good as one with: `edgelm profile --import report.json` and `edgelm profiles calibrate report.json` read all of them::

    {"schema": "edgelm-profile/1",
     "made_by": "runner",                     # or app, host
     "tool_version": "0.1.0", "started_at": "2026-11-22T10:00:00Z",
     "model": {"name": "keyboard-lstm", "sha256": "(64 hex digits of model.tflite)", "bytes": 2496000},
     "device": {"manufacturer": "", "model": "", "soc": "", "abi": "arm64-v8a", "android_api": 34, "cores": 8, "ram_mb": 7800,
                "features": ["neon", "dotprod", "i8mm"]},
     "runtime": {"name": "ai-edge-litert", "version": "2.1.0", "threads": 1},
     "load_ms": 12.3, "first_token_ms": 14.5,
     "decode": {"signature_ms": {"step": [0.31, 0.30]}, "warmup": 8},
     "prefill": {"tokens": 64, "ms": [10.1]},  # or null
     "memory": {"before_mb": 20.0, "peak_mb": 31.5},
     "thermal": [{"at_ms": 0, "status": 0}]}

Times are wall-clock milliseconds, MB are 10^6 bytes. A value its writer does not know is "", 0 or []. The file comes from elsewhere:
every key is checked, unknown ones are errors, texts are short and free of control characters, numbers are finite and not negative.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgelm.device.strict_json import MADE_ANEW, build, illegal, loads, shown
from edgelm.errors import ProfileReportError

SCHEMA = "edgelm-profile/1"
MAX_FILE_BYTES = 16_000_000
"""A million timed tokens take under 10 MB; what is larger is no report."""

Maker = Literal["runner", "app", "host"]


@dataclass(frozen=True)
class ProfiledModel:
    """The file that ran.

    Attributes:
        name: The artifact's name, or the file's stem.
        sha256: Of the .tflite, 64 hex digits; empty when unknown.
        bytes: Size of the .tflite.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ProfiledDevice:
    """What it ran on.

    Attributes:
        manufacturer: Such as `Google`.
        model: Such as `Pixel 6`.
        soc: The system on chip, such as `Tensor`.
        abi: As Android names it: `arm64-v8a`, `armeabi-v7a`, `x86_64`, `x86`.
        android_api: API level; 0 when it is no Android device.
        cores: CPU cores.
        ram_mb: Memory, MB.
        features: What decides the kernels: `neon`, `dotprod`, `i8mm`, `avx2`, ...
    """

    manufacturer: str
    model: str
    soc: str
    abi: str
    android_api: int
    cores: int
    ram_mb: float
    features: tuple[str, ...]

    @property
    def title(self) -> str:
        """`Google Pixel 6`, or what is known of it."""
        return (
            " ".join(part for part in (self.manufacturer, self.model) if part)
            or self.soc
            or f"a device with {self.abi or 'an unknown CPU'}"
        )


@dataclass(frozen=True)
class ProfiledRuntime:
    """The runtime of the run; `threads` is the size of its pool."""

    name: str
    version: str
    threads: int


@dataclass(frozen=True)
class Decode:
    """The steps of one token.

    Attributes:
        signature_ms: Signature called (`step`, `decode_128`, ...) -> ms of each token after the warm-up, in order.
        warmup: Tokens before the first that is listed.
    """

    signature_ms: Mapping[str, tuple[float, ...]]
    warmup: int


@dataclass(frozen=True)
class Prefill:
    """The prompt: `tokens` in each of the calls that took `ms`."""

    tokens: int
    ms: tuple[float, ...]


@dataclass(frozen=True)
class Memory:
    """Resident memory of the process, MB: before the model was loaded, and the most at any time."""

    before_mb: float
    peak_mb: float

    @property
    def growth_mb(self) -> float:
        """What the model cost, MB."""
        return max(self.peak_mb - self.before_mb, 0.0)


@dataclass(frozen=True)
class ThermalReading:
    """Android's thermal status at a time of the run.

    Attributes:
        at_ms: Since the start of the run, ms.
        status: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown (`PowerManager.THERMAL_STATUS_*`).
    """

    at_ms: float
    status: int


@dataclass(frozen=True)
class SignatureStatistics:
    """The tokens of one signature, ms a token.

    Attributes:
        signature: Such as `step` or `decode_128`.
        tokens: How many were timed.
        best: The fastest.
        median: 50th percentile.
        p90: 90th percentile, linear between the neighbours.
        p95: 95th percentile.
        tokens_per_second: All of them by their total time.
    """

    signature: str
    tokens: int
    best: float
    median: float
    p90: float
    p95: float
    tokens_per_second: float


@dataclass(frozen=True)
class ProfileReport:
    """One run on one device.

    Attributes:
        made_by: The command-line `runner`, the demo `app`, or edgelm itself on this `host`.
        tool_version: Of its maker.
        started_at: UTC, ISO 8601 with seconds, such as `2026-11-22T10:00:00Z`; empty when unknown.
        model: The file.
        device: The machine.
        runtime: What ran the file.
        load_ms: Opening the file and preparing its first signature.
        first_token_ms: From opening the file to the first logits.
        decode: The steps.
        prefill: The prompt; None when the session has none.
        memory: Of the process.
        thermal: Readings, in order of time; empty where there are none.
    """

    made_by: Maker
    tool_version: str
    started_at: str
    model: ProfiledModel
    device: ProfiledDevice
    runtime: ProfiledRuntime
    load_ms: float
    first_token_ms: float
    decode: Decode
    prefill: Prefill | None
    memory: Memory
    thermal: tuple[ThermalReading, ...]

    def statistics(self) -> tuple[SignatureStatistics, ...]:
        """Percentiles of each signature that timed a token, in the order of the report.

        Example:
            A step of 1, 2, 3 and 4 ms has the median 2.5, p90 3.7, p95 3.85 and 400 tokens/s.
        """
        return tuple(_statistics(name, times) for name, times in self.decode.signature_ms.items() if times)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values in the order of the schema; `parse` reads them back."""
        return {"schema": SCHEMA, **_plain(dataclasses.asdict(self))}

    def encode(self) -> bytes:
        """The report as JSON bytes, one trailing newline."""
        return (json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def read(path: Path, where: str = "") -> ProfileReport:
    """Reads a report file.

    Args:
        path: The file.
        where: Names it in errors; empty for its path.

    Raises:
        ProfileReportError: No such file, too large, no JSON, another schema, an unknown or missing key, an illegal value.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProfileReportError(f"profile report {where or path} cannot be read: {error.strerror}", fix=MADE_ANEW) from error
    return decode(data, where or str(path))


def decode(data: bytes, where: str = "the profile report") -> ProfileReport:
    """Reads the bytes of a report; `where` names it in errors.

    Raises:
        ProfileReportError: As `read`.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ProfileReportError(f"{where} is too large for a profile report", allowed=f"at most {MAX_FILE_BYTES:,} bytes", fix=MADE_ANEW)
    return parse(loads(data, where), where)


def parse(plain: object, where: str = "the profile report") -> ProfileReport:
    """Checks the plain values of a report (see the top of this module) and builds it.

    Args:
        plain: What `json` read.
        where: Names the report in errors.

    Raises:
        ProfileReportError: Another schema, an unknown or missing key, or an illegal value, by key.
    """
    if not isinstance(plain, Mapping):
        raise ProfileReportError(f"{where} is no JSON object", fix=MADE_ANEW)
    if plain.get("schema") != SCHEMA:
        raise ProfileReportError(
            f"{where} has the schema {shown(plain.get('schema'))}", allowed=SCHEMA, fix="pip install --upgrade edgelm, or update the app"
        )
    report: ProfileReport = build(ProfileReport, {key: value for key, value in plain.items() if key != "schema"}, where, "")
    _check(report, where)
    return report


def _statistics(signature: str, times: tuple[float, ...]) -> SignatureStatistics:
    median, p90, p95 = (float(value) for value in np.percentile(times, (50, 90, 95)))
    total = sum(times)
    return SignatureStatistics(signature, len(times), min(times), median, p90, p95, 1e3 * len(times) / total if total else 0.0)


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _check(report: ProfileReport, where: str) -> None:
    """What the types alone do not say."""
    if not re.fullmatch(r"[0-9a-f]{64}|", report.model.sha256):
        raise illegal(where, "model.sha256", report.model.sha256, "64 hex digits in lower case, or nothing")
    if not any(report.decode.signature_ms.values()):
        raise ProfileReportError(f"{where} has no timed token in decode.signature_ms", fix=MADE_ANEW)
    times = [reading.at_ms for reading in report.thermal]
    if times != sorted(times):
        raise ProfileReportError(f"the readings of thermal in {where} are not in the order of their time", fix=MADE_ANEW)
    if any(reading.status > 6 for reading in report.thermal):
        raise illegal(where, "thermal.status", max(reading.status for reading in report.thermal), "0 (none) to 6 (shutdown)")
