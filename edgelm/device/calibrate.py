"""Fits a phone's profile to what was measured on it: reports of `edgelm profile --device adb`, of the demo app, or of the runner.

A handful of calls says little of each single figure, so that three factors on a similar phone's profile are fitted (`edgelm.device.fit`):
one for memory, one for arithmetic, one for fixed costs. How far the result may be off is asked of models it has not seen: each model is
predicted once from all the others, and the worst of those errors is the new profile's `uncertainty`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from edgelm import artifact
from edgelm.device.cost import step_cost
from edgelm.device.fit import Groups, Observation, fit
from edgelm.device.latency import call_ms
from edgelm.device.latency_figures import LatencyModel
from edgelm.device.profile import DeviceInfo, DeviceProfile, Isa, RuntimeInfo, RuntimeName
from edgelm.device.profile_report import ProfileReport
from edgelm.errors import ArtifactError, ProfileReportError
from edgelm.report import Table
from edgelm.tflite.reader import TfliteModel, read

KINDS = ("int8", "int4", "int4_block", "float")
ARITHMETIC = (
    *(f"{table}.{kind}" for table in ("one_row", "many_rows") for kind in KINDS),
    "attention_gb_s",
    "elementwise_gb_s",
    "functions_g_s",
)
FIXED = ("per_op_us", "per_product_us", "per_own_op_us", "per_call_us")
MIN_MODELS = 2
MIN_TOKENS = 8
"""Tokens of a signature below which its median says nothing."""
SEVERE = 3
"""Android's thermal status from which on a phone slows its cores down visibly."""
ABSURD = 50.0
"""A call so many times faster or slower than the similar phone is no measurement of this model."""
SMALLEST_UNCERTAINTY, LARGEST_UNCERTAINTY = 1.15, 4.0
ISAS: Mapping[str, Isa] = {"i8mm": "i8mm", "dotprod": "dotprod", "asimddp": "dotprod", "avx512_vnni": "avx512-vnni", "avx2": "avx2"}
"""Feature of a core -> the kernels it gets, best first."""

RUNTIMES: Mapping[str, RuntimeName] = {"ai-edge-litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}


@dataclass(frozen=True)
class Calibration:
    """A fitted profile and what it was fitted to.

    Attributes:
        profile: The profile.
        observations: The measured calls.
        before: What the profile that was started from predicts for each, ms.
        after: What the fitted one predicts, ms.
    """

    profile: DeviceProfile
    observations: tuple[Observation, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


def find_models(paths: Sequence[Path]) -> dict[str, TfliteModel]:
    """The .tflite files of artifacts by the sha256 that reports name them with.

    Args:
        paths: Artifact folders, or .tflite files.

    Raises:
        ArtifactError: One cannot be read.
    """
    found = {}
    for path in paths:
        file = path / artifact.MODEL if path.is_dir() else path
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ArtifactError(f"no artifact at {path}: {error.strerror}", fix="--artifact FOLDER, as edgelm convert wrote it") from error
        found[hashlib.sha256(data).hexdigest()] = read(data)
    return found


def calibrate(reports: Sequence[ProfileReport], models: Mapping[str, TfliteModel], like: DeviceProfile, name: str) -> Calibration:
    """Fits a profile to reports of one phone.

    Args:
        reports: Of two models at least, one thread each.
        models: sha256 -> the file; those of all reports.
        like: A similar phone: its figures are the start, its limits are kept.
        name: Of the new profile.

    Returns:
        The profile, with basis `measured`.

    Raises:
        ProfileReportError: Reports of several phones or of several threads, of a phone that was too hot, of a model that is not at
            hand, with too few models or tokens, with times that cannot be of this model, or that contradict each other.

    Example:
        Reports of keyboard-lstm as int8 and as float32, on a phone whose memory is half as fast as android-mid-a76's, give a profile
        with half the bandwidths.
    """
    _check_same_phone(reports)
    titles = _titles(reports)
    observations = tuple(one for report in reports for one in _observations(report, titles[report.model.sha256], models))
    if len({report.model.sha256 for report in reports}) < MIN_MODELS:
        raise ProfileReportError(
            "reports of one model cannot tell slow memory from slow arithmetic",
            allowed=f"reports of at least {MIN_MODELS} models, better of a small and a large one",
            fix="edgelm profile ANOTHER-ARTIFACT --device adb -o another.json",
        )
    for one in observations:
        _check_likely(one, like)
    spread = math.log(like.latency.uncertainty) if like.latency.uncertainty > 1 else math.log(2)
    groups = _groups(like.latency)
    found = fit(observations, like.latency, groups, spread)
    uncertainty = _unseen_error(observations, like.latency, groups, spread)
    latency = dataclasses.replace(
        found,
        uncertainty=round(uncertainty, 2),
        basis="measured",
        source=_source(reports, like),
    )
    before, after = (tuple(call_ms(one.cost, model) for one in observations) for model in (like.latency, latency))
    profile = DeviceProfile(name, _device(reports[0], like.device), _runtime(reports[0], like.runtime), like.limits, latency)
    return Calibration(profile, observations, before, after)


def table(calibration: Calibration, worst: int | None = None) -> Table:
    """Predicted against measured, before and after.

    Args:
        calibration: What came out.
        worst: Show only so many calls, those that are missed most; None for all.
    """
    calls = list(zip(calibration.observations, calibration.before, calibration.after, strict=True))
    if worst is not None:
        calls = sorted(calls, key=lambda call: abs(math.log(call[2] / call[0].ms)))[-worst:]
    rows = []
    for one, before, after in calls:
        errors = (f"{before:.4g} ({before / one.ms - 1:+.0%})", f"{after:.4g} ({after / one.ms - 1:+.0%})")
        rows.append((one.label, f"{one.ms:.4g}", *errors))
    first, last = (
        median(abs(ms / one.ms - 1) for ms, one in zip(side, calibration.observations, strict=True))
        for side in (calibration.before, calibration.after)
    )
    factor = calibration.profile.latency.uncertainty
    shown = (
        f"The {len(rows)} of {len(calibration.observations)} calls that are missed most. " if len(calls) < len(calibration.after) else ""
    )
    note = f"{shown}Median error {first:.0%} before, {last:.0%} after; estimates carry a factor of {factor:g} either way."
    return Table("Predicted against measured", ("call", "measured ms", "before ms", "after ms"), tuple(rows), note)


def _groups(model: LatencyModel) -> Groups:
    memory = ("dram_gb_s", *(f"cache.{index}.gb_s" for index in range(len(model.cache))))
    return {"memory": memory, "arithmetic": ARITHMETIC, "fixed costs": FIXED}


def _check_same_phone(reports: Sequence[ProfileReport]) -> None:
    phones = sorted({report.device.title for report in reports})
    if len(phones) > 1:
        raise ProfileReportError(f"the reports are of {len(phones)} devices: {', '.join(phones)}", allowed="reports of one device")
    if len({report.runtime for report in reports}) > 1:
        met = ", ".join(sorted(f"{r.runtime.name} {r.runtime.version} with {r.runtime.threads} threads" for r in reports))
        raise ProfileReportError(f"the reports are of several runtimes: {met}", allowed="one runtime, one thread")


def _titles(reports: Sequence[ProfileReport]) -> dict[str, str]:
    """sha256 -> what to call a model: its name, with the beginning of its sha256 where several recipes of one model were profiled."""
    names = {report.model.sha256: report.model.name or "the model" for report in reports}
    several = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {sha256: f"{name} {sha256[:8]}" if name in several else name for sha256, name in names.items()}


def _observations(report: ProfileReport, name: str, models: Mapping[str, TfliteModel]) -> list[Observation]:
    """One for each signature that was called often enough."""
    if report.runtime.threads != 1:
        raise ProfileReportError(
            f"{name} ran with {report.runtime.threads} threads", allowed="--threads 1: the latency model is of one thread"
        )
    hottest = max((reading.status for reading in report.thermal), default=0)
    if hottest >= SEVERE:
        raise ProfileReportError(
            f"the phone slowed down for heat while {name} ran (thermal status {hottest})",
            allowed=f"a thermal status under {SEVERE}",
            fix="let the phone cool for some minutes and profile again",
        )
    if report.model.sha256 not in models:
        raise ProfileReportError(
            f"the file that was profiled as {name} (sha256 {report.model.sha256[:12] or 'unknown'}...) is none of the artifacts given",
            allowed="the artifact each report was made with",
            fix="edgelm profiles calibrate REPORT... --artifact FOLDER --artifact FOLDER",
        )
    model = models[report.model.sha256]
    timed = {signature: times for signature, times in report.decode.signature_ms.items() if len(times) >= MIN_TOKENS}
    if not timed:
        raise ProfileReportError(f"the report of {name} has under {MIN_TOKENS} tokens of each signature", fix="profile with --tokens 128")
    if report.prefill and len(report.prefill.ms) >= MIN_TOKENS:
        timed[f"prefill_{report.prefill.tokens}"] = report.prefill.ms
    known = {signature.name for signature in model.signatures}
    return [
        Observation(f"{name}, {signature}", step_cost(model, signature), _steady(times))
        for signature, times in timed.items()
        if signature in known
    ]


def _steady(times: Sequence[float]) -> float:
    """Lower quartile, ms: other work of the phone only ever adds time."""
    return float(np.percentile(times, 25))


def _check_likely(one: Observation, like: DeviceProfile) -> None:
    expected = call_ms(one.cost, like.latency)
    if not expected / ABSURD <= one.ms <= expected * ABSURD:
        raise ProfileReportError(
            f"{one.label} took {one.ms:.4g} ms where a phone like {like.name} takes {expected:.4g} ms",
            allowed=f"at most {ABSURD:.0f} times faster or slower",
            fix="profile again on an idle phone, or name a phone nearer to it: --like PROFILE",
        )


def _unseen_error(observations: Sequence[Observation], start: LatencyModel, groups: Groups, spread: float) -> float:
    """The worst factor by which a model is missed that the fit has not seen.

    Raises:
        ProfileReportError: It is so large that a profile would say nothing.
    """
    worst, missed = 0.0, ""
    for model in {_model(one) for one in observations}:
        rest = [one for one in observations if _model(one) != model]
        found = fit(rest, start, groups, spread)
        error = max(abs(math.log(call_ms(one.cost, found) / one.ms)) for one in observations if _model(one) == model)
        worst, missed = max((worst, missed), (error, model))
    if math.exp(worst) > LARGEST_UNCERTAINTY:
        raise ProfileReportError(
            f"the reports contradict each other: fitted to the others, {missed} is missed by a factor of {math.exp(worst):.1f}",
            allowed=f"a factor of at most {LARGEST_UNCERTAINTY:g}",
            fix="profile again on an idle phone with the screen on, all models in a row",
        )
    return max(SMALLEST_UNCERTAINTY, math.exp(worst))


def _model(one: Observation) -> str:
    return one.label.rpartition(",")[0]


def _runtime(report: ProfileReport, like: RuntimeInfo) -> RuntimeInfo:
    """What the report ran on, where edgelm knows it."""
    name = RUNTIMES.get(report.runtime.name)
    return dataclasses.replace(like, name=name, version=report.runtime.version) if name and report.runtime.version else like


def _device(report: ProfileReport, like: DeviceInfo) -> DeviceInfo:
    device = report.device
    isa: Isa = next((kind for feature, kind in ISAS.items() if feature in device.features), "neon")
    return DeviceInfo(
        title=device.title,
        soc=device.soc or device.title,
        cores=f"{device.cores} cores" if device.cores else "unknown",
        isa=isa if device.features else like.isa,
        ram_mb=round(device.ram_mb) or like.ram_mb,
        android_api=device.android_api,
        page_kb=like.page_kb,
        basis="measured",
        source="read off the device by the profiler; page_kb as in the profile it is like",
    )


def _source(reports: Sequence[ProfileReport], like: DeviceProfile) -> str:
    made = sorted({report.made_by for report in reports})
    names = ", ".join(sorted({report.model.name for report in reports}))
    return (
        f"edgelm profiles calibrate: factors on memory, arithmetic and fixed costs of {like.name}, fitted to {len(reports)} reports "
        f"(made by {', '.join(made)}) of {names} on {reports[0].device.title}; uncertainty: the worst error on a model left out of the "
        f"fit; isolated_factor and shares: those of {like.name}"
    )
