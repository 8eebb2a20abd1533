"""Progress on stderr: the stage that runs, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

OnStage = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total (0 when unknown)."""


@contextmanager
def stages() -> Iterator[OnStage]:
    """A progress display on stderr; on no terminal, one line a stage."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        current = ""

        def on_stage(name: str, done: int, total: int) -> None:
            nonlocal current
            if name != current:
                current = name
                progress.reset(task, total=total or None, description=name)
            progress.update(task, completed=done, total=total or None)

        yield on_stage


def _lines(console: Console) -> OnStage:
    seen: set[str] = set()

    def on_stage(name: str, done: int, total: int) -> None:
        if name not in seen:
            seen.add(name)
            console.print(f"[dim]{name}[/dim]", highlight=False)

    return on_stage
