"""Prints reports on the terminal."""

from __future__ import annotations

from rich.console import Console

from edgelm.report import Report, render_terminal


def show_report(report: Report, *, details: bool) -> None:
    """The report on stdout; 100 columns wide where stdout is no terminal, so that a transcript does not depend on it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    render_terminal(report, console, details=details)
