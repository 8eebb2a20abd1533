"""Does an artifact fit the device: size, download size, memory, time to the first token and time per token against the profile's limits.

Sizes are read off the file. Memory is measured on this machine, in a process of its own. Time is measured here too, and estimated for
the device by `edgelm.device.latency`. For the profile `host` the measured times are held against the limits, for every other
profile the central estimate; the check shows its interval, the table `Speed` where it comes from.
"""

from __future__ import annotations

import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from edgelm.device import profile as profiles
from edgelm.device.cost import StepCost, step_cost
from edgelm.device.latency import LatencyEstimate, predict
from edgelm.device.profile import HOST, DeviceProfile
from edgelm.errors import ArtifactError
from edgelm.report import Check, Plot, Table
from edgelm.tflite.reader import TfliteModel, read
from edgelm.validate import budget_report
from edgelm.validate.measurement import Measurement, measure
from edgelm.validate.weights import MB, Prediction, StoredWeight, predictions, stored_weights

ZLIB_LEVEL = 9
"""App stores deflate what they deliver; level 9 is what aapt2 and bundletool use at best."""


@dataclass(frozen=True)
class SignatureEstimate:
    """What one signature is estimated to take on the device."""

    cost: StepCost
    estimate: LatencyEstimate


@dataclass(frozen=True)
class Budget:
    """The figures of an artifact on a device.

    Attributes:
        model: The file as it was read.
        profile: The device.
        size_mb: The file, MB (10^6 bytes).
        download_mb: The file deflated with zlib level 9, MB.
        weights: Every stored tensor once, the largest first.
        signatures: Each one that runs in an app, estimated; the last of `decode_C` is the longest rung.
        token: The one whose estimate is held against `ms_per_token`: `step`, the longest `decode_C`, or `forward`.
        measured: Memory and time on this machine, or None when it was not measured.
        first_token_ms: To the first logits: measured for `host`, else the measured figure scaled to the device; None without one.
        predictions: What other recipes would give.
    """

    model: TfliteModel
    profile: DeviceProfile
    size_mb: float
    download_mb: float
    weights: tuple[StoredWeight, ...]
    signatures: tuple[SignatureEstimate, ...]
    token: SignatureEstimate
    measured: Measurement | None
    first_token_ms: float | None
    predictions: tuple[Prediction, ...]

    @property
    def ms_per_token(self) -> float:
        """What is held against the limit: measured for `host`, else the central estimate, ms."""
        return self.measured.step_ms_median if self.profile.is_host and self.measured else self.token.estimate.ms_per_token


@dataclass(frozen=True)
class BudgetResult:
    """The figures and what the report says of them.

    Attributes:
        figures: The values themselves.
        checks: One for each limit, and for figures without a limit.
        tables: `Weights by layer`, `Speed`, `Memory`, `Other recipes`.
        plots: Weights by layer, and where the time goes.
        next_commands: Of the failing checks, each once.
    """

    figures: Budget
    checks: tuple[Check, ...]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    next_commands: tuple[str, ...]


def budget(
    model: bytes | Path, profile: DeviceProfile, *, source: str = "MODEL", threads: int = 1, seconds: float = 3.0, measured: bool = True
) -> BudgetResult:
    """Holds a .tflite against the limits of a device.

    Args:
        model: A .tflite file, or its bytes.
        profile: The device.
        source: What the user converted, for the commands in the report.
        threads: Threads of the runtime on this machine; estimates are for one.
        seconds: Time for timed steps.
        measured: Measure on this machine; without it memory and the first token are not checked.

    Returns:
        Checks, tables and plots.

    Raises:
        ArtifactError: The file cannot be read, or has no signature that takes tokens.
        RuntimeFailure: The runtime cannot run it.
    """
    data = model if isinstance(model, bytes) else _bytes(model)
    parsed = read(data)
    estimates = _estimates(parsed, profile)
    token = next((one for one in reversed(estimates) if one.cost.tokens == 1), None)
    if token is None:
        met = ", ".join(signature.name for signature in parsed.signatures) or "none"
        raise ArtifactError(f"the model has no signature edgelm can run (it has: {met})", allowed="step, decode_C, forward")
    measurement = _measure(model, profile, threads, seconds) if measured else None
    figures = Budget(
        model=parsed,
        profile=profile,
        size_mb=len(data) / MB,
        download_mb=len(zlib.compress(data, ZLIB_LEVEL)) / MB,
        weights=stored_weights(parsed),
        signatures=estimates,
        token=token,
        measured=measurement,
        first_token_ms=_first_token(measurement, profile) if measurement else None,
        predictions=predictions(parsed, token.cost.signature, profile),
    )
    checks = budget_report.checks(figures, source)
    commands = {check.fix.partition(":")[0]: check.fix for check in reversed(checks) if check.fix}  # one effect for each command
    return BudgetResult(figures, checks, budget_report.tables(figures), budget_report.plots(figures), tuple(reversed(commands.values())))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"model {path} cannot be read: {error.strerror}") from error


def _estimates(model: TfliteModel, profile: DeviceProfile) -> tuple[SignatureEstimate, ...]:
    """`prefill_T`, then `step`, `forward` or the ladder `decode_C`, each by size."""
    kinds = ("prefill", "forward", "step", "decode")

    def order(name: str) -> tuple[int, int]:
        kind, _, size = name.partition("_")
        return kinds.index(kind), int(size) if size.isdigit() else 0

    names = sorted((s.name for s in model.signatures if s.name.partition("_")[0] in kinds), key=order)
    costs = [step_cost(model, name) for name in names]
    return tuple(SignatureEstimate(cost, predict(cost, profile)) for cost in costs)


def _measure(model: bytes | Path, profile: DeviceProfile, threads: int, seconds: float) -> Measurement:
    runtime = profile.runtime.name
    if isinstance(model, Path):
        return measure(model, runtime=runtime, threads=threads, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        return measure(path, runtime=runtime, threads=threads, seconds=seconds)


def _first_token(measurement: Measurement, profile: DeviceProfile) -> float:
    """Loading copies every weight and sets up every op: it slows down with bandwidth and with per-op cost, whichever is worse."""
    if profile.is_host:
        return measurement.first_token_ms
    here, there = profiles.load(HOST).latency, profile.latency
    return measurement.first_token_ms * max(here.dram_gb_s / there.dram_gb_s, there.per_op_us / here.per_op_us)
