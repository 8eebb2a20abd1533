"""The results as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from peers import goals, machine, models
from peers.cells import CELLS, OURS, OURS_NATIVE, Cell
from peers.goals import Figures, Result
from peers.store import Rounds, lower_quartile, ratio

COLUMNS = (
    "peer", "weights", "file MB", "ms/token", "lower quartile", "over ours", "2 threads", "share of bound", "at depth 512",
    "prefill 128 ms", "prefill 512 ms", "first token ms", "warm", "first launch", "peak MB", "conversion s", "GB",
)  # fmt: skip


BUSY = " (busy)"
"""Behind the seconds of a conversion during which others used the cores."""


def markdown(figures: Figures, results: Sequence[Result], facts: Mapping[str, Mapping[str, Any]], errors: Mapping[str, str]) -> str:
    """The goals, a table for each model, and what could not be measured."""
    parts = [goals_table(results)]
    for shape in models.SHAPES.values():
        cells = [cell for cell in CELLS if cell.model == shape.name and any(key[0] == cell.name for key in figures)]
        if cells:
            parts += ["", f"### {models.label(shape)}", "", model_table(cells, figures, facts)]
    missing = [f"- {cell.name}: {errors[cell.name]}" for cell in CELLS if cell.name in errors]
    if missing:
        parts += ["", "### Not measured", "", *missing]
    return "\n".join(parts) + "\n"


def goals_table(results: Sequence[Result]) -> str:
    """Goal, figure, met or how far."""
    lines = ["| goal | wanted | measured | |", "|---|---:|---:|---|"]
    for result in results:
        if result.measured is None:
            lines.append(f"| {result.what} | {result.wanted} | | {result.note} |")
        else:
            lines.append(f"| {result.what} | {result.wanted} | {shown(result)} | {'met' if result.met else missed(result)} |")
    return "\n".join(lines)


def shown(result: Result) -> str:
    """Two decimals, and three where two would look as if the goal were met: 1.001 with `<= 1` wanted."""
    measured, limit = result.measured or 0.0, float(result.wanted.split()[1])
    return f"{measured:.{3 if not result.met and round(measured, 2) == limit else 2}f}"


def missed(result: Result) -> str:
    """By how much, and why."""
    return f"{far(result)}: {result.note}" if result.note else far(result)


def far(result: Result) -> str:
    """How far a missed goal is.

    Example: `>= 1.4` with 1.33 measured is "missed by 5 %".
    """
    limit = float(result.wanted.split()[1])
    measured = result.measured or 0.0
    percent = 100 * abs(measured / limit - 1)
    return f"missed by {percent:.{0 if percent >= 0.95 else 1}f} %"


def model_table(cells: Sequence[Cell], figures: Figures, facts: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each cell of one model."""
    step = "decode:0" if cells[0].spec.family == "recurrent" else "decode:100"
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    for cell in cells:
        lines.append("| " + " | ".join(row(cell, cells, step, figures, facts.get(cell.name, {}))) + " |")
    return "\n".join(lines)


def row(cell: Cell, cells: Sequence[Cell], step: str, figures: Figures, facts: Mapping[str, Any]) -> list[str]:
    """The texts of one row."""

    def rounds(figure: str) -> Rounds:
        return figures.get((cell.name, figure), {})

    def text(figure: str, digits: int = 1) -> str:
        return f"{statistics.median(rounds(figure).values()):.{digits}f}" if rounds(figure) else ""

    digits = 2 if cell.model in (models.M2, models.M3) else 3
    ours = own(cell, [other for other in cells if figures.get((other.name, step))])
    against = ratio(rounds(step), figures.get((ours.name, step), {})) if ours and ours is not cell else None
    share = goals.bound_share(cell, figures.get((f"machine/{cell.name}", "gigabytes_per_second"), {}), rounds(step))
    return [
        cell.peer,
        cell.form,
        f"{facts['bytes'] / 1e6:.1f}" if "bytes" in facts else "",
        text(step, digits),
        f"{lower_quartile(list(rounds(step).values())):.{digits}f}" if rounds(step) else "",
        f"{against:.2f}" if against else "",
        text(f"{step}@2", digits),
        f"{share:.2f}" if share else "",
        text("decode:512", 2),
        text("prefill:128"),
        text("prefill:512"),
        text("start_ms") or text("first_ms"),
        text("warm_first_ms"),
        text("launch_ms"),
        text("peak_mb", 0),
        f"{facts['convert_s']:.1f}{'' if facts.get('convert_others', 0.0) <= machine.QUIET else BUSY}" if "convert_s" in facts else "",
        f"{facts['convert_gb']:.2f}" if "convert_gb" in facts else "",
    ]


def own(cell: Cell, timed: Sequence[Cell]) -> Cell | None:
    """Our cell that a peer's is put beside: the same bits; for an LSTM, whose step is short, the same kind of host."""
    kinds = (OURS,) if cell.spec.family == "recurrent" and cell.host == "python" else (OURS_NATIVE, OURS)
    return next((ours for kind in kinds for ours in timed if ours.peer == kind and ours.nominal == cell.nominal), None)
