"""Decoder-only transformers as ONNX, of plain ops, with the names that onnxruntime-genai and optimum know.

    input_ids int64 (batch, time), past_key_values.N.key and .value float32 (batch, kv_heads, past, head_dim)
    ->  logits float32 (batch, time, vocab), present.N.key and .value float32 (batch, kv_heads, past + time, head_dim)

`past` is 0 for a fresh text. Positions run on from the past, and each token sees itself and all before it; the rows of a batch have one
length. Rotary and sinusoidal positions are tables of `max_positions` rows, so an engine computes no angles, and more positions than the
model was made for are an error of the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm.lower.onnx_layers import OnnxLayers
from edgelm.models.reference import rotary_table, sinusoidal_table
from edgelm.spec import TransformerSpec

MASKED = float(np.finfo(np.float32).min)
"""Added to the scores of what a token may not see."""


def past_name(layer: int, kind: str) -> str:
    """Name of a cache input; `kind` is `key` or `value`."""
    return f"past_key_values.{layer}.{kind}"


def present_name(layer: int, kind: str) -> str:
    """Name of the output that is the next call's cache."""
    return f"present.{layer}.{kind}"


def write_transformer(spec: TransformerSpec, layers: OnnxLayers) -> None:
    """Writes the graph of a transformer."""
    _Decoder(spec, layers).write()


@dataclass(frozen=True)
class _Shared:
    """What all blocks use.

    Attributes:
        mask: (time, past + time), 0 or `MASKED`.
        cos: Of the rotary angles, (time, rotary_size / 2); empty without rotary positions.
        sin: As `cos`.
    """

    mask: str
    cos: str = ""
    sin: str = ""


class _Decoder:
    def __init__(self, spec: TransformerSpec, layers: OnnxLayers) -> None:
        self.spec = spec
        self.layers = layers
        self.g = layers.g
        self.group = spec.heads // spec.kv_heads  # query heads that read one key head

    def write(self) -> None:
        g, spec = self.g, self.spec
        ids = g.input("input_ids", "int64", ("batch", "time"))
        size = ("batch", spec.kv_heads, "past", spec.head_dim)
        caches = [tuple(g.input(past_name(i, kind), "float32", size) for kind in ("key", "value")) for i in range(spec.layers)]
        positions, mask = self._positions(ids, caches[0][0])
        shared = self._shared(positions, mask)
        x = self._embed(ids, positions)  # (batch, time, width)
        present: list[tuple[str, str]] = []
        for layer, (keys, values) in enumerate(caches):
            x, new = self._block(layer, x, (keys, values), shared)
            present.append(new)
        x = self._norm(x, "final_norm") if spec.final_norm else x
        g.output("logits", self.layers.head(x), "float32", ("batch", "time", spec.vocab_size))
        for layer, new in enumerate(present):
            for kind, value in zip(("key", "value"), new, strict=True):
                g.output(present_name(layer, kind), value, "float32", ("batch", spec.kv_heads, "total", spec.head_dim))

    def _positions(self, ids: str, keys: str) -> tuple[str, str]:
        """Positions of the new tokens (time,), and the causal mask over all of them (time, past + time)."""
        g = self.g
        past, time = (g.op("Squeeze", g.op("Shape", x, start=axis, end=axis + 1), g.ints(0)) for x, axis in ((keys, 2), (ids, 1)))
        zero, one = (g.constant(np.array(value, np.int64)) for value in (0, 1))
        end = g.op("Add", past, time)
        positions = g.op("Range", past, end, one)
        seen = g.op("LessOrEqual", g.op("Range", zero, end, one), g.op("Unsqueeze", positions, g.ints(1)))
        return positions, g.op("Where", seen, self.layers.scalar(0.0), self.layers.scalar(MASKED))

    def _shared(self, positions: str, mask: str) -> _Shared:
        if self.spec.position != "rotary":
            return _Shared(mask)
        tables = rotary_table(self.spec, np.arange(self.spec.max_positions))
        cos, sin = (self.g.op("Gather", self.layers.row(table), positions, axis=0) for table in tables)
        return _Shared(mask, cos, sin)

    def _embed(self, ids: str, positions: str) -> str:
        g, spec = self.g, self.spec
        x = self.layers.lookup(ids, "embedding.weight")
        if spec.embedding_scale != 1.0:
            x = g.op("Mul", x, self.layers.scalar(spec.embedding_scale))
        if spec.position == "learned":
            x = g.op("Add", x, self.layers.lookup(positions, "positions.weight"))
        elif spec.position == "sinusoidal":
            table = self.layers.row(sinusoidal_table(spec, np.arange(spec.max_positions)))  # (max_positions, width)
            x = g.op("Add", x, g.op("Gather", table, positions, axis=0))
        return self._norm(x, "embedding_norm") if spec.embedding_norm else x

    def _block(self, layer: int, x: str, cache: tuple[str, str], shared: _Shared) -> tuple[str, tuple[str, str]]:
        """One block of x (batch, time, width), and its keys and values (batch, kv_heads, past + time, head_dim)."""
        at, pre = f"layers.{layer}", self.spec.norm_position == "pre"
        attended, present = self._attention(at, self._norm(x, f"{at}.attention_norm") if pre else x, cache, shared)
        y = self.g.op("Add", x, attended)
        if not pre:
            y = self._norm(y, f"{at}.attention_norm")
        read = x if self.spec.parallel_residual else y
        y = self.g.op("Add", y, self._feed_forward(at, self._norm(read, f"{at}.ffn_norm") if pre else read))
        return (y if pre else self._norm(y, f"{at}.ffn_norm")), present

    def _norm(self, x: str, name: str) -> str:
        weight, epsilon = self.layers.weights.vector(f"{name}.weight"), self.spec.norm_eps
        if self.spec.norm == "rms":
            return self.g.op("Mul", self.layers.rms(x, epsilon), weight)
        bias = self.layers.weights.vector(f"{name}.bias")
        return self.g.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def _attention(self, at: str, x: str, cache: tuple[str, str], shared: _Shared) -> tuple[str, tuple[str, str]]:
        """Attention of x (batch, time, width): its output, and all keys and values."""
        g, spec = self.g, self.spec
        q, k, v = (self._heads(self.layers.dense(x, f"{at}.{name}"), heads) for name, heads in self._projections())
        if spec.qk_norm:
            q, k = self._head_norm(q, f"{at}.q_norm"), self._head_norm(k, f"{at}.k_norm")
        q, k, v = (g.op("Transpose", part, perm=(0, 2, 1, 3)) for part in (q, k, v))  # (batch, heads or kv_heads, time, head_dim)
        if shared.cos:
            q, k = self._turn(q, shared), self._turn(k, shared)
        keys, values = g.op("Concat", cache[0], k, axis=2), g.op("Concat", cache[1], v, axis=2)
        scores = g.op("MatMul", g.op("Mul", q, self.layers.scalar(spec.score_scale)), self._for_queries(keys, transposed=True))
        weights = g.op("Softmax", g.op("Add", scores, shared.mask), axis=-1)  # (batch, heads, time, past + time)
        mixed = g.op("MatMul", weights, self._for_queries(values))  # (batch, heads, time, head_dim)
        joined = g.op("Reshape", g.op("Transpose", mixed, perm=(0, 2, 1, 3)), g.ints(0, 0, spec.heads * spec.head_dim))
        return self.layers.dense(joined, f"{at}.o"), (keys, values)

    def _projections(self) -> tuple[tuple[str, int], ...]:
        return ("q", self.spec.heads), ("k", self.spec.kv_heads), ("v", self.spec.kv_heads)

    def _heads(self, y: str, heads: int) -> str:
        """Y (batch, time, heads * head_dim) as (batch, time, heads, head_dim)."""
        return self.g.op("Reshape", y, self.g.ints(0, 0, heads, self.spec.head_dim))

    def _head_norm(self, x: str, name: str) -> str:
        return self.g.op("Mul", self.layers.rms(x, self.spec.norm_eps), self.layers.weights.vector(f"{name}.weight"))

    def _for_queries(self, x: str, *, transposed: bool = False) -> str:
        """Keys or values (batch, kv_heads, past + time, head_dim) once for each query head, in the form that engines fuse."""
        g, spec = self.g, self.spec
        if self.group > 1:
            x = g.op("Expand", g.op("Unsqueeze", x, g.ints(2)), g.ints(1, 1, self.group, 1, 1))
            x = g.op("Reshape", x, g.ints(0, spec.heads, -1, spec.head_dim))
        return g.op("Transpose", x, perm=(0, 1, 3, 2)) if transposed else x

    def _turn(self, x: str, shared: _Shared) -> str:
        """Rotary positions on (batch, heads, time, head_dim): [a cos - b sin, b cos + a sin, rest]."""
        g, half = self.g, self.spec.rotary_size // 2
        rest = self.spec.head_dim - 2 * half
        sizes = (half, half, rest) if rest else (half, half)
        a, b, *still = g.ops("Split", x, g.ints(*sizes), outputs=len(sizes), axis=3)
        turned_a = g.op("Sub", g.op("Mul", a, shared.cos), g.op("Mul", b, shared.sin))
        turned_b = g.op("Add", g.op("Mul", b, shared.cos), g.op("Mul", a, shared.sin))
        return g.op("Concat", turned_a, turned_b, *still, axis=3)

    def _feed_forward(self, at: str, x: str) -> str:
        layers, spec = self.layers, self.spec
        if not spec.gated:
            return layers.dense(layers.activate(spec.activation, layers.dense(x, f"{at}.up")), f"{at}.down")
        gate = layers.at(f"{at}.gate:act", layers.activate(spec.activation, layers.dense(x, f"{at}.gate")))
        return layers.dense(self.g.op("Mul", gate, layers.dense(x, f"{at}.up")), f"{at}.down")
