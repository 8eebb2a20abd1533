"""The README's table: a bundled model under every recipe, on held-out dialogues.

    python benchmarks/reference_models.py keyboard-lstm --data ../shared/data/corpora/sgd_dialogues
    python benchmarks/reference_models.py chat-transformer --tokens 100000 --data ../shared/data/corpora/sgd_dialogues

Quality is measured on the test split (`--tokens` of it, 0 for all) with the state carried through each dialogue, by the .tflite
itself. Per-word perplexity counts the words that the keyboard model knows, for all models alike. Times are medians of interleaved
rounds in fresh processes on this machine, one thread. Writes `benchmarks/results/MODEL.json` and prints the table of all results.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from edgelm import artifact, manifest, pipeline, recipe, source
from edgelm.model import Imported, LanguageModel
from edgelm.models.ngram import NGram
from edgelm.runtime.session import open_session
from edgelm.spec import TransformerSpec
from edgelm.text.alignment import align_documents
from edgelm.text.corpus import Corpus, token_documents
from edgelm.text.tokenizer import Tokenizer
from edgelm.validate import quality
from edgelm.validate.measurement import measure
from edgelm.validate.scorers import NGramScorer, Scorer, SessionScorer, SourceScorer

RESULTS = Path(__file__).parent / "results"
LITERT = "ai-edge-litert"
RUNTIME = {"int8-tflite2.14": "tflite-runtime"}
ROUNDS = 3
KEYBOARD = "keyboard-lstm"

Row = dict[str, Any]
Reset = Literal["document", "line"]
Evaluate = Callable[[str, Scorer], Row]


def plain_recipes() -> list[str]:
    """The shipped recipes that need no text; `benchmarks/quality.py` measures the others."""
    return [name for name in recipe.shipped() if not recipe.load(name).wants_data]


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


def baselines(corpus: Corpus, tokenizer: Tokenizer, evaluate: Evaluate) -> Iterator[Row]:
    """Unigram and interpolated modified Kneser-Ney trigram over the same tokens."""
    train = list(token_documents(corpus, tokenizer, "train"))
    for order, name in ((1, "unigram"), (3, "trigram")):
        yield evaluate(name, NGramScorer(NGram.fit(train, tokenizer.vocab_size, order=order)))


def converted(imported: Imported, scratch: Path) -> dict[str, Path]:
    """Recipe -> the .tflite."""
    paths = {}
    for name in plain_recipes():
        paths[name] = scratch / f"{imported.model.name}-{name}.tflite"
        paths[name].write_bytes(pipeline.build(imported.model, recipe.load(name)).tflite)
    return paths


def times(paths: dict[str, Path]) -> dict[str, float]:
    """Milliseconds a token: medians of interleaved rounds."""
    rounds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            rounds[name].append(measure(path, runtime=RUNTIME.get(name, LITERT), seconds=1.0).step_ms_median)
    return {name: statistics.median(values) for name, values in rounds.items()}


def timed(name: str, rows: list[Row]) -> list[Row]:
    """The rows with the time of each recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        milliseconds = times(converted(source.load(name), Path(scratch)))
    return [row | {"ms_per_token": milliseconds[row["what"]]} if row["what"] in milliseconds else row for row in rows]


def rows_of(name: str, corpus: Corpus, limit: int, sample: int, recipes: Sequence[str], known: list[Row]) -> list[Row]:
    """All rows of one model: those of `recipes` anew, the others from `known` where they are there."""
    imported, keyboard = source.load(name), source.load(KEYBOARD)
    assert isinstance(imported.model, LanguageModel)
    assert isinstance(keyboard.model, LanguageModel)
    words = Tokenizer.from_json(keyboard.model.tokenizer or "")
    tokenizer = Tokenizer.from_json(imported.model.tokenizer or "")
    documents = take(corpus, words, limit)
    vocabulary = quality.word_vocabulary(words)
    spec = imported.model.spec
    longest = spec.max_positions if isinstance(spec, TransformerSpec) else SourceScorer.max_tokens

    def evaluate(what: str, scorer: Scorer, by: Tokenizer = tokenizer, reset: Reset = "document", **extra: Any) -> Row:
        row = {"model": name, "what": what, **figures(quality.evaluate(scorer, by, documents, reset=reset, vocabulary=vocabulary)), **extra}
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row

    rows = [row for row in known if row["what"] not in recipes]
    if not rows:
        rows += baselines(corpus, tokenizer, evaluate)
        rows.append(evaluate("float source", SourceScorer(imported.source_logits, max_tokens=longest)))
        if tokenizer.kind == "word":
            rows.append(evaluate("float source, line by line", SourceScorer(imported.source_logits), reset="line"))
        else:
            rows.append(evaluate(f"{KEYBOARD} on this text", SourceScorer(keyboard.source_logits), by=words))
    with tempfile.TemporaryDirectory() as scratch:
        paths = converted(imported, Path(scratch))
        for chosen in recipes:
            path = paths[chosen]
            batch = 32 if spec.family == "recurrent" else 1
            session = open_session(path, runtime=RUNTIME.get(chosen, LITERT), batch=batch)
            extra: Row = {"runtime": session.runtime, "bytes": size(imported, chosen, path)}
            if tokenizer.kind != "word":
                found = quality.subword_accuracy(session, tokenizer, list(align_documents(documents, tokenizer)), positions=sample)
                extra |= {"top1_sampled": found.top1, "top3_sampled": found.top3, "positions": found.positions}
            rows.append(evaluate(chosen, SessionScorer(session), **extra))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=sorted(source.bundled()))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=0, help="of the test split, about; 0 for all")
    parser.add_argument("--sample", type=int, default=1000, help="word positions for the next-word accuracy of subword models")
    parser.add_argument("--recipes", nargs="+", choices=plain_recipes(), help="measure these again, keep the other results")
    parser.add_argument("--times-only", action="store_true", help="measure the times of existing results again, on a quiet machine")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.data)
    RESULTS.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "processor": cpu(), "python": platform.python_version()}
    for name in arguments.models:
        file = RESULTS / f"{name}.json"
        known = json.loads(file.read_text())["rows"] if file.exists() and (arguments.times_only or arguments.recipes) else []
        recipes = arguments.recipes or plain_recipes()
        rows = known if arguments.times_only else rows_of(name, corpus, arguments.tokens, arguments.sample, recipes, known)
        file.write_text(json.dumps({"basis": "measured", **machine, "rows": timed(name, rows)}, indent=1) + "\n")
    print(markdown([row for file in sorted(RESULTS.glob("*-*.json")) for row in json.loads(file.read_text())["rows"]]))


def size(imported: Imported, chosen: str, path: Path) -> int:
    """Bytes of the shipped file: the graph, the tokenizer and the manifest."""
    facts = manifest.build(imported.model, recipe.load(chosen), "android-arm64", path.read_bytes(), {})
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
