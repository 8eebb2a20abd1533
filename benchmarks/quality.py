"""The toolbox's table: a bundled model under every recipe that changes it, against the float32 model, on held-out dialogues.

    python benchmarks/quality.py --data ../shared/data/corpora/sgd_dialogues
    python benchmarks/quality.py --data ../shared/data/corpora/sgd_dialogues --quick

Each recipe is applied with its training and, where it trains, once more without ("rounding alone"); both are lowered, and the .tflite
itself is measured on the test split with the state carried through each dialogue. The finished steps are kept in `--cache`, and finished
rows in `benchmarks/results/toolbox-MODEL.json`, so an interrupted run goes on where it stopped. `--quick` does all of it on a slice, in
minutes, to show that it works: its figures mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import toolbox_plot
import toolbox_table
from reference_models import cpu, take, times

from edgelm import manifest, recipe, source
from edgelm.artifact import pack
from edgelm.compress import run
from edgelm.compress.corpus_data import step_data
from edgelm.compress.settings import Progress
from edgelm.compress.step_data import StepData
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.recipe import Recipe
from edgelm.recipe_steps import Distill, Finetune, Step
from edgelm.recipe_training import Training
from edgelm.runtime.session import open_session
from edgelm.text.corpus import Corpus
from edgelm.text.tokenizer import Tokenizer
from edgelm.validate import quality
from edgelm.validate.scorers import SessionScorer

RESULTS = Path(__file__).parent / "results"
MODELS = ("keyboard-lstm", "chat-transformer")
TOKENS = {"keyboard-lstm": 100_000, "chat-transformer": 20_000}
"""Of the test split, about; the transformer takes ten times as long a token, one stream at a time."""
SEEDS = (0, 1, 2)
CONTROL = "trained on, float32"
STUDENTS = "distill-int8, three seeds"
QUICK = Training(epochs=0.01, batch_size=4, sequence_length=32, precision="float32")
QUICK_CALIBRATION = 512
QUICK_ROWS = ["float32", "int8", "int4-qat", "mixed", "prune80-int8", "structure30-int8", "cluster16-int8", "ternary-qat", "distill-int8"]
"""One row for each technique."""

Row = dict[str, Any]
Change = Callable[[Step], Step]


@dataclass(frozen=True)
class Bench:
    """What all rows of one model are measured with.

    Attributes:
        model: The float32 model.
        data: Its training and validation text.
        documents: Held-out text.
        cache: Finished steps.
        change: What `--quick` makes of a step.
    """

    model: LanguageModel
    data: StepData
    documents: list[list[str]]
    cache: Path
    change: Change

    def row(self, chosen: Recipe, what: str = "") -> Row:
        """A recipe's figures; the key `untrained` holds the perplexity of the same recipe without training, where it trains."""
        chosen = dataclasses.replace(chosen, steps=tuple(map(self.change, chosen.steps)))
        done = run.run(self.model, chosen.steps, self.data, self.cache)
        row = {"recipe": what or chosen.name, **self.measured(done.model, chosen)}
        row["training_seconds"] = sum(record.seconds for record in done.records)
        row["passes"] = sum(getattr(step, "train", Training(epochs=0)).epochs for step in chosen.steps)
        row["steps"] = [record.to_dict() for record in done.records]
        bare = untrained(chosen)
        if bare is not None:
            row["untrained"] = self.measured(run.run(self.model, bare.steps, self.data, self.cache).model, bare)["perplexity"]
        print(json.dumps({key: value for key, value in row.items() if key != "steps"}), file=sys.stderr, flush=True)
        return row

    def measured(self, model: LanguageModel, chosen: Recipe) -> Row:
        """Perplexity of the .tflite, bytes of the artifact, and of its download."""
        tflite = direct.lower(model, form=chosen.form).tflite
        facts = manifest.build(model, chosen, "android-arm64", tflite, {})
        packed = pack(tflite, facts, model.tokenizer)
        tokenizer = Tokenizer.from_json(model.tokenizer or "")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(tflite)
            session = open_session(path, batch=32 if model.spec.family == "recurrent" else 1)
            found = quality.evaluate(SessionScorer(session), tokenizer, self.documents)
        return {"perplexity": found.perplexity, "bytes": len(packed), "download": len(zlib.compress(packed, 6)), "tokens": found.tokens}


def untrained(chosen: Recipe) -> Recipe | None:
    """The recipe with every training left out; None where that is the recipe itself, or nothing (a student has no weights yet)."""
    if any(isinstance(step, Distill | Finetune) for step in chosen.steps):
        return None
    steps = tuple(dataclasses.replace(s, train=dataclasses.replace(s.train, epochs=0)) if hasattr(s, "train") else s for s in chosen.steps)
    return None if steps == chosen.steps else dataclasses.replace(chosen, steps=steps)


def slice_of(step: Step) -> Step:
    """The step with a training of few small batches, and with little calibration text."""
    if hasattr(step, "calibration_tokens"):
        step = dataclasses.replace(step, calibration_tokens=QUICK_CALIBRATION)
    if not hasattr(step, "train"):
        return step
    few = {name: getattr(QUICK, name) for name in ("epochs", "batch_size", "sequence_length", "precision")}
    return dataclasses.replace(step, train=dataclasses.replace(step.train, **few if step.train.epochs else {}))


def control(recipes: Mapping[str, Recipe]) -> Recipe:
    """Plain training as `structure30-int8` trains, the longest: what of a gain is more training, not the technique."""
    step = recipes["structure30-int8"].steps[0]
    assert hasattr(step, "train")
    return Recipe(CONTROL, "plain training", (Finetune(step.train),))


def distillation(bench: Bench, chosen: Recipe) -> Row:
    """The student with and without its teacher, three seeds each: perplexities of the .tflite."""
    (step,) = (step for step in chosen.steps if isinstance(step, Distill))
    others = tuple(other for other in chosen.steps if other is not step)
    found: dict[str, list[float]] = {"with_teacher": [], "without_teacher": []}
    for seed in SEEDS:
        for name, alpha in (("with_teacher", step.alpha), ("without_teacher", 1.0)):
            seeded = dataclasses.replace(step, alpha=alpha, train=dataclasses.replace(step.train, seed=seed))
            changed = dataclasses.replace(chosen, steps=tuple(map(bench.change, (seeded, *others))))
            done = run.run(bench.model, changed.steps, bench.data, bench.cache)
            found[name].append(bench.measured(done.model, changed)["perplexity"])
            print(json.dumps({"seed": seed, name: found[name][-1]}), file=sys.stderr, flush=True)
    return {"recipe": STUDENTS, **found}


def timed(bench: Bench, names: tuple[str, ...], recipes: Mapping[str, Recipe]) -> dict[str, float]:
    """Milliseconds a token of recipes, in interleaved rounds of fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name in names:
            chosen = dataclasses.replace(recipes[name], steps=tuple(map(bench.change, recipes[name].steps)))
            paths[name] = Path(folder) / f"{name}.tflite"
            paths[name].write_bytes(direct.lower(run.run(bench.model, chosen.steps, bench.data, bench.cache).model).tflite)
        return times(paths)


def rows_of(bench: Bench, names: list[str] | None, known: list[Row]) -> Iterator[list[Row]]:
    """The rows so far, in the table's order, after each new one; `names` measures these alone, None everything."""
    recipes = {name: recipe.load(name) for name in recipe.shipped()}
    makers: dict[str, Callable[[], Row]] = {name: partial(bench.row, recipes[name]) for name in toolbox_table.BARS}
    makers[CONTROL] = partial(bench.row, control(recipes), CONTROL)
    makers[STUDENTS] = partial(distillation, bench, recipes["distill-int8"])
    rows = {row["recipe"]: row for row in known}
    for name, make in makers.items():
        if name not in rows and (names is None or name in names):
            rows[name] = make()
            yield [rows[known] for known in makers if known in rows]
    if (names is None or "structure30-int8" in names) and "int8" in rows:
        for name, milliseconds in timed(bench, ("int8", "structure30-int8"), recipes).items():
            rows[name] = rows[name] | {"ms_per_token": milliseconds}
    yield [rows[known] for known in makers if known in rows]


def bench_of(name: str, arguments: argparse.Namespace) -> Bench:
    """Reads a model and its text."""
    model = source.load(name).model
    assert isinstance(model, LanguageModel)
    corpus = Corpus.open(arguments.data)
    data = step_data(corpus, model, Ticker())
    limit = 500 if arguments.quick else TOKENS[name]
    if arguments.quick:
        data = dataclasses.replace(data, train=data.train[:200], valid=data.valid[:10])
    documents = take(corpus, Tokenizer.from_json(model.tokenizer or ""), limit)
    return Bench(model, data, documents, arguments.cache, slice_of if arguments.quick else lambda step: step)


class Ticker:
    """A line every half minute of training, for logs."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Told after every training step."""
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            rate = f"{progress.tokens_per_second:.0f} tokens/s, {progress.seconds_left / 60:.1f} min left"
            print(
                f"  step {progress.step} of {progress.plan.steps}: perplexity {progress.perplexity:.3f}, {rate}",
                file=sys.stderr,
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/quality"), help="finished steps")
    parser.add_argument("--recipes", nargs="+", choices=[*toolbox_table.BARS, CONTROL, STUDENTS], help="these rows alone")
    parser.add_argument("--anew", action="store_true", help="measure rows again; finished trainings are still taken from the cache")
    parser.add_argument("--quick", action="store_true", help="a slice of everything, in minutes; nothing is kept")
    arguments = parser.parse_args()
    machine = {"machine": platform.machine(), "processor": cpu(), "python": platform.python_version()}
    for name in arguments.models:
        file = RESULTS / f"toolbox-{name}.json"
        known = json.loads(file.read_text())["rows"] if file.exists() and not arguments.quick else []
        known = [row for row in known if not (arguments.anew and row["recipe"] in (arguments.recipes or toolbox_table.BARS))]
        bench = bench_of(name, arguments)
        for rows in rows_of(bench, arguments.recipes or (QUICK_ROWS if arguments.quick else None), known):
            if not arguments.quick:
                file.write_text(json.dumps({"basis": "measured", **machine, "rows": rows}, indent=1) + "\n")
        print(toolbox_table.markdown(name, rows), toolbox_table.students(name, rows), sep="\n")
    if not (arguments.quick or arguments.recipes):
        files = sorted(RESULTS.glob("toolbox-*.json"))
        plotted = {file.stem.removeprefix("toolbox-"): json.loads(file.read_text())["rows"] for file in files}
        (RESULTS / "toolbox.svg").write_text(toolbox_plot.svg(plotted), encoding="utf-8")


if __name__ == "__main__":
    main()
