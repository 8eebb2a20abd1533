"""What the training loop is told and what it tells: settings, progress, results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from edgelm.errors import EdgeLMError
from edgelm.recipe_training import Optimizer, Precision

StrategyName = Literal["auto", "none", "mirrored", "multiworker"]


class TrainingError(EdgeLMError):
    """Training cannot start, go on or be resumed."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: Passes over the training windows.
        batch_size: Windows a step, over all replicas together.
        sequence_length: Longest window, in tokens.
        learning_rate: Its peak.
        warmup_steps: Steps of linear rise from 0; a tenth of the training at most.
        cosine: Falls to a hundredth of the peak along a cosine (Loshchilov & Hutter 2017); otherwise it stays.
        weight_decay: Of AdamW (Loshchilov & Hutter 2019); biases and norms are spared.
        clip_norm: Largest global norm of the gradient; 0 for no clipping.
        seed: Decides the order of the windows (and, in the command line, the first weights).
        patience: Stop after so many epochs without a better validation perplexity; 0 for never.
        max_steps: Stop after so many steps; 0 for no limit.
        limit_tokens: Use so many training tokens; 0 for all.
        checkpoint_steps: Steps between two checkpoints inside an epoch (each epoch ends with one); 0 for none.
        strategy: Where to compute: `none` (this process), `mirrored` (all GPUs of this machine), `multiworker` (as TF_CONFIG says),
            `auto`: the widest of them that is set up.
        optimizer: `adamw`, or `muon` for kernels (`edgelm.compress.muon`).
        precision: `bfloat16` multiplies matrices in 16 bits while it trains, where the processor can (1.4 x the tokens a second with AMX);
            weights, sums and validation stay float32.

    Raises:
        TrainingError: A value is out of its range.
    """

    epochs: int = 10
    batch_size: int = 32
    sequence_length: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    cosine: bool = True
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    patience: int = 0
    max_steps: int = 0
    limit_tokens: int = 0
    checkpoint_steps: int = 500
    strategy: StrategyName = "auto"
    precision: Precision = "float32"
    optimizer: Optimizer = "adamw"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise TrainingError(f"training setting {name} = {getattr(self, name)}", allowed="at least 1")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "seed", "patience", "max_steps", "limit_tokens", "checkpoint_steps"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"training setting {name} = {getattr(self, name)}", allowed="at least 0")
        if self.precision not in get_args(Precision):
            raise TrainingError(f"training setting precision = {self.precision!r}", allowed=", ".join(get_args(Precision)))
        if self.optimizer not in get_args(Optimizer):
            raise TrainingError(f"training setting optimizer = {self.optimizer!r}", allowed=", ".join(get_args(Optimizer)))
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError(f"training setting learning_rate = {self.learning_rate}", allowed="above 0, such as 0.002")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The rate of step `step` (from 0) of `steps`."""
        warmup = min(self.warmup_steps, steps // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if not self.cosine:
            return self.learning_rate
        done = (step - warmup) / max(1, steps - warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True)
class Plan:
    """What a training will do.

    Attributes:
        parameters: Trainable weights.
        train_tokens: Tokens predicted in an epoch.
        valid_tokens: Tokens predicted in a validation.
        steps_an_epoch: Batches.
        steps: Of the whole training.
    """

    parameters: int
    train_tokens: int
    valid_tokens: int
    steps_an_epoch: int
    steps: int

    @property
    def epochs(self) -> int:
        """Epochs, of which `max_steps` may cut the last short."""
        return -(-self.steps // self.steps_an_epoch)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: From 1.
        loss: Mean training loss of a token, in nats.
        valid_perplexity: exp of the mean loss over the validation windows.
        tokens_per_second: Of training, without the validation.
        seconds: Of training and validation.
    """

    epoch: int
    loss: float
    valid_perplexity: float
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a training is; told after every step, once before the first, and after every validation.

    Attributes:
        plan: Of the whole training.
        epoch: The running epoch, from 1.
        step: Steps done.
        loss: Mean training loss of the running epoch, in nats a token; NaN before the first step.
        tokens_per_second: Since this run began, without building the graph; 0 before there is a measure.
        seconds_left: Expected; NaN before there is a measure.
        history: The epochs done.
    """

    plan: Plan
    epoch: int
    step: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    history: tuple[Epoch, ...]

    @property
    def perplexity(self) -> float:
        """Of the training loss: exp of `loss`."""
        return perplexity_of(self.loss)


@dataclass(frozen=True)
class TrainResult:
    """What a training gave; the model holds the weights of the best epoch.

    Attributes:
        history: All epochs, those before a resume too.
        best_epoch: From 1.
        perplexity: On the validation windows, of the best epoch.
        tokens_per_second: Of training, in this run.
        seconds: Over all runs.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    perplexity: float
    tokens_per_second: float
    seconds: float


OnProgress = Callable[[Progress], None]


def perplexity_of(loss: float) -> float:
    """The exponential of a loss in nats, at most e^50: diverging trainings must not overflow."""
    return math.exp(min(loss, 50.0))
