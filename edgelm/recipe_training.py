"""How a recipe's step trains, and what the steps share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelm.errors import RecipeError

Precision = Literal["float32", "bfloat16"]
Optimizer = Literal["adamw", "muon"]


def in_range(step: object, name: str, low: float, high: float) -> None:
    """Refuses a step whose field is below `low` or above `high`.

    Raises:
        RecipeError: It is, with the step, the field and its value.
    """
    value = getattr(step, name)
    if not low <= value <= high:
        raise RecipeError(f"{type(step).__name__.lower()}: {name} = {value}", allowed=f"{low:g} to {high:g}")


@dataclass(frozen=True)
class Training:
    """How a step trains: the table `[steps.train]` of a recipe.

    Attributes:
        epochs: Passes over the training split; 0.25 is a quarter of one, drawn from all of it. 0 for no training.
        learning_rate: Its peak; it falls along a cosine.
        batch_size: Windows a step.
        sequence_length: Longest window in tokens; documents are cut into such windows.
        warmup_steps: Steps of linear rise.
        weight_decay: Of AdamW.
        clip_norm: Largest global norm of the gradient.
        seed: Of the order of the windows and of everything a technique draws.
        optimizer: `adamw` (Loshchilov & Hutter 2019), or `muon` (Jordan et al. 2024) for kernels, which gets further in few steps.
        precision: `bfloat16` multiplies matrices in 16 bits (weights, sums and grids stay float32).
        teacher: What the step learns from besides the text: empty for nothing, `source` for the model before the recipe.
        temperature: Of the teacher's and the student's distributions.
        alpha: Share of the cross-entropy: loss = alpha * CE + (1 - alpha) * temperature**2 * KL.
        top_k: The teacher runs once and its largest logits of each position are kept; 0 runs it at every step, with all logits. What is
            not kept is one bucket, in which nothing holds the student to the teacher: too coarse for a student that is nearly its equal.
    """

    epochs: float = 1.0
    learning_rate: float = 5e-4
    batch_size: int = 32
    sequence_length: int = 256
    warmup_steps: int = 50
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    optimizer: Optimizer = "adamw"
    precision: Precision = "bfloat16"
    teacher: Literal["", "source"] = ""
    temperature: float = 1.0
    alpha: float = 0.5
    top_k: int = 32

    def __post_init__(self) -> None:
        in_range(self, "epochs", 0, 1000)
        in_range(self, "learning_rate", 1e-9, 10)
        in_range(self, "temperature", 0.1, 100)
        in_range(self, "alpha", 0, 1)
        in_range(self, "top_k", 0, 4096)
        for name in ("batch_size", "sequence_length"):
            in_range(self, name, 1, 1 << 20)


NO_TRAINING = Training(epochs=0)


class TrainsWhenAsked:
    """A step that can do without training."""

    train: Training

    @property
    def wants_data(self) -> bool:
        """It trains."""
        return self.train.epochs > 0


class CompensatesWhenAsked(TrainsWhenAsked):
    """A step that can look at text before it trains, so that weights make up for the errors of others."""

    compensate: Literal["none", "gptq"]
    calibration_tokens: int

    @property
    def wants_data(self) -> bool:
        """It trains, or looks at text."""
        return self.train.epochs > 0 or self.compensate != "none"
