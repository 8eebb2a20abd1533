"""Keras' LSTM layers computed for training: the same numbers, with the backward pass written out.

Keras' loop multiplies (batch, units) by (batch, gates) at each time step for the gradient of the recurrent matrix; here that is one product
over all steps. Importing this module imports tf_keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tf_keras import activations, layers

Tensor = Any


@contextmanager
def fused_lstms(model: Any, bfloat16: bool) -> Iterator[None]:
    """While it lasts, a call of the model computes its plain LSTM layers this way, those inside TF-MOT's wrappers too.

    Args:
        model: A tf_keras model; its variables, and what wrappers put in their place, are used as they are.
        bfloat16: Multiply by the recurrent matrix, and keep gates, in 16 bits.
    """
    fused = [layer for layer in (_innermost(layer) for layer in model.layers) if _is_plain(layer)]
    for layer in fused:
        layer.call = _call_of(layer, tf.bfloat16 if bfloat16 else tf.float32)
    try:
        yield
    finally:
        for layer in fused:
            del layer.call


def _innermost(layer: Any) -> Any:
    while isinstance(layer, layers.Wrapper):
        layer = layer.layer
    return layer


def _is_plain(layer: Any) -> bool:
    return (
        type(layer) is layers.LSTM
        and layer.activation is activations.tanh
        and layer.recurrent_activation is activations.sigmoid
        and layer.use_bias
        and layer.return_sequences
        and not (layer.return_state or layer.stateful or layer.go_backwards or layer.dropout or layer.recurrent_dropout or layer.time_major)
    )


def _call_of(layer: Any, low: tf.DType) -> Callable[..., Tensor]:
    def call(inputs: Tensor, mask: Tensor = None, training: bool | None = None, initial_state: Tensor = None) -> Tensor:
        """(batch, time, inputs) -> (batch, time, units)."""
        cell = layer.cell
        products = tf.tensordot(tf.transpose(inputs, [1, 0, 2]), cell.kernel, 1) + cell.bias  # (time, batch, 4 * units)
        return tf.transpose(_lstm(products, tf.convert_to_tensor(cell.recurrent_kernel), low), [1, 0, 2])

    return call


def _lstm(products: Tensor, recurrent: Tensor, low: tf.DType) -> Tensor:
    """Input products (time, batch, 4 * units), gates i f g o, and the recurrent matrix (units, 4 * units) -> h (time, batch, units)."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def outputs(products: Tensor, recurrent: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        matrix = tf.cast(recurrent, low)
        h, c, gates = _forward(products, matrix)
        return tf.cast(h, tf.float32), lambda above: _backward(above, matrix, h, c, gates)

    return outputs(products, recurrent)


def _forward(products: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, cell states (time, batch, units) and gates after their activations (time, batch, 4 * units)."""
    time, batch, units = tf.shape(products)[0], tf.shape(products)[1], matrix.shape[0]

    def step(t: Tensor, h: Tensor, c: Tensor, hs: Any, cs: Any, gates: Any) -> tuple[Tensor, ...]:
        sums = products[t] + tf.cast(tf.matmul(h, matrix), tf.float32)  # (batch, 4 * units)
        i, f, g, o = tf.split(sums, 4, axis=1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * c + i * g
        h = tf.cast(o * tf.tanh(c), matrix.dtype)
        return t + 1, h, c, hs.write(t, h), cs.write(t, c), gates.write(t, tf.cast(tf.concat([i, f, g, o], 1), matrix.dtype))

    arrays = [tf.TensorArray(kind, time, element_shape=(None, size)) for kind, size in _kept(matrix.dtype, units)]
    start = (0, tf.zeros((batch, units), matrix.dtype), tf.zeros((batch, units)), *arrays)
    *_, hs, cs, gates = tf.while_loop(lambda t, *_: t < time, step, start, parallel_iterations=1)
    return hs.stack(), cs.stack(), gates.stack()


def _kept(low: tf.DType, units: int) -> tuple[tuple[tf.DType, int], ...]:
    """Type and columns of what a step keeps for the way back: h, c, gates."""
    return ((low, units), (tf.float32, units), (low, 4 * units))


def _backward(above: Tensor, matrix: Tensor, h: Tensor, c: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the input products (time, batch, 4 * units) and of the recurrent matrix (units, 4 * units)."""
    time, units = tf.shape(above)[0], matrix.shape[0]
    first_c, first_h = tf.zeros_like(c[:1]), tf.zeros_like(h[:1])
    before_c, before_h = tf.concat([first_c, c[:-1]], 0), tf.concat([first_h, h[:-1]], 0)  # (time, batch, units)

    def step(t: Tensor, d_h: Tensor, d_c: Tensor, d_sums: Any) -> tuple[Tensor, ...]:
        i, f, g, o = tf.split(tf.cast(gates[t], tf.float32), 4, axis=1)
        d_h, squashed = d_h + above[t], tf.tanh(c[t])
        d_c += d_h * o * (1 - squashed * squashed)
        parts = d_c * g * i * (1 - i), d_c * before_c[t] * f * (1 - f), d_c * i * (1 - g * g), d_h * squashed * o * (1 - o)
        d = tf.cast(tf.concat(parts, axis=1), matrix.dtype)  # (batch, 4 * units)
        return t - 1, tf.cast(tf.matmul(d, matrix, transpose_b=True), tf.float32), d_c * f, d_sums.write(t, d)

    array = tf.TensorArray(matrix.dtype, time, element_shape=(None, 4 * units))
    start = (time - 1, tf.zeros_like(above[0]), tf.zeros_like(above[0]), array)
    *_, d_sums = tf.while_loop(lambda t, *_: t >= 0, step, start, parallel_iterations=1)
    d = d_sums.stack()  # (time, batch, 4 * units)
    d_matrix = tf.matmul(tf.reshape(before_h, (-1, units)), tf.reshape(d, (-1, 4 * units)), transpose_a=True)
    return tf.cast(d, tf.float32), tf.cast(d_matrix, tf.float32)
