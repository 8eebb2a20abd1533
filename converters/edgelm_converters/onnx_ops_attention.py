"""Attention and rotary embeddings of ONNX (opset 23) and of onnxruntime (com.microsoft), in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxNode
from edgelm_converters.onnx_operands import Compute, Operands, dtype_of, optional, required, within_limit
from edgelm_converters.onnx_ops_arithmetic import softmax


def _heads(x: Array, count: int) -> Array:
    """(batch, time, heads * size) -> (batch, heads, time, size)."""
    return x.reshape(*x.shape[:2], count, x.shape[2] // count).transpose(0, 2, 1, 3)


def _joined(x: Array) -> Array:
    """(batch, heads, time, size) -> (batch, time, heads * size)."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _extended(past: Array | None, new: Array) -> Array:
    """Keys or values with the ones of earlier calls in front, (batch, heads, time, size)."""
    return new if past is None else np.concatenate([past, new], axis=2)


def _grouped(x: Array, heads: int) -> Array:
    """Each key or value head as often as query heads share it."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def _scores(q: Array, k: Array, scale: float) -> Array:
    """Scaled products (batch, heads, time, position)."""
    within_limit((*q.shape[:3], k.shape[2]))
    root = np.asarray(np.sqrt(scale), q.dtype)
    return np.asarray((q * root) @ (_grouped(k, q.shape[1]) * root).swapaxes(-1, -2))


def _causal(time: int, positions: int, past: int, dtype: np.dtype[np.generic]) -> Array:
    """0 where query i may see position j (j <= past + i), -inf elsewhere."""
    return np.where(np.arange(positions) <= past + np.arange(time)[:, None], 0, -np.inf).astype(dtype)


def _mask(mask: Array | None, positions: int, dtype: np.dtype[np.generic]) -> Array:
    """What the mask adds to the scores; positions behind its end are hidden."""
    if mask is None:
        return np.zeros((1, 1), dtype)
    added = np.where(mask, 0, -np.inf).astype(dtype) if mask.dtype == np.bool_ else mask
    widths = [(0, 0)] * (mask.ndim - 1) + [(0, max(0, positions - mask.shape[-1]))]
    return np.pad(added, widths, constant_values=-np.inf)


def _attention(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """Y, present_key, present_value, qk_matmul_output of ONNX's own Attention."""
    q, k, v = (required(x, number) for number in range(3))
    flat = q.ndim == 3
    if flat:
        kv_heads = int(node.attributes["kv_num_heads"])
        q, k, v = _heads(q, int(node.attributes["q_num_heads"])), _heads(k, kv_heads), _heads(v, kv_heads)
    past = optional(x, 4)
    k, v = _extended(past, k), _extended(optional(x, 5), v)
    time, positions = q.shape[2], k.shape[2]
    products = _scores(q, k, float(node.attributes.get("scale", q.shape[3] ** -0.5)))  # (batch, heads, time, position)
    biased = products + _mask(optional(x, 3), positions, q.dtype)
    if node.attributes.get("is_causal", 0):
        biased = biased + _causal(time, positions, 0 if past is None else past.shape[2], q.dtype)
    lengths = optional(x, 6)
    if lengths is not None:
        biased = np.where(np.arange(positions) < lengths[:, None, None, None], biased, -np.inf).astype(q.dtype)
    softcap = float(node.attributes.get("softcap", 0.0))
    capped = softcap * np.tanh(biased / softcap) if softcap > 0 else biased
    precision = node.attributes.get("softmax_precision")
    weights = softmax(capped if precision is None else capped.astype(dtype_of(precision))).astype(q.dtype)
    y = (weights @ _grouped(v, q.shape[1])).astype(q.dtype)
    shown = (products, biased, capped, weights)[int(node.attributes.get("qk_matmul_output_mode", 0))]
    return (_joined(y) if flat else y), k, v, shown.astype(q.dtype)


def rotated(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Turns the leading columns of heads (Su et al. 2021); the others stay.

    Args:
        x: (batch, heads, time, size).
        cos: (batch or 1, 1, time, turned / 2).
        sin: Like `cos`.
        interleaved: Neighbouring columns form pairs, instead of the first and the second half of those turned.
    """
    turned = 2 * cos.shape[-1]
    part, rest = x[..., :turned], x[..., turned:]
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else np.split(part, 2, axis=-1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    both = np.stack([real, imaginary], axis=-1).reshape(part.shape) if interleaved else np.concatenate([real, imaginary], axis=-1)
    return np.asarray(np.concatenate([both, rest], axis=-1), x.dtype)


def _rotary_embedding(node: OnnxNode, x: Operands) -> Array:
    """ONNX's own: X, cos_cache, sin_cache, position_ids."""
    data, cos, sin, positions = required(x, 0), required(x, 1), required(x, 2), optional(x, 3)
    heads = _heads(data, int(node.attributes["num_heads"])) if data.ndim == 3 else data
    if positions is not None:
        cos, sin = cos[positions], sin[positions]  # (batch, time, turned / 2)
    turned = int(node.attributes.get("rotary_embedding_dim", 0)) or heads.shape[-1]
    if 2 * cos.shape[-1] != turned:
        raise NotLiftable(f"node {node.name!r} turns {turned} columns with a table of {cos.shape[-1]}")
    result = rotated(heads, cos[:, None], sin[:, None], bool(node.attributes.get("interleaved", 0)))
    return _joined(result) if data.ndim == 3 else result


def _microsoft_rotary(node: OnnxNode, x: Operands) -> Array:
    """RotaryEmbedding of onnxruntime: input, position_ids (1,) or (batch, time), cos_cache, sin_cache."""
    data, positions, cos, sin = (required(x, number) for number in range(4))
    turned = int(node.attributes.get("rotary_embedding_dim", 0))
    count = int(node.attributes.get("num_heads", 0)) or data.shape[-1] // (2 * cos.shape[-1])
    heads = _heads(data, count) if data.ndim == 3 else data
    if turned and 2 * cos.shape[-1] != turned:
        raise NotLiftable(f"node {node.name!r} turns {turned} columns with a table of {cos.shape[-1]}")
    if positions.size == 1:
        positions = (positions.reshape(()) + np.arange(heads.shape[2]))[None]
    result = rotated(heads, cos[positions][:, None], sin[positions][:, None], bool(node.attributes.get("interleaved", 0)))
    return _joined(result) if data.ndim == 3 else result


def _microsoft_attention(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """Attention of onnxruntime: input (batch, time, width), weights (width, 3 * width), bias, mask_index, past, attention_bias."""
    data, weights, bias = required(x, 0), required(x, 1), optional(x, 2)
    if node.attributes.get("do_rotary", 0) or optional(x, 3) is not None:
        raise NotLiftable(f"node {node.name!r} has a padding mask or turns q and k itself")
    heads = int(node.attributes["num_heads"])
    product = data @ weights + (0 if bias is None else bias)
    sizes = node.attributes.get("qkv_hidden_sizes") or (product.shape[-1] // 3,) * 3
    q, k, v = (_heads(part, heads) for part in np.split(product, np.cumsum(sizes)[:2], axis=-1))
    past = optional(x, 4)  # (2, batch, heads, positions, size)
    if past is not None:
        k, v = _extended(past[0], k), _extended(past[1], v)
    scale = float(node.attributes.get("scale", 0.0)) or q.shape[3] ** -0.5
    scores = _scores(q, k, scale) + _mask(optional(x, 5), k.shape[2], q.dtype)
    if node.attributes.get("unidirectional", 0):
        scores = scores + _causal(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], q.dtype)
    return _joined(softmax(scores) @ v), np.stack([k, v])


def _multi_head_attention(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """MultiHeadAttention of onnxruntime: query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value."""
    if any(optional(x, number) is not None for number in (4, 8, 9)) or required(x, 1).ndim != 3:
        raise NotLiftable(f"node {node.name!r} has packed inputs, a padding mask or a cache of a fixed size")
    heads, bias = int(node.attributes["num_heads"]), optional(x, 3)
    q, k, v = (required(x, number) for number in range(3))
    if bias is not None:
        widths = np.cumsum([q.shape[2], k.shape[2]])
        q, k, v = (part + added for part, added in zip((q, k, v), np.split(bias, widths), strict=True))
    q, k, v = (_heads(part, heads) for part in (q, k, v))
    k, v = _extended(optional(x, 6), k), _extended(optional(x, 7), v)
    scale = float(node.attributes.get("scale", 0.0)) or q.shape[3] ** -0.5
    scores = _scores(q, k, scale) + _mask(optional(x, 5), k.shape[2], q.dtype)
    if node.attributes.get("unidirectional", 0):
        scores = scores + _causal(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], q.dtype)
    return _joined(softmax(scores) @ v), k, v


def _group_query_attention(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """GroupQueryAttention of onnxruntime: query, key, value, past_key, past_value, seqlens_k, total_sequence_length, cos, sin.

    Sequences without padding: every `seqlens_k` is the total length less one. It is causal by definition.
    """
    heads, kv_heads = int(node.attributes["num_heads"]), int(node.attributes["kv_num_heads"])
    if node.attributes.get("local_window_size", -1) != -1 or node.attributes.get("softcap", 0.0) or len(x) > 9:
        raise NotLiftable(f"node {node.name!r} has a window, a softcap, or its own positions")
    q = required(x, 0)
    if optional(x, 1) is None:  # packed: heads of q, k and v in one tensor
        size = q.shape[2] // (heads + 2 * kv_heads)
        q, k, v = np.split(q, np.cumsum([heads * size, kv_heads * size]), axis=-1)
    else:
        k, v = required(x, 1), required(x, 2)
    q, k, v = _heads(q, heads), _heads(k, kv_heads), _heads(v, kv_heads)
    past, time = optional(x, 3), q.shape[2]
    start = 0 if past is None else past.shape[2]
    if np.any(required(x, 5) != start + time - 1):
        raise NotLiftable(f"node {node.name!r} has sequences of several lengths")
    if node.attributes.get("do_rotary", 0):
        cos, sin = (required(x, number)[None, None, start : start + time] for number in (7, 8))
        interleaved = bool(node.attributes.get("rotary_interleaved", 0))
        q, k = rotated(q, cos, sin, interleaved), rotated(k, cos, sin, interleaved)
    k, v = _extended(past, k), _extended(optional(x, 4), v)
    scale = float(node.attributes.get("scale", 0.0)) or q.shape[3] ** -0.5
    scores = _scores(q, k, scale) + _causal(time, k.shape[2], start, q.dtype)
    return _joined(softmax(scores) @ _grouped(v, heads)), k, v


ATTENTION: Mapping[str, Compute] = {"Attention": _attention, "RotaryEmbedding": _rotary_embedding}
MICROSOFT: Mapping[str, Compute] = {
    "Attention": _microsoft_attention,
    "GroupQueryAttention": _group_query_attention,
    "MultiHeadAttention": _multi_head_attention,
    "RotaryEmbedding": _microsoft_rotary,
}
