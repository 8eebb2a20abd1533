"""How a training is shown on stderr: what it will cost, a bar, and one line an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from edgelm.compress.settings import OnProgress, Plan, Progress

STEPS_TO_MEASURE = 10
SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def shown() -> Iterator[OnProgress]:
    """A bar on a terminal; elsewhere a line each minute."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Lines(console.print)
        return
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("building the graph", total=None, epoch=1)
        lines = Lines(console.print, between=math.inf)

        def on_progress(progress: Progress) -> None:
            lines(progress)
            text = figures(progress) if progress.seconds_left >= 0 else "building the graph"
            bar.update(task, total=progress.plan.steps, completed=progress.step, description=text, epoch=progress.epoch)

        yield on_progress


@dataclass
class Lines:
    """Prints the plan of each training, its first measured rate, a line now and then, and one an epoch."""

    print: Callable[[str], None]
    between: float = SECONDS_BETWEEN_LINES
    plan: Plan | None = None
    epochs: int = 0
    last: float = 0.0

    def __call__(self, progress: Progress) -> None:
        """Takes note of a step."""
        if self.plan is not progress.plan:
            self.plan = progress.plan
            self.print(_cost(progress.plan))
            if progress.step:
                self.print(f"resumed after step {progress.step:,} of {progress.plan.steps:,}")
            self.epochs, self.last = len(progress.history), time.monotonic()
        elif len(progress.history) > self.epochs:
            self.epochs = len(progress.history)
            done = progress.history[-1]
            self.print(f"epoch {done.epoch}: loss {done.loss:.3f}, validation perplexity {done.valid_perplexity:.2f}, {done.seconds:.0f} s")
        elif progress.step == STEPS_TO_MEASURE or time.monotonic() - self.last > self.between:
            self.last = time.monotonic()
            self.print(f"step {progress.step:,} of {progress.plan.steps:,}: {figures(progress)}")


def _cost(plan: Plan) -> str:
    return (
        f"{plan.parameters:,} parameters; {plan.train_tokens:,} training and {plan.valid_tokens:,} validation tokens; "
        f"{plan.steps:,} steps in {plan.epochs} epoch{'s' if plan.epochs > 1 else ''}"
    )


def figures(progress: Progress) -> str:
    """Loss, perplexity, speed and time left, in one line."""
    left = "measuring" if math.isnan(progress.seconds_left) else duration(progress.seconds_left)
    return f"loss {progress.loss:.3f}, perplexity {progress.perplexity:.1f}, {progress.tokens_per_second:,.0f} tokens/s, {left} left"


def duration(seconds: float) -> str:
    """A length of time in its two largest units.

    Example:
        >>> duration(3725)
        '1 h 2 min'
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
