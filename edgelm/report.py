"""What edgelm says of an artifact: checks, tables and plots as values, and their rendering.

The steps of the pipeline return `Check`, `Table` and `Plot` values; this module alone turns them into terminal text, JSON and HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """

    name: str
    measured: float | str
    limit: float | str | None = None
    unit: str = ""
    passed: bool | None = None
    basis: Basis = "measured"
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the report; cells are text, formatted where they are made."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


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
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    next_commands: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """No check failed."""
        return all(check.passed is not False for check in self.checks)
