"""`edgelm profiles`: the shipped device profiles, and new ones fitted to measurements."""

from __future__ import annotations

from pathlib import Path

import click
import rich.box
from rich.table import Table

from edgelm.cli.progress import stages
from edgelm.cli.show import show, show_table
from edgelm.device import profile
from edgelm.report import number

HOST_ROWS = 12
"""Calls shown of the hundred that this machine is fitted to."""


@click.group("profiles", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """The devices an artifact can be judged against; `calibrate` makes one for a phone or for this machine."""
    if context.invoked_subcommand is None:
        _list()


def _list() -> None:
    grid = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ("profile", "device", "runtime", "size MB", "ms/token", "peak MB", "latency"):
        grid.add_column(column, overflow="fold")
    for each in profile.available():
        limits = each.limits
        figures = [number(value) for value in (limits.size_mb, limits.ms_per_token, limits.peak_memory_mb)]
        grid.add_row(each.name, each.device.title, f"{each.runtime.name} {each.runtime.version}", *figures, each.latency.basis)
    show(grid)
    click.echo("judge against one: edgelm convert MODEL --target PROFILE (a name, or the path of your own .toml)")
    click.echo("your own phone:    edgelm profiles calibrate report.json... --artifact FOLDER -o my-phone.toml")


@command.command("calibrate")
@click.argument("reports", nargs=-1, type=click.Path(path_type=Path))
@click.option("--host", is_flag=True, help="Measure this machine instead of reading reports; takes about a minute.")
@click.option(
    "--artifact", "artifacts", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER", help="What a report ran; repeat it."
)
@click.option("--like", default="android-mid-a76", show_default=True, metavar="PROFILE", help="A similar phone: where the fit starts.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FILE.toml", help="The new profile.")
def calibrate(reports: tuple[Path, ...], host: bool, artifacts: tuple[Path, ...], like: str, out: Path) -> None:
    """Fit a profile to REPORTS (edgelm profile --device adb, or the demo app) of one phone, or to this machine."""
    from edgelm.device import calibrate as phone
    from edgelm.device import profile_report, profile_toml

    if host == bool(reports):
        raise click.UsageError("give the JSON reports of a phone, or --host for this machine")
    profile_toml.check_writable(out)
    with stages() as on_stage:
        if host:
            from edgelm.validate.host_calibration import calibrate_host

            found = calibrate_host(on_stage=on_stage)
        else:
            on_stage("fitting the profile", 0, 0)
            start = profile.load(like)
            found = phone.calibrate([profile_report.read(path) for path in reports], phone.find_models(artifacts), start, out.stem)
    show_table(phone.table(found, worst=HOST_ROWS if host else None))
    profile_toml.write(found.profile, out, comment=f"Made by edgelm profiles calibrate{' --host' if host else ''}.")
    click.echo(f"wrote {out}; judge against it: edgelm check ARTIFACT --target {out}")
