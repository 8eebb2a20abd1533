"""`edgelm profile`: what an artifact takes on a phone, on a board, in the demo app, or on this host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.progress import OnStage, stages
from edgelm.cli.show import show_report

if TYPE_CHECKING:
    from edgelm.artifact import Artifact
    from edgelm.device.adb_runner import BenchOptions
    from edgelm.device.profile_report import ProfileReport
    from edgelm.report import Report

DEMO_APP = "dev.edgelm.demo"


@click.command("profile")
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option("--device", metavar="adb[:SERIAL]", help="Run on the phone or board behind adb. [default: this host]")
@click.option("--app", is_flag=False, flag_value=DEMO_APP, metavar="[PACKAGE]", help="Run inside the demo app instead of by the runner.")
@click.option("--import", "report", type=click.Path(path_type=Path), metavar="FILE", help="Read a report made elsewhere; runs nothing.")
@click.option("--target", metavar="PROFILE", help="Estimates and limits to hold it against. [default: the artifact's]")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(1, 1_000_000), help="Tokens to time.")
@click.option("--prompt", default=32, show_default=True, type=click.IntRange(1, 1_000_000), help="Tokens of the prompt before them.")
@click.option("--warmup", default=8, show_default=True, type=click.IntRange(0, 1_000_000), help="Tokens that are not timed.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="Threads of the runtime.")
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(1), help="Longest the run may take, s.")
@click.option("--runner", type=click.Path(path_type=Path), metavar="PATH", help="edgelm_runner built for the device.")
@click.option("--library", type=click.Path(path_type=Path), metavar="PATH", help="libLiteRt.so built for the device.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the measurements (JSON).")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as a page; of this host with a flame graph.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    artifact: Path | None,
    device: str | None,
    app: str | None,
    report: Path | None,
    target: str | None,
    tokens: int,
    prompt: int,
    warmup: int,
    threads: int,
    timeout: float,
    runner: Path | None,
    library: Path | None,
    output: Path | None,
    html: Path | None,
    as_json: bool,
) -> int:
    """Measure ARTIFACT (a folder or a .tflite that edgelm wrote) on a device; without --device, on this host.

    \b
    edgelm profile FOLDER --device adb -o report.json     by the command-line runner
    edgelm profile FOLDER --app                           inside the demo app
    edgelm profile --import report.json                   a report the app shared
    """
    from edgelm.device.adb_runner import BenchOptions

    _check_usage(artifact, device, app, report)
    _check_writable(output, html)
    if report is None and device is None and app is None and artifact is not None:
        return _this_host(artifact, threads, output, html, as_json)
    options = BenchOptions(prompt=prompt, tokens=tokens, warmup=warmup, threads=threads, timeout_s=timeout)
    loaded = _load(artifact)
    with stages() as on_stage:
        run = _imported(report) if report else _measured(loaded, device or "adb", app, options, (runner, library), on_stage)
    result = _judged(run, loaded, target)
    _write(output, run.encode())
    return _show(result, html, as_json)


def _check_usage(artifact: Path | None, device: str | None, app: str | None, report: Path | None) -> None:
    """Refuses options that contradict each other, before anything runs.

    Raises:
        UsageError: Names what to leave out or to add.
    """
    if report is not None and (device is not None or app is not None):
        raise click.UsageError("--import reads a report and runs nothing: leave out --device and --app")
    if report is None and artifact is None:
        raise click.UsageError("ARTIFACT is missing (with --app, put it first: edgelm profile ARTIFACT --app)")
    if device is not None and device.partition(":")[0] != "adb":
        raise click.UsageError(f"--device {device!r}: it is adb, or adb:SERIAL as adb devices lists it")


def _check_writable(*paths: Path | None) -> None:
    """Refuses a place that cannot be written, before a long run."""
    import os

    from edgelm.errors import ArtifactError

    for path in paths:
        if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
            raise ArtifactError(f"{path} cannot be written", allowed="a file in a folder that exists and can be written")


def _load(path: Path | None) -> Artifact | None:
    from edgelm import artifact

    return None if path is None else artifact.load(path)


def _imported(path: Path) -> ProfileReport:
    from edgelm.device import profile_report

    return profile_report.read(path)


def _measured(
    artifact: Artifact | None,
    device: str,
    app: str | None,
    options: BenchOptions,
    given: tuple[Path | None, Path | None],
    on_stage: OnStage,
) -> ProfileReport:
    from edgelm.artifact import MODEL
    from edgelm.device import adb, adb_app, adb_binaries, adb_facts, adb_runner
    from edgelm.device.cache import cache_folder

    if artifact is None:
        raise click.UsageError("ARTIFACT is missing")
    model = artifact.path / MODEL if artifact.path.is_dir() else artifact.path
    on_stage("looking for the device", 0, 0)
    connected = adb.connect(device.partition(":")[2])
    if app is not None:
        return adb_app.profile(connected, model, name=artifact.name, package=app, options=options, on_stage=on_stage)
    facts = adb_facts.ask(connected)
    binaries = adb_binaries.find(facts, *given, cache=cache_folder(), on_stage=on_stage)
    return adb_runner.profile(connected, model, binaries, facts, name=artifact.name, options=options, on_stage=on_stage)


def _judged(run: ProfileReport, artifact: Artifact | None, target: str | None) -> Report:
    """Against the profile asked for, else the one the artifact was converted for; a report alone is only shown."""
    from edgelm.device import profile
    from edgelm.validate import device_run

    name = target or (str(artifact.manifest["target"]) if artifact else None)
    return device_run.judge(run, artifact, profile.load(name) if name else None)


def _this_host(path: Path, threads: int, output: Path | None, html: Path | None, as_json: bool) -> int:
    raise NotImplementedError


def _write(path: Path | None, data: bytes) -> None:
    """Writes a file whole or not at all."""
    from edgelm.errors import ArtifactError

    if path is None:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(f"{path} cannot be written: {error.strerror}", fix="-o ANOTHER-FILE") from error


def _show(result: Report, html: Path | None, as_json: bool) -> int:
    from edgelm import report

    _write(html, report.render_html(result))
    if as_json:
        click.echo(report.render_json(result).decode("utf-8"), nl=False)
    else:
        show_report(result, details=False)
    return 0 if result.passed else 3
