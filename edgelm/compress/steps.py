"""One step of training and of validation as TensorFlow functions, the same for one device and for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgelm.compress.batches import Batch, share
from edgelm.compress.checkpoint import Arrays
from edgelm.compress.settings import TrainSettings
from edgelm.models.keras_model import KerasModel

Tensor = Any
TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ids (batch, time), targets (batch, time), logits (batch, time, vocab)) -> losses (batch, time)."""
BeforeStep = Callable[[int], None]


def cross_entropy(ids: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
    """-log p(target) of every position, in nats."""
    import tensorflow as tf

    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)


class Steps:
    """Steps over the replicas of the model's strategy; a batch gives the same sums however many they are.

    Args:
        model: Built inside the strategy's scope.
        settings: Weight decay and clipping.
        loss: Of the training.
    """

    def __init__(self, model: KerasModel, settings: TrainSettings, loss: TokenLoss) -> None:
        import tensorflow as tf
        import tf_keras

        self.model, self.settings, self.loss = model, settings, loss
        self.strategy = model.distribute_strategy
        with self.strategy.scope():
            self.optimizer = tf_keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
            self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            self.optimizer.build(model.trainable_variables)
        ids, weights = tf.TensorSpec((None, model.input_shape[1]), tf.int32), tf.TensorSpec((None, model.input_shape[1]), tf.float32)
        alone = self.strategy.num_replicas_in_sync == 1  # values of replicas cannot have a signature: they cost a few graphs more
        signature = (ids, ids, weights) if alone else None
        self._train = tf.function(self._train_everywhere, (*signature, tf.TensorSpec(())) if signature else None, reduce_retracing=True)
        self._validate = tf.function(self._validate_everywhere, signature, reduce_retracing=True)

    @property
    def done(self) -> int:
        """Steps the optimizer has taken."""
        return int(self.optimizer.iterations.numpy())

    def train(self, batch: Batch, learning_rate: float) -> float:
        """Takes one step; the mean loss of the batch's tokens before it."""
        import tensorflow as tf

        self.optimizer.learning_rate.assign(learning_rate)
        count = tf.constant(batch.predicted, tf.float32)  # a Python number would build a graph a value
        return float(self._train(*self._tensors(batch), count))

    def validate(self, batch: Batch) -> float:
        """Sum of the cross-entropies of the batch's tokens."""
        return float(self._validate(*self._tensors(batch)))

    def optimizer_arrays(self) -> Arrays:
        """Its variables, in order."""
        return [variable.numpy() for variable in self.optimizer.variables]

    def set_optimizer_arrays(self, arrays: Arrays) -> None:
        """Puts back what `optimizer_arrays` gave."""
        for variable, array in zip(self.optimizer.variables, arrays, strict=True):
            variable.assign(array)

    def _tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        import tensorflow as tf

        def of_replica(array: Any) -> Tensor:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(share(array, context.replica_id_in_sync_group, context.num_replicas_in_sync))
            )

        return tuple(of_replica(array) for array in (batch.ids, batch.targets, batch.weights))

    def _train_everywhere(self, ids: Tensor, targets: Tensor, weights: Tensor, count: Tensor) -> Tensor:
        losses = self.strategy.run(self._train_replica, (ids, targets, weights, count))
        return self.strategy.reduce("SUM", losses, axis=None)

    def _train_replica(self, ids: Tensor, targets: Tensor, weights: Tensor, count: Tensor) -> Tensor:
        import tensorflow as tf

        replicas = tf.distribute.get_replica_context()
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(ids, training=True)  # (batch, time, vocab)
            loss = tf.reduce_sum(self.loss(ids, targets, logits) * weights) / count
            whole = loss + sum(self.model.losses) / replicas.num_replicas_in_sync
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(whole, variables, unconnected_gradients="zero")]
        gradients = replicas.all_reduce("SUM", gradients)
        if self.settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.settings.clip_norm)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        return loss

    def _validate_everywhere(self, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        sums = self.strategy.run(self._validate_replica, (ids, targets, weights))
        return self.strategy.reduce("SUM", sums, axis=None)

    def _validate_replica(self, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        import tensorflow as tf

        return tf.reduce_sum(cross_entropy(ids, targets, self.model(ids, training=False)) * weights)
