"""`edgelm predict`: what the artifact says next."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgelm import artifact as artifacts
from edgelm.errors import TokenizerError


@click.command("predict")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("text", default="")
@click.option("-n", "--suggestions", default=3, show_default=True, help="Next words to suggest.")
@click.option("--complete", "max_tokens", type=int, metavar="TOKENS", help="Write a continuation of up to TOKENS tokens instead.")
@click.option("--temperature", default=0.8, show_default=True, help="0 picks the most probable token.")
@click.option("--top-k", default=40, show_default=True, help="Sample among this many tokens; 0 for all.")
@click.option("--top-p", default=0.95, show_default=True, help="Sample among the tokens that hold this share of the probability.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same text.")
@click.option("--runtime", type=click.Choice(["ai-edge-litert", "tflite-runtime"]), default="ai-edge-litert", show_default=True)
@click.option("--threads", default=1, show_default=True)
def command(
    artifact: Path,
    text: str,
    suggestions: int,
    max_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    runtime: str,
    threads: int,
) -> None:
    """Next-word suggestions after TEXT, or a continuation of it, from an artifact folder or .tflite."""
    from edgelm.runtime import predict
    from edgelm.runtime.sampling import SamplingSettings
    from edgelm.runtime.session import open_session
    from edgelm.text.tokenizer import Tokenizer

    loaded = artifacts.load(artifact)
    if loaded.tokenizer is None:
        raise TokenizerError(f"{artifact} has no tokenizer inside", fix="edgelm convert MODEL --tokenizer PATH -o FOLDER")
    tokenizer = Tokenizer.from_json(loaded.tokenizer)
    session = open_session(loaded.tflite, runtime=runtime, threads=threads)
    if max_tokens is None:
        for suggestion in predict.suggest(session, tokenizer, text, n=suggestions):
            click.echo(f"{suggestion.probability:6.1%}  {suggestion.text}")
        return
    settings = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    click.echo(text, nl=False)
    started, count = time.perf_counter(), 0
    for piece in predict.complete(session, tokenizer, text, max_tokens=max_tokens, settings=settings):
        click.echo(piece, nl=False)
        count += 1
    seconds = time.perf_counter() - started
    click.echo()
    rate = f"{count} tokens, {count / seconds:,.0f} tokens/s, prompt included"
    click.echo(f"{rate} (measured on this host, {session.runtime}, {'1 thread' if threads == 1 else f'{threads} threads'})", err=True)
