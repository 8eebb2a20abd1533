"""The recurrent cell that Keras lacks; importing this module imports tf_keras, as `keras_layers` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from edgelm.models.keras_layers import Tensor, activation, register
from edgelm.spec import GATES


@register
class RecurrentCell(tf_keras.layers.Layer):  # type: ignore[misc]
    """One step of any cell of `edgelm.spec`, for `CellRNN`: the CIFG, and every cell fed with input products.

    Args:
        units: Units.
        cell: `rnn`, `gru`, `lstm` or `cifg` (Greff et al. 2015).
        activation: Of the candidate and of the output.
        recurrent_activation: Of the gates.
        reset_after: GRU only: the reset gate is applied after the recurrent product.
        input_kernel: False when the inputs are the input products already, (batch, gates * units).
        **options: Of every Keras layer.
    """

    def __init__(
        self,
        units: int,
        cell: str,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        reset_after: bool = True,
        input_kernel: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units, self.cell, self.reset_after, self.input_kernel = units, cell, reset_after, input_kernel
        self.activation, self.recurrent_activation = activation, recurrent_activation
        self.state_size = [units, units] if cell in ("lstm", "cifg") else units
        self.output_size = units

    def build(self, input_shape: Sequence[Any]) -> None:
        """Makes kernel (inputs, gates * units), recurrent_kernel (units, gates * units) and bias, (2, ...) for a `reset_after` GRU."""
        columns = GATES[self.cell] * self.units
        if self.input_kernel:
            self.kernel = self.add_weight("kernel", (input_shape[-1], columns), initializer="glorot_uniform")
        self.recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, columns), initializer="orthogonal")
        rows = (2,) if self.cell == "gru" and self.reset_after else ()
        self.bias = self.add_weight("bias", (*rows, columns), initializer=self._bias_start)
        super().build(input_shape)

    def _bias_start(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        """Ones for the forget gate (Jozefowicz et al. 2015), zeros elsewhere."""
        gate = tf.range(shape[-1]) // self.units
        forget = {"lstm": 1, "cifg": 0}.get(self.cell, -1)
        return tf.broadcast_to(tf.cast(gate == forget, dtype or tf.float32), shape)

    def call(self, inputs: Tensor, states: Sequence[Tensor], training: bool | None = None) -> tuple[Tensor, list[Tensor]]:
        """(batch, inputs) and the states (batch, units) -> output (batch, units) and the new states."""
        two_rows = self.cell == "gru" and self.reset_after
        gates = tf.matmul(inputs, self.kernel) if self.input_kernel else inputs
        gates += self.bias[0] if two_rows else self.bias  # (batch, gates * units)
        steps: dict[str, Callable[..., tuple[Tensor, ...]]] = {"rnn": self._rnn, "gru": self._gru, "lstm": self._lstm, "cifg": self._cifg}
        states = steps[self.cell](gates, *states)
        return states[0], list(states)

    def _rnn(self, gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (activation(self.activation)(gates + tf.matmul(h, self.recurrent_kernel)),)

    def _gru(self, gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        both = 2 * self.units
        if self.reset_after:
            recurrent = tf.matmul(h, self.recurrent_kernel) + self.bias[1]
        else:
            recurrent = tf.matmul(h, self.recurrent_kernel[:, :both])
        z, r = tf.split(activation(self.recurrent_activation)(gates[:, :both] + recurrent[:, :both]), 2, axis=1)
        product = r * recurrent[:, both:] if self.reset_after else tf.matmul(r * h, self.recurrent_kernel[:, both:])
        candidate = activation(self.activation)(gates[:, both:] + product)
        return (z * h + (1 - z) * candidate,)

    def _lstm(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f, g, o = tf.split(gates + tf.matmul(h, self.recurrent_kernel), 4, axis=1)
        gate, squash = activation(self.recurrent_activation), activation(self.activation)
        c = gate(f) * c + gate(i) * squash(g)
        return gate(o) * squash(c), c

    def _cifg(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        f, g, o = tf.split(gates + tf.matmul(h, self.recurrent_kernel), 3, axis=1)
        gate, squash = activation(self.recurrent_activation), activation(self.activation)
        c = gate(f) * c + (1 - gate(f)) * squash(g)
        return gate(o) * squash(c), c

    def get_prunable_weights(self) -> list[Tensor]:
        """What TF-MOT may prune: the matrices."""
        return [self.kernel, self.recurrent_kernel] if self.input_kernel else [self.recurrent_kernel]

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("units", "cell", "activation", "recurrent_activation", "reset_after", "input_kernel")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@register
class CellRNN(tf_keras.layers.RNN):  # type: ignore[misc]
    """Keras' loop over time around a `RecurrentCell`, telling TF-MOT (which asks the layer, not the cell) what may be pruned."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> CellRNN:
        """Makes the cell itself: tf_keras writes its class into `.h5` files without the package, and then does not find it."""
        options = dict(config)
        return cls(RecurrentCell.from_config(options.pop("cell")["config"]), **options)

    def get_prunable_weights(self) -> list[Tensor]:
        """The matrices of the cell."""
        weights: list[Tensor] = self.cell.get_prunable_weights()
        return weights
