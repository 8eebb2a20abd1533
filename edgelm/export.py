"""The story of `convert --target onnx` and `--target saved-model`: a model written for servers, proven, with its report.

There is no device, so there are no limits of size and time; the proof is the same as for a .tflite.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm import artifact, manifest, report
from edgelm.errors import UnsupportedModelError
from edgelm.lower.onnx_writer import write_onnx
from edgelm.lower.saved_model import write_saved_model
from edgelm.model import LanguageModel, OpaqueGraph, SourceLogits
from edgelm.models import reference, reference_static
from edgelm.recipe import Recipe
from edgelm.report import Check, Report
from edgelm.runtime.onnx_session import open_onnx
from edgelm.runtime.saved_model_session import open_saved_model
from edgelm.spec import Encoding, TransformerSpec
from edgelm.text.corpus import Corpus
from edgelm.text.tokenizer import Tokenizer
from edgelm.validate import exported, probe
from edgelm.validate.exported import Comparison
from edgelm.validate.parity_limits import limits_for

ONNX, SAVED_MODEL = "onnx", "saved-model"
ONNX_FILE = "model.onnx"
RECIPE = "float32"
"""What is done when no recipe is named: servers are not short of space, and a rounded model is what `compress` is for."""

MB = 1e6
AMX_NOTE = (
    "on CPUs with AMX onnxruntime 1.23 multiplies int8 by int8 wrongly when 32 or more positions come in one call (its issue 26324): "
    "set the session option session.disable_quant_qdq=1 there"
)


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        source: The model as it was read.
        model: It after the recipe's steps.
        recipe: The recipe.
        proven_against: What the export has to equal: the source, or the compressed model where steps changed more than the rounding.
        data: Corpus for held-out text to prove with, or None.
        threads: Threads of the runtime on this host.
    """

    source: LanguageModel
    model: LanguageModel
    recipe: Recipe
    proven_against: SourceLogits
    data: Path | None = None
    threads: int = 1

    @property
    def proven_by(self) -> str:
        """Name of the comparison with `proven_against`."""
        return "parity with the source" if self.recipe.only_rounds else "parity with the compressed model"


@dataclass(frozen=True)
class Written:
    """A model in another framework's format, loaded again.

    Attributes:
        files: Name, with folders -> content.
        encodings: How each weight is stored.
        notes: What to know of it.
        comparisons: What the proof compares.
        facts: (key, text) pairs for the report.
        checked: What was checked besides the proof.
    """

    files: Mapping[str, bytes]
    encodings: Mapping[str, Encoding]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    facts: tuple[tuple[str, str], ...]
    checked: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Export:
    """All files of the artifact, and what is known of it."""

    files: Mapping[str, bytes]
    report: Report


def export(subject: Subject, target: str, on_stage: Callable[[str, int, int], None]) -> Export:
    """Writes a model for a server and proves it.

    Args:
        subject: The model.
        target: One of `TARGETS`.
        on_stage: Progress: stage, done, total.

    Raises:
        UnsupportedModelError: A weight cannot be stored, or all are too large for one file.
        MissingDependencyError: The target's framework is not installed.
        RuntimeFailure: Its runtime refuses the file.
    """
    on_stage(f"writing {target}", 0, 0)
    written = TARGETS[target](subject)
    on_stage("proving it equal to its source", 0, 0)
    tokenizer = Tokenizer.from_json(subject.model.tokenizer) if subject.model.tokenizer else None
    tokens, text = probe.chosen(subject.source, tokenizer, Corpus.open(subject.data) if subject.data else None)
    checks, table = exported.prove(written.comparisons, tokens, text)
    size = Check("file size", sum(map(len, written.files.values())) / MB, unit="MB", basis="read")
    verdict = Report(
        title=f"{subject.model.name} as {target}",
        facts=_facts(subject, written),
        checks=(size, *written.checked, *checks),
        tables=(table,),
        words=("equal to its source", "not equal to its source"),
    )
    facts = manifest.build_export(subject.model, subject.recipe, target, written.files, written.encodings)
    return Export({**written.files, **_around(facts, verdict, subject.model.tokenizer)}, verdict)


def refuse_unrecognised(model: OpaqueGraph, target: str) -> UnsupportedModelError:
    """The error for a graph that is not known weight by weight."""
    why = model.origin.why if model.origin else "its structure was not recognised"
    return UnsupportedModelError(
        f"{model.name} cannot be written as {target}: edgelm writes models whose weights it knows, and {why}",
        allowed="a model that edgelm lifts (edgelm inspect MODEL says so)",
        fix=f"edgelm convert {model.path} --target android-arm64",
    )


def _onnx(subject: Subject) -> Written:
    """ONNX: as written against the rounded weights, and as onnxruntime runs it by default against the source."""
    written = write_onnx(subject.model)
    longest = _max_positions(subject.model)
    exact = open_onnx(written.onnx, threads=subject.threads, max_positions=longest)
    default = open_onnx(written.onnx, as_written=False, threads=subject.threads, max_positions=longest, prefills=False)
    computed = reference_static.logits if subject.model.ranges else reference.logits
    strict = limits_for([Encoding.INT8] if subject.model.ranges else [])
    return Written(
        files={ONNX_FILE: written.onnx},
        encodings=written.encodings,
        notes=(*written.notes, *((AMX_NOTE,) if subject.model.ranges else ())),
        comparisons=(
            Comparison("parity with the rounded weights", exact, lambda ids: computed(written.rounded, ids), strict),
            Comparison(subject.proven_by, default, subject.proven_against, limits_for(written.encodings.values())),
        ),
        facts=(("format", f"ONNX, opset 21, standard ops; run by {exact.runtime}"),),
        checked=(Check("onnx.checker", "accepts it", passed=True, basis="read"),),
    )


def _saved_model(subject: Subject) -> Written:
    """A SavedModel: its float weights against the numpy reference of them, and against the source."""
    written = write_saved_model(subject.model)
    with tempfile.TemporaryDirectory(prefix="edgelm-") as place:
        artifact.write(Path(place) / "model", written.files)
        session = open_saved_model(Path(place) / "model", max_positions=_max_positions(subject.model))
    rounded_to = [subject.model.encoding(name) for name in subject.model.weights]
    return Written(
        files=written.files,
        encodings=dict.fromkeys(subject.model.weights, Encoding.FLOAT32),
        notes=written.notes,
        comparisons=(
            Comparison("parity with the rounded weights", session, lambda ids: reference.logits(written.rounded, ids), limits_for([])),
            Comparison(subject.proven_by, session, subject.proven_against, limits_for(rounded_to)),
        ),
        facts=(("format", f"TensorFlow SavedModel, float32; run by {session.runtime}"),),
    )


TARGETS: Mapping[str, Callable[[Subject], Written]] = {ONNX: _onnx, SAVED_MODEL: _saved_model}
"""Target -> what writes it and loads it again."""


def _max_positions(model: LanguageModel) -> int | None:
    return model.spec.max_positions if isinstance(model.spec, TransformerSpec) else None


def _facts(subject: Subject, written: Written) -> tuple[tuple[str, str], ...]:
    origin, recipe = subject.model.origin, subject.recipe
    return (
        *((("source", f"{origin.format}, run by {origin.framework}"),) if origin else ()),
        ("parameters", f"{subject.model.parameters:,}"),
        ("recipe", f"{recipe.name}: {recipe.description}"),
        *written.facts,
        ("this host", f"{platform.machine()}, Python {platform.python_version()}, {platform.system()}"),
        *(("note", note) for note in written.notes),
    )


def _around(facts: Mapping[str, object], verdict: Report, tokenizer: str | None) -> dict[str, bytes]:
    """The files of every artifact."""
    files = {
        artifact.MANIFEST: artifact.encode_json(facts),
        artifact.REPORT_JSON: report.render_json(verdict),
        artifact.REPORT_HTML: report.render_html(verdict),
    }
    return files | ({artifact.TOKENIZER: tokenizer.encode("utf-8")} if tokenizer else {})
