"""`edgelm doctor`: checks the environment package by package and names the exact fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click
from packaging.requirements import Requirement

from edgelm.errors import EmulatorError

GROUPS = {
    "": "needed by every verb",
    "keras": "reading Keras models and edgelm train",
    "onnx": "ONNX models",
    "torch": "PyTorch modules",
}
"""Extra -> what it is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: ok is None for something optional that is absent."""

    ok: bool | None
    text: str
    fix: str = ""


def python_finding() -> Finding:
    """Python 3.11 is the only version the pinned packages share."""
    version = platform.python_version()
    if sys.version_info[:2] == (3, 11):
        return Finding(True, f"Python {version}")
    return Finding(False, f"Python {version}; edgelm needs 3.11", "uv venv --python 3.11, or pyenv install 3.11")


def package_findings() -> Iterator[Finding]:
    """Every requirement of the installed edgelm, against what is installed."""
    for text in importlib.metadata.requires("edgelm") or []:
        requirement = Requirement(text)
        extra = _extra(requirement)
        if extra not in GROUPS or requirement.name == "edgelm":
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        install = f"pip install '{wanted}'" if not extra else f"pip install 'edgelm[{extra}]'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            absent = f"{wanted} is not installed ({GROUPS[extra]})"
            yield Finding(None if extra else False, absent, install)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Finding(True, f"{requirement.name} {version}")
        else:
            yield Finding(False, f"{requirement.name} {version}; edgelm needs {wanted}", f"pip install '{wanted}'")


def _extra(requirement: Requirement) -> str:
    marker = str(requirement.marker or "")
    return marker.split("extra ==")[1].strip(" \"')") if "extra ==" in marker else ""


def runtime_findings() -> Iterator[Finding]:
    """Both runtimes really load, which a numpy 2 would break."""
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        name = module.split(".")[0].replace("_", "-")
        try:
            importlib.import_module(module)
        except (ImportError, SystemError, AttributeError) as error:
            yield Finding(False, f"{name} cannot be imported: {error}", "pip install --force-reinstall edgelm 'numpy==1.26.4'")
        else:
            yield Finding(True, f"{name} loads")


def machine_findings() -> Iterator[Finding]:
    """Disk space: TensorFlow's converter needs scratch room of several times the model."""
    free = shutil.disk_usage(".").free / 1e9
    yield Finding(free > 1, f"{free:.1f} GB free here", "" if free > 1 else "free some space: converting needs up to 1 GB")
    yield Finding(True, f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}")


def arm64_finding() -> Finding:
    """What runs arm64 code here, if anything."""
    from edgelm.device import emulator

    try:
        machine = emulator.find()
    except EmulatorError as error:
        return Finding(False, error.what, error.fix)
    if machine is None:
        return Finding(None, "no emulator of arm64 cores (for edgelm check --arm64)", emulator.SETUP)
    return Finding(True, f"arm64 cores: {', '.join(core.name for core in machine.cores)} ({machine.title})")


def set_up_arm64() -> None:
    """Fetches and builds the emulator; says first what it costs."""
    from edgelm.cli.progress import stages
    from edgelm.device import cache, emulator, emulator_setup

    folder = cache.cache_folder()
    emulator_setup.require_host()
    if emulator_setup.is_set_up(folder):
        click.echo(f"{folder / emulator.FOLDER} is there already, every file as it was set up")
    else:
        click.echo(f"setting up arm64 cores: {emulator_setup.cost(folder)}")
        with stages() as on_stage:
            emulator_setup.set_up(folder, on_stage)
    for name, version in emulator.versions(folder / emulator.FOLDER).items():
        click.echo(f"  {name} {version}")
    click.echo("next: edgelm check ARTIFACT --arm64")


@click.command("doctor")
@click.option("--setup-arm64", is_flag=True, help="Fetch and build what runs artifacts on emulated arm64 cores (100 MB).")
def command(setup_arm64: bool) -> None:
    """Check this environment and name the exact fix."""
    if setup_arm64:
        set_up_arm64()
        return
    findings = [python_finding(), *package_findings(), *runtime_findings(), *machine_findings(), arm64_finding()]
    for finding in findings:
        sign = {True: "ok  ", False: "FAIL", None: "-   "}[finding.ok]
        click.echo(f"{sign} {finding.text}" + (f"\n       fix: {finding.fix}" if finding.fix and finding.ok is not True else ""))
    failed = sum(finding.ok is False for finding in findings)
    click.echo("this environment is good" if not failed else f"{failed} to fix")
    if failed:
        raise click.exceptions.Exit(1)
