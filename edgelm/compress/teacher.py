"""Knowledge distillation (Hinton, Vinyals & Dean 2015): the loss of a student that also learns from a teacher's distributions.

    loss = alpha * CE(text) + (1 - alpha) * T^2 * KL(teacher || student), both softened by the temperature T

The teacher runs at every step, or only once, with its most likely tokens kept on disk (`edgelm.compress.teacher_store`). It sees the same
windows as the student, each from a state of zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.batches import Batch, Windows
from edgelm.compress.head_inputs import split
from edgelm.compress.objective import Objective, cross_entropy
from edgelm.compress.settings import TrainingError
from edgelm.compress.step_cache import model_sha256
from edgelm.compress.step_data import StepData
from edgelm.compress.teacher_store import TeacherStore
from edgelm.model import Imported, LanguageModel
from edgelm.models import keras_model
from edgelm.recipe_training import Training
from edgelm.spec import TransformerSpec

Tensor = Any


class Teacher(Protocol):
    """A model to learn from, in two halves so that whole logits need not exist.

    Attributes:
        sha256: Of its content.
        vocab_size: Tokens it knows.
        longest: Tokens of a window it takes at most; None for any number.
    """

    sha256: str
    vocab_size: int
    longest: int | None

    def states(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids (batch, time) -> what the logits are made from, (batch, time, size)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """(..., size) -> (..., vocab), in a TensorFlow graph or outside."""
        ...


class ModelTeacher:
    """A `LanguageModel` as a teacher; its states are the inputs of its head.

    Args:
        model: Of either family.
    """

    def __init__(self, model: LanguageModel) -> None:
        import tensorflow as tf

        self.sha256, self.vocab_size = model_sha256(model), model.spec.vocab_size
        self.longest = model.spec.max_positions if isinstance(model.spec, TransformerSpec) else None
        parts = split(keras_model.from_language_model(model))
        self._body = tf.function(lambda ids: parts.hidden(ids, training=False), (tf.TensorSpec((None, None), tf.int32),))
        self._matrix, self._bias = parts.matrix, parts.bias

    def states(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids (batch, time) -> inputs of the head (batch, time, size)."""
        states: NDArray[np.float32] = self._body(ids).numpy()
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(..., size) -> (..., vocab)."""
        import tensorflow as tf

        return tf.tensordot(states, self._matrix, 1) + self._bias


class SourceTeacher:
    """Any imported model as a teacher, run in its own framework; its states are its logits.

    Args:
        source: What `edgelm.source.load` gave.
    """

    longest: int | None = None

    def __init__(self, source: Imported) -> None:
        self.source = source
        self.sha256 = source.model.source_sha256
        self.vocab_size = source.model.spec.vocab_size if isinstance(source.model, LanguageModel) else source.model.vocab_size

    def states(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids (batch, time) -> logits (batch, time, vocab)."""
        return np.asarray(self.source.source_logits(ids), np.float32)

    def logits(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states


def teacher_of(source: Imported | LanguageModel) -> Teacher:
    """A model as a teacher: in TensorFlow where edgelm knows its family, else in its own framework."""
    model = source.model if isinstance(source, Imported) else source
    if isinstance(model, LanguageModel):
        return ModelTeacher(model)
    assert isinstance(source, Imported)
    return SourceTeacher(source)


class Distillation(Objective):
    """alpha * CE + (1 - alpha) * T^2 * KL(teacher || student) of every token.

    Args:
        teacher: Of the student's vocabulary.
        temperature: T.
        alpha: Share of the cross-entropy.
        store: The folder where the teacher's most likely tokens are kept, and how many; None runs it at every step.
    """

    def __init__(self, teacher: Teacher, temperature: float, alpha: float, store: tuple[Path, int] | None = None) -> None:
        kept = store[1] if store else teacher.vocab_size
        super().__init__(name=f"distillation of {teacher.sha256[:16]}, temperature {temperature:g}, alpha {alpha:g}, top {kept}")
        self.teacher, self.temperature, self.alpha = teacher, temperature, alpha
        self.store = TeacherStore(teacher, *store, temperature) if store else None

    def begin(self, windows: Windows) -> None:
        """Finds what is stored of the teacher for these windows.

        Raises:
            TrainingError: The windows are longer than the teacher takes.
        """
        longest = int(windows.lengths.max())
        if self.teacher.longest and longest > self.teacher.longest:
            raise TrainingError(
                f"the teacher takes {self.teacher.longest} tokens, the windows have up to {longest}", fix="lower train.sequence_length"
            )
        if self.store:
            self.store.open(windows)

    def extra(self, batch: Batch) -> tuple[NDArray[Any], ...]:
        """The teacher's states, or its likely tokens and their log-probabilities."""
        return self.store.rows(batch) if self.store else (self.teacher.states(batch.ids),)

    def of_logits(self, ids: Tensor, targets: Tensor, logits: Tensor, *extra: Tensor) -> Tensor:
        """Losses (rows, tokens)."""
        if self.store:
            indices, log_probs = extra
            divergence = bucket_divergence(indices, log_probs, logits, self.temperature)
        else:
            divergence = full_divergence(self.teacher.logits(extra[0]), logits, self.temperature)
        return self.alpha * cross_entropy(ids, targets, logits) + (1 - self.alpha) * self.temperature**2 * divergence


def loss_of(train: Training, data: StepData) -> Objective:
    """What a step's training minimises: cross-entropy, or distillation from the model before the recipe.

    The teacher runs once where there is a folder to keep its likely tokens in, else at every step.

    Args:
        train: Its `teacher`, `temperature`, `alpha` and `top_k`.
        data: Its `source` is the teacher.
    """
    if not train.teacher or train.alpha == 1:
        return Objective()
    return Distillation(ModelTeacher(data.source), train.temperature, train.alpha, store_of(data, train.top_k))


def store_of(data: StepData, top_k: int) -> tuple[Path, int] | None:
    """Where teachers are kept, and how many tokens of each position; None for not at all."""
    return (data.teachers, top_k) if data.teachers and top_k else None


def full_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softened distributions, in nats.

    Args:
        teacher: Logits (..., vocab).
        student: The same.
        temperature: Divides both.

    Returns:
        (...): 0 where both agree. Logits [0, 0] against [0, ln 3] at temperature 1: 0.5 ln(2/1) + 0.5 ln(2/3) = 0.144.
    """
    import tensorflow as tf

    log_p, log_q = tf.nn.log_softmax(teacher / temperature), tf.nn.log_softmax(student / temperature)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def bucket_divergence(indices: Tensor, log_probs: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) where both are seen in k + 1 buckets: k tokens, and all the others together.

    A lower bound of the full divergence, and equal to it when k is the whole vocabulary.

    Args:
        indices: int32 (..., k), the tokens.
        log_probs: (..., k + 1) of the softened teacher; the last is the log of the mass of all other tokens.
        student: Logits (..., vocab).
        temperature: Of the student; the teacher is softened already.
    """
    import tensorflow as tf

    scaled = student / temperature
    log_p = tf.nn.log_softmax(log_probs)  # stored in 16 bits: sums to 1 again
    log_q = tf.gather(scaled, indices, batch_dims=len(indices.shape) - 1) - tf.reduce_logsumexp(scaled, axis=-1, keepdims=True)
    others = tf.maximum(1.0 - tf.reduce_sum(tf.exp(log_q), axis=-1, keepdims=True), 1e-7)  # float32 knows no smaller rest of 1
    log_q = tf.concat([log_q, tf.math.log(others)], axis=-1)  # (..., k + 1)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
