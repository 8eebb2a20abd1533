"""`edgelm train`: a text corpus becomes a tokenizer and a trained Keras model."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.native_output import silenced

if TYPE_CHECKING:
    from edgelm.compress.settings import TrainResult, TrainSettings
    from edgelm.spec import ModelSpec
    from edgelm.text.corpus import Corpus
    from edgelm.text.tokenizer import Tokenizer

ARCHITECTURES = ("lstm", "gru", "rnn", "cifg", "gpt2", "llama")
SIZES = ("tiny", "small", "medium", "large")
VALIDATION_TOKENS = 100_000
"""So many tokens give a perplexity within about 1 %; more would only make every epoch longer."""
STRATEGIES = ("auto", "none", "mirrored", "multiworker")


@dataclass(frozen=True)
class Shape:
    """What the command line says of the model; None where the size decides."""

    architecture: str
    size: str
    embedding: int | None
    units: tuple[int, ...]
    width: int | None
    layers: int | None
    heads: int | None
    positions: int | None


def _units(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers such as 512 or 512,256") from None


@click.command("train")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--model", "architecture", type=click.Choice(ARCHITECTURES), default="lstm", show_default=True, help="Architecture.")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="Starting point that the next options change.")
@click.option("--embedding", type=click.IntRange(1), metavar="N", help="Recurrent: columns of the embedding.")
@click.option("--units", callback=_units, metavar="N[,N...]", help="Recurrent: units of each layer.")
@click.option("--width", type=click.IntRange(1), metavar="N", help="Transformer: size of the residual stream.")
@click.option("--layers", type=click.IntRange(1), metavar="N", help="Transformer: blocks. Recurrent: layers of equal size.")
@click.option("--heads", type=click.IntRange(1), metavar="N", help="Transformer: query heads.")
@click.option("--positions", type=click.IntRange(1), metavar="N", help="Transformer: longest context. [default: 4 x --sequence]")
@click.option("--tokenizer", default="word", show_default=True, metavar="word|byte-bpe|char|PATH", help="Kind to train, or one to use.")
@click.option("--vocab", default=10_000, show_default=True, type=click.IntRange(4), help="Entries of a trained tokenizer.")
@click.option("--epochs", default=5, show_default=True, help="Passes over the training split.")
@click.option("--batch", default=32, show_default=True, help="Windows a step.")
@click.option("--sequence", default=128, show_default=True, help="Tokens a window.")
@click.option("--learning-rate", default=2e-3, show_default=True, help="Its peak.")
@click.option("--warmup", default=100, show_default=True, help="Steps until the peak.")
@click.option("--patience", default=0, show_default=True, help="Stop after so many epochs without gain; 0 for never.")
@click.option("--limit-tokens", default=0, show_default=True, help="Use so many training tokens; 0 for all.")
@click.option("--seed", default=0, show_default=True, help="Of the first weights and the order of the windows.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default="auto", show_default=True, help="Devices (multiworker: see TF_CONFIG).")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of the same command stopped.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("model.keras"), show_default=True, help=".keras or .h5 file.")
def command(
    corpus: Path,
    architecture: str,
    size: str,
    embedding: int | None,
    units: tuple[int, ...],
    width: int | None,
    layers: int | None,
    heads: int | None,
    positions: int | None,
    tokenizer: str,
    vocab: int,
    resume: bool,
    output: Path,
    **training: Any,
) -> None:
    """Train a language model on CORPUS, a text file or a folder with train.txt, valid.txt and test.txt.

    Writes the model, and tokenizer.json beside it. Checkpoints are kept in OUTPUT's folder, in NAME.training.
    """
    from edgelm.compress.settings import TrainSettings
    from edgelm.errors import SourceError
    from edgelm.text.corpus import Corpus

    if output.suffix not in (".keras", ".h5"):
        raise SourceError(f"a model cannot be written to {output}", allowed="a name ending in .keras or .h5", fix=f"-o {output.stem}.keras")
    shape = Shape(architecture, size, embedding, units, width, layers, heads, positions)
    _require_fitting_options(shape)
    settings = TrainSettings(
        batch_size=training["batch"],
        sequence_length=training["sequence"],
        warmup_steps=training["warmup"],
        **{name: training[name] for name in ("epochs", "learning_rate", "patience", "limit_tokens", "seed", "strategy")},
    )
    opened = Corpus.open(corpus, layout="text" if tokenizer == "char" else None)
    checkpoints = output.parent / f"{output.stem}.training"
    pieces = _tokenizer(opened, tokenizer, vocab, checkpoints if resume else None)
    spec = _spec(shape, pieces.vocab_size, settings.sequence_length)
    _write_text(checkpoints / "tokenizer.json", pieces.to_json())
    _train_and_write(opened, pieces, spec, settings, checkpoints, output, resume)


def _require_fitting_options(shape: Shape) -> None:
    """Options of the other family are an error, not ignored."""
    transformer = shape.architecture in ("gpt2", "llama")
    others = ("embedding", "units") if transformer else ("width", "heads", "positions")
    for name in others:
        if getattr(shape, name):
            raise click.UsageError(f"--{name} has no meaning for --model {shape.architecture}")
    if shape.layers and shape.units:
        raise click.UsageError("--layers and --units both say how many layers there are: give one of them")


def _spec(shape: Shape, vocab_size: int, sequence_length: int) -> ModelSpec:
    from edgelm.errors import UnsupportedModelError
    from edgelm.models import presets

    if shape.architecture in presets.RECURRENT:
        start = presets.RECURRENT_SIZES[shape.size]
        units = shape.units or (start.units[:1] * shape.layers if shape.layers else start.units)
        chosen = presets.RecurrentSize(shape.embedding or start.embedding, units)
        return presets.recurrent(presets.RECURRENT[shape.architecture], vocab_size, chosen)
    positions = shape.positions or 4 * sequence_length
    if positions < sequence_length:
        raise UnsupportedModelError(f"--sequence {sequence_length} is longer than --positions {positions}")
    blocks = presets.TRANSFORMER_SIZES[shape.size]
    size = presets.TransformerSize(shape.width or blocks.width, shape.layers or blocks.layers, shape.heads or blocks.heads)
    return presets.transformer(shape.architecture, vocab_size, size, positions)


def _tokenizer(corpus: Corpus, kind: str, vocab: int, checkpoints: Path | None) -> Tokenizer:
    """The interrupted run's own, one from a file, or one trained on the training split."""
    from edgelm.text.tokenizer import Tokenizer, train_byte_bpe, train_char, train_word_level

    if checkpoints and (checkpoints / "checkpoint.npz").exists():
        return Tokenizer.load(checkpoints / "tokenizer.json")
    if kind == "word":
        return train_word_level(corpus.lines("train"), vocab)
    if kind == "byte-bpe":
        return train_byte_bpe(corpus.lines("train"), vocab)
    return train_char(corpus.lines("train")) if kind == "char" else Tokenizer.load(kind)


def _train_and_write(
    corpus: Corpus, tokenizer: Tokenizer, spec: ModelSpec, settings: TrainSettings, checkpoints: Path, output: Path, resume: bool
) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced():
        import tf_keras

    from edgelm.cli.train_progress import shown
    from edgelm.compress.finetune import train
    from edgelm.compress.strategy import is_chief, strategy_of
    from edgelm.models import keras_model
    from edgelm.text.corpus import token_documents

    strategy = strategy_of(settings.strategy)
    tf_keras.utils.set_random_seed(settings.seed)
    with strategy.scope():
        model = keras_model.build(spec, name="model")
    documents = token_documents(corpus, tokenizer, "train", settings.limit_tokens or None)
    valid = token_documents(corpus, tokenizer, "valid", VALIDATION_TOKENS)
    try:
        with shown() as on_progress:
            result = train(model, documents, valid, settings, checkpoints, on_progress, resume=resume)
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command with --resume goes on from {checkpoints}", err=True)
        raise
    if is_chief(strategy):
        _write_text(output.parent / "tokenizer.json", tokenizer.to_json())
        keras_model.save(model, output)
        _say_result(result, settings, output)


def _write_text(path: Path, text: str) -> None:
    """Writes a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        temporary = Path(folder) / path.name
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _say_result(result: TrainResult, settings: TrainSettings, output: Path) -> None:
    click.echo(
        f"validation perplexity {result.perplexity:.2f} a token (epoch {result.best_epoch} of {len(result.history)}, "
        f"windows of {settings.sequence_length} tokens)"
    )
    click.echo(f"written: {output} and {output.parent / 'tokenizer.json'}")
    click.echo(f"next: edgelm convert {output} --target android-arm64")
