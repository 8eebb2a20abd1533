"""What the steps of a recipe will cost and what they did, as values and as tables of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm.compress.step_data import StepData
from edgelm.compress.stored import Figures
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Mixed, Qat, Quantize, Step, Structure, technique_of
from edgelm.recipe_training import CompensatesWhenAsked, Training
from edgelm.report import Plot, Table, number

MB = 1e6


@dataclass(frozen=True)
class StepRecord:
    """What one step did.

    Attributes:
        technique: Its name in recipes.
        step: Its settings, as `step_to_dict` writes them.
        seconds: It took, when it was done.
        before: The model it was given.
        after: The model it gave.
        cached: It was found in the cache.
    """

    technique: str
    step: Mapping[str, Any]
    seconds: float
    before: Figures
    after: Figures
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> StepRecord:
        """Reads what `to_dict` wrote."""
        return cls(**{**plain, "before": Figures(**plain["before"]), "after": Figures(**plain["after"])})


@dataclass(frozen=True)
class Cost:
    """What a step will cost.

    Attributes:
        technique: Its name in recipes.
        training_steps: Batches it trains on.
        training_tokens: Tokens it trains on.
        calibration_tokens: Tokens it looks at without training.
    """

    technique: str
    training_steps: int
    training_tokens: int
    calibration_tokens: int


def costs(steps: Sequence[Step], data: StepData | None) -> tuple[Cost, ...]:
    """What each step will cost, by its settings alone."""
    return tuple(_cost(step, data) for step in steps)


def _cost(step: Step, data: StepData | None) -> Cost:
    from edgelm.compress.fit import settings_of

    calibration, train = calibration_of(step), training_of(step)
    if data is None or train is None or not train.epochs:
        return Cost(technique_of(step), 0, 0, calibration)
    tokens = sum(len(document) - 1 for document in data.train if len(document) > 1)
    return Cost(technique_of(step), settings_of(train, data.train).max_steps, round(train.epochs * tokens), calibration)


def calibration_of(step: Step) -> int:
    """Training tokens that a step looks at without training on them."""
    if isinstance(step, CompensatesWhenAsked):
        return step.calibration_tokens if step.compensate != "none" else 0
    return step.calibration_tokens if isinstance(step, Quantize | Mixed | Structure) and step.wants_data else 0


def training_of(step: Step) -> Training | None:
    """How a step trains; None for those that never do."""
    return None if isinstance(step, Quantize | Mixed) else step.train


def cost_table(steps: Sequence[Cost]) -> Table:
    """What is said before the steps begin."""
    counts = ((s.technique, (s.training_steps, s.training_tokens, s.calibration_tokens)) for s in steps)
    rows = tuple((technique, *(f"{count:,}" if count else "-" for count in shown)) for technique, shown in counts)
    return Table("What the steps will cost", ("step", "training steps", "training tokens", "calibration tokens"), rows)


def coverage_table(model: LanguageModel, step: Qat) -> Table:
    """What quantization-aware training will do for each matrix."""
    from edgelm.compress import qat

    rows = tuple((row.name, row.how, row.encoding.value, row.why) for row in qat.coverage(model, step))
    return Table("Quantization-aware training", ("matrix", "how", "stored as", "why"), rows)


def record_table(records: Sequence[StepRecord]) -> Table:
    """The model before the first step and after each."""
    rows = [("source", *_cells(records[0].before), "")] if records else []
    rows += [(r.technique, *_cells(r.after), "cached" if r.cached else f"{r.seconds:.1f}") for r in records]
    columns = ("after", "perplexity", "parameters", "non-zero", "values", "MACs/token", "MB", "MB deflated", "seconds")
    note = (
        "perplexity a token on validation text by the weights as stored; values: most different ones of a matrix; MACs: products with "
        "weights; MB: of the weights with scales, without graphs"
    )
    return Table("Compression step by step", columns, tuple(rows), note)


def _cells(figures: Figures) -> tuple[str, ...]:
    perplexity = f"{figures.perplexity:.2f}" if figures.perplexity is not None else "-"
    counts = (figures.parameters, figures.nonzeros, figures.distinct_values, figures.macs_per_token)
    return (perplexity, *(f"{count:,}" for count in counts), number(figures.bytes / MB), number(figures.compressed_bytes / MB))


def size_plot(records: Sequence[StepRecord]) -> Plot:
    """Deflated sizes before the first step and after each."""
    named = [("source", records[0].before), *((record.technique, record.after) for record in records)] if records else []
    values = tuple(figures.compressed_bytes / MB for _, figures in named)
    return Plot("Weights in a download, step by step", tuple(name for name, _ in named), values, "MB")
