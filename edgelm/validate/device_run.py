"""What a run on a device says of an artifact: measured against estimated, and against the limits of a profile."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edgelm.artifact import Artifact
from edgelm.device.cost import step_cost
from edgelm.device.latency import LatencyEstimate, predict
from edgelm.device.profile import DeviceProfile
from edgelm.device.profile_report import ProfileReport, SignatureStatistics
from edgelm.errors import ProfileReportError
from edgelm.report import Check, Plot, Report, Table, number
from edgelm.tflite.reader import read

MADE_BY = {"runner": "the command-line runner", "app": "the demo app", "host": "edgelm on this host"}
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
EMULATORS = ("ranchu", "goldfish")
"""What Android's emulator calls its hardware."""
THROTTLED = 2
"""From `moderate` on Android slows cores down."""


@dataclass(frozen=True)
class ComparedSignature:
    """One signature of a run; no estimate without the artifact or a profile."""

    measured: SignatureStatistics
    estimate: LatencyEstimate | None

    @property
    def ratio(self) -> float | None:
        """Measured median over the central estimate."""
        return self.measured.median / self.estimate.ms_per_token if self.estimate else None


def compare(run: ProfileReport, artifact: Artifact | None, profile: DeviceProfile | None) -> tuple[ComparedSignature, ...]:
    """Holds each signature's measured times against the profile's estimate.

    Args:
        run: The report of a device.
        artifact: What ran; None for a report alone.
        profile: Whose latency model estimates; None for no estimate.

    Raises:
        ProfileReportError: The report is of another model, or of a signature the model does not have.
    """
    if artifact is None or profile is None:
        return tuple(ComparedSignature(one, None) for one in run.statistics())
    model = read(artifact.tflite)
    known = {signature.name for signature in model.signatures}
    _check_same_model(run, artifact, known)
    return tuple(ComparedSignature(one, predict(step_cost(model, one.signature), profile)) for one in run.statistics())


def judge(run: ProfileReport, artifact: Artifact | None = None, profile: DeviceProfile | None = None, file: str = "") -> Report:
    """The report of a run: what it measured, what was estimated, and whether the limits hold.

    Args:
        run: The report of a device.
        artifact: What ran; with it times are compared with estimates.
        profile: Limits and latency model; None for figures alone.
        file: Where the run is kept, for the next commands; empty when it is not.

    Raises:
        ProfileReportError: The report is of another model.
    """
    signatures = compare(run, artifact, profile)
    checks, times = _checks(run, profile, signatures), _times(signatures, profile)
    return Report(
        title=f"{run.model.name or 'a model'} on {run.device.title}",
        facts=_facts(run, profile),
        checks=checks if profile else (),
        tables=(times,) if profile else (_figures(checks), times),
        plots=(_plot(signatures),),
        next_commands=_next_commands(run, artifact, file),
    )


def _check_same_model(run: ProfileReport, artifact: Artifact, known: set[str]) -> None:
    if run.model.sha256 and run.model.sha256 != hashlib.sha256(artifact.tflite).hexdigest():
        raise ProfileReportError(
            f"the report is of another file than {artifact.path}: {run.model.name}, sha256 {run.model.sha256[:12]}...",
            fix="edgelm profile --import report.json without ARTIFACT, or give the artifact that ran",
        )
    for name in run.decode.signature_ms:
        if name not in known:
            raise ProfileReportError(
                f"the report times the signature {name!r}, which {artifact.path} lacks", allowed=", ".join(sorted(known))
            )


def _facts(run: ProfileReport, profile: DeviceProfile | None) -> tuple[tuple[str, str], ...]:
    device, runtime = run.device, run.runtime
    api = f"Android API {device.android_api}" if device.android_api else ""
    cores = f"{device.cores} cores" if device.cores else ""
    memory = f"{device.ram_mb:,.0f} MB" if device.ram_mb else ""
    parts = (device.soc, device.abi, ", ".join(device.features), cores, memory, api)
    threads = "1 thread" if runtime.threads == 1 else f"{runtime.threads} threads"
    facts = (
        ("device", "; ".join(part for part in parts if part)),
        ("runtime", f"{runtime.name} {runtime.version}, {threads}"),
        ("measured by", f"{MADE_BY[run.made_by]} {run.tool_version}".rstrip() + (f", {run.started_at}" if run.started_at else "")),
        ("model", f"{run.model.bytes / 1e6:.2f} MB"),
        ("thermal", _thermal(run)),
        ("note", "Android's emulator: its times are this computer's, not a phone's" if device.soc in EMULATORS else ""),
        ("judged by", f"{profile.name} ({profile.device.title})" if profile else ""),
    )
    return tuple((key, text) for key, text in facts if text)


def _thermal(run: ProfileReport) -> str:
    if not run.thermal:
        return ""
    first, worst = run.thermal[0].status, max(reading.status for reading in run.thermal)
    text = f"{THERMAL[first]} at the start, at worst {THERMAL[worst]}"
    return f"{text}: the device slowed itself down, let it cool and measure again" if worst >= THROTTLED else text


def _checks(run: ProfileReport, profile: DeviceProfile | None, signatures: tuple[ComparedSignature, ...]) -> tuple[Check, ...]:
    """The slowest signature's median, the first token and the memory against the limits, where there are some."""
    slowest = max(signatures, key=lambda one: one.measured.median).measured
    limits = profile.limits if profile else None
    where = f"measured on {run.device.title}"
    share = run.load_ms / run.first_token_ms if run.first_token_ms else 0.0
    found = [
        _check(
            f"time per token, {slowest.signature}",
            slowest.median,
            limits.ms_per_token if limits else None,
            "ms",
            f"the median of {slowest.tokens} tokens, {where}",
            "a recipe with fewer bits: edgelm recipes",
        ),
        _check(
            "time to first token",
            run.first_token_ms,
            limits.first_token_ms if limits else None,
            "ms",
            f"loading is {share:.0%} of it, {where}",
            "open the model when the app starts, not at the first key",
        ),
    ]
    if run.memory.peak_mb:
        limit = limits.peak_memory_mb if limits else None
        fix = "an XNNPACK weight cache file, which signatures share, or a recipe with fewer bits: edgelm recipes"
        found.append(_check("peak memory", run.memory.growth_mb, limit, "MB", f"growth of the process, {where}", fix))
    if run.prefill and run.prefill.ms:
        best = min(run.prefill.ms)
        found.append(Check(f"prompt of {run.prefill.tokens} tokens", round(best, 4), None, "ms", None, "measured"))
    return tuple(found)


def _check(name: str, value: float, limit: float | None, unit: str, cause: str, fix: str) -> Check:
    passed = None if limit is None else value <= limit
    failed = passed is False
    return Check(name, round(value, 4), limit, unit, passed, "measured", cause if failed else "", fix if failed else "")


def _figures(checks: tuple[Check, ...]) -> Table:
    """Figures without limits: nothing passes, nothing fails."""
    rows = tuple((check.name, f"{number(check.measured)} {check.unit}", check.basis) for check in checks)
    return Table("Figures", ("figure", "value", "basis"), rows, "Hold them against limits with --target PROFILE.")


def _times(signatures: tuple[ComparedSignature, ...], profile: DeviceProfile | None) -> Table:
    columns: tuple[str, ...] = ("signature", "tokens", "median ms", "p90", "p95", "tokens/s")
    estimated = any(one.estimate for one in signatures)
    if estimated and profile:
        columns += ("estimated ms", "interval", "ratio")
    rows = tuple(_row(one) for one in signatures)
    note = "Wall-clock time of a token after the warm-up, on the device."
    if estimated and profile:
        inside = sum(one.estimate is not None and one.estimate.low <= one.measured.median <= one.estimate.high for one in signatures)
        note += (
            f" Estimates are those of the profile {profile.name} ({profile.latency.basis} figures), the ratio is measured to estimated; "
            f"{inside} of {len(signatures)} medians lie in their interval."
        )
    return Table("Time per token", columns, rows, note)


def _row(one: ComparedSignature) -> tuple[str, ...]:
    m, e = one.measured, one.estimate
    row = (m.signature, str(m.tokens), *(f"{value:.3f}" for value in (m.median, m.p90, m.p95)), f"{m.tokens_per_second:,.0f}")
    if e is None or one.ratio is None:
        return row
    return (*row, f"{e.ms_per_token:.3f}", f"{e.low:.3f} to {e.high:.3f}", f"{one.ratio:.2f}")


def _plot(signatures: tuple[ComparedSignature, ...]) -> Plot:
    bars = [(f"{one.measured.signature}, {name}", getattr(one.measured, name)) for one in signatures for name in ("median", "p90", "p95")]
    labels, values = zip(*bars, strict=True)
    return Plot("Time per token on the device", labels, tuple(round(value, 4) for value in values), "ms")


def _next_commands(run: ProfileReport, artifact: Artifact | None, file: str) -> tuple[str, ...]:
    """A profile of the device takes the runs of two models at least."""
    if run.made_by == "host":
        return ()
    models = f"--artifact {artifact.path if artifact else 'FOLDER'} --artifact ANOTHER"
    keep = "" if file else " (keep the measurements first, with -o report.json)"
    fit = f"edgelm profiles calibrate {file or 'report.json'} ANOTHER.json {models} -o my-phone.toml{keep}"
    return (fit, f"edgelm check {artifact.path} --target my-phone.toml") if artifact else (fit,)
