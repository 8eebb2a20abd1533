"""Reads the bodies of transformer blocks from a graph: attention, feed-forward layers, norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.spec import FloatArray
from edgelm_converters.keras_dense import activated, activation_of, dense_of
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_values import constant_of, input_length
from edgelm_converters.keras_wiring import Wiring, operation, weight_of
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, Attention, FeedForward, Norm, as_float32, spec_activation

ATTENTION = frozenset({"MultiHeadAttention", "GroupQueryAttention"})

_MASK_TIME = 5  # long enough to tell a causal mask from a band or a full one, for models of any length


def norm_of(node: LayerNode) -> Norm | None:
    """`node` as a norm over the last axis, or None."""
    kind = operation(node)
    if kind not in ("LayerNormalization", "RMSNormalization"):
        return None
    arrays = [np.asarray(array, np.float32) for array in node.weights.values()]
    if not arrays or any(array.ndim != 1 for array in arrays):
        raise NotLiftable(f"norm {node.name!r} has no weights, or is not over the last axis")
    if node.config.get("rms_scaling"):
        raise NotLiftable(f"norm {node.name!r} uses rms_scaling, which is no RMS norm")
    gamma = node.weights.get("gamma", node.weights.get("scale"))
    weight = np.ones_like(arrays[0]) if gamma is None else np.asarray(gamma, np.float32)
    bias = np.asarray(node.weights.get("beta", np.zeros_like(arrays[0])), np.float32)
    return Norm("rms" if kind == "RMSNormalization" else "layer", float(node.config.get("epsilon", 1e-3)), weight, bias)


def body_of(wiring: Wiring, node: LayerNode) -> tuple[Attention | FeedForward, LayerNode] | None:
    """What `node` ends, attention or a feed-forward layer, and the node that it reads; None when it is neither.

    Raises:
        UnsupportedModelError: Attention that sees the future.
        NotLiftable: Attention of a kind the spec has no place for.
    """
    if operation(node) in ATTENTION:
        return _attention(wiring, node)
    down = dense_of(wiring, node)
    if down is None or down.activation != "linear":
        return None
    inner = wiring.source(node)
    if operation(inner) == "Multiply":
        return _gated(wiring, inner, down)
    found = _activated(wiring, inner)
    if found is None:
        return None
    up, activation, root = found
    return FeedForward(up, down, None, spec_activation(activation)), root


def _activated(wiring: Wiring, node: LayerNode) -> tuple[Affine, str, LayerNode] | None:
    """(dense layer, activation, what it reads) of a dense layer with its activation inside or behind."""
    activation = activation_of(node)
    layer = dense_of(wiring, wiring.source(node) if activation else node)
    if layer is None or (activation and layer.activation != "linear"):
        return None
    if activation:
        layer, node = activated(wiring, layer, activation), wiring.source(node)
    return Affine(layer.weight, layer.bias), layer.activation, wiring.source(node)


def _gated(wiring: Wiring, product: LayerNode, down: Affine) -> tuple[FeedForward, LayerNode] | None:
    factors = [wiring.node(operand) for operand in wiring.operands(product) if isinstance(operand, str)]
    branches = [_activated(wiring, factor) for factor in factors]
    if len(branches) != 2 or branches[0] is None or branches[1] is None:
        return None
    gate, up = sorted((branches[0], branches[1]), key=lambda branch: branch[1] == "linear")
    if up[1] != "linear" or gate[2].name != up[2].name:
        raise NotLiftable(f"{product.name!r} multiplies two activated layers, or layers of different inputs")
    return FeedForward(up[0], down, gate[0], spec_activation(gate[1])), gate[2]


def _attention(wiring: Wiring, node: LayerNode) -> tuple[Attention, LayerNode]:
    read = {wiring.node(name).name for name in (*node.inputs, *_tensors(node, "query", "value", "key"))}
    if len(read) != 1:
        raise NotLiftable(f"attention {node.name!r} reads {len(read)} tensors: cross attention")
    _check_causal(wiring, node)
    for switch in ("use_gate", "sliding_window"):
        if node.config.get(switch):
            raise NotLiftable(f"attention {node.name!r} has {switch} = {node.config[switch]!r}")
    q, k, v = (_projection(node, name) for name in ("query", "key", "value"))
    heads, head_dim = node.weights["query/kernel"].shape[1:]
    kv_heads, value_dim = node.weights["value/kernel"].shape[1:]
    if value_dim != head_dim:
        raise NotLiftable(f"attention {node.name!r} has values of {value_dim} columns and keys of {head_dim}")
    out = weight_of(node, "attention_output/kernel")  # (heads, head_dim, width)
    o = Affine(out.reshape(-1, out.shape[-1]).T, _bias(node.weights, "attention_output/bias"))
    return Attention(int(heads), int(kv_heads), int(head_dim), q, k, v, o), wiring.node(read.pop())


def _projection(node: LayerNode, name: str) -> Affine:
    kernel = node.weights.get(f"{name}/kernel")
    if kernel is None or kernel.ndim != 3:
        raise NotLiftable(f"attention {node.name!r} has no {name}/kernel (width, heads, head_dim)")
    return Affine(as_float32(kernel.reshape(kernel.shape[0], -1).T), _bias(node.weights, f"{name}/bias"))


def _bias(weights: Mapping[str, NDArray[Any]], name: str) -> FloatArray | None:
    return as_float32(weights[name].reshape(-1)) if name in weights else None


def _tensors(node: LayerNode, *names: str) -> list[str]:
    values = (node.arguments.get(name) for name in names)
    return [str(value["tensor"]) for value in values if isinstance(value, Mapping) and "tensor" in value]


def _check_causal(wiring: Wiring, node: LayerNode) -> None:
    """No position may see a later one, and none may be kept from an earlier one."""
    causal = bool(node.arguments.get("use_causal_mask"))
    mask = node.arguments.get("attention_mask")
    if mask is None:
        if causal:
            return
        raise UnsupportedModelError(
            f"attention {node.name!r} has no causal mask: each position sees the tokens that are to be predicted, so it is not causal",
            allowed="attention with use_causal_mask=True or a lower triangular attention_mask",
            fix="train the model with use_causal_mask=True in the call of the attention layer",
        )
    time = input_length(wiring) or _MASK_TIME
    operand = next(iter(_tensors(node, "attention_mask")), None)
    value = constant_of(wiring, operand, time) if operand is not None else _literal(mask)
    if value is None or value.shape[-2:] != (time, time):
        raise NotLiftable(f"the mask of attention {node.name!r} depends on the tokens, or cannot be computed")
    allowed = value.astype(bool) & np.tri(time, dtype=bool) if causal else value.astype(bool)
    if not np.array_equal(allowed, np.broadcast_to(np.tri(time, dtype=bool), allowed.shape)):
        if np.any(allowed & ~np.tri(time, dtype=bool)):
            raise UnsupportedModelError(
                f"the mask of attention {node.name!r} lets positions see later ones: it is not causal",
                allowed="a lower triangular attention_mask",
            )
        raise NotLiftable(f"the mask of attention {node.name!r} hides earlier positions")


def _literal(mask: Any) -> NDArray[Any]:
    if isinstance(mask, Mapping):
        mask = mask.get("config", {}).get("value")
    return np.asarray(mask)
