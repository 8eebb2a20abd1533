"""Tiny decoder-only transformers of every form, for either Keras: functions of a Keras module and a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras_lifts import TIME, VOCAB, Build

from edgelm.models.reference import sinusoidal_table
from edgelm.spec import TransformerSpec

WIDTH = 8
LONGEST = 9  # rows of learned position tables
Part = Callable[..., Any]


def is_keras2(keras: Any) -> bool:
    return bool(keras.__name__ == "tf_keras")


def attend(heads: int = 2, head_dim: int = 3, **options: Any) -> Part:
    """Self-attention with a causal mask by switch."""
    return lambda keras, x: keras.layers.MultiHeadAttention(heads, head_dim, **options)(x, x, use_causal_mask=True)


def attend_grouped(keras: Any, x: Any) -> Any:
    return keras.layers.GroupQueryAttention(3, 4, 2)(x, x, use_causal_mask=True)


def attend_with_computed_mask(keras: Any, x: Any) -> Any:
    """The mask is made from the length of the input."""
    import tensorflow as tf

    if is_keras2(keras):
        positions = tf.range(tf.shape(x)[1])
        mask = positions[:, tf.newaxis] >= positions
    else:
        positions = keras.ops.cumsum(keras.ops.ones_like(x[:, :, 0]), axis=1)
        mask = keras.ops.expand_dims(positions, 2) >= keras.ops.expand_dims(positions, 1)
    return keras.layers.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)


def attend_with_band(keras: Any, x: Any) -> Any:
    import tensorflow as tf

    length = tf.shape(x)[1]
    return keras.layers.MultiHeadAttention(2, 3)(x, x, attention_mask=tf.linalg.band_part(tf.ones((length, length)), -1, 0))


def attend_with_constant(keras: Any, x: Any) -> Any:
    mask = np.tri(TIME, dtype=bool)[None]
    if is_keras2(keras):
        import tensorflow as tf

        mask = tf.constant(mask)
    return keras.layers.MultiHeadAttention(2, 3)(query=x, value=x, key=x, attention_mask=mask)


def feed_forward(activation: str = "relu", **options: Any) -> Part:
    def call(keras: Any, x: Any) -> Any:
        return keras.layers.Dense(WIDTH, **options)(keras.layers.Dense(13, activation=activation, **options)(x))

    return call


def feed_forward_nested(keras: Any, x: Any) -> Any:
    layers = [keras.layers.Dense(13), keras.layers.Activation("gelu"), keras.layers.Dense(WIDTH), keras.layers.Dropout(0.1)]
    return keras.Sequential(layers)(x)


def feed_forward_convolution(keras: Any, x: Any) -> Any:
    return keras.layers.Conv1D(WIDTH, 1)(keras.layers.Conv1D(13, 1, activation="relu")(x))


def feed_forward_tanh_gelu(keras: Any, x: Any) -> Any:
    import tensorflow as tf

    inner = keras.layers.Dense(13)(x)
    inner = tf.nn.gelu(inner, approximate=True) if is_keras2(keras) else keras.ops.gelu(inner)
    return keras.layers.Dense(WIDTH)(inner)


def feed_forward_gated(keras: Any, x: Any) -> Any:
    gate, up = keras.layers.Dense(13, activation="silu", use_bias=False)(x), keras.layers.Dense(13, use_bias=False)(x)
    return keras.layers.Dense(WIDTH, use_bias=False)(keras.layers.Multiply()([up, gate]))


def layer_norm(**options: Any) -> Part:
    return lambda keras, x: keras.layers.LayerNormalization(**{"epsilon": 1e-5, **options})(x)


def rms_norm(keras: Any, x: Any) -> Any:
    return keras.layers.RMSNormalization()(x)


def no_positions(keras: Any, ids: Any, x: Any) -> Any:
    return x


def learned_by_range(keras: Any, ids: Any, x: Any) -> Any:
    import tensorflow as tf

    positions = tf.range(tf.shape(ids)[1]) if is_keras2(keras) else keras.ops.cumsum(keras.ops.ones_like(ids), axis=1) - 1
    return x + keras.layers.Embedding(LONGEST, WIDTH)(positions)


def learned_by_constant_range(keras: Any, ids: Any, x: Any) -> Any:
    positions = np.arange(TIME)[None]
    return keras.layers.Add()([x, keras.layers.Embedding(LONGEST, WIDTH)(positions)]) if is_keras2(keras) else x


def sinusoidal_constant(keras: Any, ids: Any, x: Any) -> Any:
    spec = TransformerSpec(VOCAB, WIDTH, 1, 1, 1, WIDTH, WIDTH, TIME, position="sinusoidal")
    table = sinusoidal_table(spec, np.arange(TIME)).astype(np.float32)[None]
    return x * WIDTH**0.5 + table


def scaled_sum(keras: Any, ids: Any, x: Any) -> Any:
    return keras.layers.Rescaling(0.5)(learned_by_range(keras, ids, x * 3.0))


def sliced_constant(keras: Any, ids: Any, x: Any) -> Any:
    """A table of 9 positions, cut to the length of the input."""
    import tensorflow as tf

    table = tf.constant(np.random.default_rng(2).normal(size=(1, LONGEST, WIDTH)).astype(np.float32))
    return x + table[:, : tf.shape(x)[1]]


def pre(keras: Any, x: Any, norm: Part, body: Part) -> Any:
    return x + body(keras, norm(keras, x))


def pre_swapped(keras: Any, x: Any, norm: Part, body: Part) -> Any:
    return keras.layers.Add()([keras.layers.Dropout(0.1)(body(keras, norm(keras, x))), x])


def post(keras: Any, x: Any, norm: Part, body: Part) -> Any:
    return norm(keras, keras.layers.Add()([x, keras.layers.Dropout(0.1)(body(keras, x))]))


def score(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(VOCAB)(x)


ATTEND, FEED_FORWARD, LAYER_NORM = attend(), feed_forward(), layer_norm()


def decoder(
    block: Part = pre,
    attention: Part = ATTEND,
    feed: Part = FEED_FORWARD,
    norm: Part = LAYER_NORM,
    positions: Part = learned_by_range,
    final: bool = True,
    first: bool = False,
    head: Part = score,
    length: int | None = None,
    layers: int = 1,
) -> Build:
    def build(keras: Any) -> Any:
        ids = keras.Input((length,), dtype="int32")
        x = positions(keras, ids, keras.layers.Embedding(VOCAB, WIDTH)(ids))
        x = norm(keras, x) if first else keras.layers.Dropout(0.1)(x)
        for _ in range(layers):
            x = block(keras, block(keras, x, norm, attention), norm, feed)
        x = norm(keras, x) if final else x
        return keras.Model(ids, head(keras, x))

    return build


def last_softmax(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(VOCAB, activation="softmax")(x[:, -1])


def distributed(keras: Any, x: Any) -> Any:
    return keras.layers.Softmax()(keras.layers.TimeDistributed(keras.layers.Dense(VOCAB, use_bias=False))(x))


def cooled(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(VOCAB)(x) / 3.0
