"""`edgelm recipes`: the shipped recipes, or one of them as TOML to start an own one from."""

from __future__ import annotations

import click

from edgelm import recipe


@click.command("recipes")
@click.option("--show", metavar="NAME", help="Print one recipe as TOML.")
def command(show: str | None) -> None:
    """The ways to make a model smaller."""
    texts = recipe.shipped()
    if show is None:
        for name, text in texts.items():
            star = " (default)" if name == recipe.DEFAULT else ""
            click.echo(f"{name:<16} {recipe.parse(name, text).description}{star}")
        return
    if show not in texts:
        raise recipe.unknown_key("recipe", show, texts)
    click.echo(texts[show], nl=False)
