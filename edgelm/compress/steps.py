"""One step of training and of validation as TensorFlow functions, the same for one device and for many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgelm.compress.batches import Batch, share
from edgelm.compress.checkpoint import Arrays
from edgelm.compress.head_inputs import split
from edgelm.compress.objective import Objective, TokenLoss, cross_entropy
from edgelm.compress.settings import TrainSettings
from edgelm.models.keras_model import KerasModel
from edgelm.recipe_training import Precision

__all__ = ["BeforeStep", "Steps", "TokenLoss", "cross_entropy", "multiplying_in"]

Tensor = Any
BeforeStep = Callable[[int], None]
BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"


def _optimizer(settings: TrainSettings) -> Any:
    from tf_keras.optimizers import AdamW

    from edgelm.compress.muon import Muon

    kind = {"adamw": AdamW, "muon": Muon}[settings.optimizer]
    return kind(settings.learning_rate, weight_decay=settings.weight_decay)


@contextmanager
def multiplying_in(precision: Precision) -> Iterator[None]:
    """TensorFlow functions that run inside multiply matrices in that precision; afterwards the option is as it was."""
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get(BFLOAT16, False)
    tf.config.optimizer.set_experimental_options({BFLOAT16: precision == "bfloat16"})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({BFLOAT16: before})


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """This processor has instructions for it (AVX512_BF16, AMX, Arm BF16); without them it would be slower than float32.

    Args:
        cpuinfo: Where Linux names them; elsewhere the answer is no.
    """
    return cpuinfo.is_file() and "bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")


class Steps:
    """Steps over the replicas of the model's strategy; a batch gives the same sums however many they are.

    Args:
        model: Built inside the strategy's scope.
        settings: Weight decay, clipping and precision.
        objective: Of the training.

    Raises:
        TrainingError: The objective wants hidden states, and the model does not show them.
    """

    def __init__(self, model: KerasModel, settings: TrainSettings, objective: Objective) -> None:
        import tensorflow as tf

        self.model, self.settings, self.objective = model, settings, objective
        self._bfloat16 = settings.precision == "bfloat16" and multiplies_bfloat16()
        self._both = split(model).both if objective.wants_hidden else None
        self.strategy = model.distribute_strategy
        with self.strategy.scope():
            self.optimizer = _optimizer(settings)
            self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            self.optimizer.build(self._variables)
        self._train: Any = None  # made for the first batch: it shows what the objective adds
        alone = self.strategy.num_replicas_in_sync == 1  # values of replicas cannot have a signature: they cost a few graphs more
        ids, weights = tf.TensorSpec((None, model.input_shape[1]), tf.int32), tf.TensorSpec((None, model.input_shape[1]), tf.float32)
        self._signature = (ids, ids, weights) if alone else None
        self._validate = tf.function(self._validate_everywhere, self._signature, reduce_retracing=True)

    @property
    def done(self) -> int:
        """Steps the optimizer has taken."""
        return int(self.optimizer.iterations.numpy())

    def train(self, batch: Batch, learning_rate: float) -> float:
        """Takes one step; the mean loss of the batch's tokens before it."""
        import tensorflow as tf

        self.optimizer.learning_rate.assign(learning_rate)
        extra = self.objective.extra(batch)
        if self._train is None:
            self._train = self._train_function(extra)
        with multiplying_in("bfloat16" if self._bfloat16 else "float32"):
            return float(self._train(*self._tensors(batch), tf.constant(batch.predicted, tf.float32), *self._of_replicas(extra)))

    def _train_function(self, extra: Sequence[NDArray[Any]]) -> Any:
        import tensorflow as tf

        if self._signature is None:
            return tf.function(self._train_everywhere, reduce_retracing=True)
        time = self.model.input_shape[1]
        added = [tf.TensorSpec((None, time, *array.shape[2:]), array.dtype) for array in extra]
        return tf.function(self._train_everywhere, (*self._signature, tf.TensorSpec(()), *added))

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

    @property
    def _variables(self) -> list[Any]:
        return [*self.model.trainable_variables, *self.objective.variables]

    def _tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        return self._of_replicas((batch.ids, batch.targets, batch.weights))

    def _of_replicas(self, arrays: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
        import tensorflow as tf

        def of_replica(array: NDArray[Any]) -> Tensor:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(share(array, context.replica_id_in_sync_group, context.num_replicas_in_sync))
            )

        return tuple(of_replica(array) for array in arrays)

    def _train_everywhere(self, *tensors: Tensor) -> Tensor:
        losses = self.strategy.run(self._train_replica, tensors)
        return self.strategy.reduce("SUM", losses, axis=None)

    def _train_replica(self, ids: Tensor, targets: Tensor, weights: Tensor, count: Tensor, *extra: Tensor) -> Tensor:
        import tensorflow as tf

        replicas = tf.distribute.get_replica_context()
        variables = self._variables
        with tf.GradientTape() as tape:
            loss = self._loss(ids, targets, weights, extra) / count
            whole = loss + sum(self.model.losses) / replicas.num_replicas_in_sync
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(whole, variables, unconnected_gradients="zero")]
        gradients = replicas.all_reduce("SUM", gradients)
        if self.settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.settings.clip_norm)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        return loss

    def _loss(self, ids: Tensor, targets: Tensor, weights: Tensor, extra: Sequence[Tensor]) -> Tensor:
        """The weighted sum of the objective's losses."""
        import tensorflow as tf

        from edgelm.models.fused_lstm import fused_lstms

        with fused_lstms(self.model, self._bfloat16):
            outputs = (self._both or self.model)(ids, training=True)
        if self._both is None:  # the outputs are logits (batch, time, vocab)
            return tf.reduce_sum(self.objective.of_logits(ids, targets, outputs, *extra) * weights)
        hidden, logits = outputs  # (batch, time, size), (batch, time, vocab)
        losses = self.objective.of_logits(ids, targets, logits, *extra) + self.objective.of_hidden(hidden, *extra)
        return tf.reduce_sum(losses * weights)

    def _validate_everywhere(self, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        sums = self.strategy.run(self._validate_replica, (ids, targets, weights))
        return self.strategy.reduce("SUM", sums, axis=None)

    def _validate_replica(self, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        import tensorflow as tf

        return tf.reduce_sum(cross_entropy(ids, targets, self.model(ids, training=False)) * weights)
