"""What edgelm says of an artifact: checks, tables and plots as values, and their rendering.

The steps of the pipeline return `Check`, `Table` and `Plot` values; this module alone turns them into terminal text, JSON and HTML.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import rich.box
import rich.table
from rich.console import Console
from rich.markup import escape

from edgelm.errors import ArtifactError

SCHEMA_VERSION = 1

Basis = Literal["measured", "estimated", "instructions", "read"]
"""How a figure came about: measured on this machine, estimated by a model of the device, counted instructions, read from a file."""


@dataclass(frozen=True)
class Check:
    """One figure held against its limit.

    Attributes:
        name: What was checked, such as `file size`.
        measured: The figure (in `unit`) or a short text.
        limit: What is allowed, in the same unit; None when the figure is only reported.
        unit: `MB`, `ms/token`, `%`, ... or empty.
        passed: True, False, or None when there is no limit or it could not be checked.
        basis: How the figure came about.
        cause: For a failing check: the top cause, one sentence.
        fix: For a failing check: the next command, with its predicted effect.
        interval: The lowest and highest value an estimate allows for, in the same unit; None for what is no estimate.
    """

    name: str
    measured: float | str
    limit: float | str | None = None
    unit: str = ""
    passed: bool | None = None
    basis: Basis = "measured"
    cause: str = ""
    fix: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """A table of the report; cells are text, formatted where they are made.

    Attributes:
        title: Above the table.
        columns: Headings.
        rows: Cells.
        note: Below the table.
        detail: For those who look closer: the terminal shows it on request only.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    detail: bool = False


@dataclass(frozen=True)
class Plot:
    """A horizontal bar plot with an optional limit line."""

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    unit: str
    limit: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that is known of one artifact.

    Attributes:
        title: Such as `keyboard-lstm for android-arm64`.
        facts: (key, text) pairs on top: source, way taken, recipe, machine, versions.
        checks: The verdict, most important first.
        tables: Details.
        plots: For the HTML page.
        next_commands: What to try next, most useful first.
        words: What it means that all checks passed, and that one failed.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    next_commands: tuple[str, ...] = ()
    words: tuple[str, str] = ("fits", "does not fit")

    @property
    def passed(self) -> bool:
        """No check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {"schema_version": SCHEMA_VERSION, "passed": self.passed, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Report:
        """Reads what `to_dict` wrote.

        Raises:
            ArtifactError: Another schema version, or missing parts.
        """
        if plain.get("schema_version") != SCHEMA_VERSION:
            raise ArtifactError(f"report version {plain.get('schema_version')!r}", allowed=str(SCHEMA_VERSION), fix="edgelm check ARTIFACT")
        try:
            return cls(
                title=plain["title"],
                facts=tuple((key, text) for key, text in plain["facts"]),
                checks=tuple(_check(check) for check in plain["checks"]),
                tables=tuple(Table(**{**t, "columns": tuple(t["columns"]), "rows": tuple(map(tuple, t["rows"]))}) for t in plain["tables"]),
                plots=tuple(Plot(**{**p, "labels": tuple(p["labels"]), "values": tuple(p["values"])}) for p in plain["plots"]),
                next_commands=tuple(plain["next_commands"]),
                words=tuple(plain.get("words", cls.words)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the report cannot be read: {error!r}", fix="edgelm check ARTIFACT") from error


def _check(plain: Mapping[str, Any]) -> Check:
    interval = plain.get("interval")
    return Check(**{**plain, "interval": tuple(interval) if interval else None})


def number(value: float | str | None) -> str:
    """A figure as text: four significant digits, thousands separated; text as it is; nothing for None.

    Example:
        >>> number(1234.5678), number(0.00012345), number("ok"), number(None)
        ('1,235', '0.0001234', 'ok', '')
    """
    if value is None or isinstance(value, str):
        return value or ""
    if value == 0 or math.isnan(value) or math.isinf(value):
        return f"{value:g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _figure(check: Check) -> str:
    """The figure with its unit and, for an estimate, its interval: `0.36 ms (0.2 to 2.6)`."""
    figure = f"{number(check.measured)} {check.unit}".strip()
    if check.interval is None:
        return figure
    low, high = (number(float(f"{end:.2g}")) for end in check.interval)
    return f"{figure} ({low} to {high})"


def verdict(check: Check) -> str:
    """PASS, FAIL or `-` when nothing was judged."""
    return {True: "PASS", False: "FAIL", None: "-"}[check.passed]


def render_terminal(report: Report, console: Console, *, details: bool = True) -> None:
    """Prints the report with rich: facts, verdict table, failing checks with cause and fix, tables, next commands.

    Args:
        report: What to print.
        console: Where.
        details: Print the tables that are marked as detail, too.
    """
    console.print(f"[bold]{escape(report.title)}[/bold]")
    for key, text in report.facts:
        console.print(f"  [dim]{escape(key):<12}[/dim] {escape(text)}")
    if report.checks:
        console.print(_verdicts(report.checks))
    for check in report.checks:
        if check.passed is False:
            console.print(f"[bold red]FAIL[/] {escape(check.name)}: {escape(check.cause)}")
            console.print(f"     next: {escape(check.fix)}")
    for table in report.tables:
        if table.detail and not details:
            continue
        render_table(table, console)
    if not report.checks:
        return
    word = f"[bold green]PASS[/]: {report.words[0]}" if report.passed else f"[bold red]FAIL[/]: {report.words[1]}"
    console.print(
        f"{word} ({sum(c.passed is True for c in report.checks)} checks passed, {sum(c.passed is False for c in report.checks)} failed)"
    )
    if report.next_commands:
        console.print("next:")
        for command in report.next_commands:
            console.print(f"  {escape(command)}", soft_wrap=True)


def _verdicts(checks: tuple[Check, ...]) -> rich.table.Table:
    grid = _grid("", ("check", "figure", "limit", "basis", "verdict"))
    colours = {"PASS": "green", "FAIL": "bold red", "-": "dim"}
    for check in checks:
        word = verdict(check)
        figure = _figure(check)
        limit = f"{number(check.limit)} {check.unit}".strip() if check.limit is not None else ""
        grid.add_row(escape(check.name), escape(figure), escape(limit), check.basis, f"[{colours[word]}]{word}[/]")
    return grid


def render_table(table: Table, console: Console) -> None:
    """Prints one table with rich."""
    grid = _grid(table.title, table.columns)
    for row in table.rows:
        grid.add_row(*(escape(cell) for cell in row))
    console.print(grid)
    if table.note:
        console.print(f"  [dim]{escape(table.note)}[/dim]")


def _grid(title: str, columns: tuple[str, ...]) -> rich.table.Table:
    grid = rich.table.Table(title=escape(title) or None, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(escape(column), overflow="fold")
    return grid


def render_json(report: Report) -> bytes:
    """The report as JSON bytes."""
    return (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode("utf-8")


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
.PASS{color:#1a7f37;font-weight:600}.FAIL{color:#cf222e;font-weight:600}.note{color:#59636e}code{background:#f2f4f6;padding:.1rem .3rem}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th,td{border-color:#30363d}code{background:#21262d}text{fill:#e6edf3}}
"""


def render_html(report: Report, figures: Sequence[tuple[str, str]] = ()) -> bytes:
    """The report as one self-contained HTML page: no script, no outside resource, plots as inline SVG.

    Args:
        report: What to show; without checks it has no verdict.
        figures: (Title, inline SVG) of further figures, above the plots.
    """
    title, word = html.escape(report.title), "PASS" if report.passed else "FAIL"
    parts = [f"<h1>{title}: <span class={word}>{word}</span></h1>" if report.checks else f"<h1>{title}</h1>"]
    parts.append(_html_rows(("", ""), report.facts))
    if report.checks:
        rows = tuple(
            (c.name, _figure(c), f"{number(c.limit)} {c.unit}" if c.limit is not None else "", c.basis, verdict(c)) for c in report.checks
        )
        parts += ["<h2>Verdict</h2>", _html_rows(("check", "figure", "limit", "basis", "verdict"), rows)]
    for check in report.checks:
        if check.passed is False:
            parts.append(
                f"<p><b class=FAIL>{html.escape(check.name)}</b>: {html.escape(check.cause)} <code>{html.escape(check.fix)}</code></p>"
            )
    for heading, svg in figures:
        parts += [f"<h2>{html.escape(heading)}</h2>", svg]
    for plot in report.plots:
        parts += [f"<h2>{html.escape(plot.title)}</h2>", _svg(plot), f"<p class=note>{html.escape(plot.note)}</p>"]
    for table in report.tables:
        note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
        parts += [f"<h2>{html.escape(table.title)}</h2>", _html_rows(table.columns, table.rows), note]
    if report.next_commands:
        parts.append("<h2>Next</h2>" + "".join(f"<p><code>{html.escape(command)}</code></p>" for command in report.next_commands))
    viewport = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head = f"<!doctype html><html lang=en>{viewport}<title>{title}</title>"
    return f"{head}<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n".encode()


def _html_rows(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    head = "<tr>" + "".join(f"<th>{html.escape(column)}</th>" for column in columns) + "</tr>" if any(columns) else ""
    cell = lambda text: f"<td class={text}>{text}</td>" if text in ("PASS", "FAIL") else f"<td>{html.escape(text)}</td>"  # noqa: E731
    return f"<table>{head}{''.join('<tr>' + ''.join(map(cell, row)) + '</tr>' for row in rows)}</table>"


def _svg(plot: Plot) -> str:
    """Horizontal bars, 22 px each, the value behind each bar, the limit as a dashed line."""
    left, width, row = 220, 480, 22
    top = max([*plot.values, plot.limit or 0.0, 1e-12])
    height = row * len(plot.values) + 24
    marks = []
    for i, (label, value) in enumerate(zip(plot.labels, plot.values, strict=True)):
        y, bar = i * row + 4, max(0.0, value) / top * width
        colour = "#cf222e" if plot.limit is not None and value > plot.limit else "#0969da"
        marks.append(f"<text x={left - 8} y={y + 13} text-anchor=end font-size=12>{html.escape(label)}</text>")
        marks.append(f"<rect x={left} y={y} width={bar:.1f} height={row - 6} fill='{colour}'/>")
        marks.append(f"<text x={left + bar + 6:.1f} y={y + 13} font-size=12>{number(value)} {html.escape(plot.unit)}</text>")
    if plot.limit is not None:
        x = left + plot.limit / top * width
        marks.append(f"<line x1={x:.1f} y1=0 x2={x:.1f} y2={height - 20} stroke='#cf222e' stroke-dasharray='4 3'/>")
        marks.append(
            f"<text x={x:.1f} y={height - 6} text-anchor=middle font-size=12>limit {number(plot.limit)} {html.escape(plot.unit)}</text>"
        )
    label = html.escape(plot.title, quote=True)
    return f"<svg role=img aria-label=\"{label}\" viewBox='0 0 {left + width + 120} {height}' width='100%'>{''.join(marks)}</svg>"
