"""Normalisations, and the fused forms of them and of activations that onnxruntime's optimiser writes (com.microsoft), in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgelm_converters.onnx_node import Array, OnnxNode
from edgelm_converters.onnx_operands import Compute, Operands, dtype_of, optional, required
from edgelm_converters.onnx_ops_arithmetic import gelu, sigmoid


def layer_norm(x: Array, weight: Array, bias: Array | None, epsilon: float, axis: int = -1) -> tuple[Array, Array, Array]:
    """Layer normalisation over the axes from `axis` on (Ba et al. 2016): output, mean and 1 / standard deviation."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(np.mean(centred * centred, axes, keepdims=True) + np.asarray(epsilon, x.dtype))
    y = centred * inverse * weight
    return np.asarray(y if bias is None else y + bias, x.dtype), mean, inverse


def rms_norm(x: Array, weight: Array, epsilon: float, axis: int = -1) -> tuple[Array, Array]:
    """Root-mean-square normalisation over the axes from `axis` on (Zhang & Sennrich 2019): output and 1 / root mean square."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    inverse = 1 / np.sqrt(np.mean(x * x, axes, keepdims=True) + np.asarray(epsilon, x.dtype))
    return np.asarray(x * inverse * weight, x.dtype), inverse


def _epsilon(node: OnnxNode) -> float:
    return float(node.attributes.get("epsilon", 1e-5))


def _layer_normalization(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    data = required(x, 0)
    stash = dtype_of(node.attributes.get("stash_type", 1))
    y, mean, inverse = layer_norm(data.astype(stash), required(x, 1), optional(x, 2), _epsilon(node), node.attributes.get("axis", -1))
    return y.astype(data.dtype), mean, inverse


def _rms_normalization(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    data = required(x, 0)
    y, inverse = rms_norm(
        data.astype(dtype_of(node.attributes.get("stash_type", 1))), required(x, 1), _epsilon(node), node.attributes.get("axis", -1)
    )
    return y.astype(data.dtype), inverse


def _skip_layer_normalization(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """Inputs: input, skip, gamma, beta, bias. The fourth output is the sum that was normalised."""
    bias = optional(x, 4)
    total = required(x, 0) + required(x, 1) + (0 if bias is None else bias)
    return (*layer_norm(total, required(x, 2), optional(x, 3), float(node.attributes.get("epsilon", 1e-12))), total)


def _skip_simplified(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    """Inputs: input, skip, gamma, bias. The fourth output is the sum that was normalised."""
    bias = optional(x, 3)
    total = required(x, 0) + required(x, 1) + (0 if bias is None else bias)
    y, inverse = rms_norm(total, required(x, 2), float(node.attributes.get("epsilon", 1e-12)))
    return y, np.zeros_like(inverse), inverse, total


def _group_normalization(node: OnnxNode, x: Operands) -> Array:
    data, scale, bias = required(x, 0), required(x, 1), required(x, 2)
    groups = int(node.attributes["num_groups"])
    grouped = data.reshape(data.shape[0], groups, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    normal = centred / np.sqrt(np.mean(centred * centred, -1, keepdims=True) + _epsilon(node))
    shape = (1, -1) + (1,) * (data.ndim - 2)
    if len(scale) == groups != data.shape[1]:  # opsets 18 to 20: one scale for each group
        scale, bias = (np.repeat(values, data.shape[1] // groups) for values in (scale, bias))
    return np.asarray(normal.reshape(data.shape) * scale.reshape(shape) + bias.reshape(shape), data.dtype)


def _fast_gelu(node: OnnxNode, x: Operands) -> Array:
    bias = optional(x, 1)
    return gelu(required(x, 0) if bias is None else required(x, 0) + bias, "tanh")


def _quick_gelu(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    return np.asarray(data * sigmoid(float(node.attributes.get("alpha", 1.702)) * data), data.dtype)


def _fused_matmul(node: OnnxNode, x: Operands) -> Array:
    a, b = required(x, 0), required(x, 1)
    a = a.swapaxes(-1, -2) if node.attributes.get("transA", 0) else a
    b = b.swapaxes(-1, -2) if node.attributes.get("transB", 0) else b
    return np.asarray(node.attributes.get("alpha", 1.0) * (a @ b), a.dtype)


NORMS: Mapping[str, Compute] = {
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "SimplifiedLayerNormalization": _rms_normalization,  # onnxruntime writes it into ONNX's own domain
}
MICROSOFT: Mapping[str, Compute] = {
    "BiasGelu": lambda node, x: gelu(required(x, 0) + required(x, 1)),
    "FastGelu": _fast_gelu,
    "FusedMatMul": _fused_matmul,
    "Gelu": lambda node, x: gelu(required(x, 0)),
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_simplified,
}
