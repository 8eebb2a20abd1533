"""What a training minimises: cross-entropy, or what a technique puts in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.batches import Batch, Windows

Tensor = Any
TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ids (batch, time), targets (batch, time), logits (batch, time, vocab)) -> losses (batch, time)."""


def cross_entropy(ids: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
    """-log p(target) of every position, in nats.

    TensorFlow's own op computes the gradient in the forward pass, with one exponential more.
    """
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def losses(logits: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        shifted = logits - tf.reduce_max(logits, axis=-1, keepdims=True)
        powers = tf.exp(shifted)  # (batch, time, vocab)
        mass = tf.reduce_sum(powers, axis=-1)  # (batch, time)

        def gradient(above: Tensor) -> Tensor:
            """(probability - 1 at the target) * above."""
            flat = tf.reshape(powers * (above / mass)[..., None], (-1, tf.shape(logits)[-1]))  # (tokens, vocab)
            at = tf.stack([tf.range(tf.shape(flat)[0]), tf.reshape(targets, (-1,))], axis=1)
            return tf.reshape(tf.tensor_scatter_nd_sub(flat, at, tf.reshape(above, (-1,))), tf.shape(logits))

        return tf.math.log(mass) - tf.gather(shifted, targets, batch_dims=2), gradient

    return losses(logits)


class Objective:
    """The loss of every token; this one is cross-entropy, or any `TokenLoss`.

    Techniques that need more than ids, targets and logits derive from it.

    Args:
        loss: Of a token.
        name: Part of the identity of a checkpoint: a resumed training must minimise the same.

    Attributes:
        wants_hidden: `of_hidden` is asked, too.
        variables: Trained along with the model, and dropped afterwards.
    """

    wants_hidden = False

    def __init__(self, loss: TokenLoss = cross_entropy, name: str = "cross-entropy") -> None:
        self.loss, self.name = loss, name
        self.variables: Sequence[Any] = ()

    def begin(self, windows: Windows) -> None:
        """Told what will be trained on, before the first batch."""

    def extra(self, batch: Batch) -> tuple[NDArray[np.generic], ...]:
        """Arrays (batch, time, ...) that the losses want besides the batch."""
        return ()

    def of_logits(self, ids: Tensor, targets: Tensor, logits: Tensor, *extra: Tensor) -> Tensor:
        """Losses (batch, time) of logits (batch, time, vocab)."""
        return self.loss(ids, targets, logits)

    def of_hidden(self, hidden: Tensor, *extra: Tensor) -> Tensor:
        """Losses (batch, time) of the head's inputs (batch, time, size), added to those of the logits."""
        return 0.0
