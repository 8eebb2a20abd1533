"""Everything that is known of an artifact in one report: preflight, parity, quality and budget against a device profile."""

from __future__ import annotations

import dataclasses
import functools
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelm.artifact import Artifact
from edgelm.compress import records
from edgelm.compress.records import StepRecord
from edgelm.device.emulator import Machine
from edgelm.device.profile import DeviceProfile
from edgelm.model import Imported, LanguageModel, SourceLogits
from edgelm.models.ngram import NGram
from edgelm.report import Check, Plot, Report, Table, number, verdict
from edgelm.runtime.session import open_session
from edgelm.spec import TransformerSpec
from edgelm.text.corpus import Corpus, token_documents
from edgelm.text.tokenizer import Tokenizer
from edgelm.validate import arm64, budget, parity, preflight, probe, quality
from edgelm.validate.parity_limits import limits_for
from edgelm.validate.scorers import NGramScorer, Scorer, SessionScorer, SourceScorer

OnStage = Callable[[str, int, int], None]

SCORING_BATCH = 32
"""Texts a recurrent artifact scores side by side; each row's numbers are those of one text alone."""


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        artifact: The file.
        imported: Its source, if it is at hand: loss of quality is against it.
        named: The source as a user types it, for the commands in the report.
        notes: What the lowering has to say.
        proven_against: What the file has to equal: the source, or the compressed model; None leaves the proof out.
        records: What each step of the recipe did, when one of them looked at text.
        machine: What runs it on arm64 cores; None leaves that proof out.
    """

    artifact: Artifact
    imported: Imported | None
    named: str
    notes: tuple[str, ...]
    proven_against: SourceLogits | None = None
    records: tuple[StepRecord, ...] = ()
    machine: Machine | None = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The artifact's tokenizer."""
        return Tokenizer.from_json(self.artifact.tokenizer) if self.artifact.tokenizer else None


@dataclass(frozen=True)
class Finding:
    """What one part of the judgement adds to the report."""

    checks: tuple[Check, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()


def judge(
    subject: Subject, profile: DeviceProfile, *, data: Path | None, quality_tokens: int | None, threads: int, on_stage: OnStage
) -> Report:
    """Proves and judges an artifact.

    Args:
        subject: What is judged.
        profile: The device and runtime it is for.
        data: Corpus for held-out text, or None: then the proof runs on text the source samples, and quality is left out.
        quality_tokens: Tokens of the test split quality is measured on; None for all of it.
        threads: Threads of the runtime on this host.
        on_stage: Progress: stage, done, total.
    """
    on_stage("reading op versions", 0, 0)
    ahead = preflight.preflight(subject.artifact.tflite, profile, source=subject.named)
    findings: list[Finding] = []
    corpus = Corpus.open(data) if data else None
    if ahead.runs and subject.proven_against:
        on_stage("proving it equal to its source", 0, 0)
        findings.append(_proof(subject, profile, corpus, threads))
    if ahead.runs and subject.machine:
        proof = arm64.prove(subject.artifact.tflite, subject.machine, on_stage)
        findings.append(Finding(proof.checks, proof.tables))
    if ahead.runs and corpus:
        findings.append(_quality(subject, profile, corpus, quality_tokens, threads, on_stage))
    on_stage("measuring size, memory and time", 0, 0)
    spent = budget.budget(subject.artifact.tflite, profile, source=subject.named, threads=threads, measured=ahead.runs)
    findings = [Finding(spent.checks, spent.tables, spent.plots), *findings, _compression(subject.records), _ahead(ahead, profile)]
    return Report(
        title=f"{subject.artifact.name} for {profile.name}",
        facts=_facts(subject, profile),
        checks=tuple(check for finding in findings for check in finding.checks),
        tables=tuple(table for finding in findings for table in finding.tables),
        plots=tuple(plot for finding in findings for plot in finding.plots),
        next_commands=_next_commands(subject, profile, data, spent.next_commands),
    )


def _compression(done: Sequence[StepRecord]) -> Finding:
    """What the recipe's steps did, where one of them looked at text."""
    return Finding(tables=(records.record_table(done),), plots=(records.size_plot(done),)) if done else Finding()


def _ahead(result: preflight.PreflightResult, profile: DeviceProfile) -> Finding:
    """Preflight in one line as long as nothing failed; what failed stands in the verdict by itself."""
    judged = [check for check in result.checks if check.passed is not None]
    failed = tuple(check for check in judged if not check.passed)
    good = f"{len(judged) - len(failed)} of {len(judged)}"
    summary = Check(f"preflight for {profile.runtime.key}", good, passed=not failed or None, basis="read")
    rows = tuple((check.name, f"{number(check.measured)} {check.unit}".strip(), verdict(check)) for check in result.checks)
    details = (Table("Preflight", ("check", "found", "verdict"), rows), *result.tables)
    return Finding((*failed, summary), tuple(dataclasses.replace(table, detail=True) for table in details))


def _proof(subject: Subject, profile: DeviceProfile, corpus: Corpus | None, threads: int) -> Finding:
    imported, tokenizer, expected = subject.imported, subject.tokenizer, subject.proven_against
    assert imported is not None and expected is not None  # judge asks for them
    tokens, text = probe.chosen(imported.model, tokenizer, corpus)
    runtimes = preflight.runtimes(subject.artifact.tflite, profile)
    results = parity.parity_on(runtimes, expected, subject.artifact.tflite, tokens, threads=threads)
    limits = limits_for(subject.artifact.encodings.values())
    several = len(results) > 1
    checks = tuple(check for result in results.values() for check in parity.checks(result, limits, result.runtime if several else ""))
    what = "the source" if expected is imported.source_logits else "the compressed model"
    rows = (("compared with", what), ("compared on", f"{len(tokens)} positions of {text}"), ("allowed because", limits.reason))
    note = Table("Proof", ("question", "answer"), rows, detail=True)
    return Finding(checks, (note,))


def _quality(subject: Subject, profile: DeviceProfile, corpus: Corpus, limit: int | None, threads: int, on_stage: OnStage) -> Finding:
    tokenizer = subject.tokenizer
    if tokenizer is None:
        check = Check("quality", "not measured", basis="read", cause="", fix="edgelm convert MODEL --tokenizer PATH --data CORPUS")
        return Finding((check,))
    documents = _documents(corpus, tokenizer, limit)
    on_stage("training the n-gram baselines", 0, 0)
    train = list(token_documents(corpus, tokenizer, "train"))
    scorers: dict[str, Scorer] = {
        "artifact": _artifact_scorer(subject, profile, threads),
        "trigram": NGramScorer(NGram.fit(train, tokenizer.vocab_size, order=3)),
        "unigram": NGramScorer(NGram.fit(train, tokenizer.vocab_size, order=1)),
    }
    if subject.imported:
        source = subject.imported.model
        spec = source.spec if isinstance(source, LanguageModel) else None
        longest = spec.max_positions if isinstance(spec, TransformerSpec) else SourceScorer.max_tokens
        scorers["source"] = SourceScorer(subject.imported.source_logits, max_tokens=longest)
    figures = {}
    for name, scorer in scorers.items():
        on_progress = functools.partial(on_stage, f"quality of the {name}")
        figures[name] = quality.evaluate(scorer, tokenizer, documents, on_progress=on_progress)
    table, checks = quality.compare(**figures, max_loss_percent=profile.limits.quality_loss_percent)
    order = [name for name in ("source", "artifact", "trigram", "unigram") if name in figures]
    plot = Plot("Perplexity per word, lower is better", tuple(order), tuple(figures[name].word_perplexity for name in order), "")
    return Finding(checks, (table,), (plot,))


def _documents(corpus: Corpus, tokenizer: Tokenizer, limit: int | None) -> list[list[str]]:
    """Documents of the test split, up to about `limit` tokens (one document at least)."""
    documents: list[list[str]] = []
    taken = 0
    for document in corpus.documents("test"):
        documents.append(document)
        taken += sum(len(ids) + 1 for ids in tokenizer.encode_batch(document))
        if limit is not None and taken >= limit:
            break
    return documents


def _artifact_scorer(subject: Subject, profile: DeviceProfile, threads: int) -> Scorer:
    model, runtime = subject.artifact.tflite, profile.runtime.name
    spec = subject.artifact.spec
    batch = SCORING_BATCH if spec and spec.family == "recurrent" else 1
    session = open_session(model, runtime=runtime, threads=threads, batch=batch)
    return SessionScorer(session)


def _facts(subject: Subject, profile: DeviceProfile) -> tuple[tuple[str, str], ...]:
    manifest = subject.artifact.manifest
    source, recipe = manifest["source"], manifest["recipe"]
    way = {
        "native": "edgelm's own format",
        "lifted": "lifted: weights taken out, graph written anew",
        "graph": "converted as it is by TFLiteConverter",
    }[source["way"]]
    facts = [
        ("source", f"{source['format']}, run by {source['framework']}"),
        ("way", f"{way} ({source['why']})"),
        ("recipe", f"{recipe['name']}: {recipe['description']}"),
        ("device", f"{profile.device.title}; runtime {profile.runtime.key}"),
        ("this host", f"{platform.machine()}, Python {platform.python_version()}, {platform.system()}"),
    ]
    if manifest["parameters"]:
        facts.insert(1, ("parameters", f"{manifest['parameters']:,}"))
    if source.get("proof"):
        proof = source["proof"]
        facts.insert(3, ("lift proof", f"max |Δ logit| {proof['max_abs_difference']:.1e} over {proof['tokens']} positions"))
    return (*facts, *(("note", note) for note in subject.notes))


def _next_commands(subject: Subject, profile: DeviceProfile, data: Path | None, fixes: tuple[str, ...]) -> tuple[str, ...]:
    folder = shlex.quote(str(subject.artifact.path))
    other = "int4-block32" if subject.artifact.spec else "float16"  # a graph that was not recognised takes no 4 bits
    if subject.artifact.manifest["recipe"]["name"] == other:
        other = "int8"
    usual = [
        f'edgelm predict {folder} "see you"' if subject.artifact.tokenizer else f"edgelm inspect {folder}",
        f"edgelm convert {subject.named} --target {profile.name} --recipe {other} -o {folder}-{other.partition('-')[0]}",
        f"edgelm check {folder} --data CORPUS" if not data else f"edgelm check {folder} --target raspberry-pi-4",
    ]
    return (*fixes, *usual)[: max(3, len(fixes))]
