"""`edgelm compress`: a recipe makes a trained model smaller, with what each step did."""

from __future__ import annotations

from pathlib import Path

import click

from edgelm.cli.progress import training_stages
from edgelm.cli.show import show_report


@click.command("compress")
@click.argument("model")
@click.option("--recipe", "recipe_name", required=True, metavar="RECIPE", help="Recipe, a name or a .toml file (see edgelm recipes).")
@click.option("--data", type=click.Path(path_type=Path), metavar="CORPUS", help="Text to train and measure on: a file or a folder.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Model folder. [default: build/NAME-RECIPE]")
@click.option("--tokenizer", type=click.Path(path_type=Path), metavar="PATH", help="Tokenizer file or folder. [default: beside the model]")
@click.option("--trust", is_flag=True, help="Execute code from the model file (Lambda layers, custom classes, pickles).")
@click.option("--cache", type=click.Path(path_type=Path), metavar="FOLDER", help="Finished steps. [default: build/step-cache]")
@click.option("--fresh", is_flag=True, help="Do every step anew instead of taking it, or its checkpoint, from the cache.")
@click.option("--details", is_flag=True, help="Print the detail tables, too.")
def command(
    model: str,
    recipe_name: str,
    data: Path | None,
    output: Path | None,
    tokenizer: Path | None,
    trust: bool,
    cache: Path | None,
    fresh: bool,
    details: bool,
) -> int:
    """Make a trained MODEL smaller by a recipe, and write it as an edgelm model folder.

    MODEL is whatever `edgelm convert` takes, as long as edgelm recognises it. `edgelm
    convert FOLDER` then makes it a .tflite as it is.

    Steps that look at text are kept in the cache, each with its weights: a changed last step does not repeat the steps before it, and the
    same command goes on where an interrupted one stopped. A kept step takes as much disk as the float32 weights, a running one about four
    times as much; the folder can be deleted at any time.
    """
    from edgelm import compression

    request = compression.Request(
        source=model,
        recipe=recipe_name,
        output=output,
        data=data,
        tokenizer=tokenizer,
        trust=trust,
        cache=cache or compression.CACHE,
        fresh=fresh,
    )
    with training_stages() as watch:
        done = compression.compress(request, watch)
    show_report(done.report, details=details)
    click.echo(f"written: {done.folder}")
    click.echo(f"next: {done.report.next_commands[0]}")
    return 0
