"""Training as a recipe's step asks for it; every technique that trains goes through here to the one loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress import finetune
from edgelm.compress.batches import batches, cut
from edgelm.compress.objective import Objective, cross_entropy
from edgelm.compress.settings import TrainResult, TrainSettings, perplexity_of
from edgelm.compress.step_data import Documents, StepData
from edgelm.compress.steps import BeforeStep
from edgelm.compress.teacher import loss_of
from edgelm.errors import UnsupportedModelError
from edgelm.models.keras_model import KerasModel, spec_of
from edgelm.recipe_training import Training

VALIDATION_TOKENS = 40_000
"""Of the validation split, after each pass: enough to tell passes apart, and a small part of one."""


def fit(
    model: KerasModel,
    train: Training,
    data: StepData,
    *,
    objective: Objective | None = None,
    before_step: BeforeStep | None = None,
    settled: float = 0.0,
) -> TrainResult:
    """Trains a model in place.

    Args:
        model: ids (batch, time) int32 -> logits (batch, time, vocab); wrapped by TF-MOT or not.
        train: How; `epochs` above 0.
        data: On what, where to keep the checkpoint, whom to tell.
        objective: What to minimise; None for what `train` says of a teacher.
        before_step: Told the number of the coming step, from 0 (pruning schedules).
        settled: Share of the training before which no validation counts as the best: schedules that make the model worse have to end.

    Raises:
        TrainingError: No data, ids beyond the vocabulary, or a loss that is not finite any more.
    """
    settings = settings_of(train, data.train, _longest(model))
    return finetune.train(
        model,
        data.train,
        list(first_tokens(data.valid, VALIDATION_TOKENS)),
        settings,
        data.folder,
        data.on_progress,
        resume=data.resume and data.folder is not None,
        loss=objective or loss_of(train, data),
        before_step=before_step,
        best_from_step=math.ceil(settled * settings.max_steps),
    )


def settings_of(train: Training, documents: Documents, longest: int | None = None) -> TrainSettings:
    """The loop's settings for a step's.

    Args:
        train: The step's.
        documents: What it trains on: a share of a pass becomes a number of steps.
        longest: Tokens the model takes at most; None for any number.
    """
    length = min(train.sequence_length, longest or train.sequence_length)
    steps = max(1, round(train.epochs * steps_an_epoch(documents, length, train.batch_size)))
    return TrainSettings(
        epochs=max(1, math.ceil(train.epochs)),
        max_steps=steps,
        batch_size=train.batch_size,
        sequence_length=length,
        learning_rate=train.learning_rate,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
        seed=train.seed,
        precision=train.precision,
        optimizer=train.optimizer,
    )


def _longest(model: KerasModel) -> int | None:
    """Tokens a window may have at most; None for any number."""
    fixed: int | None = model.input_shape[1]
    try:
        return fixed or getattr(spec_of(model), "max_positions", None)
    except UnsupportedModelError:  # a model of the caller's own
        return fixed


def steps_an_epoch(documents: Documents, sequence_length: int, batch_size: int) -> int:
    """Batches of one pass.

    Example:
        >>> steps_an_epoch([np.zeros(300), np.zeros(100)], sequence_length=256, batch_size=2)
        2
    """
    windows = sum(-(-(len(document) - 1) // sequence_length) for document in documents if len(document) > 1)
    return -(-windows // batch_size)


def first_tokens(documents: Documents, tokens: int) -> Iterator[NDArray[np.integer[Any]]]:
    """Whole documents, up to the one that reaches so many tokens."""
    left = tokens
    for document in documents:
        if left <= 0:
            return
        left -= len(document)
        yield document


def perplexity(model: KerasModel, documents: Documents, tokens: int = 20_000, sequence_length: int = 256) -> float:
    """Exp of the mean cross-entropy, in float32, over windows of the first documents.

    Args:
        model: ids (batch, time) int32 -> logits (batch, time, vocab).
        documents: Token ids.
        tokens: About how many of them.
        sequence_length: Longest window; a state starts anew in each.
    """
    import tensorflow as tf

    ids = tf.TensorSpec((None, model.input_shape[1]), tf.int32)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=(ids, ids, tf.TensorSpec((None, model.input_shape[1]), tf.float32)), reduce_retracing=True
    )
    def loss(ids: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(cross_entropy(ids, targets, model(ids, training=False)) * weights)

    windows = cut(first_tokens(documents, tokens), min(sequence_length, _longest(model) or sequence_length))
    total = sum(float(loss(batch.ids, batch.targets, batch.weights)) for batch in batches(windows, 16, time=model.input_shape[1]))
    return perplexity_of(total / max(1, windows.predicted))
