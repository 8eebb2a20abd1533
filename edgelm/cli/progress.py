"""Progress on stderr: the stage that runs, how far it is, and what a training does."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from edgelm.compression import Watch

OnStage = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total (0 when unknown)."""


@contextmanager
def stages() -> Iterator[OnStage]:
    """A progress display on stderr; on no terminal, one line a stage."""
    with _shown(Console(stderr=True)) as on_stage:
        yield on_stage


@contextmanager
def training_stages() -> Iterator[Watch]:
    """The same for a run whose steps may train: tables before they begin, and lines or a bar while they train."""
    from edgelm.cli.train_progress import Lines, figures
    from edgelm.compress.settings import Progress as Training
    from edgelm.compression import Watch
    from edgelm.report import Table, render_table

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    lines = Lines(console.print, between=math.inf) if console.is_terminal else Lines(console.print)
    with _shown(console) as on_stage:
        stage = ""

        def named(name: str, done: int, total: int) -> None:
            nonlocal stage
            stage = name
            on_stage(name, done, total)

        def on_training(progress: Training) -> None:
            lines(progress)
            if console.is_terminal:
                on_stage(f"{stage}: {figures(progress)}", progress.step, progress.plan.steps)

        def on_table(table: Table) -> None:
            render_table(table, console)

        yield Watch(named, on_training, on_table)


@contextmanager
def _shown(console: Console) -> Iterator[OnStage]:
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        current = ""

        def on_stage(name: str, done: int, total: int) -> None:
            nonlocal current
            if name.partition(":")[0] != current:
                current = name.partition(":")[0]
                progress.reset(task, total=total or None)
            progress.update(task, completed=done, total=total or None, description=name)

        yield on_stage


def _lines(console: Console) -> OnStage:
    seen: set[str] = set()

    def on_stage(name: str, done: int, total: int) -> None:
        if name not in seen:
            seen.add(name)
            console.print(f"[dim]{name}[/dim]", highlight=False)

    return on_stage
