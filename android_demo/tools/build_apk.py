"""Builds and checks the demo's APK offline: `python android_demo/tools/build_apk.py`."""

from __future__ import annotations

from pathlib import Path

import apk
import apk_checks
import build_tools
import click
import project_checks
from project import ROOT

from edgelm import artifact
from edgelm.errors import EdgeLMError

GOLDEN = ROOT.parent / "tests/golden/engine.json"
UNPROVEN = """\
Not proven here, as it needs Google's Maven repository or a phone:
  the Gradle build itself (its plugin, D8 and R8 come from there): cd android_demo && gradle wrapper && ./gradlew assembleRelease
  the app with its runtime: this APK was compiled against stubs of LiteRT's classes, opens its screens and runs no model
  how the screens look and feel: rotation, TalkBack, dark theme, insets on Android 15
  speed and memory on a phone: edgelm profile ARTIFACT --device adb --app\
"""


@click.command()
@click.option("--artifact", "artifacts", multiple=True, type=click.Path(path_type=Path), help="From edgelm convert; may be repeated.")
@click.option("-o", "--output", default=ROOT.parent / "build/android", type=click.Path(path_type=Path), help="Folder for the APK.")
@click.option("--fetch-only", is_flag=True, help="Only fetch the build tools.")
def main(artifacts: tuple[Path, ...], output: Path, fetch_only: bool) -> None:
    """Build core and app into a signed APK with Debian's build tools, check it, and say what that does not prove."""
    if fetch_only:
        _fetched()
        return
    problems = project_checks.all_problems()
    if problems:
        raise click.ClickException("\n  ".join(["the Gradle project does not agree with itself:", *problems]))
    click.echo("Gradle files, manifest, resources and sources agree")
    chosen = artifacts or (ROOT.parent / "build/android/keyboard-lstm",)
    try:
        models = [(loaded.name, _tflite(path)) for path in chosen for loaded in [artifact.load(path)]]
        tools = _fetched()
        built = apk.build(tools, models, GOLDEN, output / "apk", click.echo)
        proofs = apk_checks.check(tools, built)
    except EdgeLMError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"\n{built} ({built.stat().st_size / 1e6:.2f} MB)")
    for proof in proofs:
        click.echo(f"  PASS  {proof}")
    click.echo(f"\n{UNPROVEN}")


def _fetched() -> build_tools.BuildTools:
    try:
        return build_tools.fetched(click.echo)
    except EdgeLMError as error:
        raise click.ClickException(str(error)) from error


def _tflite(path: Path) -> Path:
    return path / artifact.MODEL if path.is_dir() else path


if __name__ == "__main__":
    main()
