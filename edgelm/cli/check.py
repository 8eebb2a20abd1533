"""`edgelm check`: proves and judges an artifact again, perhaps against another profile or text."""

from __future__ import annotations

from pathlib import Path

import click

from edgelm.cli.progress import stages
from edgelm.cli.show import show_report


@click.command("check")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--target", metavar="PROFILE", help="Device profile. [default: the one it was converted for]")
@click.option("--source", metavar="MODEL", help="The model it was made from, for the proof. [default: the bundled model it names]")
@click.option("--data", type=click.Path(path_type=Path), metavar="CORPUS", help="Text to measure quality on.")
@click.option("--tokens", default=20_000, show_default=True, help="Tokens of the test split to measure quality on; 0 for all.")
@click.option("--trust", is_flag=True, help="Execute code from the source model's file.")
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime on this host.")
@click.option("--arm64", is_flag=True, help="Run it on emulated arm64 cores, too (edgelm doctor --setup-arm64); takes any .tflite.")
@click.option("--details", is_flag=True, help="Print the detail tables, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    artifact: Path,
    target: str | None,
    source: str | None,
    data: Path | None,
    tokens: int,
    trust: bool,
    threads: int,
    arm64: bool,
    details: bool,
    as_json: bool,
) -> int:
    """Prove and judge ARTIFACT again: a folder or a .tflite that edgelm wrote."""
    from edgelm import pipeline, report

    with stages() as on_stage:
        result = pipeline.check(
            artifact,
            target=target,
            source_model=source,
            data=data,
            quality_tokens=tokens or None,
            trust=trust,
            threads=threads,
            on_arm64=arm64,
            on_stage=on_stage,
        )
    if as_json:
        click.echo(report.render_json(result).decode("utf-8"), nl=False)
    else:
        show_report(result, details=details)
    return 0 if result.passed else 3
