"""The Keras graph of the transformer family; importing this module imports tf_keras."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tf_keras import initializers, layers

from edgelm.models.keras_layers import CausalAttention, GatedActivation, PositionIds, RMSNorm, Scale, SinusoidalPositions, Tensor, dense
from edgelm.models.keras_recurrent import embedding_layer, head
from edgelm.spec import TransformerSpec


def transformer_logits(spec: TransformerSpec, ids: Tensor) -> Tensor:
    """Token ids (batch, time) -> logits (batch, time, vocab)."""
    embedding = embedding_layer(spec, spec.width)
    x = embedding(ids)  # (batch, time, width)
    if spec.embedding_scale != 1.0:
        x = Scale(spec.embedding_scale, name="embedding_scale")(x)
    x = _positions(spec, x, ids)
    if spec.embedding_norm:
        x = _norm(spec, "embedding_norm")(x)
    for i in range(spec.layers):
        y = _residual(spec, x, x, f"layers_{i}_attention", partial(_attention, spec, i))
        x = _residual(spec, y, x if spec.parallel_residual else y, f"layers_{i}_ffn", partial(_feed_forward, spec, i))
    if spec.final_norm:
        x = _norm(spec, "final_norm")(x)
    return head(spec, x, ids, embedding)


def _positions(spec: TransformerSpec, x: Tensor, ids: Tensor) -> Tensor:
    if spec.position == "sinusoidal":
        return SinusoidalPositions(spec.max_positions, name="positions")(x)
    if spec.position == "learned":
        start = initializers.RandomNormal(stddev=0.02)
        table = layers.Embedding(spec.max_positions, spec.width, embeddings_initializer=start, name="positions")
        return layers.Add(name="add_positions")([x, table(PositionIds(name="position_ids")(ids))])
    return x


def _residual(spec: TransformerSpec, stream: Tensor, x: Tensor, name: str, block: Callable[[Tensor], Tensor]) -> Tensor:
    """What a block makes of x, added to the stream (x itself, but for parallel residuals)."""
    norm, add = _norm(spec, f"{name}_norm"), layers.Add(name=f"{name}_add")
    return add([stream, block(norm(x))]) if spec.norm_position == "pre" else norm(add([stream, block(x)]))


def _norm(spec: TransformerSpec, name: str) -> Any:
    return RMSNorm(spec.norm_eps, name=name) if spec.norm == "rms" else layers.LayerNormalization(epsilon=spec.norm_eps, name=name)


def _attention(spec: TransformerSpec, i: int, x: Tensor) -> Tensor:
    at, d = f"layers_{i}", spec.head_dim
    q, k, v = (
        layers.Dense(heads * d, use_bias=spec.qkv_bias, name=f"{at}_{name}")(x)
        for name, heads in (("q", spec.heads), ("k", spec.kv_heads), ("v", spec.kv_heads))
    )  # (batch, time, heads * head_dim)
    if spec.qk_norm:
        q, k = RMSNorm(spec.norm_eps, d, name=f"{at}_q_norm")(q), RMSNorm(spec.norm_eps, d, name=f"{at}_k_norm")(k)
    rotary = spec.rotary_size if spec.position == "rotary" else 0
    core = CausalAttention(d, spec.score_scale, rotary, spec.rope_theta, spec.max_positions, name=f"{at}_attention")
    return layers.Dense(spec.width, use_bias=spec.output_bias, name=f"{at}_o")(core([q, k, v]))


def _feed_forward(spec: TransformerSpec, i: int, x: Tensor) -> Tensor:
    at = f"layers_{i}"
    inner = dense(x, spec.ffn_size, "linear" if spec.gated else spec.activation, spec.ffn_bias, f"{at}_up")  # (batch, time, ffn_size)
    if spec.gated:
        gate = layers.Dense(spec.ffn_size, use_bias=spec.ffn_bias, name=f"{at}_gate")(x)
        inner = GatedActivation(spec.activation, name=f"{at}_gated")([gate, inner])
    return layers.Dense(spec.width, use_bias=spec.ffn_bias, name=f"{at}_down")(inner)
