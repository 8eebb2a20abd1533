"""The profile of this host as a report: signatures, layers, ops, what XNNPACK left alone, and flame graphs for the page."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from itertools import groupby

from edgelm.report import Plot, Report, Table, number
from edgelm.report_flame import Frame, render_svg
from edgelm.validate.host_profile import HostProfile, OpTime, SignatureProfile

UNDER = "under 1 us"
"""What the profiler shows as 0."""


def report(profile: HostProfile) -> Report:
    """Tables and plots of a profile, of whole calls alone where ops were not told apart; nothing is judged."""
    facts: tuple[tuple[str, str], ...] = (
        ("runtime", f"{profile.runtime}, {'1 thread' if profile.threads == 1 else f'{profile.threads} threads'}"),
        ("this host", f"{platform.machine()}, Python {platform.python_version()}, {platform.system()}"),
        ("basis", "measured; ops by the runtime's own profiler, which cuts times to whole microseconds"),
    )
    if profile.no_ops:
        facts = (*facts[:2], ("basis", "measured, whole calls only"), ("ops", f"not told apart: {profile.no_ops}"))
        return Report(f"{profile.name} on this machine", facts, checks=(), tables=(_signatures(profile),))
    own = _own_kernels(profile)
    tables = (_signatures(profile), *(_layers(one) for one in profile.signatures), *own, *(_ops(one) for one in profile.signatures))
    plots = tuple(
        Plot(f"{one.signature}: time by layer", tuple(one.us_by_layer), tuple(round(us, 2) for us in one.us_by_layer.values()), "us")
        for one in profile.signatures
    )
    return Report(f"{profile.name} on this machine", facts, checks=(), tables=tables, plots=plots)


def flames(profile: HostProfile) -> tuple[tuple[str, str], ...]:
    """(Title, inline SVG) for each signature: `report.render_html` puts them on the page."""
    told = [] if profile.no_ops else profile.signatures
    return tuple((f"{one.signature}: {one.ms:.3f} ms a call (measured)", render_svg(frame(one), "us")) for one in told)


def frame(signature: SignatureProfile) -> Frame:
    """Signature over layers over ops; ops that XNNPACK does not run are flagged, and what is in no op is grey."""
    layers = []
    for layer, ops in groupby(signature.ops, key=lambda op: op.layer):
        members = tuple(ops)
        children = tuple(Frame(op.name, op.us, note=op.reason or op.kernel, flagged=not op.delegated) for op in members if op.us)
        layers.append(Frame(layer, sum(op.us for op in members), children))
    if signature.rest_us > 0:
        layers.append(Frame("in no op", signature.rest_us, note="the runtime itself, and parts of microseconds", rest=True))
    return Frame(signature.signature, sum(layer.value for layer in layers), tuple(layers))


def _signatures(profile: HostProfile) -> Table:
    rows = []
    for one in profile.signatures:
        percentiles = (f"{one.ms:.3f}", f"{one.ms_median:.3f}", f"{one.ms_p95:.3f}")
        own = sum(not op.delegated for op in one.ops)
        ops = () if profile.no_ops else (str(len(one.ops)), str(own))
        rows.append((one.signature, *percentiles, str(one.runs), *ops))
    columns = ("signature", "ms, 5th percentile", "median", "p95", "calls", "ops", "not by XNNPACK")[: 5 if profile.no_ops else 7]
    return Table("Whole calls (measured)", columns, tuple(rows), "Wall-clock time on this machine, without the profiler.")


def _layers(one: SignatureProfile) -> Table:
    total = one.ms * 1e3
    rows = [(layer, f"{us:.1f}" if us else UNDER, f"{us / total:.0%}") for layer, us in one.us_by_layer.items()]
    rows.append(("in no op", f"{one.rest_us:.1f}", f"{one.rest_us / total:.0%}"))
    note = (
        "An op without weights counts to the layer whose result it takes. In no op: the runtime itself, and the parts of microseconds that "
        f"the profiler cuts off. Profiled calls took {one.slowdown:.2f} times as long as others; their parts are scaled to those."
    )
    return Table(f"{one.signature}: time by layer", ("layer", "us", "share"), tuple(rows), note)


def _own_kernels(profile: HostProfile) -> Iterator[Table]:
    rows = [(one.signature, op.name, op.layer, _us(op), op.reason) for one in profile.signatures for op in one.ops if not op.delegated]
    if rows:
        note = "Each of them also makes XNNPACK stop before it and start again behind it."
        yield Table("Ops that XNNPACK does not run", ("signature", "op", "layer", "us", "why"), tuple(rows), note)


def _ops(one: SignatureProfile) -> Table:
    rows = tuple((op.name, op.layer, _us(op), op.kernel or "fused into its neighbour") for op in one.ops)
    return Table(f"{one.signature}: ops", ("op", "layer", "us", "kernel"), rows, detail=True)


def _us(op: OpTime) -> str:
    if op.us:
        return number(op.us)
    return UNDER if op.kernel else ""
