"""`edgelm recipes`: the shipped recipes, or one of them as TOML to start an own one from."""

from __future__ import annotations

import click

from edgelm import recipe


@click.command("recipes")
@click.option("--show", metavar="NAME", help="Print one recipe as TOML.")
def command(show: str | None) -> None:
    """The ways to make a model smaller; those that train or look at text want --data CORPUS."""
    texts = recipe.shipped()
    if show is None:
        recipes = [recipe.load(name) for name in texts]
        for title, wanted in (("by rounding alone:", False), ("with --data CORPUS:", True)):
            click.echo(title)
            for each in (each for each in recipes if each.wants_data is wanted):
                star = " (default)" if each.name == recipe.DEFAULT else ""
                click.echo(f"  {each.name:<18} {each.description}{star}")
        return
    if show not in texts:
        raise recipe.unknown_key("recipe", show, texts)
    click.echo(texts[show], nl=False)
