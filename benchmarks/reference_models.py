"""The README's table: both bundled models under every recipe, on held-out dialogues.

    python benchmarks/reference_models.py --data ../shared/data/corpora/sgd_dialogues

Quality is measured on the test split (`--tokens` of it, 0 for all) with the state carried through each dialogue, by the .tflite
itself on LiteRT. Per-word perplexity counts the words that the keyboard model knows, for all models alike. Times are medians of
interleaved rounds in fresh processes on this machine, one thread. Writes `benchmarks/results/reference_models.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from edgelm import pipeline, recipe, source
from edgelm.model import LanguageModel
from edgelm.models.ngram import NGram
from edgelm.runtime.session import open_session
from edgelm.text.alignment import align_documents
from edgelm.text.corpus import Corpus, token_documents
from edgelm.text.tokenizer import Tokenizer
from edgelm.validate import quality
from edgelm.validate.measurement import measure
from edgelm.validate.scorers import NGramScorer, Scorer, SessionScorer, SourceScorer

RESULTS = Path(__file__).parent / "results"
RUNTIME = {"int8-tflite2.14": "tflite-runtime"}
ROUNDS = 3


def figures(result: quality.Quality) -> dict[str, Any]:
    """What the table shows of a quality."""
    return {
        "perplexity": result.perplexity,
        "word_perplexity": result.word_perplexity,
        "top1": result.top1,
        "top3": result.top3,
        "macro_f1": result.macro_f1,
        "bits_per_character": result.bits_per_character,
        "tokens": result.tokens,
        "words": result.words,
        "unknown_share": result.unknown_share,
    }


def take(corpus: Corpus, tokenizer: Tokenizer, limit: int) -> list[list[str]]:
    """Whole test dialogues, up to about `limit` tokens; all for 0."""
    documents, taken = [], 0
    for document in corpus.documents("test"):
        documents.append(document)
        taken += sum(map(len, tokenizer.encode_batch(document)))
        if limit and taken >= limit:
            break
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--sample", type=int, default=1000, help="word positions for the next-word accuracy of subword models")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.data)
    keyboard = Tokenizer.load(source.bundled()["keyboard-lstm"])
    vocabulary = quality.word_vocabulary(keyboard)
    documents = take(corpus, keyboard, arguments.tokens)
    rows: list[dict[str, Any]] = []

    def add(model: str, what: str, scorer: Scorer, tokenizer: Tokenizer, reset: Any = "document", **extra: Any) -> None:
        result = quality.evaluate(scorer, tokenizer, documents, reset=reset, vocabulary=vocabulary)
        rows.append({"model": model, "what": what, **figures(result), **extra})
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        built: dict[tuple[str, str], Path] = {}
        for name in source.bundled():
            imported = source.load(name)
            assert isinstance(imported.model, LanguageModel)
            tokenizer = Tokenizer.from_json(imported.model.tokenizer or "")
            train = list(token_documents(corpus, tokenizer, "train"))
            for order, baseline in ((1, "unigram"), (3, "trigram")):
                add(name, baseline, NGramScorer(NGram.fit(train, tokenizer.vocab_size, order=order)), tokenizer)
            add(name, "float source", SourceScorer(imported.source_logits), tokenizer)
            if tokenizer.kind == "word":
                add(name, "float source, sentence by sentence", SourceScorer(imported.source_logits), tokenizer, reset="line")
            for chosen in recipe.shipped():
                made = pipeline.build(imported.model, recipe.load(chosen))
                path = Path(scratch) / f"{name}-{chosen}.tflite"
                path.write_bytes(made.tflite)
                built[name, chosen] = path
                runtime = RUNTIME.get(chosen, "ai-edge-litert")
                batch = 32 if imported.model.spec.family == "recurrent" else 1
                session = open_session(path, runtime=runtime, batch=batch)
                extra: dict[str, Any] = {"runtime": session.runtime, "parameters": imported.model.parameters}
                if tokenizer.kind != "word":
                    sample = quality.subword_accuracy(
                        session, tokenizer, list(align_documents(documents, tokenizer)), positions=arguments.sample
                    )
                    extra |= {"top1_sampled": sample.top1, "top3_sampled": sample.top3, "positions": sample.positions}
                add(name, chosen, SessionScorer(session), tokenizer, **extra)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in built}
        for _ in range(ROUNDS):
            for key, path in built.items():
                times[key].append(measure(path, runtime=RUNTIME.get(key[1], "ai-edge-litert"), seconds=1.0).step_ms_median)
        for row in rows:
            key = (row["model"], row["what"])
            if key in built:
                row |= {"ms_per_token": statistics.median(times[key]), "bytes": size(key, built[key])}
    RESULTS.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "processor": cpu(), "python": platform.python_version(), "test_documents": len(documents)}
    (RESULTS / "reference_models.json").write_text(json.dumps({"basis": "measured", **machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "reference_models.md").write_text(markdown(rows))
    print(markdown(rows))


def size(key: tuple[str, str], path: Path) -> int:
    """Bytes of the shipped file: the graph, the tokenizer and the manifest."""
    from edgelm import artifact, manifest

    imported = source.load(key[0])
    facts = manifest.build(imported.model, recipe.load(key[1]), "android-arm64", path.read_bytes(), {})
    return len(artifact.pack(path.read_bytes(), facts, imported.model.tokenizer))


def cpu() -> str:
    """The processor's own name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as it stands in the README."""
    lines = [
        "| model | recipe | file MB | perplexity | per word | top-1 % | top-3 % | ms/token |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        top1, top3 = (row[key] if row[key] is not None else row.get(f"{key}_sampled") for key in ("top1", "top3"))
        cells = [
            f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else "",
            f"{row['perplexity']:.2f}",
            f"{row['word_perplexity']:.2f}",
            f"{100 * top1:.1f}" if top1 is not None else "",
            f"{100 * top3:.1f}" if top3 is not None else "",
            f"{row['ms_per_token']:.3f}" if "ms_per_token" in row else "",
        ]
        lines.append(f"| {row['model']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
