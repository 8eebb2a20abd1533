"""Checks and tables of an arm64 proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgelm.device.emulator import Core, Machine
from edgelm.errors import EmulatorError
from edgelm.report import Check, Table
from edgelm.validate.arm64_limits import LIMITS, SAME, Arithmetic, Limit

TITLE = "arm64 proof"

CLASSES: Mapping[str, str] = {"fmla": "FMLA", "widening": "SMULL/SMLAL", "dot": "SDOT/UDOT", "mmla": "SMMLA/UMMLA", "sve": "SVE/SME"}
"""Class of the instruction counter -> the instructions, for the report."""

INTEGER_KERNELS: Mapping[str, str] = {"widening": "NEON", "dot": "NEON dotprod", "mmla": "i8mm"}
"""Class that only kernels of that kind execute -> the kind."""


@dataclass(frozen=True)
class Job:
    """One signature on one core, and the tokens a call of it takes."""

    core: Core
    signature: str
    tokens: int


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        job: Which.
        differences: For each call, the largest difference of an output, relative to its largest value on this host.
        same_choice: Every call has the same likeliest token, or one that is as likely within the limit.
        counts: Instruction class -> executed instructions of a call; None without a count.
        error: Why there is nothing of it.
    """

    job: Job
    differences: tuple[float, ...] = ()
    same_choice: bool = True
    counts: Mapping[str, int] | None = None
    error: EmulatorError | None = None


def blocks_table() -> Table:
    """Why a file with int4 blocks was not run."""
    row = ("not run", "CompiledModel of LiteRT 2.1.0 refuses int4 weights in blocks (on every CPU); its Interpreter API reads them")
    return Table(TITLE, ("verdict", "why"), (row,), "the runner uses the C API of CompiledModel")


def checks(core: Core, results: Sequence[Result], limit: Limit) -> tuple[Check, ...]:
    """The verdict of one core, and the instructions of a token there."""
    own = [result for result in results if result.job.core == core]
    title = f"{TITLE}, {core.name}"
    for result in own:
        if result.error:
            return (Check(title, "failed", passed=False, cause=result.error.what, fix=result.error.fix),)
    judged = (_judged(title, own, limit),)
    decode = next((result for result in own if result.job.tokens == 1), None)
    if decode is None or decode.counts is None:
        return judged
    return (*judged, Check(f"instructions a token, {core.name}", decode.counts["total"], basis="instructions"))


def _judged(title: str, own: Sequence[Result], limit: Limit) -> Check:
    worst = max(own, key=lambda result: max(result.differences))
    difference = float(f"{max(worst.differences):.3g}")
    same_choice = all(result.same_choice for result in own)
    if difference <= limit.relative and same_choice:
        return Check(title, difference, limit.relative, "relative", True)
    what = f"signature {worst.job.signature!r} differs by {difference:.1e}" if same_choice else "another token is the likeliest"
    fix = "edgelm convert MODEL --recipe float32 shows whether the rounding is the cause; please report the model"
    return Check(title, difference, limit.relative, "relative", False, cause=f"{what}; allowed {limit.relative:g}: {limit.reason}", fix=fix)


def core_table(machine: Machine, results: Sequence[Result], arithmetic: Arithmetic, left_out: Sequence[str]) -> Table:
    """One row a core."""
    rows = []
    for core in machine.cores:
        own = [result for result in results if result.job.core == core and not result.error]
        differences = [difference for result in own for difference in result.differences]
        same = f"{sum(difference <= SAME for difference in differences)} of {len(differences)}"
        used = list(dict.fromkeys(kernels(result.counts) for result in own if result.counts))
        worst = f"{max(differences):.1e}" if differences else ""
        rows.append((core.name, core.kernels, "; ".join(used) or "not counted", worst, same))
    limit = LIMITS[arithmetic]
    note = f"{machine.title}; against LiteRT on this host. Limit {limit.relative:g}: {limit.reason}"
    if left_out:
        note += f". Left out, as they would take too long or no session calls them: {', '.join(left_out)}"
    columns = ("core", "features", "kernels used", "largest difference", f"calls within {SAME:g}")
    return Table("arm64", columns, tuple(rows), note)


def signature_table(results: Sequence[Result]) -> Table:
    """One row a core and signature, with the instructions by class."""
    columns = ("core", "signature", "calls", "largest difference", "instructions", "a token", "by class")
    rows = tuple(_signature_row(result) for result in results if not result.error)
    note = "instructions of one call, the median of those made; executed ones, counted by a plugin of QEMU: they are not time"
    return Table("arm64, by signature", columns, rows, note, detail=True)


def _signature_row(result: Result) -> tuple[str, ...]:
    counts = result.counts or {}
    total = counts.get("total", 0)
    classes = ", ".join(f"{count:,} {CLASSES[name]}" for name, count in counts.items() if name in CLASSES and count)
    figures = (f"{max(result.differences):.1e}", f"{total:,}", f"{total // result.job.tokens:,}", classes) if counts else ("", "", "", "")
    return (result.job.core.name, result.job.signature, str(len(result.differences)), *figures)


def kernels(counts: Mapping[str, int]) -> str:
    """Which kernels did the products, by the instructions that only they have.

    Example:
        >>> kernels({"total": 557963, "fmla": 3200, "widening": 0, "dot": 140896, "mmla": 0, "sve": 0})
        'NEON dotprod'
    """
    name = max(INTEGER_KERNELS, key=lambda name: counts[name])
    if counts[name]:
        return INTEGER_KERNELS[name]
    return "NEON float32" if counts["fmla"] else "no vector products"
