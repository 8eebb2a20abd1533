"""`edgelm package`: an artifact becomes what an app's build takes, and a built app is checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.progress import stages
from edgelm.cli.show import show_report

if TYPE_CHECKING:
    from edgelm.package.packaging import Written

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("package")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--android", type=FOLDER, metavar="OUT", help="Write a Gradle library module with a typed Java class for this model.")
@click.option("--into", type=FOLDER, metavar="ASSETS", help="Copy just the model into an app's assets folder.")
@click.option("--cpp", type=FOLDER, metavar="OUT", help="Write a C++ example with its sources and CMakeLists.txt.")
@click.option("--ios", type=FOLDER, metavar="OUT", help="Write the file set for iOS with a Swift snippet (never built).")
@click.option("--name", metavar="NAME", help="Of the module and the model file. [default: the model's name]")
@click.option("--package-name", metavar="PACKAGE", help="Java package and namespace. [default: com.example.NAME]")
@click.option("--engine", metavar=":MODULE", help="Gradle module that holds edgelm's engine already: for a second model in one app.")
@click.option("--target", metavar="PROFILE", help="Device profile. [default: the one it was converted for]")
@click.option("--apk", type=FILE, metavar="APK", help="Check that a built app holds the model, stored and aligned.")
@click.option(
    "--native-libs", type=click.Path(path_type=Path), multiple=True, metavar="PATH", help="Check .so, AAR, APK or folders; repeatable."
)
@click.option("--build-file", type=FILE, metavar="FILE", help="Check an app's build.gradle.kts or build.gradle.")
@click.option("--force", is_flag=True, help="Replace another model, or a package that was changed by hand.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--details", is_flag=True, help="Print the detail tables, too.")
def command(
    artifact: Path,
    android: Path | None,
    into: Path | None,
    cpp: Path | None,
    ios: Path | None,
    name: str | None,
    package_name: str | None,
    engine: str | None,
    target: str | None,
    apk: Path | None,
    native_libs: tuple[Path, ...],
    build_file: Path | None,
    force: bool,
    as_json: bool,
    details: bool,
) -> int:
    """Package ARTIFACT for an app, and check an app that was built with it.

    ARTIFACT is a folder or a .tflite that edgelm wrote.
    """
    if not any((android, into, cpp, ios, apk, native_libs, build_file)):
        raise click.UsageError("say what to write (--android, --into, --cpp, --ios) or to check (--apk, --native-libs, --build-file)")
    from edgelm import report
    from edgelm.package import packaging
    from edgelm.package.subject import open_subject

    subject = open_subject(artifact, name=name, package_name=package_name, target=target)
    wanted = packaging.Wanted(android, into, cpp, ios, engine, force)
    with stages() as on_stage:
        result = packaging.judge(subject, packaging.Built(apk, native_libs, build_file), on_stage)
        written = packaging.write(subject, wanted, on_stage)
    if as_json:
        click.echo(report.render_json(result).decode("utf-8"), nl=False)
    else:
        show_report(result, details=details)
    _tell(written, err=as_json)
    return 0 if result.passed else 3


def _tell(written: tuple[Written, ...], *, err: bool) -> None:
    """Where the packages are, and the lines the user adds to the project; on stderr behind JSON."""
    for each in written:
        click.echo(f"written: {each.place}" + (f" ({each.note})" if each.note else ""), err=err)
        for where, lines in each.lines:
            click.echo(f"\n{where}:\n" + "\n".join(f"    {line}".rstrip() for line in lines.splitlines()), err=err)
