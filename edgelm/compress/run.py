"""Runs the steps of a recipe one after another, with a record of what each did, and each found again when it was done before."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelm import recipe_order
from edgelm.compress.records import StepRecord, cost_table, costs, coverage_table
from edgelm.compress.step_cache import Place, place_of
from edgelm.compress.step_data import StepData
from edgelm.compress.stored import Figures, effective, measure
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Qat, Step, step_to_dict, technique_of
from edgelm.report import Table

MODULES: Mapping[str, str] = {
    "quantize": "edgelm.compress.quantize",
    "finetune": "edgelm.compress.plain",
    "qat": "edgelm.compress.qat",
    "prune": "edgelm.compress.prune",
    "structure": "edgelm.compress.structure",
    "cluster": "edgelm.compress.cluster",
    "share": "edgelm.compress.share",
    "distill": "edgelm.compress.distill",
    "lowbit": "edgelm.compress.lowbit",
    "mixed": "edgelm.compress.mixed",
}
"""Technique -> the module whose `apply(model, step, data)` does it; imported when it is used."""

OnStage = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total (0 when unknown)."""

OnTable = Callable[[Table], None]

TEACHERS = "teachers"
"""Folder in the cache, where what teachers said is kept for all steps."""

PERPLEXITY_TOKENS = 20_000
"""Of the validation split, before and after each step."""


@dataclass(frozen=True)
class Compressed:
    """A model after a recipe, and the record of each step."""

    model: LanguageModel
    records: tuple[StepRecord, ...]


def run(
    model: LanguageModel,
    steps: Sequence[Step],
    data: StepData | None = None,
    cache: Path | None = None,
    *,
    fresh: bool = False,
    on_stage: OnStage = lambda stage, done, total: None,
    on_table: OnTable = lambda table: None,
) -> Compressed:
    """Applies steps to a model; the model itself is not changed.

    Args:
        model: What to compress.
        steps: Of a recipe, in an order that `recipe_order.check` allows.
        data: Text, and the model that `teacher = "source"` means; needed where a step wants data. With it perplexity is recorded.
        cache: Folder of finished steps that looked at text, and of checkpoints; None keeps nothing. A step takes as much disk as the
            model's weights, and while it trains about four times as much for its checkpoint.
        fresh: Do every step anew.
        on_stage: Progress of the steps; that of trainings goes to `data.on_progress`.
        on_table: Given what the steps will cost before they begin, and before quantization-aware training what it does for each matrix.

    Returns:
        The last step's model, and a record of each step.

    Raises:
        RecipeError: A step wants data and there is none, or the order is illegal.
        EdgeLMError: From a technique.
    """
    recipe_order.check(steps)
    require_data(steps, data)
    if any(step.wants_data for step in steps):
        on_table(cost_table(costs(steps, data)))
    if data and cache:
        data = dataclasses.replace(data, teachers=cache / TEACHERS)
    figures: Figures | None = None
    records: list[StepRecord] = []
    for number, step in enumerate(steps, 1):
        name = technique_of(step)
        on_stage(f"step {number} of {len(steps)}: {name}", 0, 0)
        place = place_of(cache, model, step, data) if cache and data and step.wants_data else None
        if place and fresh:
            place.clear()
        found = place.load(model) if place else None
        if found:
            model, record = found[0], dataclasses.replace(StepRecord.from_dict(found[1]), cached=True)
        else:
            before = figures or _figures(model, data)
            if isinstance(step, Qat):
                on_table(coverage_table(model, step))
            model, record = _recorded(model, step, data, before, place)
        figures = record.after
        records.append(record)
    return Compressed(model, tuple(records))


def require_data(steps: Sequence[Step], data: object | None, name: str = "") -> None:
    """Refuses steps that want data when there is none.

    Args:
        steps: Of a recipe.
        data: What there is; None for nothing.
        name: Of the recipe.

    Raises:
        RecipeError: Which steps want data.
    """
    wanting = [technique_of(step) for step in steps if step.wants_data]
    if wanting and data is None:
        recipe = f"recipe {name}" if name else "the recipe"
        raise RecipeError(
            f"{recipe} wants text for {' and '.join(wanting)}, and there is none",
            allowed="a text file, or a folder with train.txt and dev.txt, in the model's language",
            fix="add --data CORPUS",
        )


def apply(model: LanguageModel, step: Step, data: StepData | None = None) -> LanguageModel:
    """The model after one step, by the technique's own module."""
    after: LanguageModel = importlib.import_module(MODULES[technique_of(step)]).apply(model, step, data)
    return after


def _recorded(
    model: LanguageModel, step: Step, data: StepData | None, before: Figures, place: Place | None
) -> tuple[LanguageModel, StepRecord]:
    name = technique_of(step)
    started = time.perf_counter()
    own = dataclasses.replace(data, folder=place.training if place else None) if data else None
    after = apply(model, step, own)
    record = StepRecord(name, step_to_dict(step), time.perf_counter() - started, before, _figures(after, data))
    if place:
        place.store(after, record.to_dict())
    return after, record


def _figures(model: LanguageModel, data: StepData | None) -> Figures:
    return measure(model, _perplexity(model, data) if data else None)


def _perplexity(model: LanguageModel, data: StepData) -> float:
    from edgelm.compress import fit
    from edgelm.models import keras_model

    return fit.perplexity(keras_model.from_language_model(effective(model)), data.valid, PERPLEXITY_TOKENS)
