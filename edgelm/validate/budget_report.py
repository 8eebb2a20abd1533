"""Checks, tables and plots of a `Budget`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgelm.report import Basis, Check, Plot, Table
from edgelm.validate.measurement import Measurement
from edgelm.validate.weights import MB, Prediction, by_layer

if TYPE_CHECKING:
    from edgelm.validate.budget import Budget


def checks(figures: Budget, source: str) -> tuple[Check, ...]:
    """One check for each limit of the profile; figures without a limit are only reported.

    Args:
        figures: The budget.
        source: What the user converted, for the commands.
    """
    limits, measured, profile = figures.profile.limits, figures.measured, figures.profile
    device: Basis = "measured" if profile.is_host and measured else "estimated"
    time_cause, time_fix = _time_cause(figures), _fix(figures, source, lambda p: p.ms_per_token, limits.ms_per_token, "ms")
    size_fix = _fix(figures, source, lambda p: p.size_mb, limits.size_mb, "MB")
    ratio = figures.download_mb / figures.size_mb
    download_fix = _fix(figures, source, lambda p: p.size_mb * ratio, limits.download_mb, "MB")
    found = [
        _check("file size", figures.size_mb, limits.size_mb, "MB", "read", _size_cause(figures), size_fix),
        _check("download size", figures.download_mb, limits.download_mb, "MB", "read", _download_cause(figures), download_fix),
        _with_interval(
            _check("time per token", figures.ms_per_token, limits.ms_per_token, "ms", device, time_cause, time_fix),
            (figures.token.estimate.low, figures.token.estimate.high),
        ),
        _first_token(figures, device),
        _memory(figures, size_fix),
    ]
    if measured and not profile.is_host:
        found.append(Check("time per token on this machine", round(measured.step_ms_median, 4), None, "ms", None, "measured"))
    return tuple(found)


def _check(name: str, value: float, limit: float | None, unit: str, basis: Basis, cause: str, fix: str) -> Check:
    passed = None if limit is None else value <= limit
    failed = passed is False
    return Check(name, round(value, 4), limit, unit, passed, basis, cause if failed else "", fix if failed else "")


def _with_interval(check: Check, interval: tuple[float, float]) -> Check:
    """An estimate with the values it allows for; a measured figure as it is."""
    low, high = interval
    return dataclasses.replace(check, interval=(round(low, 4), round(high, 4))) if check.basis == "estimated" else check


def _first_token(figures: Budget, basis: Basis) -> Check:
    limit = figures.profile.limits.first_token_ms
    if figures.first_token_ms is None or figures.measured is None:
        return Check("time to first token", "not measured", limit, "ms")
    share = figures.measured.load_ms / figures.measured.first_token_ms
    calls = len(figures.model.signatures)
    cause = f"loading is {share:.0%} of it on this machine: the runtime packs the weights of {_many(calls, 'signature')}"
    fix = "open the model when the app starts, not at the first key; a smaller recipe loads faster in proportion"
    check, factor = (
        _check("time to first token", figures.first_token_ms, limit, "ms", basis, cause, fix),
        figures.profile.latency.uncertainty,
    )
    return _with_interval(check, (figures.first_token_ms / factor, figures.first_token_ms * factor))


def _memory(figures: Budget, size_fix: str) -> Check:
    limit = figures.profile.limits.peak_memory_mb
    if figures.measured is None or figures.measured.peak_mb is None:
        return Check("peak memory", "not measured", limit, "MB")
    calls = len(figures.model.signatures)
    cause = f"beside the file's {figures.size_mb:.1f} MB the runtime keeps a packed copy of the weights for {_many(calls, 'signature')}"
    fix = (
        size_fix
        if calls == 1
        else "give the app's runtime an XNNPACK weight cache file, which the signatures share, or convert with fewer rungs"
    )
    return _check("peak memory", figures.measured.peak_mb, limit, "MB", "measured", cause, fix)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"each of {count} {noun}s"


def _size_cause(figures: Budget) -> str:
    largest = figures.weights[0]
    return f"{largest.title} ({largest.encoding}) is {largest.nbytes / MB / figures.size_mb:.0%} of the file"


def _download_cause(figures: Budget) -> str:
    return f"the file deflates to {figures.download_mb / figures.size_mb:.0%} only; {_size_cause(figures)}"


def _time_cause(figures: Budget) -> str:
    parts = figures.token.estimate.breakdown
    share = max(parts.per_call, parts.per_op, parts.weights, parts.compute) / parts.total
    cost = figures.token.cost
    read = f"{cost.weight_bytes / MB:.1f} MB a token from {figures.token.estimate.memory}" if parts.largest == "reading the weights" else ""
    return f"{parts.largest} takes {share:.0%} of the estimate" + (f" ({read})" if read else f" ({len(cost.ops)} ops)")


def _fix(figures: Budget, source: str, figure: Callable[[Prediction], float], limit: float | None, unit: str) -> str:
    """The recipe with the most bits that fits (all limits if one does), or the smallest one and by how much it misses."""
    if limit is None or not figures.predictions:
        return ""
    fitting = [prediction for prediction in figures.predictions if figure(prediction) <= limit]
    within = [prediction for prediction in fitting if _fits_all(figures, prediction)]
    best = max(within or fitting, key=lambda p: p.size_mb) if fitting else min(figures.predictions, key=figure)
    command = f"edgelm convert {source} --recipe {best.recipe} --target {figures.profile.name}"
    effect = f"about {figure(best):.3g} {unit}"
    if fitting:
        return f"{command}: {effect}, fits"
    return f"{command}: {effect}, still {figure(best) / limit:.1f} times the limit; beyond that the model itself has to be smaller"


def _fits_all(figures: Budget, prediction: Prediction) -> bool:
    limits, ratio = figures.profile.limits, figures.download_mb / figures.size_mb
    held = (
        (prediction.size_mb, limits.size_mb),
        (prediction.size_mb * ratio, limits.download_mb),
        (prediction.ms_per_token, limits.ms_per_token),
    )
    return all(limit is None or value <= limit for value, limit in held)


def tables(figures: Budget) -> tuple[Table, ...]:
    """`Weights by layer`, `Speed`, `Other recipes`; as details `Weights`, `Memory` (when measured) and `Figures of the device`."""
    memory = (_memory_table(figures.measured),) if figures.measured and figures.measured.peak_mb is not None else ()
    return (
        _layers_table(figures),
        _speed_table(figures),
        _recipes_table(figures),
        _weights_table(figures),
        *memory,
        _source_table(figures),
    )


def _layers_table(figures: Budget) -> Table:
    rows = []
    for layer, weights in by_layer(figures.weights).items():
        size = sum(weight.nbytes for weight in weights) / MB
        encodings = ", ".join(sorted({weight.encoding for weight in weights}))
        rows.append((layer, str(len(weights)), encodings, f"{size:.3f}", f"{size / figures.size_mb:.1%}"))
    rest = figures.size_mb - sum(weight.nbytes for weight in figures.weights) / MB
    rows.append(("graph, metadata and attached files", "", "", f"{rest:.3f}", f"{rest / figures.size_mb:.1%}"))
    columns = ("layer", "tensors", "encodings", "MB", "share")
    return Table("Weights by layer", columns, tuple(rows), "Scales count with their weight.")


def _source_table(figures: Budget) -> Table:
    latency = figures.profile.latency
    parts = (part.strip().partition(": ") for part in latency.source.split("; "))
    rows = tuple((figure, origin) for figure, _, origin in parts)
    return Table(f"Figures of the device ({latency.basis})", ("figure", "where it comes from"), rows, detail=True)


def _weights_table(figures: Budget) -> Table:
    rows = [
        (
            w.title,
            " x ".join(map(str, w.tensor.shape)) or "scalar",
            w.encoding,
            f"{w.nbytes / MB:.3f}",
            f"{w.nbytes / MB / figures.size_mb:.1%}",
        )
        for w in figures.weights
    ]
    return Table("Weights", ("weight", "shape", "encoding", "MB", "share"), tuple(rows), "Scales count with their weight.", detail=True)


def _speed_table(figures: Budget) -> Table:
    name, rows, factor = figures.profile.device.title, _measured_rows(figures), figures.profile.latency.uncertainty
    for one in figures.signatures:
        e = one.estimate
        rows.append(
            (
                f"{name}, {one.cost.signature}",
                f"{e.ms_per_token:.3f}",
                f"{e.low:.3f} to {e.high:.3f}",
                f"estimated, weights from {e.memory}",
            )
        )
    if figures.first_token_ms is not None and not figures.profile.is_host:
        rows.append(
            (
                f"{name}, first token",
                f"{figures.first_token_ms:.1f}",
                f"{figures.first_token_ms / factor:.1f} to {figures.first_token_ms * factor:.1f}",
                "estimated: this machine's, scaled by bandwidth or cost of an op",
            )
        )
    held = "measured median" if figures.profile.is_host and figures.measured else "central estimate"
    note = (
        f"The verdict holds the {held} of {figures.token.cost.signature} against the limit. An estimate is for one thread on one big core "
        "in a steady loop. Its interval: low, every figure better by the profile's uncertainty; high, worse by it, all weights from "
        "DRAM and a core that clocked down."
    )
    return Table("Speed", ("where", "ms per token", "interval", "basis"), tuple(rows), note)


def _measured_rows(figures: Budget) -> list[tuple[str, str, str, str]]:
    if figures.measured is None:
        return []
    m = figures.measured
    how = f"measured, {m.runtime}, {_threads(m.threads)}, {m.runs} steps behind {m.position} tokens"
    return [
        ("this machine, median", f"{m.step_ms_median:.3f}", f"{m.step_ms_best:.3f} best, {m.step_ms_p95:.3f} p95", how),
        ("this machine, first token", f"{m.first_token_ms:.1f}", f"{m.load_ms:.1f} of it loading", "measured, file in the page cache"),
    ]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _memory_table(m: Measurement) -> Table:
    steps = (("after loading", m.load_mb), ("after the first step", m.first_step_mb), ("at the peak", m.peak_mb))
    rows = tuple((when, f"{value:.1f}") for when, value in steps if value is not None)
    note = "Growth of resident memory of a fresh process on this machine, the mapped file included."
    return Table("Memory", ("when", "MB"), rows, note, detail=True)


def _recipes_table(figures: Budget) -> Table:
    rows = tuple(
        (p.recipe, f"{p.size_mb:.2f}", f"{p.ms_per_token:.3f} ({p.low:.2g} to {p.high:.2g})", "yes" if _fits_all(figures, p) else "no")
        for p in figures.predictions
    )
    note = "From bits a weight and the latency estimate alone: what a recipe does to quality has to be measured."
    return Table("Other recipes", ("recipe", "about MB", "about ms per token", "fits size, download and time"), rows, note)


def plots(figures: Budget) -> tuple[Plot, ...]:
    """The layers by size, the time of a token against its limit, and where the time of a token goes on the device."""
    layers, parts = by_layer(figures.weights), figures.token.estimate.breakdown
    sizes = tuple(round(sum(w.nbytes for w in weights) / MB, 4) for weights in layers.values())
    weights = Plot("Weights by layer", tuple(layers), sizes, "MB")
    labels = ("call", "ops", "weights", "arithmetic")
    values = tuple(round(value, 4) for value in (parts.per_call, parts.per_op, parts.weights, parts.compute))
    title = f"Estimated time of {figures.token.cost.signature} on {figures.profile.device.title}"
    return weights, _speed_plot(figures), Plot(title, labels, values, "ms")


def _speed_plot(figures: Budget) -> Plot:
    """What a token takes here and on the device, against the limit."""
    estimate, name = figures.token.estimate, figures.profile.device.title
    bars = [
        (f"estimate, {end}", value) for end, value in (("low", estimate.low), ("central", estimate.ms_per_token), ("high", estimate.high))
    ]
    if figures.measured:
        bars.insert(0, ("this machine, median", figures.measured.step_ms_median))
    labels, values = zip(*bars, strict=True)
    note = f"Estimates are for {name}, {figures.token.cost.signature}."
    return Plot(
        "Time per token against the limit", labels, tuple(round(v, 4) for v in values), "ms", figures.profile.limits.ms_per_token, note
    )
