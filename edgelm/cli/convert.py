"""`edgelm convert`: a trained model becomes an artifact and a verdict."""

from __future__ import annotations

from pathlib import Path

import click

from edgelm import recipe
from edgelm.cli.progress import training_stages
from edgelm.cli.show import show_report


@click.command("convert")
@click.argument("model")
@click.option(
    "--target",
    default="android-arm64",
    show_default=True,
    metavar="PROFILE",
    help="Device profile: a name or a .toml file. For servers: onnx, saved-model (default recipe: float32).",
)
@click.option("--recipe", "recipe_name", metavar="RECIPE", help=f"A name or a .toml file. [default: {recipe.DEFAULT}, or as compressed]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the artifact goes. [default: build/NAME]")
@click.option("--data", type=click.Path(path_type=Path), metavar="CORPUS", help="Text to train and measure on: a file or a folder.")
@click.option("--tokens", default=20_000, show_default=True, help="Tokens of the test split to measure quality on; 0 for all.")
@click.option("--tokenizer", type=click.Path(path_type=Path), metavar="PATH", help="Tokenizer file or folder. [default: beside the model]")
@click.option("--trust", is_flag=True, help="Execute code from the model file (Lambda layers, custom classes, pickles).")
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime on this host.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="FOLDER", help="Finished steps. [default: build/step-cache]")
@click.option("--fresh", is_flag=True, help="Do every step anew instead of taking it, or its checkpoint, from the cache.")
@click.option("--no-arm64", is_flag=True, help="Leave out the run on emulated arm64 cores (for which edgelm doctor --setup-arm64).")
@click.option("--details", is_flag=True, help="Print the detail tables, too.")
def command(
    model: str,
    target: str,
    recipe_name: str | None,
    output: Path | None,
    data: Path | None,
    tokens: int,
    tokenizer: Path | None,
    trust: bool,
    threads: int,
    cache: Path | None,
    fresh: bool,
    no_arm64: bool,
    details: bool,
) -> int:
    """Turn a trained MODEL into a proven .tflite, or, for servers, ONNX or a SavedModel.

    MODEL is a bundled model (keyboard-lstm, chat-transformer), a .keras or .h5 file, a SavedModel folder, an .onnx file, a Hugging Face
    folder, a PyTorch .pt file, a llama2.c .bin file or an edgelm model folder.
    """
    from edgelm import compression, pipeline

    request = pipeline.Request(
        source=model,
        target=target,
        recipe=recipe_name,
        output=output,
        data=data,
        quality_tokens=tokens or None,
        tokenizer=tokenizer,
        trust=trust,
        threads=threads,
        cache=cache or compression.CACHE,
        fresh=fresh,
        arm64=not no_arm64,
    )
    with training_stages() as watch:
        conversion = pipeline.convert(request, watch)
    show_report(conversion.report, details=details)
    click.echo(f"written: {conversion.folder}")
    return 0 if conversion.report.passed else 3
