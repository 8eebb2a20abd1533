"""Prints reports on the terminal."""

from __future__ import annotations

from rich.console import Console, RenderableType

from edgelm.report import Report, Table, render_table, render_terminal


def show_report(report: Report, *, details: bool) -> None:
    """The report on stdout."""
    render_terminal(report, _console(), details=details)


def show_table(table: Table) -> None:
    """One table on stdout."""
    render_table(table, _console())


def show(what: RenderableType) -> None:
    """A table or text on stdout."""
    _console().print(what)


def _console() -> Console:
    """Stdout; 110 columns wide where it is no terminal, so that a transcript does not depend on it."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=110)
