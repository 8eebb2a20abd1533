"""`edgelm`: one verb a file, imported when it is called, so that `--help` stays fast."""

from __future__ import annotations

import gc
import importlib
import os
import sys

import click

from edgelm.errors import EdgeLMError

VERBS: dict[str, tuple[str, str]] = {
    "convert": ("edgelm.cli.convert", "Turn a trained model into a proven .tflite."),
    "compress": ("edgelm.cli.compress", "Make a trained model smaller, by training or rounding."),
    "check": ("edgelm.cli.check", "Prove and judge an artifact again, against any profile or text."),
    "profile": ("edgelm.cli.profile", "Time an artifact on this machine or on a phone."),
    "package": ("edgelm.cli.package", "An artifact as an Android module, a C++ example, an iOS file set."),
    "predict": ("edgelm.cli.predict", "Next-word suggestions or a continuation from an artifact."),
    "inspect": ("edgelm.cli.inspect", "What is inside a model file or a .tflite."),
    "train": ("edgelm.cli.train", "Train a language model on a text corpus."),
    "profiles": ("edgelm.cli.profiles", "The devices to judge an artifact against; fits your own."),
    "recipes": ("edgelm.cli.recipes", "The ways to make a model smaller."),
    "doctor": ("edgelm.cli.doctor", "Check this environment and name the exact fix."),
}
"""Verb -> its module (which exports `command`) and its line in the help."""


class Verbs(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the verb's module."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


HELP = """Language models, proven to fit the phone.

\b
edgelm convert MODEL --target android-arm64 -o FOLDER
edgelm predict FOLDER "see you"

Exit codes: 0 good, 1 an error you can mend, 2 wrong usage, 3 a limit or the proof was missed (the artifact is written).
"""


@click.group(cls=Verbs, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgelm", message="edgelm %(version)s")
def cli() -> None:
    """The group all verbs belong to."""


def spare_collector() -> None:
    """Lets the garbage collector run rarely.

    A vocabulary and a graph are hundreds of thousands of objects that live to the end; at the default threshold of 700 new ones the
    collector walks them again and again.
    """
    gc.set_threshold(100_000, 50, 100)


def main() -> None:
    """Runs the command line; an `EdgeLMError` becomes its message and exit code, never a traceback."""
    spare_collector()
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except EdgeLMError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
