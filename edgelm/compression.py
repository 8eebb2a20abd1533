"""The story of `compress`: a model and a recipe become a smaller model, as an edgelm folder that `convert` lowers as it is."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgelm import artifact, recipe, source
from edgelm.compress import records
from edgelm.compress.corpus_data import step_data
from edgelm.compress.run import Compressed, require_data, run
from edgelm.compress.settings import OnProgress
from edgelm.errors import ArtifactError, MissingDependencyError, UnsupportedModelError
from edgelm.model import Imported, LanguageModel, OpaqueGraph
from edgelm.native_output import silenced
from edgelm.recipe import Recipe
from edgelm.report import Report, Table
from edgelm.text.corpus import Corpus

CACHE = Path("build") / "step-cache"
"""Where finished steps are kept by default: beside the artifacts, which go to `build/NAME`."""


def quiet(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Watch:
    """Who is told how it goes.

    Attributes:
        on_stage: Stage, done, total (0 when unknown).
        on_training: After every training step; None for nobody.
        on_table: What steps will cost, before they begin, and what quantization-aware training will do.
    """

    on_stage: Callable[[str, int, int], None] = quiet
    on_training: OnProgress | None = None
    on_table: Callable[[Table], None] = lambda table: None


@dataclass(frozen=True)
class Request:
    """What to compress and how.

    Attributes:
        source: A model's name or path, or an imported model.
        recipe: Recipe, a name or a path.
        output: Folder of the compressed model; None for `build/NAME-RECIPE`.
        data: Corpus that steps train on; None for none.
        tokenizer: Tokenizer file or folder; None for the one beside the model.
        trust: Execute code from the model file.
        cache: Folder of finished steps and of checkpoints; None keeps nothing.
        fresh: Do every step anew.
    """

    source: str | Imported
    recipe: str
    output: Path | None = None
    data: Path | None = None
    tokenizer: Path | None = None
    trust: bool = False
    cache: Path | None = CACHE
    fresh: bool = False


@dataclass(frozen=True)
class Compression:
    """The compressed model, where it was written, and what each step did."""

    folder: Path
    compressed: Compressed
    report: Report


def compress(request: Request, watch: Watch = Watch()) -> Compression:
    """Applies a recipe to a model and writes the smaller model.

    The folder appears at once or not at all; a run that is interrupted goes on from the cache.

    Raises:
        EdgeLMError: Something the user can mend; nothing is written then.
    """
    chosen = recipe.load(request.recipe)
    require_data(chosen.steps, request.data, chosen.name)
    watch.on_stage("reading the model", 0, 0)
    imported = (
        request.source
        if isinstance(request.source, Imported)
        else source.load(request.source, trust=request.trust, tokenizer=request.tokenizer)
    )
    model = imported.model
    if isinstance(model, OpaqueGraph):
        raise unrecognised(model, chosen)
    folder = request.output or Path("build") / f"{model.name}-{chosen.name}"
    if isinstance(request.source, str) and folder.exists() and folder.samefile(source.place_of(request.source)):
        raise ArtifactError(f"{folder} is the model itself, which would be overwritten", fix="-o ANOTHER-FOLDER")
    artifact.check_writable(folder, source.SPEC)
    compressed = compressed_model(model, chosen, request.data, watch, cache=request.cache, fresh=request.fresh)
    report = _report(compressed, model, chosen, folder)
    plain = report.to_dict() | {"recipe": chosen.to_dict(), "records": [record.to_dict() for record in compressed.records]}
    text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    source.write_folder(compressed.model, folder, {artifact.REPORT_JSON: text.encode("utf-8")})
    return Compression(folder, compressed, report)


def compressed_model(
    model: LanguageModel, chosen: Recipe, data: Path | None, watch: Watch, *, cache: Path | None = CACHE, fresh: bool = False
) -> Compressed:
    """A model after a recipe.

    Args:
        model: What to compress.
        chosen: How.
        data: Corpus, or None.
        watch: Who is told.
        cache: Folder of finished steps and of checkpoints; None keeps nothing.
        fresh: Do every step anew.

    Raises:
        EdgeLMError: From the corpus or a technique.
    """
    require_data(chosen.steps, data, chosen.name)
    given = None
    if data is not None:
        _require_packages(chosen)
        watch.on_stage("reading the corpus", 0, 0)
        given = step_data(Corpus.open(data), model, watch.on_training)
    return run(model, chosen.steps, given, cache, fresh=fresh, on_stage=watch.on_stage, on_table=watch.on_table)


def unrecognised(model: OpaqueGraph, chosen: Recipe) -> UnsupportedModelError:
    """The error for a recipe that needs a model whose weights edgelm knows."""
    return UnsupportedModelError(
        f"recipe {chosen.name} needs a model whose weights edgelm knows, and {model.name} was not recognised: {why_opaque(model)}",
        allowed="float32, float16, int8",
        fix=f"edgelm convert {model.path} --recipe int8",
    )


def why_opaque(model: OpaqueGraph) -> str:
    """What was not recognised."""
    return model.origin.why if model.origin else "its structure was not recognised"


def _require_packages(chosen: Recipe) -> None:
    """Imports what measures and trains, which writes to stderr while it is imported."""
    for package in ("tensorflow", "tf_keras", "tensorflow_model_optimization"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"recipe {chosen.name} needs {package}, which is not installed", fix="pip install 'edgelm[keras]'")
    with silenced():
        importlib.import_module("tf_keras")


def _report(compressed: Compressed, model: LanguageModel, chosen: Recipe, folder: Path) -> Report:
    return Report(
        title=f"{model.name} under {chosen.name}",
        facts=(("recipe", chosen.description), *((("source", model.origin.framework),) if model.origin else ())),
        checks=(),
        tables=(records.record_table(compressed.records),),
        plots=(records.size_plot(compressed.records),),
        next_commands=(f"edgelm convert {folder} --target android-arm64",),
    )
