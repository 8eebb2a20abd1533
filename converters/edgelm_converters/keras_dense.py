"""The layers that act on each position by itself: dense layers in all their spellings, activations, batch normalisation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgelm.models.reference import activate
from edgelm.spec import Activation, FloatArray
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_wiring import Wiring, operation, option, weight_of
from edgelm_converters.lift import NotLiftable

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


@dataclass(frozen=True)
class Affine:
    """activation(weight @ x + bias).

    Attributes:
        weight: (out, in).
        bias: (out,) or None.
        activation: One of the spec's, or `softmax` or `log_softmax`.
    """

    weight: FloatArray
    bias: FloatArray | None = None
    activation: str = "linear"

    def __call__(self, x: FloatArray) -> FloatArray:
        """Applies it to (..., in)."""
        y = x @ self.weight.T
        return activate(spec_activation(self.activation), y if self.bias is None else y + self.bias)

    def of_one_hot(self) -> FloatArray:
        """Its outputs for every one-hot input: (in, out)."""
        return activate(spec_activation(self.activation), self.weight.T + self.bias_or_zero())

    def bias_or_zero(self) -> FloatArray:
        """The bias, zeros where there is none: (out,)."""
        return np.zeros(self.weight.shape[0], self.weight.dtype) if self.bias is None else self.bias

    def after(self, first: Affine) -> Affine:
        """This layer with the linear layer `first` in front of it, as one layer: W (A x + t) + b = (W A) x + (W t + b)."""
        bias = self.bias if first.bias is None else self.bias_or_zero() + self.weight @ first.bias
        return dataclasses.replace(self, weight=self.weight @ first.weight, bias=bias)

    def scaled(self, scale: FloatArray, shift: FloatArray | None = None) -> Affine:
        """Returns scale * y + shift of this (linear) layer's output y; scale and shift are (out,) or ()."""
        shifted = shift is not None and bool(np.any(shift))
        bias = None if self.bias is None and not shifted else self.bias_or_zero() * scale + (0 if shift is None else shift)
        weight = self.weight * np.broadcast_to(scale, self.weight.shape[:1])[:, None]
        return dataclasses.replace(self, weight=_float32(weight), bias=None if bias is None else _float32(bias))


def spec_activation(name: str) -> Activation:
    """`name` where the spec has that activation.

    Raises:
        NotLiftable: It has not.
    """
    if name not in get_args(Activation):
        raise NotLiftable(f"activation {name!r} is not among those edgelm rebuilds ({', '.join(get_args(Activation))})")
    return name  # type: ignore[return-value]  # checked against the literal's own values


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
        return Affine(_float32(constants[0] if option(node, "transpose_b", False) else constants[0].T))
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
    layer = Affine(_float32(kernel.T), None if bias is None else _float32(bias))
    return activated(wiring, layer, activation_name(node.config.get("activation")))


def _reversed_embedding(node: LayerNode) -> Affine | None:
    if not node.arguments.get("reverse"):
        return None
    if node.config.get("logit_soft_cap") is not None:
        raise NotLiftable(f"layer {node.name!r} caps its logits")
    apart = node.weights.get("reverse_embeddings")  # (width, vocab)
    return Affine(weight_of(node, "embeddings") if apart is None else _float32(apart.T))


def scaling_of(wiring: Wiring, node: LayerNode) -> tuple[FloatArray, FloatArray] | None:
    """(scale, shift) of a node that computes scale * x + shift by feature: BatchNormalization, Rescaling, products with constants.

    Scale and shift are (features,) or (). None for any other node.
    """
    kind = operation(node)
    if kind == "BatchNormalization":
        variance = np.asarray(weight_of(node, "moving_variance"), np.float64)
        scale = np.asarray(node.weights.get("gamma", 1.0), np.float64) / np.sqrt(variance + float(node.config.get("epsilon", 1e-3)))
        shift = np.asarray(node.weights.get("beta", 0.0), np.float64) - scale * weight_of(node, "moving_mean")
        return _float32(scale), _float32(shift)
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
    return _float32(1 / factor if kind == "Divide" else factor), _float32(np.zeros(()))


def _numbers(value: Any) -> FloatArray | None:
    try:
        return _float32(np.asarray(value, np.float64))
    except (TypeError, ValueError):  # a serialised object
        return None


def _float32(array: NDArray[Any]) -> FloatArray:
    return np.asarray(array, np.float32)
