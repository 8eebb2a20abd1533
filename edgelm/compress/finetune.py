"""The one training loop: next-token cross-entropy with AdamW, on one device or many, resumable to the bit.

Every technique that trains (QAT, pruning, clustering, distillation) goes through `train`: it brings its own model, and where needed its
own `loss` or `before_step`. There is no randomness in a step, so a run is decided by the model's first weights, the data and the settings.

Example:
    >>> model = keras_model.build(RecurrentSpec(1000, 64, "lstm", (128,)))
    >>> train(model, corpus_documents, dev_documents, TrainSettings(epochs=3)).perplexity
    74.1
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress import checkpoint as checkpoints
from edgelm.compress.batches import Batch, Windows, batches, cut
from edgelm.compress.objective import Objective
from edgelm.compress.settings import Epoch, OnProgress, Plan, Progress, TrainingError, TrainResult, TrainSettings, perplexity_of
from edgelm.compress.steps import BeforeStep, Steps, TokenLoss, cross_entropy
from edgelm.compress.strategy import is_chief, strategy_of
from edgelm.errors import UnsupportedModelError
from edgelm.models.keras_model import KerasModel, spec_of
from edgelm.spec import spec_to_dict

__all__ = ["Epoch", "Plan", "Progress", "TrainResult", "TrainSettings", "TrainingError", "train"]

Documents = Iterable[NDArray[np.integer[Any]]]


def train(
    model: KerasModel,
    train_documents: Documents,
    valid_documents: Documents,
    settings: TrainSettings,
    checkpoint_folder: Path | None = None,
    on_progress: OnProgress | None = None,
    *,
    resume: bool = False,
    loss: TokenLoss | Objective = cross_entropy,
    before_step: BeforeStep | None = None,
    best_from_step: int = 0,
) -> TrainResult:
    """Trains a model in place; at the end it holds the weights of its best epoch.

    Args:
        model: ids (batch, time) int32 -> logits (batch, time, vocab). For `multiworker`, built inside `strategy_of(...).scope()`.
        train_documents: Token ids of each document; windows never span two documents.
        valid_documents: The same for validation.
        settings: How.
        checkpoint_folder: Where to keep `checkpoint.npz`; None for no checkpoints.
        on_progress: Told after every step.
        resume: Go on from the checkpoint in the folder where there is one. Of a training that is done, the result comes at once.
        loss: (ids, targets, logits) -> losses of the training, or an `Objective`; validation is always cross-entropy.
        before_step: Told the number of the coming step, from 0 (pruning schedules).
        best_from_step: Epochs that end before so many steps are no candidates for the best; when none is left, the last one is it.

    Returns:
        History and the best perplexity.

    Raises:
        TrainingError: No data, ids beyond the vocabulary, a checkpoint of another training, or a loss that is not finite any more.
        KeyboardInterrupt: Passed on, after a checkpoint was written.
    """
    windows = cut(train_documents, settings.sequence_length, settings.limit_tokens)
    valid = cut(valid_documents, settings.sequence_length)
    _require_data(model, windows, valid)
    placed = model if before_step else _placed(model, settings)  # a hook works on the variables of the model it was made for
    objective = loss if isinstance(loss, Objective) else Objective(loss, getattr(loss, "__qualname__", type(loss).__name__))
    objective.begin(windows)
    steps = Steps(placed, settings, objective)
    run = _Run(placed, windows, valid, settings, checkpoint_folder, on_progress, steps, before_step, best_from_step)
    if resume:
        run.load()
    try:
        run.go()
    except KeyboardInterrupt:
        run.step = run.steps.done
        run.save()
        raise
    if placed is not model:
        model.set_weights(placed.get_weights())
    return run.result()


def _require_data(model: KerasModel, windows: Windows, valid: Windows) -> None:
    vocab_size = int(model.output_shape[-1])
    for split, part in (("training", windows), ("validation", valid)):
        if not len(part.starts):
            raise TrainingError(f"the {split} documents hold no two tokens to learn from", fix="check the corpus and its splits")
        if (top := int(part.tokens.max())) >= vocab_size or int(part.tokens.min()) < 0:
            raise TrainingError(f"the {split} documents hold token id {top}", allowed=f"0 to {vocab_size - 1}: the model's vocabulary")


def _placed(model: KerasModel, settings: TrainSettings) -> KerasModel:
    """The model on the devices of the strategy: itself, or a twin."""
    import tensorflow as tf
    import tf_keras

    default = tf.distribute.get_strategy()
    if model.distribute_strategy is not default:
        return model
    strategy = strategy_of(settings.strategy)
    if strategy is default:
        return model
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise TrainingError("for several workers the model must be built inside strategy_of('multiworker').scope()")
    with strategy.scope():
        twin = tf_keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
    return twin


@dataclass
class _Run:
    """The state of a training between two steps."""

    model: KerasModel
    windows: Windows
    valid: Windows
    settings: TrainSettings
    folder: Path | None
    on_progress: OnProgress | None
    steps: Steps
    before_step: BeforeStep | None
    best_from_step: int
    step: int = 0
    loss_sum: float = 0.0  # over the tokens of the running epoch
    token_sum: int = 0
    epoch_seconds: float = 0.0  # of the running epoch
    history: list[Epoch] = field(default_factory=list)
    best: list[NDArray[Any]] = field(default_factory=list)
    clock: _Clock = field(default_factory=lambda: _Clock())

    def __post_init__(self) -> None:
        an_epoch = self.windows.steps(self.settings.batch_size)
        total = min(self.settings.epochs * an_epoch, self.settings.max_steps or math.inf)
        parameters = sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)
        self.plan = Plan(parameters, self.windows.predicted, self.valid.predicted, an_epoch, int(total))
        many = self.model.distribute_strategy.num_replicas_in_sync > 1  # steps without a signature: keep the shapes few
        self.time = self.model.input_shape[1] or (self.settings.sequence_length if many else None)

    def go(self) -> None:
        self._tell()
        while not self._done():
            self._train_epoch()
            self._validate()
            self.save()
            self._tell()
        self.model.set_weights(self.best)

    def _done(self) -> bool:
        epoch, patience = len(self.history), self.settings.patience
        return epoch >= self.plan.epochs or bool(patience and epoch and epoch - self._best_epoch() >= patience)

    def _best_epoch(self) -> int:
        counting = [epoch for epoch in self.history if epoch.epoch * self.plan.steps_an_epoch >= self.best_from_step]
        if self.history[-1].epoch == self.plan.epochs and self.history[-1] not in counting:
            counting.append(self.history[-1])
        return min(counting or self.history[-1:], key=lambda epoch: epoch.valid_perplexity).epoch

    def _train_epoch(self) -> None:
        epoch = len(self.history)
        first, end = epoch * self.plan.steps_an_epoch, min((epoch + 1) * self.plan.steps_an_epoch, self.plan.steps)
        order = batches(self.windows, self.settings.batch_size, order=(self.settings.seed, epoch), first=self.step - first, time=self.time)
        for batch in order:
            if self.step >= end:
                break
            self._train_step(batch)
            if self.settings.checkpoint_steps and self.step % self.settings.checkpoint_steps == 0 and self.step < end:
                self.save()

    def _train_step(self, batch: Batch) -> None:
        begin = time.perf_counter()
        if self.before_step:
            self.before_step(self.step)
        loss = self.steps.train(batch, self.settings.learning_rate_at(self.step, self.plan.steps))
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} after step {self.step + 1} of {self.plan.steps}: training diverged",
                fix=f"lower the learning rate (it is {self.settings.learning_rate:g}); the last checkpoint is from before",
            )
        self.step += 1
        self.loss_sum += loss * batch.predicted
        self.token_sum += batch.predicted
        seconds = time.perf_counter() - begin
        self.epoch_seconds += seconds
        self.clock.add(batch.predicted, seconds)
        self._tell()

    def _validate(self) -> None:
        begin = time.perf_counter()
        order = batches(self.valid, self.settings.batch_size, time=self.time)
        total = sum(self.steps.validate(batch) for batch in order)
        perplexity = perplexity_of(total / self.valid.predicted)
        if not math.isfinite(total):
            raise TrainingError(f"the validation loss is {total}: training diverged", fix="lower the learning rate")
        self.clock.validation = time.perf_counter() - begin
        loss, rate = self.loss_sum / max(1, self.token_sum), self.token_sum / max(1e-9, self.epoch_seconds)
        seconds = self.epoch_seconds + self.clock.validation
        self.history.append(Epoch(len(self.history) + 1, loss, perplexity, rate, seconds))
        if self._best_epoch() == len(self.history):
            self.best = self.model.get_weights()
        self.loss_sum, self.token_sum, self.epoch_seconds = 0.0, 0, 0.0

    def _tell(self) -> None:
        if self.on_progress is None:
            return
        loss = self.loss_sum / self.token_sum if self.token_sum else self.history[-1].loss if self.history else math.nan
        epoch = min(len(self.history) + 1, self.plan.epochs)
        left = self.clock.left(self.plan.steps - self.step, self.plan.epochs - len(self.history))
        self.on_progress(Progress(self.plan, epoch, self.step, loss, self.clock.rate, left, tuple(self.history)))

    def save(self) -> None:
        if self.folder is None or not is_chief(self.model.distribute_strategy):
            return
        progress = {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "token_sum": self.token_sum,
            "epoch_seconds": self.epoch_seconds,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
        }
        arrays = {
            "model": self.model.get_weights(),
            "objective": [variable.numpy() for variable in self.steps.objective.variables],
            "optimizer": self.steps.optimizer_arrays(),
            "best": self.best,
        }
        checkpoints.save(checkpoints.Checkpoint(self._identity(), progress, arrays), self.folder)

    def load(self) -> None:
        found = checkpoints.load(self.folder, self._identity()) if self.folder else None
        if found is None:
            return
        progress = dict(found.progress)
        self.history = [Epoch(**epoch) for epoch in progress.pop("history")]
        for name, value in progress.items():
            setattr(self, name, value)
        self.model.set_weights(found.arrays["model"])
        for variable, array in zip(self.steps.objective.variables, found.arrays.get("objective", ()), strict=True):
            variable.assign(array)
        self.steps.set_optimizer_arrays(found.arrays["optimizer"])
        self.best = list(found.arrays.get("best", ()))

    def _identity(self) -> dict[str, Any]:
        """What a resumed training must have in common with the interrupted one; the number of devices is not part of it."""
        settings = dataclasses.asdict(self.settings)
        for name in ("strategy", "checkpoint_steps"):
            del settings[name]
        try:
            spec = spec_to_dict(spec_of(self.model))
        except UnsupportedModelError:  # a model of the caller's own: its variables stand for it
            spec = {"family": "other"}
        shapes = [list(variable.shape) for variable in self.model.variables]
        objective = self.steps.objective.name
        return {"model": spec, "variables": shapes, "objective": objective, "settings": settings, "data": self.windows.sha256}

    def result(self) -> TrainResult:
        best = self.history[self._best_epoch() - 1]
        seconds = sum(epoch.seconds for epoch in self.history)
        return TrainResult(tuple(self.history), best.epoch, best.valid_perplexity, self.clock.rate, seconds)


@dataclass
class _Clock:
    """Measures this run; the first step builds the graph and is left out."""

    steps: int = -1
    tokens: int = 0
    seconds: float = 0.0
    validation: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.steps += 1
        if self.steps > 0:
            self.tokens += tokens
            self.seconds += seconds

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def left(self, steps: int, validations: int) -> float:
        return steps * self.seconds / self.steps + validations * self.validation if self.steps > 0 else math.nan
