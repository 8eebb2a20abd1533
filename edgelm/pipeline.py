"""The story of `convert` and of `check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm import artifact, manifest, recipe, report, source
from edgelm.artifact import Artifact
from edgelm.compress import quantize
from edgelm.device import profile as profiles
from edgelm.device.profile import DeviceProfile
from edgelm.errors import ArtifactError, UnsupportedModelError
from edgelm.lower import direct, graph
from edgelm.model import Imported, LanguageModel, OpaqueGraph
from edgelm.recipe import Recipe
from edgelm.report import Report
from edgelm.spec import Encoding
from edgelm.validate.verdict import Subject, judge

OnStage = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total (0 when unknown)."""

TECHNIQUES = {recipe.Quantize: quantize.apply}
"""Kind of step -> the function that applies it to a model."""

RUNTIME_RECIPES = {"tflite-runtime": "int8-tflite2.14"}
"""Runtime -> the recipe that is taken when none is named; `int8` otherwise."""


FIGURES = ("file size", "download size", "perplexity loss")
"""Checks whose figures go into the manifest: those that are the same on every machine."""


def quiet(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Request:
    """What to convert and how.

    Attributes:
        source: A model's name or path, or an imported model.
        target: Device profile, a name or a path.
        recipe: Recipe, a name or a path; None for what the profile's runtime needs.
        output: Folder of the artifact; None for `build/NAME`.
        data: Corpus to measure quality on; None for none.
        quality_tokens: Tokens of the test split quality is measured on; None for all.
        tokenizer: Tokenizer file or folder; None for the one beside the model.
        trust: Execute code from the model file.
        threads: Threads of the runtime on this host.
    """

    source: str | Imported
    target: str = "android-arm64"
    recipe: str | None = None
    output: Path | None = None
    data: Path | None = None
    quality_tokens: int | None = 20_000
    tokenizer: Path | None = None
    trust: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Conversion:
    """The artifact and what is known of it."""

    folder: Path
    report: Report


@dataclass(frozen=True)
class Built:
    """A lowered model: the bytes of its flatbuffer, how each weight is stored, and what to know of it."""

    tflite: bytes
    encodings: Mapping[str, Encoding]
    notes: tuple[str, ...]


def convert(request: Request, on_stage: OnStage = quiet) -> Conversion:
    """Turns a model into an artifact: read, compress, lower, prove, judge, write.

    The artifact is written even when a limit is missed; the report says which.

    Raises:
        EdgeLMError: Something the user can mend; nothing is written then.
    """
    profile = profiles.load(request.target)
    chosen = recipe.load(request.recipe or RUNTIME_RECIPES.get(profile.runtime.name, recipe.DEFAULT))
    if request.output:
        artifact.check_writable(request.output)
    on_stage("reading the model", 0, 0)
    imported = _imported(request)
    folder = request.output or Path("build") / imported.model.name
    artifact.check_writable(folder)
    on_stage("lowering to TFLite", 0, 0)
    built = build(imported.model, chosen)
    facts = manifest.build(imported.model, chosen, profile.name, built.tflite, built.encodings)
    packed = artifact.pack(built.tflite, facts, imported.model.tokenizer)
    subject = Subject(Artifact(folder, packed, facts, imported.model.tokenizer), imported, built.notes)
    verdict = judge(subject, profile, data=request.data, quality_tokens=request.quality_tokens, threads=request.threads, on_stage=on_stage)
    on_stage("writing the artifact", 0, 0)
    artifact.write(folder, _files(packed, facts, imported.model.tokenizer, verdict))
    return Conversion(folder, verdict)


def _imported(request: Request) -> Imported:
    if isinstance(request.source, Imported):
        return request.source
    return source.load(request.source, trust=request.trust, tokenizer=request.tokenizer)


def build(model: LanguageModel | OpaqueGraph, chosen: Recipe) -> Built:
    """Applies the recipe's steps and writes the graph.

    Raises:
        UnsupportedModelError: The recipe cannot be applied to a graph that was not recognised.
    """
    if isinstance(model, OpaqueGraph):
        encoding = _opaque_encoding(model, chosen)
        return Built(graph.convert_opaque(model, encoding), {"graph": encoding}, (f"converted as it is: {_why(model)}",))
    for step in chosen.steps:
        model = TECHNIQUES[type(step)](model, step)
    lowered = direct.lower(model, form=chosen.form)
    return Built(lowered.tflite, lowered.encodings, lowered.notes)


def _why(model: OpaqueGraph) -> str:
    return model.origin.why if model.origin else "its structure was not recognised"


def _opaque_encoding(model: OpaqueGraph, chosen: Recipe) -> Encoding:
    kinds = {kind for step in chosen.steps for kind in (step.weights, step.embedding, step.head)}
    mixed = len(kinds) != 1 or any(step.keep_float for step in chosen.steps)
    if mixed or chosen.form != "litert" or kinds & {Encoding.INT4, Encoding.INT4_BLOCK32}:
        raise UnsupportedModelError(
            f"recipe {chosen.name} needs a model whose weights edgelm knows, and {model.name} was not recognised: {_why(model)}",
            allowed="float32, float16, int8",
            fix=f"edgelm convert {model.path.name} --recipe int8",
        )
    return kinds.pop()


def _files(packed: bytes, facts: Mapping[str, Any], tokenizer: str | None, verdict: Report) -> dict[str, bytes]:
    named = ((f"{check.name} ({check.unit})" if check.unit else check.name, check) for check in verdict.checks)
    figures = {name: check.measured for name, check in named if check.name in FIGURES}
    files = {
        artifact.MODEL: packed,
        artifact.MANIFEST: artifact.encode_json({**facts, "figures": figures}),
        artifact.REPORT_JSON: report.render_json(verdict),
        artifact.REPORT_HTML: report.render_html(verdict),
    }
    return files | ({artifact.TOKENIZER: tokenizer.encode("utf-8")} if tokenizer else {})


def check(
    path: Path,
    *,
    target: str | None = None,
    source_model: str | None = None,
    data: Path | None = None,
    quality_tokens: int | None = 20_000,
    trust: bool = False,
    threads: int = 1,
    on_stage: OnStage = quiet,
) -> Report:
    """Proves and judges an artifact again; nothing is written.

    Args:
        path: Artifact folder or `.tflite`.
        target: Device profile; None for the one it was converted for.
        source_model: The model it was made from; None takes the bundled model of that name, or leaves the proof out.
        data: Corpus to measure quality on.
        quality_tokens: Tokens of the test split quality is measured on; None for all.
        trust: Execute code from the source model's file.
        threads: Threads of the runtime on this host.
        on_stage: Progress.

    Raises:
        ArtifactError: No artifact, or the source is not the one it was made from.
    """
    loaded = artifact.load(path)
    profile: DeviceProfile = profiles.load(target or str(loaded.manifest["target"]))
    on_stage("reading the source model", 0, 0)
    imported = _source_of(loaded, source_model, trust)
    return judge(Subject(loaded, imported, ()), profile, data=data, quality_tokens=quality_tokens, threads=threads, on_stage=on_stage)


def _source_of(loaded: Artifact, named: str | None, trust: bool) -> Imported | None:
    """The model an artifact was made from: the named one, which has to be it, or a bundled one if it is it."""
    made_from = loaded.manifest["source"]["sha256"]
    if named is None:
        folder = source.bundled().get(loaded.name)
        return source.load(loaded.name) if folder and source.content_sha256(folder) == made_from else None
    imported = source.load(named, trust=trust)
    if imported.model.source_sha256 != made_from:
        raise ArtifactError(f"{loaded.path} was not made from {named}: the hashes differ", allowed=f"the model with sha256 {made_from}")
    return imported
