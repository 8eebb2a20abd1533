"""Both families as TensorFlow modules that take and give their states; importing this module imports TensorFlow and tf_keras.

Weights are variables, so that a SavedModel keeps them apart from its graphs, once for all signatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgelm.model import LanguageModel
from edgelm.models.keras_cell import RecurrentCell
from edgelm.models.keras_layers import activation
from edgelm.models.reference import rotary_table, sinusoidal_table
from edgelm.spec import RecurrentSpec, TransformerSpec

Tensor = Any


class _Weights(tf.Module):  # type: ignore[misc]
    """The weights of a model, and the layers both families have."""

    def __init__(self, model: LanguageModel, names: Iterable[str]) -> None:
        super().__init__()
        self._weights = {name: tf.Variable(model.float32(name), trainable=False, name=name.replace(".", "_")) for name in names}

    def weight(self, name: str) -> Tensor:
        return self._weights[name]

    def dense(self, x: Tensor, name: str) -> Tensor:
        """Matrix `name`.weight times x (..., columns) plus `name`.bias where there is one: (..., rows)."""
        y = tf.einsum("...c,rc->...r", x, self.weight(f"{name}.weight"))
        return y + self.weight(f"{name}.bias") if f"{name}.bias" in self._weights else y

    def head(self, spec: RecurrentSpec | TransformerSpec, x: Tensor) -> Tensor:
        """Logits (batch, time, vocab) of x (batch, time, columns)."""
        table = self.weight("embedding.weight" if spec.tied_head else "head.weight")
        y = tf.einsum("btc,vc->btv", x, table)
        return y + self.weight("head.bias") if spec.head_bias else y


class RecurrentGraph(_Weights):
    """A recurrent model.

    Args:
        model: Its float weights are what is computed with.
    """

    def __init__(self, model: LanguageModel, spec: RecurrentSpec) -> None:
        super().__init__(model, (name for name in model.weights if not name.startswith("layers.")))
        self.spec = spec
        self._cells = [self._cell(model, index) for index in range(len(spec.units))]

    def __call__(self, ids: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Takes some tokens.

        Args:
            ids: (batch, time) int32.
            states: (batch, units) each, in the order of `spec.state_names`.

        Returns:
            Logits (batch, time, vocab), and the new states.
        """
        x = tf.gather(self.weight("embedding.weight"), ids)
        if self.spec.embedding_projection:
            x = self.dense(x, "embedding_projection")
        steps = tf.scan(self._step, tf.transpose(x, [1, 0, 2]), list(states))  # of each state, (time, batch, units)
        top = next(index for index, name in enumerate(self.spec.state_names) if name == f"h_{len(self.spec.units) - 1}")
        x = tf.transpose(steps[top], [1, 0, 2])  # (batch, time, units)
        for index, layer in enumerate(self.spec.hidden):
            x = activation(layer.activation)(self.dense(x, f"hidden.{index}"))
        return self.head(self.spec, x), [state[-1] for state in steps]

    def _step(self, states: list[Tensor], x: Tensor) -> list[Tensor]:
        """All layers for one token: x (batch, inputs)."""
        each = len(states) // len(self._cells)
        new: list[Tensor] = []
        for index, cell in enumerate(self._cells):
            x, of_layer = cell(x, states[index * each : (index + 1) * each])
            new += of_layer
        return new

    def _cell(self, model: LanguageModel, index: int) -> RecurrentCell:
        """The cell of a layer, which holds that layer's weights."""
        spec, at = self.spec, f"layers.{index}"
        fed = index == 0 and spec.gate_embedding
        cell = RecurrentCell(
            spec.units[index], spec.cell, spec.activation, spec.recurrent_activation, spec.reset_after, not fed, trainable=False
        )
        cell.build((None, spec.layer_inputs(index)))
        if not fed:
            cell.kernel.assign(model.float32(f"{at}.input.weight").T)
        cell.recurrent_kernel.assign(model.float32(f"{at}.recurrent.weight").T)
        bias = model.float32(f"{at}.input.bias")
        both = spec.cell == "gru" and spec.reset_after
        cell.bias.assign(np.stack([bias, model.float32(f"{at}.recurrent.bias")]) if both else bias)
        return cell


class TransformerGraph(_Weights):
    """A decoder-only transformer.

    Args:
        model: Its float weights are what is computed with.
    """

    def __init__(self, model: LanguageModel, spec: TransformerSpec) -> None:
        super().__init__(model, model.weights)
        self.spec = spec

    def __call__(self, ids: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Takes some tokens.

        Args:
            ids: (batch, time) int32.
            caches: k_0, v_0, k_1, ..., each (batch, kv_heads, past, head_dim).

        Returns:
            Logits (batch, time, vocab), and the caches with the new rows, (batch, kv_heads, past + time, head_dim).
        """
        spec = self.spec
        past = tf.shape(caches[0])[2]
        positions = past + tf.range(tf.shape(ids)[1])  # (time,)
        x = tf.gather(self.weight("embedding.weight"), ids) * spec.embedding_scale  # (batch, time, width)
        if spec.position == "learned":
            x += tf.gather(self.weight("positions.weight"), positions)
        elif spec.position == "sinusoidal":
            x += self._rows(sinusoidal_table(spec, np.arange(spec.max_positions)), positions)
        if spec.embedding_norm:
            x = self._norm(x, "embedding_norm")
        new: list[Tensor] = []
        for layer in range(spec.layers):
            x, of_layer = self._block(f"layers.{layer}", x, caches[2 * layer : 2 * layer + 2], positions)
            new += of_layer
        return self.head(spec, self._norm(x, "final_norm") if spec.final_norm else x), new

    def _rows(self, table: Any, positions: Tensor) -> Tensor:
        return tf.gather(tf.constant(table.astype(np.float32)), positions)

    def _block(self, at: str, x: Tensor, cache: Sequence[Tensor], positions: Tensor) -> tuple[Tensor, list[Tensor]]:
        pre = self.spec.norm_position == "pre"
        attended, new = self._attention(at, self._norm(x, f"{at}.attention_norm") if pre else x, cache, positions)
        y = x + attended if pre else self._norm(x + attended, f"{at}.attention_norm")
        read = x if self.spec.parallel_residual else y
        y += self._feed_forward(at, self._norm(read, f"{at}.ffn_norm") if pre else read)
        return (y if pre else self._norm(y, f"{at}.ffn_norm")), new

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if self.spec.norm == "rms":
            return self._rms(x) * self.weight(f"{name}.weight")
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        return self._rms(centred) * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")

    def _rms(self, x: Tensor) -> Tensor:
        return x * tf.math.rsqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + self.spec.norm_eps)

    def _attention(self, at: str, x: Tensor, cache: Sequence[Tensor], positions: Tensor) -> tuple[Tensor, list[Tensor]]:
        spec = self.spec
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        q, k, v = (
            tf.transpose(tf.reshape(self.dense(x, f"{at}.{name}"), [batch, time, -1, spec.head_dim]), [0, 2, 1, 3]) for name in "qkv"
        )  # (batch, heads or kv_heads, time, head_dim)
        if spec.qk_norm:
            q, k = self._rms(q) * self.weight(f"{at}.q_norm.weight"), self._rms(k) * self.weight(f"{at}.k_norm.weight")
        if spec.position == "rotary":
            q, k = self._turn(q, positions), self._turn(k, positions)
        keys, values = tf.concat([cache[0], k], axis=2), tf.concat([cache[1], v], axis=2)
        q = tf.reshape(q, [batch, spec.kv_heads, -1, spec.head_dim])  # (batch, kv_heads, group * time, head_dim)
        scores = tf.matmul(q, keys, transpose_b=True) * spec.score_scale
        scores = tf.reshape(scores, [batch, spec.heads, time, -1])  # (batch, heads, time, past + time)
        seen = tf.range(tf.shape(keys)[2])[None, :] <= positions[:, None]
        weights = tf.nn.softmax(tf.where(seen, scores, -math.inf))
        mixed = tf.matmul(tf.reshape(weights, [batch, spec.kv_heads, -1, tf.shape(keys)[2]]), values)
        mixed = tf.transpose(tf.reshape(mixed, [batch, spec.heads, time, spec.head_dim]), [0, 2, 1, 3])
        joined = tf.reshape(mixed, [batch, time, spec.heads * spec.head_dim])
        return self.dense(joined, f"{at}.o"), [keys, values]

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary positions on (batch, heads, time, head_dim), first half against second half."""
        half = self.spec.rotary_size // 2
        cos, sin = (self._rows(table, positions) for table in rotary_table(self.spec, np.arange(self.spec.max_positions)))
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return tf.concat([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def _feed_forward(self, at: str, x: Tensor) -> Tensor:
        spec = self.spec
        if not spec.gated:
            return self.dense(activation(spec.activation)(self.dense(x, f"{at}.up")), f"{at}.down")
        return self.dense(activation(spec.activation)(self.dense(x, f"{at}.gate")) * self.dense(x, f"{at}.up"), f"{at}.down")
