"""Causal attention of a transformer's block against the caches that its host keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm.lower.projections import Projections
from edgelm.tflite.graph import Tensor


@dataclass(frozen=True)
class Shared:
    """What all blocks of a signature use.

    Attributes:
        mask: Decode: (1, 1, 1, cache). Prefill: (1, 1, group * tokens, cache + tokens), past and chunk.
        cos: (1, 1, tokens, head_dim), or None without rotary positions.
        sin: As `cos`, negative in the first half of the rotary columns.
    """

    mask: Tensor
    cos: Tensor | None = None
    sin: Tensor | None = None


class Attention:
    """Attention of the blocks of one signature.

    Args:
        projections: Of the signature.
        cache: Slots of each cache.
        tokens: New tokens.
        decodes: One token, not a chunk of maybe one.
    """

    def __init__(self, projections: Projections, cache: int, tokens: int, *, decodes: bool) -> None:
        self.projections = projections
        self.spec = projections.spec
        self.g = projections.g
        self.cache = cache
        self.tokens = tokens
        self.decodes = decodes
        self.group = self.spec.heads // self.spec.kv_heads  # query heads that read one key head; they become rows of one product

    def attend(self, at: str, x: Tensor, norm: str, cache: tuple[Tensor, Tensor], shared: Shared) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of x (tokens, width), behind its norm if `norm` names one.

        Returns:
            Its output (tokens, width), and the new rows of k and v (1, kv_heads, tokens, head_dim).
        """
        g, spec = self.g, self.spec
        y = self.projections.project(x, at, ("q", "k", "v"), norm)  # (tokens, (heads + 2 kv_heads) * head_dim)
        every = self._split_heads(y)  # (1, heads + 2 kv_heads, tokens, head_dim): those of q, k, v
        v = self._cut(every, 1, spec.heads + spec.kv_heads, spec.kv_heads)
        if spec.qk_norm or shared.cos is not None:  # q and k together: half the ops
            qk = self._cut(every, 1, 0, spec.heads + spec.kv_heads)
            every = self._turn(self._qk_norm(at, qk) if spec.qk_norm else qk, shared)
        q, k = self._cut(every, 1, 0, spec.heads), self._cut(every, 1, spec.heads, spec.kv_heads)
        if not spec.qk_norm and not self.projections.folds_score_scale(f"{at}.q"):
            q = g.mul(q, spec.score_scale)
        q = self._reshaped(q, (1, spec.kv_heads, self.group * self.tokens, spec.head_dim))
        mixed = (self._mix_step if self.decodes else self._mix_chunk)(q, k, v, cache, shared.mask)
        if self.tokens > 1:
            mixed = g.transpose(self._reshaped(mixed, (1, spec.heads, self.tokens, spec.head_dim)), (0, 2, 1, 3))
        mixed = g.reshape(mixed, (self.tokens, spec.heads * spec.head_dim))
        return self.projections.layers.plain_dense(mixed, f"{at}.o"), k, v

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
        spec, model = self.spec, self.projections.model
        q = np.tile(model.float32(f"{at}.q_norm.weight") * np.float32(spec.score_scale), (spec.heads, 1))
        k = np.tile(model.float32(f"{at}.k_norm.weight"), (spec.kv_heads, 1))
        return self.g.mul(self.projections.rms(qk), self.g.constant(np.concatenate([q, k])[None, :, None]))

    def _turn(self, qk: Tensor, shared: Shared) -> Tensor:
        """Rotary positions on (1, heads, tokens, head_dim): [a cos - b sin, b cos + a sin, rest]."""
        if shared.cos is None or shared.sin is None:
            return qk
        g, half = self.g, self.spec.rotary_size // 2
        halves = [self._cut(qk, 3, half, half), self._cut(qk, 3, 0, half)]
        if 2 * half < self.spec.head_dim:
            halves.append(self._cut(qk, 3, 2 * half, self.spec.head_dim - 2 * half))
        return g.add(g.mul(qk, shared.cos), g.mul(g.concatenate(halves), shared.sin))
