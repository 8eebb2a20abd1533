"""Decoder-only transformers as a ladder of `decode_C` signatures and one or two `prefill_T`, all on one copy of the weights.

    decode_C:  token int32 (1,), position int32 (1,), mask float32 (1, 1, 1, C), k_i and v_i float32 (1, kv_heads, C, head_dim)
               ->  logits float32 (1, vocab), k_i and v_i float32 (1, kv_heads, 1, head_dim)
    prefill_T: tokens int32 (T,), position int32 (1,), last int32 (1,), mask and caches as in a decode (see `default_prefills`)
               ->  logits float32 (1, vocab) after token `last` of the chunk, k_i and v_i float32 (1, kv_heads, T, head_dim)

The host owns the caches: after each call it writes the new rows at axis 2, slot `position`, and sets the mask there from `MASKED` to 0.
Caches never travel: only new rows are outputs (1.3 to 3 times faster than caches in and out or resource variables). Attention over the
cache costs time for every slot, filled or not, so a host uses the smallest rung that holds its context. Rows of a chunk after `last`
are padding; their outputs are to be ignored. (V kept transposed made no difference: 0.99 to 1.03 of the time on five shapes.)

What of a block is folded and joined stands in `edgelm.lower.projections`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.attention import Attention, Shared
from edgelm.lower.layers import LayerBuilder
from edgelm.lower.projections import Projections
from edgelm.lower.static import layer_builder
from edgelm.lower.store import WeightStore
from edgelm.spec import TransformerSpec
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


class _Call:
    """One signature: `tokens` new tokens against `cache` slots."""

    def __init__(self, spec: TransformerSpec, layers: LayerBuilder, cache: int, tokens: int, *, decodes: bool) -> None:
        self.spec = spec
        self.layers = layers
        self.g = layers.g
        self.cache = cache
        self.tokens = tokens
        self.decodes = decodes
        self.projections = Projections(spec, layers)
        self.attention = Attention(self.projections, cache, tokens, decodes=decodes)

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
            x, rows[f"k_{layer}"], rows[f"v_{layer}"] = self._block(f"layers.{layer}", x, cache, shared)
        g.output("logits", self._head(x if last is None else g.gather(x, last)))
        for name, tensor in rows.items():
            g.output(name, tensor)

    def _block(self, at: str, x: Tensor, cache: tuple[Tensor, Tensor], shared: Shared) -> tuple[Tensor, Tensor, Tensor]:
        """X (tokens, width) after a block, and the new rows of k and v."""
        attention_norm, ffn_norm = f"{at}.attention_norm", f"{at}.ffn_norm"
        attended, k, v = self.attention.attend(at, x, self._pre(attention_norm), cache, shared)
        y = self._residual(x, attended, attention_norm)
        read = x if self.spec.parallel_residual else y
        return self._residual(y, self._feed_forward(at, read, self._pre(ffn_norm)), ffn_norm), k, v

    def _pre(self, norm: str) -> str:
        return norm if self.spec.norm_position == "pre" else ""

    def _shared(self, mask: Tensor, positions: Tensor) -> Shared:
        g, spec = self.g, self.spec
        if not self.decodes:
            mask = self._chunk_mask(mask)
        if spec.position != "rotary":
            return Shared(mask)
        frequencies = spec.rope_theta ** (-np.arange(0, spec.rotary_size, 2) / spec.rotary_size)
        still = np.zeros(spec.head_dim - spec.rotary_size)  # angle 0: these columns are not turned
        at = self._float_positions(positions, (1, 1, self.tokens, 1))
        cos = g.cos(g.mul(at, self._row(np.concatenate([frequencies, frequencies, still]))))
        sin = g.sin(g.mul(at, self._row(np.concatenate([-frequencies, frequencies, still]))))
        return Shared(mask, cos, sin)

    def _chunk_mask(self, past: Tensor) -> Tensor:
        """The mask of a chunk's queries, (1, 1, group * tokens, cache + tokens): the host's for the past, causal within the chunk."""
        g = self.g
        query = np.tile(np.arange(self.tokens, dtype=np.float32), self.attention.group).reshape(1, 1, -1, 1)
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
        return self.projections.norm(x, "embedding_norm") if spec.embedding_norm else x

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
            return self.projections.project(x, "", ("head",), norm)
        return self.layers.head(self.projections.norm(x, norm) if norm else x)

    def _residual(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        total = self.g.add(x, y)
        return self.projections.norm(total, norm) if self.spec.norm_position == "post" else total

    def _feed_forward(self, at: str, x: Tensor, norm: str) -> Tensor:
        spec = self.spec
        if not spec.gated:
            inner = self.layers.activate(spec.activation, self.projections.project(x, at, ("up",), norm), f"{at}.down:in")
        else:
            parts = self.projections.products(x, at, ("gate", "up"), norm)  # one (tokens, 2 * ffn_size) or two (tokens, ffn_size)
            gate, up = parts if len(parts) == 2 else self.g.split(parts[0], 2)
            inner = self.layers.mul(self.layers.activate(spec.activation, gate, f"{at}.gate:act"), up, f"{at}.down:in")
        return self.layers.plain_dense(inner, f"{at}.down")
