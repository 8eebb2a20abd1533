"""A Keras model split before its head: the last hidden states, for teachers and for students that match them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgelm.compress.settings import TrainingError
from edgelm.models.keras_model import KerasModel

Tensor = Any


@dataclass(frozen=True)
class Split:
    """Parts of a model that `keras_model.build` made; they share its layers.

    Attributes:
        hidden: ids (batch, time) -> the head's inputs (batch, time, size).
        both: ids (batch, time) -> these, and the logits (batch, time, vocab).
        matrix: The head's, (size, vocab), as it is now.
        bias: (vocab,) or 0.
    """

    hidden: KerasModel
    both: KerasModel
    matrix: Tensor
    bias: Tensor


def split(model: KerasModel) -> Split:
    """The parts of a model.

    Raises:
        TrainingError: It has no layer `head`, or TF-MOT wraps it.
    """
    import tensorflow as tf
    import tf_keras

    heads = [layer for layer in model.layers if layer.name == "head"]
    if not heads:
        raise TrainingError(f"model {model.name} has no bare layer named head, so that its last hidden states cannot be seen")
    head, inputs = heads[0], heads[0].input
    tied = isinstance(inputs, list)  # [hidden, table]
    hidden = inputs[0] if tied else inputs
    matrix = tf.transpose(model.get_layer("embedding").embeddings) if tied else tf.convert_to_tensor(head.kernel)
    bias = tf.convert_to_tensor(head.bias) if head.use_bias else tf.constant(0.0)
    return Split(tf_keras.Model(model.inputs, hidden), tf_keras.Model(model.inputs, [hidden, model.output]), matrix, bias)
