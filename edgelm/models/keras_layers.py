"""The registered layers that edgelm's Keras models are made of, beside Dense, Embedding, Add, LayerNormalization, LSTM, GRU and SimpleRNN.

Importing this module imports tf_keras (a class needs its base), so import it inside the function that builds or loads a model. All
big matrices live in Keras' own layers, where TF-MOT can wrap them; the layers here have no weights, or vectors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from edgelm.spec import ModelSpec, spec_from_dict, spec_to_dict

Tensor = Any

register = tf_keras.utils.register_keras_serializable("edgelm")


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of an `edgelm.spec.Activation` name; all but `gelu_tanh` are Keras' own."""
    function: Callable[[Tensor], Tensor] = _gelu_tanh if name == "gelu_tanh" else tf_keras.activations.get(name)
    return function


def _gelu_tanh(x: Tensor) -> Tensor:
    return tf.nn.gelu(x, approximate=True)


def dense(x: Tensor, size: int, activation: str, bias: bool, name: str) -> Tensor:
    """A Dense layer; an activation that Keras has no name for (and could not load from `.h5`) is a layer of its own."""
    if activation != "gelu_tanh":
        return tf_keras.layers.Dense(size, activation, use_bias=bias, name=name)(x)
    return GeluTanh(name=f"{name}_gelu")(tf_keras.layers.Dense(size, use_bias=bias, name=name)(x))


class Unprunable(tf_keras.layers.Layer):  # type: ignore[misc]
    """Base of layers that TF-MOT's whole-model pruning passes by."""

    def get_prunable_weights(self) -> list[Tensor]:
        """What TF-MOT may prune: nothing."""
        return []


@register
class EdgeLMSpec(Unprunable):
    """Passes its input through; its config carries the model's spec into the saved file.

    Args:
        spec: A spec, or what `spec_to_dict` made of it.
        **options: Of every Keras layer.
    """

    def __init__(self, spec: ModelSpec | dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.spec = spec_from_dict(spec) if isinstance(spec, dict) else spec

    def call(self, inputs: Tensor) -> Tensor:
        """The input itself."""
        return tf.identity(inputs)

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "spec": spec_to_dict(self.spec)}


@register
class VocabularyIds(Unprunable):
    """Every token id once, (vocab_size,) int32: the Embedding layer turns it into the table that a tied head needs."""

    def __init__(self, vocab_size: int, **options: Any) -> None:
        super().__init__(**options)
        self.vocab_size = vocab_size

    def call(self, inputs: Tensor) -> Tensor:
        """0 .. vocab_size - 1, whatever the input is."""
        return tf.range(self.vocab_size, dtype=tf.int32)

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "vocab_size": self.vocab_size}


@register
class PositionIds(Unprunable):
    """The position of every token: (batch, time) ids -> (batch, time) int32."""

    def call(self, inputs: Tensor) -> Tensor:
        """0 .. time - 1 for every row."""
        return tf.zeros_like(inputs) + tf.range(tf.shape(inputs)[1], dtype=inputs.dtype)


@register
class TiedHead(Unprunable):
    """Logits by the embedding table: [x (batch, time, size), table (vocab, size)] -> (batch, time, vocab)."""

    def __init__(self, use_bias: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.use_bias = use_bias

    def build(self, input_shape: Sequence[Any]) -> None:
        """Makes the bias, (vocab,)."""
        if self.use_bias:
            self.bias = self.add_weight("bias", (input_shape[1][0],), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """The scores of every token."""
        x, table = inputs
        scores = tf.einsum("bts,vs->btv", x, table)  # (batch, time, vocab)
        return scores + self.bias if self.use_bias else scores

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "use_bias": self.use_bias}


@register
class GeluTanh(Unprunable):
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016), elementwise."""

    def call(self, inputs: Tensor) -> Tensor:
        """The activation, of the input's shape."""
        return _gelu_tanh(inputs)


@register
class Scale(Unprunable):
    """Multiplies by a constant."""

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def call(self, inputs: Tensor) -> Tensor:
        """`inputs` times `factor`."""
        return inputs * self.factor

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "factor": self.factor}


@register
class SinusoidalPositions(Unprunable):
    """Adds Vaswani et al.'s (2017, section 3.5) table to (batch, time, width): sines in even columns, cosines in odd ones."""

    def __init__(self, max_positions: int, **options: Any) -> None:
        super().__init__(**options)
        self.max_positions = max_positions

    def call(self, inputs: Tensor) -> Tensor:
        """`inputs` plus the rows of its positions."""
        width = inputs.shape[-1]
        columns = np.arange(width)
        angles = np.arange(self.max_positions)[:, None] / 10_000.0 ** ((columns - columns % 2) / width)
        table = np.where(columns % 2, np.cos(angles), np.sin(angles)).astype(np.float32)  # (max_positions, width)
        return inputs + tf.constant(table)[: tf.shape(inputs)[1]]

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "max_positions": self.max_positions}


@register
class RMSNorm(Unprunable):
    """x / rms(x) * gamma over the last axis (Zhang & Sennrich 2019), or over each group of `size` columns of it.

    Args:
        epsilon: Added to the mean square.
        size: Columns normalised together, with one gamma for all groups (the heads of q and k); 0 for the whole axis.
        **options: Of every Keras layer.
    """

    def __init__(self, epsilon: float, size: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.epsilon, self.size = epsilon, size

    def build(self, input_shape: Sequence[Any]) -> None:
        """Makes gamma, (size,)."""
        self.gamma = self.add_weight("gamma", (self.size or input_shape[-1],), initializer="ones")
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        """The normalised input, of its shape."""
        shape = tf.shape(inputs)
        x = tf.reshape(inputs, [shape[0], shape[1], -1, self.gamma.shape[0]])  # (batch, time, groups, size)
        x *= tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + self.epsilon)
        return tf.ensure_shape(tf.reshape(x * self.gamma, shape), inputs.shape)

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "epsilon": self.epsilon, "size": self.size}


@register
class GatedActivation(Unprunable):
    """activation(gate) * up of [gate, up], both (batch, time, ffn_size) (Shazeer 2020)."""

    def __init__(self, activation: str, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activation

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """The product, of the shape of one input."""
        gate, up = inputs
        return activation(self.activation)(gate) * up

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "activation": self.activation}


@register
class CausalAttention(Unprunable):
    """softmax(q k^T * scale) v, each position seeing itself and those before it; no weights.

    Args:
        head_dim: Columns of one head.
        scale: Multiplies the scores.
        rotary_dim: Leading columns of each head of q and k turned by their position (Su et al. 2021, halves); 0 for none.
        rope_theta: Base of the rotary frequencies.
        max_positions: Rows of the rotary table.
        **options: Of every Keras layer.
    """

    def __init__(
        self, head_dim: int, scale: float, rotary_dim: int = 0, rope_theta: float = 10_000.0, max_positions: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.head_dim, self.scale = head_dim, scale
        self.rotary_dim, self.rope_theta, self.max_positions = rotary_dim, rope_theta, max_positions

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """[q (batch, time, heads * head_dim), k and v (batch, time, kv_heads * head_dim)] -> the shape of q."""
        queries, keys, values = inputs
        batch, time, kv_heads = tf.shape(queries)[0], tf.shape(queries)[1], keys.shape[-1] // self.head_dim
        q, k, v = (self._heads(x) for x in (queries, keys, values))  # (batch, heads or kv_heads, time, head_dim)
        if self.rotary_dim:
            q, k = self._rotate(q), self._rotate(k)
        q = tf.reshape(q, [batch, kv_heads, -1, self.head_dim])  # (batch, kv_heads, group * time, head_dim)
        scores = tf.matmul(q, k, transpose_b=True) * self.scale
        scores = tf.reshape(scores, [batch, -1, time, time])  # (batch, heads, time, time)
        position = tf.range(time)
        scores = tf.where(position[None, :] <= position[:, None], scores, -math.inf)
        weights = tf.reshape(tf.nn.softmax(scores), [batch, kv_heads, -1, time])
        mixed = tf.reshape(tf.matmul(weights, v), [batch, -1, time, self.head_dim])  # (batch, heads, time, head_dim)
        return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [batch, time, queries.shape[-1]])

    def _heads(self, x: Tensor) -> Tensor:
        shape = tf.shape(x)
        return tf.transpose(tf.reshape(x, [shape[0], shape[1], -1, self.head_dim]), [0, 2, 1, 3])

    def _rotate(self, x: Tensor) -> Tensor:
        half = self.rotary_dim // 2
        frequencies = self.rope_theta ** (-np.arange(0, self.rotary_dim, 2) / self.rotary_dim)
        angles = np.arange(self.max_positions)[:, None] * frequencies  # (max_positions, half)
        cos, sin = (tf.constant(table.astype(np.float32))[: tf.shape(x)[2]] for table in (np.cos(angles), np.sin(angles)))
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return tf.concat([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("head_dim", "scale", "rotary_dim", "rope_theta", "max_positions")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
