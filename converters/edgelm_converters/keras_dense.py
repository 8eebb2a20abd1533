"""The layers that act on each position by itself: dense layers in all their spellings, activations, batch normalisation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgelm.spec import FloatArray
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_wiring import Wiring, operation, option, weight_of
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, as_float32

ACTIVATION_OPERATIONS: Mapping[str, str] = {
    "Gelu": "gelu",
    "LogSoftmax": "log_softmax",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softmax": "softmax",
    "Tanh": "tanh",
}
SOFTMAX = ("softmax", "log_softmax")

# Keras 3: clip(x / 6 + 1/2), the spec's and Keras 2's: clip(x / 5 + 1/2). The one is the other of 5/6 of its input.
KERAS3_HARD_SIGMOID = 5 / 6


def activation_name(value: Any) -> str:
    """The name of an activation as a config gives it: `"relu"`, None, or a serialised function or layer."""
    if isinstance(value, Mapping):
        config = value.get("config")
        value = config if isinstance(config, str) else value.get("class_name")
    name = "linear" if value is None else str(value).rsplit(">", 1)[-1]
    return {"swish": "silu", "ReLU": "relu", "Softmax": "softmax"}.get(name, name)


def activation_of(node: LayerNode) -> str | None:
    """The activation that `node` is, when it is nothing else."""
    kind = operation(node)
    if kind == "Activation":
        return activation_name(node.config.get("activation"))
    name = ACTIVATION_OPERATIONS.get(kind)
    if name == "relu":
        slope = node.config.get("negative_slope") or node.config.get("threshold")
        return "clipped relu" if slope or node.config.get("max_value") is not None else name
    if name == "gelu" and option(node, "approximate", False):
        return "gelu_tanh"
    if name in SOFTMAX and option(node, "axis", -1) not in (-1, 2, None):
        return None
    return name


def activated(wiring: Wiring, layer: Affine, name: str) -> Affine:
    """A linear layer with an activation behind it; Keras 3's hard sigmoid is put in terms of the spec's."""
    if name == "hard_sigmoid" and wiring.graph.keras_version.startswith("3"):
        layer = layer.scaled(np.array(KERAS3_HARD_SIGMOID, np.float32))
    return dataclasses.replace(layer, activation=name)


def dense_of(wiring: Wiring, node: LayerNode) -> Affine | None:
    """`node` as a dense layer over the last axis, or None.

    That is `Dense`, `EinsumDense` over the last axis, `Conv1D` of kernel size 1, a product with a constant matrix and a
    `ReversibleEmbedding` used backwards.
    """
    kind = operation(node)
    if kind == "Matmul":
        constants = [operand for operand in wiring.operands(node) if not isinstance(operand, str)]
        if len(constants) != 1 or constants[0].ndim != 2 or not isinstance(wiring.operands(node)[0], str):
            return None
        return Affine(as_float32(constants[0] if option(node, "transpose_b", False) else constants[0].T))
    if kind == "ReversibleEmbedding":
        return _reversed_embedding(node)
    if kind not in ("Dense", "Conv1D", "EinsumDense") or "kernel" not in node.weights:
        return None
    kernel = node.weights["kernel"]
    if kind == "Conv1D":
        if kernel.shape[0] != 1 or node.config.get("strides", [1])[0] != 1 or node.config.get("groups", 1) != 1:
            return None
        kernel = kernel[0]
    if kind == "EinsumDense" and not re.fullmatch(r"(\.\.\.|\w+)(\w),\2(\w)->\1\3", str(node.config.get("equation"))):
        return None
    bias = node.weights.get("bias")
    layer = Affine(as_float32(kernel.T), None if bias is None else as_float32(bias))
    return activated(wiring, layer, activation_name(node.config.get("activation")))


def _reversed_embedding(node: LayerNode) -> Affine | None:
    if not node.arguments.get("reverse"):
        return None
    if node.config.get("logit_soft_cap") is not None:
        raise NotLiftable(f"layer {node.name!r} caps its logits")
    apart = node.weights.get("reverse_embeddings")  # (width, vocab)
    return Affine(weight_of(node, "embeddings") if apart is None else as_float32(apart.T))


def scaling_of(wiring: Wiring, node: LayerNode) -> tuple[FloatArray, FloatArray] | None:
    """(scale, shift) of a node that computes scale * x + shift by feature: BatchNormalization, Rescaling, products with constants.

    Scale and shift are (features,) or (). None for any other node.
    """
    kind = operation(node)
    if kind == "BatchNormalization":
        variance = np.asarray(weight_of(node, "moving_variance"), np.float64)
        scale = np.asarray(node.weights.get("gamma", 1.0), np.float64) / np.sqrt(variance + float(node.config.get("epsilon", 1e-3)))
        shift = np.asarray(node.weights.get("beta", 0.0), np.float64) - scale * weight_of(node, "moving_mean")
        return as_float32(scale), as_float32(shift)
    if kind == "Rescaling":
        scale, shift = _numbers(node.config.get("scale", 1.0)), _numbers(node.config.get("offset", 0.0))
        return None if scale is None or shift is None else (scale, shift)
    if kind not in ("Multiply", "Divide"):
        return None
    operands = wiring.operands(node)
    constants = [operand for operand in operands if not isinstance(operand, str)]
    if len(operands) != 2 or len(constants) != 1 or constants[0].size != 1 or (kind == "Divide" and isinstance(operands[1], str)):
        return None
    factor = constants[0].astype(np.float64).reshape(())
    return as_float32(1 / factor if kind == "Divide" else factor), as_float32(np.zeros(()))


def _numbers(value: Any) -> FloatArray | None:
    try:
        return as_float32(np.asarray(value, np.float64))
    except (TypeError, ValueError):  # a serialised object
        return None
