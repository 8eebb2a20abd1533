"""The float logits of the benchmarked models, in plain NumPy: what every peer has to compute, written apart from edgelm and the peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import RecurrentSpec, TransformerSpec

Array = NDArray[np.float32]


def logits(spec: RecurrentSpec | TransformerSpec, weights: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """Float32 logits (tokens, vocab) after each token."""
    run = lstm_states if isinstance(spec, RecurrentSpec) else llama_states
    states = run(spec, weights, tokens)  # type: ignore[operator]
    return np.asarray(states @ weights["embedding.weight"].T + weights.get("head.bias", np.float32(0)), np.float32)


def lstm_states(spec: RecurrentSpec, weights: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """Outputs (tokens, units) of the last layer, and of the linear ones behind it; gates i f g o."""
    inputs = weights["embedding.weight"][list(tokens)]
    for layer, units in enumerate(spec.units):
        kernel, recurrent, bias = (weights[f"layers.{layer}.{part}"] for part in ("input.weight", "recurrent.weight", "input.bias"))
        h, c, outputs = np.zeros(units, np.float32), np.zeros(units, np.float32), []
        for x in inputs:
            i, f, g, o = np.split(kernel @ x + recurrent @ h + bias, 4)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            outputs.append(h)
        inputs = np.stack(outputs)
    for layer in range(len(spec.hidden)):
        inputs = np.asarray(inputs @ weights[f"hidden.{layer}.weight"].T + weights[f"hidden.{layer}.bias"], np.float32)
    return inputs


def llama_states(spec: TransformerSpec, weights: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """The residual stream (tokens, width) after the final norm."""
    x = weights["embedding.weight"][list(tokens)]
    for layer in range(spec.layers):
        own = {
            name: weights[f"layers.{layer}.{name}.weight"]
            for name in ("attention_norm", "q", "k", "v", "o", "ffn_norm", "gate", "up", "down")
        }
        x = x + attention(spec, _norm(x, own["attention_norm"], spec.norm_eps), own) @ own["o"].T
        hidden = _norm(x, own["ffn_norm"], spec.norm_eps)
        gate = hidden @ own["gate"].T
        x = x + (gate * _sigmoid(gate) * (hidden @ own["up"].T)) @ own["down"].T
    return _norm(x, weights["final_norm.weight"], spec.norm_eps)


def attention(spec: TransformerSpec, x: Array, own: Mapping[str, Array]) -> Array:
    """Causal grouped-query attention with rotary positions in the halves convention: (tokens, heads * head_dim)."""
    count, groups = len(x), spec.heads // spec.kv_heads
    q, k, v = ((x @ own[name].T).reshape(count, -1, spec.head_dim).swapaxes(0, 1) for name in "qkv")
    q, k = rotated(q, spec.rope_theta), rotated(k, spec.rope_theta).repeat(groups, axis=0)
    scores = q @ k.swapaxes(1, 2) * spec.head_dim**-0.5 + np.triu(np.full((count, count), -np.inf, np.float32), 1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (shares / shares.sum(-1, keepdims=True)) @ v.repeat(groups, axis=0)
    return np.asarray(mixed.swapaxes(0, 1).reshape(count, -1), np.float32)


def rotated(x: Array, theta: float) -> Array:
    """Turns (heads, tokens, head_dim) by its positions (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _norm(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * weight, np.float32)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)
