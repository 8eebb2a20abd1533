"""The story of `convert` and of `check`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm import artifact, export, manifest, recipe, report, source
from edgelm.artifact import Artifact
from edgelm.compress.records import StepRecord
from edgelm.compress.run import apply, require_data
from edgelm.compression import CACHE, Watch, compressed_model, unrecognised, why_opaque
from edgelm.device import emulator
from edgelm.device import profile as profiles
from edgelm.device.profile import DeviceProfile
from edgelm.errors import ArtifactError
from edgelm.lower import direct, graph
from edgelm.model import Imported, LanguageModel, OpaqueGraph, SourceLogits
from edgelm.recipe import Form, Recipe
from edgelm.recipe_steps import Quantize
from edgelm.report import Report
from edgelm.spec import Encoding
from edgelm.validate import arm64
from edgelm.validate.verdict import Subject, judge

OnStage = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total (0 when unknown)."""

RUNTIME_RECIPES = {"tflite-runtime": "int8-tflite2.14"}
"""Runtime -> the recipe that is taken when none is named; `int8` otherwise."""

RUNTIME_FORMS: Mapping[str, Form] = {"tflite-runtime": "tflite-2.14"}
"""Runtime -> the form of graph a compressed model is written in; `litert` otherwise."""

FIGURES = ("file size", "download size", "perplexity loss")
"""Checks whose figures go into the manifest: those that are the same on every machine."""


def quiet(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Request:
    """What to convert and how.

    Attributes:
        source: A model's name or path, or an imported model.
        target: Device profile, a name or a path; or one of `export.TARGETS`, formats of servers.
        recipe: Recipe, a name or a path; None takes a compressed model as it is, any other as the profile's runtime needs it, and for
            a server as float32.
        output: Folder of the artifact; None for `build/NAME`, or `build/NAME-TARGET` of a server's format.
        data: Corpus that steps train on and quality is measured on; None for none.
        quality_tokens: Tokens of the test split quality is measured on; None for all.
        tokenizer: Tokenizer file or folder; None for the one beside the model.
        trust: Execute code from the model file.
        threads: Threads of the runtime on this host.
        cache: Folder of finished steps and of checkpoints, for recipes that look at text; None keeps nothing.
        fresh: Do every step anew.
        arm64: Run it on arm64 cores where the device has them and the emulator is set up.
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
    cache: Path | None = CACHE
    fresh: bool = False
    arm64: bool = True


@dataclass(frozen=True)
class Conversion:
    """The artifact and what is known of it."""

    folder: Path
    report: Report


@dataclass(frozen=True)
class Built:
    """A lowered model.

    Attributes:
        model: What was lowered: the source after the recipe's steps.
        tflite: Bytes of the flatbuffer.
        encodings: How each weight is stored.
        notes: What to know of it.
        records: What each step did, when one of them looked at text.
    """

    model: LanguageModel | OpaqueGraph
    tflite: bytes
    encodings: Mapping[str, Encoding]
    notes: tuple[str, ...]
    records: tuple[StepRecord, ...] = ()


def convert(request: Request, watch: Watch = Watch()) -> Conversion:  # noqa: B008 (frozen)
    """Turns a model into an artifact: read, compress, lower, prove, judge, write.

    The artifact is written even when a limit is missed; the report says which.

    Raises:
        EdgeLMError: Something the user can mend; nothing is written then.
    """
    if request.target in export.TARGETS:
        return _exported(request, watch)
    profile = profiles.load(request.target)
    named = _named_recipe(request)
    imported = _imported(request, watch)
    chosen = named or _usual_recipe(imported.model, profile)
    folder = request.output or Path("build") / imported.model.name
    artifact.check_writable(folder)
    built = build(imported.model, chosen, data=request.data, watch=watch, cache=request.cache, fresh=request.fresh)
    facts = manifest.build(built.model, chosen, profile.name, built.tflite, built.encodings)
    packed = artifact.pack(built.tflite, facts, built.model.tokenizer)
    made = Artifact(folder, packed, facts, built.model.tokenizer)
    machine, notes = arm64.machine_for(profile) if request.arm64 else (None, ())
    expected = _proven_against(imported, built, chosen)
    subject = Subject(made, imported, _typed(request.source), (*built.notes, *notes), expected, built.records, machine)
    verdict = judge(
        subject, profile, data=request.data, quality_tokens=request.quality_tokens, threads=request.threads, on_stage=watch.on_stage
    )
    watch.on_stage("writing the artifact", 0, 0)
    artifact.write(folder, _files(packed, facts, built.model.tokenizer, verdict))
    return Conversion(folder, verdict)


def _exported(request: Request, watch: Watch) -> Conversion:
    """The same for a server's format, as `edgelm.export` tells it."""
    named = _named_recipe(request)
    imported = _imported(request, watch)
    model = imported.model
    if isinstance(model, OpaqueGraph):
        raise export.refuse_unrecognised(model, request.target)
    chosen = named or (_as_compressed() if model.encodings else recipe.load(export.RECIPE))
    folder = request.output or Path("build") / f"{model.name}-{request.target}"
    artifact.check_writable(folder)
    made, _ = _after_steps(model, chosen, request.data, watch, request.cache, request.fresh)
    expected = imported.source_logits if chosen.only_rounds else source.source_logits_of(made)
    subject = export.Subject(model, made, chosen, expected, request.data, request.threads)
    done = export.export(subject, request.target, watch.on_stage)
    watch.on_stage("writing the artifact", 0, 0)
    artifact.write(folder, done.files)
    return Conversion(folder, done.report)


def _named_recipe(request: Request) -> Recipe | None:
    """The recipe that was asked for; what would stop the conversion later is looked at first."""
    named = recipe.load(request.recipe) if request.recipe else None
    require_data(named.steps if named else (), request.data, named.name if named else "")
    if request.output:
        artifact.check_writable(request.output)
    return named


def _as_compressed(form: Form = "litert") -> Recipe:
    return Recipe("as-compressed", "the encodings that edgelm compress chose", (), form)


def _usual_recipe(model: LanguageModel | OpaqueGraph, profile: DeviceProfile) -> Recipe:
    """What is taken when no recipe is named: a compressed model's own encodings, or what the runtime needs."""
    if isinstance(model, LanguageModel) and model.encodings:
        return _as_compressed(RUNTIME_FORMS.get(profile.runtime.name, "litert"))
    return recipe.load(RUNTIME_RECIPES.get(profile.runtime.name, recipe.DEFAULT))


def _proven_against(imported: Imported, built: Built, chosen: Recipe) -> SourceLogits:
    """What the artifact has to equal: the source, or the compressed model where steps changed more than the rounding."""
    if chosen.only_rounds or isinstance(built.model, OpaqueGraph):
        return imported.source_logits
    return source.source_logits_of(built.model)


def _imported(request: Request, watch: Watch) -> Imported:
    watch.on_stage("reading the model", 0, 0)
    if isinstance(request.source, Imported):
        return request.source
    return source.load(request.source, trust=request.trust, tokenizer=request.tokenizer)


def build(
    model: LanguageModel | OpaqueGraph,
    chosen: Recipe,
    *,
    data: Path | None = None,
    watch: Watch = Watch(),  # noqa: B008 (frozen)
    cache: Path | None = CACHE,
    fresh: bool = False,
) -> Built:
    """Applies the recipe's steps and writes the graph.

    Args:
        model: The source.
        chosen: How.
        data: Corpus for the steps that look at text.
        watch: Who is told.
        cache: Folder of finished steps and of checkpoints; None keeps nothing.
        fresh: Do every step anew.

    Raises:
        UnsupportedModelError: The recipe cannot be applied to a graph that was not recognised.
        RecipeError: It wants text and there is none.
    """
    if isinstance(model, OpaqueGraph):
        encoding = _opaque_encoding(model, chosen)
        watch.on_stage("lowering to TFLite", 0, 0)
        return Built(model, graph.convert_opaque(model, encoding), {"graph": encoding}, (f"converted as it is: {why_opaque(model)}",))
    model, records = _after_steps(model, chosen, data, watch, cache, fresh)
    watch.on_stage("lowering to TFLite", 0, 0)
    lowered = direct.lower(model, form=chosen.form)
    return Built(model, lowered.tflite, lowered.encodings, lowered.notes, records)


def _after_steps(
    model: LanguageModel, chosen: Recipe, data: Path | None, watch: Watch, cache: Path | None, fresh: bool
) -> tuple[LanguageModel, tuple[StepRecord, ...]]:
    """The model after a recipe's steps, and what each did when one of them looked at text."""
    if chosen.wants_data:
        compressed = compressed_model(model, chosen, data, watch, cache=cache, fresh=fresh)
        return compressed.model, compressed.records
    for step in chosen.steps:
        model = apply(model, step)
    return model, ()


def _opaque_encoding(model: OpaqueGraph, chosen: Recipe) -> Encoding:
    plain = [step for step in chosen.steps if isinstance(step, Quantize) and step == Quantize(step.weights, step.embedding, step.head)]
    kinds = {kind for step in plain for kind in (step.weights, step.embedding, step.head)}
    if len(kinds) != 1 or len(plain) < len(chosen.steps) or chosen.form != "litert" or kinds & {Encoding.INT4, Encoding.INT4_BLOCK32}:
        raise unrecognised(model, chosen)
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
    on_arm64: bool = False,
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
        on_arm64: Run it on arm64 cores, too; a .tflite that edgelm did not write is only run there.
        on_stage: Progress.

    Raises:
        ArtifactError: No artifact, or the source is not the one it was made from.
        EmulatorError: Nothing is set up that runs arm64 code.
    """
    machine = emulator.require() if on_arm64 else None
    if machine and artifact.is_bare(path):
        return arm64.report(path, machine, on_stage)
    loaded = artifact.load(path)
    profile: DeviceProfile = profiles.load(target or str(loaded.manifest["target"]))
    on_stage("reading the source model", 0, 0)
    imported = _source_of(loaded, source_model, trust)
    changed = not recipe.only_round(step["technique"] for step in loaded.manifest["recipe"]["steps"])
    notes = ("training changed its weights: it was proven against the compressed model when it was made",) if changed else ()
    bundled = loaded.name if imported else None
    expected = imported.source_logits if imported and not changed else None
    subject = Subject(loaded, imported, _typed(source_model or bundled), notes, expected, machine=machine)
    return judge(subject, profile, data=data, quality_tokens=quality_tokens, threads=threads, on_stage=on_stage)


def _typed(named: str | Imported | None) -> str:
    """A source as one types it in a command."""
    return shlex.quote(named) if isinstance(named, str) else "MODEL"


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
