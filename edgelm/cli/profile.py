"""`edgelm profile`: what an artifact takes on a phone, on a board, in the demo app, or on this host."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.progress import OnStage, stages
from edgelm.cli.show import show_report

if TYPE_CHECKING:
    from edgelm.artifact import Artifact
    from edgelm.device.adb_runner import BenchOptions
    from edgelm.device.profile import DeviceProfile
    from edgelm.device.profile_report import ProfileReport
    from edgelm.report import Report

DEMO_APP = "dev.edgelm.demo"


@dataclass(frozen=True)
class Places:
    """Where the result goes.

    Attributes:
        output: File of the measurements (JSON).
        html: File of the page.
        details: Print the detail tables, too.
        as_json: Print the report as JSON.
    """

    output: Path | None
    html: Path | None
    details: bool
    as_json: bool

    def check_writable(self) -> None:
        """Refuses a place that cannot be written, before a long run."""
        from edgelm.errors import ArtifactError

        for path in (self.output, self.html):
            if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
                raise ArtifactError(f"{path} cannot be written", allowed="a file in a folder that exists and can be written")

    def write(self, measurements: bytes, result: Report, figures: Sequence[tuple[str, str]] = ()) -> int:
        """Writes the files, prints the report and gives the exit code; `figures` are further ones for the page."""
        from edgelm import report

        _write(self.output, measurements)
        _write(self.html, report.render_html(result, figures))
        if self.as_json:
            click.echo(report.render_json(result).decode("utf-8"), nl=False)
        else:
            show_report(result, details=self.details)
        return 0 if result.passed else 3


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
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as a page; of this host with a flame graph."
)
@click.option("--details", is_flag=True, help="Print the detail tables, too: every op of this host.")
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
    details: bool,
    as_json: bool,
) -> int:
    r"""Measure ARTIFACT (a folder or a .tflite that edgelm wrote) on a device; without --device, on this host.

    \b
    edgelm profile FOLDER --device adb -o report.json     by the command-line runner
    edgelm profile FOLDER --app                           inside the demo app
    edgelm profile --import report.json                   a report the app shared
    """
    places = Places(output, html, details, as_json)
    _check_usage(device, app, report, target)
    places.check_writable()
    if report is not None:
        return _imported(report, artifact, target, places)
    if artifact is None:
        raise click.UsageError("ARTIFACT is missing (with --app, put it first: edgelm profile ARTIFACT --app)")
    if device is None and app is None:
        return _this_host(artifact, threads, places)
    from edgelm.device.adb_runner import BenchOptions

    options = BenchOptions(prompt=prompt, tokens=tokens, warmup=warmup, threads=threads, timeout_s=timeout)
    serial = (device or "adb").partition(":")[2]
    if app is not None:
        return _on_device(artifact, target, partial(_by_app, serial, app, options), places)
    return _on_device(artifact, target, partial(_by_runner, serial, runner, library, options), places)


def _check_usage(device: str | None, app: str | None, report: Path | None, target: str | None) -> None:
    """Refuses options that contradict each other, before anything runs.

    Raises:
        UsageError: Names what to leave out or to add.
    """
    if report is not None and (device is not None or app is not None):
        raise click.UsageError("--import reads a report and runs nothing: leave out --device and --app")
    if target is not None and report is None and device is None and app is None:
        raise click.UsageError("--target needs --device, --app or --import; for this host: edgelm check ARTIFACT --target host")
    if device is not None and device.partition(":")[0] != "adb":
        raise click.UsageError(f"--device {device!r}: it is adb, or adb:SERIAL as adb devices lists it")


def _imported(report: Path, path: Path | None, target: str | None, places: Places) -> int:
    from edgelm import artifact
    from edgelm.device import profile_report
    from edgelm.validate import device_run

    run = profile_report.read(report)
    loaded = artifact.load(path) if path else None
    return places.write(run.encode(), device_run.judge(run, loaded, _profile(loaded, target), str(places.output or report)))


def _on_device(path: Path, target: str | None, run: Callable[[Artifact, OnStage], ProfileReport], places: Places) -> int:
    from edgelm import artifact
    from edgelm.validate import device_run

    loaded = artifact.load(path)
    profile = _profile(loaded, target)
    with stages() as on_stage:
        on_stage("looking for the device", 0, 0)
        found = run(loaded, on_stage)
    return places.write(found.encode(), device_run.judge(found, loaded, profile, str(places.output or "")))


def _profile(artifact: Artifact | None, target: str | None) -> DeviceProfile | None:
    """The one asked for, else the one the artifact was converted for; a report alone is only shown."""
    from edgelm.device import profile

    name = target or (str(artifact.manifest["target"]) if artifact else None)
    return profile.load(name) if name else None


def _by_app(serial: str, package: str, options: BenchOptions, artifact: Artifact, on_stage: OnStage) -> ProfileReport:
    from edgelm.device import adb, adb_app

    device = adb.connect(serial)
    return adb_app.profile(device, _tflite(artifact), name=artifact.name, package=package, options=options, on_stage=on_stage)


def _by_runner(
    serial: str, runner: Path | None, library: Path | None, options: BenchOptions, artifact: Artifact, on_stage: OnStage
) -> ProfileReport:
    from edgelm.device import adb, adb_binaries, adb_facts, adb_runner
    from edgelm.device.cache import cache_folder

    device = adb.connect(serial)
    facts = adb_facts.ask(device)
    binaries = adb_binaries.find(facts, runner, library, cache=cache_folder(), on_stage=on_stage)
    return adb_runner.profile(device, _tflite(artifact), binaries, facts, name=artifact.name, options=options, on_stage=on_stage)


def _tflite(artifact: Artifact) -> Path:
    from edgelm.artifact import MODEL

    return artifact.path / MODEL if artifact.path.is_dir() else artifact.path


def _this_host(path: Path, threads: int, places: Places) -> int:
    from edgelm.artifact import encode_json
    from edgelm.validate import host_profile, host_profile_report

    with stages() as on_stage:
        found = host_profile.profile_host(path, threads=threads, on_stage=on_stage)
    return places.write(encode_json(found.to_dict()), host_profile_report.report(found), host_profile_report.flames(found))


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
