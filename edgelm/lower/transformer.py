"""Decoder-only transformers as a ladder of `decode_C` signatures and one or two `prefill_T`, all on one copy of the weights.

    decode_C:  token int32 (1,), position int32 (1,), mask float32 (1, 1, 1, C), k_i and v_i float32 (1, kv_heads, C, head_dim)
               ->  logits float32 (1, vocab), k_i and v_i float32 (1, kv_heads, 1, head_dim)
    prefill_T: tokens int32 (T,), position int32 (1,), last int32 (1,), mask and caches as in a decode (see `default_prefills`)
               ->  logits float32 (1, vocab) after token `last` of the chunk, k_i and v_i float32 (1, kv_heads, T, head_dim)

The host owns the caches: after each call it writes the new rows at axis 2, slot `position`, and sets the mask there from `MASKED` to 0.
Caches never travel: only new rows are outputs (1.3 to 3 times faster than caches in and out or resource variables). Attention over the
cache costs time for every slot, filled or not, so a host uses the smallest rung that holds its context. Rows of a chunk after `last`
are padding; their outputs are to be ignored. (V kept transposed made no difference: 0.99 to 1.03 of the time on five shapes.)

What is folded into the weights: the weight (and bias) of a norm into the projections that read it, unless those are 4-bit or have
fixed scales, whose grid it would break; the score scale into q, unless that has blocks of fixed scales; q, k, v are one matrix, gate
and up too, where they are stored alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.layers import LayerBuilder
from edgelm.lower.static import layer_builder
from edgelm.lower.store import WeightStore
from edgelm.spec import Encoding, FloatArray, TransformerSpec
from edgelm.tflite.graph import Tensor
from edgelm.tflite.writer import ModelBuilder

MASKED = -1e9
"""What a host puts into `mask` where a cache slot is empty."""
SMALLEST_RUNG = 128
LARGEST_CHUNK = 64


def default_ladder(spec: TransformerSpec) -> tuple[int, ...]:
    """Cache sizes 128, 256, 512, ... up to the model's positions.

    Example: 300 positions give (128, 256, 300).
    """
    rungs = [SMALLEST_RUNG]
    while rungs[-1] < spec.max_positions:
        rungs.append(2 * rungs[-1])
    return tuple(sorted({min(rung, spec.max_positions) for rung in rungs}))


def default_prefills(ladder: Sequence[int]) -> dict[int, int]:
    """Tokens T of each `prefill_T` and the cache slots it has.

    A chunk pays for every slot, filled or not: 64 tokens took 3.3 ms against 128 slots and 14 ms against 512 (5 million parameters,
    int8). So long ladders get a prefill on the first rung for short prompts, and one on the last for what comes after.

    Example: (128, 256) gives {64: 256}; (128, 256, 512) gives {64: 128, 32: 512}.
    """
    first, last = min(ladder), max(ladder)
    if first >= SMALLEST_RUNG and last >= 4 * first:
        return {LARGEST_CHUNK: first, LARGEST_CHUNK // 2: last}
    return {min(LARGEST_CHUNK, last): last}


def build_transformer(
    spec: TransformerSpec, store: WeightStore, builder: ModelBuilder, ladder: Sequence[int], prefills: Mapping[int, int]
) -> None:
    """Adds `decode_C` for every C of `ladder`, and `prefill_T` with `prefills[T]` cache slots for every T, to `builder`."""
    for cache in ladder:
        _Call(spec, layer_builder(builder, f"decode_{cache}", store), cache, 1, decodes=True).build()
    for tokens, cache in prefills.items():
        _Call(spec, layer_builder(builder, f"prefill_{tokens}", store), cache, tokens, decodes=False).build()


@dataclass(frozen=True)
class _Shared:
    """What all blocks of a signature use.

    Attributes:
        mask: Decode: (1, 1, 1, cache). Prefill: (1, 1, group * tokens, cache + tokens), past and chunk.
        cos: (1, 1, tokens, head_dim), or None without rotary positions.
        sin: As `cos`, negative in the first half of the rotary columns.
    """

    mask: Tensor
    cos: Tensor | None = None
    sin: Tensor | None = None


class _Call:
    """One signature: `tokens` new tokens against `cache` slots."""

    def __init__(self, spec: TransformerSpec, layers: LayerBuilder, cache: int, tokens: int, *, decodes: bool) -> None:
        self.spec = spec
        self.layers = layers
        self.g = layers.g
        self.model = layers.store.model
        self.cache = cache
        self.tokens = tokens
        self.decodes = decodes
        self.group = spec.heads // spec.kv_heads  # query heads that read one key head; they become rows of one product

    def build(self) -> None:
        """Writes the signature."""
        g, spec = self.g, self.spec
        ids = g.input("token" if self.decodes else "tokens", (self.tokens,), "int32")
        position = g.input("position", (1,), "int32")
        last = None if self.decodes else g.input("last", (1,), "int32")
        mask = g.input("mask", (1, 1, 1, self.cache))
        size = (1, spec.kv_heads, self.cache, spec.head_dim)
        caches = [(g.input(f"k_{layer}", size), g.input(f"v_{layer}", size)) for layer in range(spec.layers)]
        positions = position if self.decodes else g.add(position, g.constant(np.arange(self.tokens, dtype=np.int32)))  # (tokens,)
        shared = self._shared(mask, positions)
        x = self._embed(ids, positions)  # (tokens, width)
        rows: dict[str, Tensor] = {}
        for layer, cache in enumerate(caches):
            attended, rows[f"k_{layer}"], rows[f"v_{layer}"] = self._attention(f"layers.{layer}", x, cache, shared)
            x = self._residual(x, attended, f"layers.{layer}.attention_norm")
            x = self._residual(x, self._feed_forward(f"layers.{layer}", x), f"layers.{layer}.ffn_norm")
        g.output("logits", self._head(x if last is None else g.gather(x, last)))
        for name, tensor in rows.items():
            g.output(name, tensor)

    def _shared(self, mask: Tensor, positions: Tensor) -> _Shared:
        g, spec = self.g, self.spec
        if not self.decodes:
            mask = self._chunk_mask(mask)
        if spec.position != "rotary":
            return _Shared(mask)
        frequencies = spec.rope_theta ** (-np.arange(0, spec.rotary_size, 2) / spec.rotary_size)
        still = np.zeros(spec.head_dim - spec.rotary_size)  # angle 0: these columns are not turned
        at = self._float_positions(positions, (1, 1, self.tokens, 1))
        cos = g.cos(g.mul(at, self._row(np.concatenate([frequencies, frequencies, still]))))
        sin = g.sin(g.mul(at, self._row(np.concatenate([-frequencies, frequencies, still]))))
        return _Shared(mask, cos, sin)

    def _chunk_mask(self, past: Tensor) -> Tensor:
        """The mask of a chunk's queries, (1, 1, group * tokens, cache + tokens): the host's for the past, causal within the chunk."""
        g = self.g
        query = np.tile(np.arange(self.tokens, dtype=np.float32), self.group).reshape(1, 1, -1, 1)
        ahead = g.sub(g.constant(query), self._row(np.arange(self.tokens)))  # negative for tokens yet to come
        causal = g.mul(g.minimum(ahead, 0.0), -MASKED)
        return g.concatenate([g.add(past, g.constant(np.zeros_like(query))), causal])

    def _float_positions(self, positions: Tensor, shape: Sequence[int]) -> Tensor:
        return self.g.reshape(self.g.cast(positions, "float32"), shape)

    def _row(self, values: NDArray[Any]) -> Tensor:
        return self.g.constant(values.astype(np.float32))

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        g, spec = self.g, self.spec
        x = self.layers.lookup(ids, "embedding.weight")  # (tokens, width)
        if spec.embedding_scale != 1.0:
            x = g.mul(x, spec.embedding_scale)
        if spec.position == "learned":
            if not self.decodes:  # a chunk's padding may lie past the last position
                positions = g.minimum(positions, g.constant(np.array([spec.max_positions - 1], np.int32)))
            x = g.add(x, self.layers.lookup(positions, "positions.weight"))
        elif spec.position == "sinusoidal":
            x = g.add(x, self._sinusoids(positions))
        return self._norm(x, "embedding_norm") if spec.embedding_norm else x

    def _sinusoids(self, positions: Tensor) -> Tensor:
        """Vaswani et al.'s table at `positions`, (tokens, width), computed: sin(a + pi / 2) is cos(a)."""
        columns = np.arange(self.spec.width)
        frequencies = 10_000.0 ** (-(columns - columns % 2) / self.spec.width)
        angles = self.g.mul(self._float_positions(positions, (self.tokens, 1)), self._row(frequencies))
        return self.g.sin(self.g.add(angles, self._row(columns % 2 * (math.pi / 2))))

    def _head(self, x: Tensor) -> Tensor:
        """Logits (1, vocab) of x (1, width)."""
        norm = "final_norm" if self.spec.final_norm else ""
        if not self.spec.tied_head:
            return self._project(x, "", ("head",), norm)
        return self.layers.head(self._norm(x, norm) if norm else x)

    def _residual(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        total = self.g.add(x, y)
        return self._norm(total, norm) if self.spec.norm_position == "post" else total

    def _norm(self, x: Tensor, name: str, *, scaled: bool = True) -> Tensor:
        """LayerNorm or RMSNorm of x (rows, width); without its weight and bias where they are folded."""
        g = self.g
        if self.spec.norm == "layer":
            x = g.sub(x, g.mean(x, -1))
        x = self._rms(x)
        if not scaled:
            return x
        x = g.mul(x, g.constant(self.model.float32(f"{name}.weight")))
        return g.add(x, g.constant(self.model.float32(f"{name}.bias"))) if self.spec.norm == "layer" else x

    def _rms(self, x: Tensor) -> Tensor:
        g = self.g
        return g.mul(x, g.rsqrt(g.add(g.mean(g.mul(x, x), -1), self.spec.norm_eps)))

    def _attention(self, at: str, x: Tensor, cache: tuple[Tensor, Tensor], shared: _Shared) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of x (tokens, width): its output (tokens, width), and the new rows of k and v (1, kv_heads, tokens, head_dim)."""
        g, spec = self.g, self.spec
        y = self._project(x, at, ("q", "k", "v"), self._pre(f"{at}.attention_norm"))  # (tokens, (heads + 2 kv_heads) * head_dim)
        every = self._split_heads(y)  # (1, heads + 2 kv_heads, tokens, head_dim): those of q, k, v
        v = self._cut(every, 1, spec.heads + spec.kv_heads, spec.kv_heads)
        if spec.qk_norm or shared.cos is not None:  # q and k together: half the ops
            qk = self._cut(every, 1, 0, spec.heads + spec.kv_heads)
            every = self._turn(self._qk_norm(at, qk) if spec.qk_norm else qk, shared)
        q, k = self._cut(every, 1, 0, spec.heads), self._cut(every, 1, spec.heads, spec.kv_heads)
        if not spec.qk_norm and not self._folds_score_scale(f"{at}.q"):
            q = g.mul(q, spec.score_scale)
        q = self._reshaped(q, (1, spec.kv_heads, self.group * self.tokens, spec.head_dim))
        mixed = (self._mix_step if self.decodes else self._mix_chunk)(q, k, v, cache, shared.mask)
        if self.tokens > 1:
            mixed = g.transpose(self._reshaped(mixed, (1, spec.heads, self.tokens, spec.head_dim)), (0, 2, 1, 3))
        return self.layers.plain_dense(g.reshape(mixed, (self.tokens, spec.heads * spec.head_dim)), f"{at}.o"), k, v

    def _mix_step(self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """One token: the cached slots and the token itself apart, since joining it to the cache would copy that."""
        g = self.g
        past = g.add(g.batch_matmul(q, cache[0], transpose_b=True), mask)  # (1, kv_heads, group, cache)
        weights = g.softmax(g.concatenate([past, g.batch_matmul(q, k, transpose_b=True)]))  # (1, kv_heads, group, cache + 1)
        mixed = g.batch_matmul(self._cut(weights, 3, 0, self.cache), cache[1])  # (1, kv_heads, group, head_dim)
        return g.add(mixed, g.mul(self._cut(weights, 3, self.cache, 1), v))

    def _mix_chunk(self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """A chunk: its rows are joined to the cache, whose copy is little beside the products."""
        g = self.g
        keys, values = g.concatenate([cache[0], k], 2), g.concatenate([cache[1], v], 2)  # (1, kv_heads, cache + tokens, head_dim)
        scores = g.add(g.batch_matmul(q, keys, transpose_b=True), mask)  # (1, kv_heads, group * tokens, cache + tokens)
        return g.batch_matmul(g.softmax(scores), values)

    def _split_heads(self, y: Tensor) -> Tensor:
        """Y (tokens, heads * head_dim) as (1, heads, tokens, head_dim)."""
        g, size = self.g, self.spec.head_dim
        if self.tokens == 1:
            return g.reshape(y, (1, y.shape[1] // size, 1, size))
        return g.transpose(g.reshape(y, (1, self.tokens, y.shape[1] // size, size)), (0, 2, 1, 3))

    def _cut(self, x: Tensor, axis: int, begin: int, size: int) -> Tensor:
        return self.g.slice(x, axis, begin, size, resizable=False)

    def _reshaped(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x if x.shape == shape else self.g.reshape(x, shape)

    def _qk_norm(self, at: str, qk: Tensor) -> Tensor:
        spec = self.spec
        q = np.tile(self.model.float32(f"{at}.q_norm.weight") * np.float32(spec.score_scale), (spec.heads, 1))
        k = np.tile(self.model.float32(f"{at}.k_norm.weight"), (spec.kv_heads, 1))
        return self.g.mul(self._rms(qk), self._row(np.concatenate([q, k])[None, :, None]))

    def _turn(self, qk: Tensor, shared: _Shared) -> Tensor:
        """Rotary positions on (1, heads, tokens, head_dim): [a cos - b sin, b cos + a sin, rest]."""
        if shared.cos is None or shared.sin is None:
            return qk
        g, half = self.g, self.spec.rotary_size // 2
        halves = [self._cut(qk, 3, half, half), self._cut(qk, 3, 0, half)]
        if 2 * half < self.spec.head_dim:
            halves.append(self._cut(qk, 3, 2 * half, self.spec.head_dim - 2 * half))
        return g.add(g.mul(qk, shared.cos), g.mul(g.concatenate(halves), shared.sin))

    def _feed_forward(self, at: str, x: Tensor) -> Tensor:
        g, spec, norm = self.g, self.spec, self._pre(f"{at}.ffn_norm")
        if not spec.gated:
            inner = self.layers.activate(spec.activation, self._project(x, at, ("up",), norm), f"{at}.down:in")
        else:
            parts = self._projections(x, at, ("gate", "up"), norm)  # one (tokens, 2 * ffn_size) or two (tokens, ffn_size)
            gate, up = parts if len(parts) == 2 else g.split(parts[0], 2)
            inner = self.layers.mul(self.layers.activate(spec.activation, gate, f"{at}.gate:act"), up, f"{at}.down:in")
        return self.layers.plain_dense(inner, f"{at}.down")

    def _pre(self, norm: str) -> str:
        return norm if self.spec.norm_position == "pre" else ""

    def _project(self, x: Tensor, at: str, names: Sequence[str], norm: str) -> Tensor:
        """Projections `names` of `at` side by side, (rows, all outputs), of x (rows, width), behind its norm if `norm` names one."""
        parts = self._projections(x, at, names, norm)
        return parts[0] if len(parts) == 1 else self.g.concatenate(parts)

    def _projections(self, x: Tensor, at: str, names: Sequence[str], norm: str) -> list[Tensor]:
        """As `_project`, one tensor for each product that they became."""
        paths = [f"{at}.{name}" if at else name for name in names]
        kinds = [self._kind(f"{path}.weight") for path in paths]
        foldable = not self.layers.static and all(encoding.bits > 4 and not fixed for encoding, fixed, _ in kinds)
        folded = norm if foldable else ""
        if norm:
            x = self._norm(x, norm, scaled=not folded)
        return [
            self._joined(x, [path for path, _ in group], folded)
            for _, group in itertools.groupby(zip(paths, kinds, strict=True), lambda pair: pair[1])
        ]

    def _kind(self, name: str) -> tuple[Encoding, bool, str]:
        """What weights are joined by: how a projection's weight can be stored, whether its scales are fixed, and its output's range."""
        store = self.layers.store
        fixed = store.fixed_scales(name, self.spec.width) is not None
        return store.possible(name, self.spec.width), fixed, name if self.layers.static else ""

    def _joined(self, x: Tensor, paths: Sequence[str], norm: str) -> Tensor:
        """Matrices of one kind as one product, with a norm's weight in their columns and its bias in theirs."""
        names = [f"{path}.weight" for path in paths]
        scale = self.model.float32(f"{norm}.weight") if norm else np.float32(1)  # (width,)

        def build() -> FloatArray:
            return np.concatenate([self.model.float32(f"{path}.weight") * (self._row_scale(path) * scale) for path in paths])

        biases = [bias for path in paths if (bias := self._bias(path, norm)) is not None]  # all or none have one
        bias = np.concatenate(biases) if biases else None
        return self.layers.dense(x, "+".join(names), names, build, bias, scales=self._joined_scales(paths))

    def _joined_scales(self, paths: Sequence[str]) -> NDArray[np.float32] | None:
        fixed = [(self.layers.store.fixed_scales(f"{path}.weight", self.spec.width), self._row_scale(path)) for path in paths]
        parts = [scales * factor for scales, factor in fixed if scales is not None]  # all or none have some
        return np.concatenate(parts) if parts else None

    def _row_scale(self, name: str) -> np.float32:
        """What the rows of projection `name` are multiplied by: those of q carry the score scale, unless a norm or a MUL does."""
        return np.float32(self.spec.score_scale if name.endswith(".q") and self._folds_score_scale(name) else 1)

    def _folds_score_scale(self, name: str) -> bool:
        """Whether projection `name`, a q, carries the score scale: fixed scales of blocks, short floats, are not multiplied."""
        if self.spec.qk_norm or self.layers.static:
            return False
        encoding, fixed, _ = self._kind(f"{name}.weight")
        return not (fixed and encoding is Encoding.INT4_BLOCK32)

    def _bias(self, path: str, norm: str) -> NDArray[np.float32] | None:
        """(rows,): the projection's own bias and what a folded LayerNorm's bias becomes behind its matrix; None where both are absent."""
        bias = self.model.float32(f"{path}.bias") if f"{path}.bias" in self.model.weights else None
        if norm and self.spec.norm == "layer":
            folded: NDArray[np.float32] = self.model.float32(f"{path}.weight") @ self.model.float32(f"{norm}.bias")
            bias = folded if bias is None else bias + folded
        return None if bias is None else bias * self._row_scale(path)
