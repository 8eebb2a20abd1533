"""`edgelm inspect`: what is inside a .tflite, an artifact, or a model that could become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.show import show_report
from edgelm.model import LanguageModel, OpaqueGraph
from edgelm.report import Report, Table
from edgelm.spec import spec_to_dict

if TYPE_CHECKING:
    from edgelm.tflite.reader import TensorInfo

MOST_WEIGHTS = 25


@click.command("inspect")
@click.argument("path")
@click.option("--tokenizer", type=click.Path(path_type=Path), metavar="PATH", help="Tokenizer of a source model. [default: beside it]")
@click.option("--trust", is_flag=True, help="Execute code from the model file.")
def command(path: str, tokenizer: Path | None, trust: bool) -> None:
    """What is inside PATH: a .tflite, an artifact folder, a source model, or a bundled model's name."""
    from edgelm import artifact

    place = Path(path)
    is_artifact = place.suffix == ".tflite" or (place / artifact.MODEL).is_file()
    show_report(_tflite(place) if is_artifact else _source(path, trust, tokenizer), details=True)


def _tflite(path: Path) -> Report:
    from edgelm import artifact
    from edgelm.errors import ArtifactError
    from edgelm.tflite import metadata, reader

    file = path / artifact.MODEL if path.is_dir() else path
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error
    model = reader.read(data)
    by_subgraph = {signature.subgraph: signature.name for signature in model.signatures}
    ops = Counter((by_subgraph.get(op.subgraph, f"subgraph {op.subgraph}"), op.name, op.version) for op in model.ops)
    signatures = tuple((s.name, _tensors(s.inputs), _tensors(s.outputs)) for s in model.signatures)
    weights = list(model.bytes_by_weight().items())
    attached = metadata.read_attached(data)
    return Report(
        title=str(file),
        facts=(
            ("description", model.description),
            ("bytes", f"{len(data):,}"),
            ("inside", ", ".join(f"{name} ({len(content):,} bytes)" for name, content in attached.items()) or "no associated files"),
        ),
        checks=(),
        tables=(
            Table("Signatures", ("signature", "inputs", "outputs"), signatures),
            Table("Ops", ("signature", "op", "version", "count"), tuple((s, n, str(v), str(c)) for (s, n, v), c in sorted(ops.items()))),
            Table(
                "Largest weights",
                ("weight", "bytes", "share"),
                tuple((name, f"{size:,}", f"{size / len(data):.1%}") for name, size in weights[:MOST_WEIGHTS]),
                f"{len(weights) - MOST_WEIGHTS} more" if len(weights) > MOST_WEIGHTS else "",
            ),
        ),
    )


def _tensors(named: Mapping[str, TensorInfo]) -> str:
    return "\n".join(f"{name} {tensor.dtype} {tensor.shape}" for name, tensor in named.items())


def _source(path: str, trust: bool, tokenizer: Path | None) -> Report:
    from edgelm import source

    model = source.load(path, trust=trust, tokenizer=tokenizer).model
    return _lifted(model) if isinstance(model, LanguageModel) else _opaque(model)


def _origin(model: LanguageModel | OpaqueGraph) -> tuple[tuple[str, str], ...]:
    origin = model.origin
    if origin is None:
        return ()
    proof = origin.proof
    evidence = (("proof", f"max |Δ logit| {proof.max_abs_difference:.2g} over {proof.tokens} positions"),) if proof else ()
    return (("format", f"{origin.format}, run by {origin.framework}"), ("way", f"{origin.way}: {origin.why}"), *evidence)


def _lifted(model: LanguageModel) -> Report:
    rows = tuple(
        (name, " x ".join(map(str, weight.shape)), f"{weight.size:,}", f"{weight.size / model.parameters:.1%}")
        for name, weight in model.weights.items()
    )
    spec = tuple((key, str(value)) for key, value in spec_to_dict(model.spec).items())
    return Report(
        title=model.name,
        facts=(*_origin(model), ("parameters", f"{model.parameters:,}"), ("tokenizer", "yes" if model.tokenizer else "none found")),
        checks=(),
        tables=(Table("Spec", ("key", "value"), spec), Table("Weights", ("weight", "shape", "parameters", "share"), rows)),
        next_commands=(f"edgelm convert {model.name} --target android-arm64",) if model.origin and model.origin.way == "native" else (),
    )


def _opaque(model: OpaqueGraph) -> Report:
    output = "probabilities" if model.probabilities else "logits"
    facts = (*_origin(model), ("input", f"{model.time} tokens a call"), ("output", f"{output} over {model.vocab_size:,} tokens"))
    return Report(title=model.name, facts=facts, checks=())
