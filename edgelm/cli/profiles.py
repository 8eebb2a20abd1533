"""`edgelm profiles`: the shipped device profiles and the limits they set."""

from __future__ import annotations

import click
import rich.box
from rich.table import Table

from edgelm.cli.show import show
from edgelm.device import profile
from edgelm.report import number


@click.command("profiles")
def command() -> None:
    """The devices an artifact can be judged against."""
    grid = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ("profile", "device", "runtime", "size MB", "ms/token", "peak MB"):
        grid.add_column(column, overflow="fold")
    for each in profile.available():
        limits = each.limits
        figures = [number(value) for value in (limits.size_mb, limits.ms_per_token, limits.peak_memory_mb)]
        grid.add_row(each.name, each.device.title, f"{each.runtime.name} {each.runtime.version}", *figures)
    show(grid)
    click.echo("judge against one: edgelm convert MODEL --target PROFILE (a name, or the path of your own .toml)")
