"""edgelm from Python: load, compress, convert, check, session, suggest.

Example:
    >>> import edgelm
    >>> model = edgelm.load("keyboard-lstm")
    >>> conversion = edgelm.convert(model, target="android-arm64", output="build/keyboard-lstm")
    >>> edgelm.check("build/keyboard-lstm").passed
    True
    >>> session = edgelm.session("build/keyboard-lstm")
    >>> [word.text for word in edgelm.suggest(session, "see you")]
    ['later', 'there', 'soon']
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm import artifact, compression, pipeline, source
from edgelm.errors import TokenizerError
from edgelm.model import Imported
from edgelm.report import Report
from edgelm.runtime import predict
from edgelm.runtime.sampling import SamplingSettings
from edgelm.runtime.session import Session, open_session
from edgelm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextSession:
    """An artifact ready to run: its session over tokens, and its tokenizer."""

    tokens: Session[Any]
    tokenizer: Tokenizer


def load(
    model: str | Path | Any,
    *,
    trust: bool = False,
    tokenizer: str | Path | None = None,
    example_tokens: Any = None,
    name: str | None = None,
) -> Imported:
    """Reads a model: a name, a path, or a torch.nn.Module.

    Args:
        model: What `edgelm.source.load` takes, or a module for `edgelm.source.load_module`.
        trust: Execute code from a file where it needs that.
        tokenizer: A tokenizer file or folder; by default what lies beside a file.
        example_tokens: For a module: ids (batch, time) that its forward takes, or a tuple of them and the states that follow them.
        name: For a module: its name in reports.

    Example:
        >>> model = edgelm.load(my_lstm, example_tokens=torch.tensor([[5, 3, 8, 2]]), tokenizer="vocab.txt")
        >>> edgelm.convert(model, output="build/my-lstm")
    """
    place = Path(tokenizer) if tokenizer else None
    if isinstance(model, str | Path):
        return source.load(model, trust=trust, tokenizer=place)
    return source.load_module(model, example_tokens, tokenizer=place, name=name)


def compress_model(
    model: str | Path | Imported,
    recipe: str,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    cache: str | Path | None = compression.CACHE,
) -> compression.Compression:
    """Makes a model smaller by a recipe; see `edgelm.compression.compress`.

    Args:
        model: What `load` returned, or what it takes.
        recipe: A name or a path.
        data: Corpus that steps train on.
        output: Folder of the compressed model, which `convert` takes; `build/NAME-RECIPE` by default.
        cache: Folder of finished steps; None keeps nothing.

    Example:
        >>> small = edgelm.compress_model("keyboard-lstm", "int4-qat", data="corpus", output="build/small")
        >>> [(record.technique, record.after.perplexity) for record in small.compressed.records]
        [('qat', 11.66)]
        >>> edgelm.convert(small.folder)
    """
    request = compression.Request(
        source=model if isinstance(model, Imported) else str(model),
        recipe=recipe,
        output=Path(output) if output else None,
        data=Path(data) if data else None,
        cache=Path(cache) if cache else None,
    )
    return compression.compress(request)


def convert(
    model: str | Path | Imported,
    *,
    target: str = "android-arm64",
    recipe: str | None = None,
    output: str | Path | None = None,
    data: str | Path | None = None,
    threads: int = 1,
) -> pipeline.Conversion:
    """Converts, proves and judges a model; see `edgelm.pipeline.convert`.

    Args:
        model: What `load` returned, or what it takes.
        target: Device profile, a name or a path; `onnx` or `saved-model` for servers.
        recipe: Recipe, a name or a path; by default as compressed, else int8, or what the profile's runtime needs.
        output: Folder of the artifact; `build/NAME` by default.
        data: Corpus that steps train on and quality is measured on.
        threads: Threads of the runtime on this host.
    """
    request = pipeline.Request(
        source=model if isinstance(model, Imported) else str(model),
        target=target,
        recipe=recipe,
        output=Path(output) if output else None,
        data=Path(data) if data else None,
        threads=threads,
    )
    return pipeline.convert(request)


def check(path: str | Path, *, target: str | None = None, data: str | Path | None = None, threads: int = 1) -> Report:
    """Proves and judges an artifact again; see `edgelm.pipeline.check`."""
    return pipeline.check(Path(path), target=target, data=Path(data) if data else None, threads=threads)


def session(path: str | Path, *, runtime: str = "ai-edge-litert", threads: int = 1) -> TextSession:
    """Opens an artifact folder or a .tflite that edgelm wrote.

    Raises:
        ArtifactError: No artifact of edgelm's.
        TokenizerError: It has no tokenizer inside.
    """
    loaded = artifact.load(Path(path))
    if loaded.tokenizer is None:
        raise TokenizerError(f"{path} has no tokenizer inside", fix="edgelm convert MODEL --tokenizer PATH -o FOLDER")
    return TextSession(open_session(loaded.tflite, runtime=runtime, threads=threads), Tokenizer.from_json(loaded.tokenizer))


def suggest(session: TextSession, text: str, n: int = 3) -> list[predict.Suggestion]:
    """The n most probable next words after `text`."""
    return predict.suggest(session.tokens, session.tokenizer, text, n=n)


def complete(session: TextSession, text: str, *, max_tokens: int = 40, settings: SamplingSettings | None = None) -> Iterator[str]:
    """A continuation of `text`, piece by piece."""
    return predict.complete(session.tokens, session.tokenizer, text, max_tokens=max_tokens, settings=settings or SamplingSettings())
