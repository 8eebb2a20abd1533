"""ONNX operations that calculate by element, along axes, or with matrices: numpy evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxNode
from edgelm_converters.onnx_operands import Compute, Operands, axes_of, optional, required, within_limit

_erf = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """The error function, in the dtype of `x`."""
    return np.asarray(_erf(x) if x.size else x).astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), x.dtype)


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) without overflow."""
    with np.errstate(invalid="ignore"):  # rows of -inf alone are not a number
        exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True), x.dtype)


def gelu(x: Array, approximate: str = "none") -> Array:
    """Returns x * Phi(x) (Hendrycks & Gimpel 2016), exact or with `tanh`."""
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), x.dtype)
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))), x.dtype)


def _unary(function: Callable[[Array], Array]) -> Compute:
    """An operation of one operand that keeps its dtype."""
    return lambda node, x: np.asarray(function(required(x, 0)), required(x, 0).dtype)


def _is_inf(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    return (np.isposinf(data) & bool(node.attributes.get("detect_positive", 1))) | (
        np.isneginf(data) & bool(node.attributes.get("detect_negative", 1))
    )


def _binary(function: Callable[[Array, Array], Array]) -> Compute:
    """An operation of two or more operands that are broadcast."""

    def compute(node: OnnxNode, x: Operands) -> Array:
        result = required(x, 0)
        for number in range(1, len(x)):
            other = required(x, number)
            within_limit(np.broadcast_shapes(result.shape, other.shape))
            result = np.asarray(function(result, other))
        return result

    return compute


def _divide(a: Array, b: Array) -> Array:
    """Whole numbers are truncated towards zero."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    quotient = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    return np.asarray(quotient * np.sign(a) * np.sign(b), a.dtype)


def _power(node: OnnxNode, x: Operands) -> Array:
    base, exponent = required(x, 0), required(x, 1)
    return np.power(base, exponent).astype(base.dtype)


def _mod(node: OnnxNode, x: Operands) -> Array:
    return (np.fmod if node.attributes.get("fmod", 0) else np.mod)(required(x, 0), required(x, 1))


def _global_average(node: OnnxNode, x: Operands) -> Array:
    """Mean over all axes behind the channels: tf2onnx writes Keras' LayerNormalization with it."""
    data = required(x, 0)
    return np.asarray(data.mean(tuple(range(2, data.ndim)), keepdims=True), data.dtype)


def _mean(node: OnnxNode, x: Operands) -> Array:
    total = np.asarray(_binary(np.add)(node, x))
    return np.asarray(total / len(x), required(x, 0).dtype)


def _clip(node: OnnxNode, x: Operands) -> Array:
    low = optional(x, 1) if node.opset >= 11 else node.attributes.get("min")
    high = optional(x, 2) if node.opset >= 11 else node.attributes.get("max")
    data = required(x, 0)
    data = data if low is None else np.maximum(data, np.asarray(low, data.dtype))
    return data if high is None else np.minimum(data, np.asarray(high, data.dtype))


def _reduction(function: Callable[..., Array]) -> Compute:
    """A reduction over axes, all of them where none are named."""

    def compute(node: OnnxNode, x: Operands) -> Array:
        data, axes = required(x, 0), axes_of(node, x)
        if not axes and node.attributes.get("noop_with_empty_axes", 0):
            return data
        return np.asarray(function(data, axis=tuple(axes) if axes else None, keepdims=bool(node.attributes.get("keepdims", 1))), data.dtype)

    return compute


def _l2(data: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.sqrt(np.sum(data * data, axis=axis, keepdims=keepdims)))


def _sum_of_squares(data: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.sum(data * data, axis=axis, keepdims=keepdims))


def _argument(function: Callable[..., Array]) -> Compute:
    def compute(node: OnnxNode, x: Operands) -> Array:
        if node.attributes.get("select_last_index", 0):
            raise NotLiftable(f"node {node.name!r} selects the last of equal values")
        axis, keepdims = node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1))
        return np.asarray(function(required(x, 0), axis=axis, keepdims=keepdims), np.int64)

    return compute


def _cumulative_sum(node: OnnxNode, x: Operands) -> Array:
    data, axis = required(x, 0), int(required(x, 1).reshape(-1)[0])
    data = np.flip(data, axis) if node.attributes.get("reverse", 0) else data
    total = np.cumsum(data, axis, dtype=data.dtype)
    total = total - data if node.attributes.get("exclusive", 0) else total
    return np.flip(total, axis) if node.attributes.get("reverse", 0) else total


def _softmax(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    if node.opset >= 13:
        return softmax(data, node.attributes.get("axis", -1))
    axis = node.attributes.get("axis", 1)  # of old: over all axes from this one on
    return softmax(data.reshape(math.prod(data.shape[: axis % data.ndim]), -1)).reshape(data.shape)


def _log_softmax(node: OnnxNode, x: Operands) -> Array:
    with np.errstate(divide="ignore"):
        data = required(x, 0)
        axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
        if node.opset < 13 and axis % data.ndim != data.ndim - 1:
            raise NotLiftable(f"node {node.name!r} normalises over several axes")
        shifted = data - data.max(axis=axis, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), data.dtype)


def _matmul(node: OnnxNode, x: Operands) -> Array:
    a, b = required(x, 0), required(x, 1)
    if a.ndim > 1 and b.ndim > 1:
        within_limit((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
    return np.asarray(a @ b)


def _gemm(node: OnnxNode, x: Operands) -> Array:
    a, b, c = required(x, 0), required(x, 1), optional(x, 2)
    a = a.T if node.attributes.get("transA", 0) else a
    b = b.T if node.attributes.get("transB", 0) else b
    within_limit((a.shape[0], b.shape[1]))
    product = node.attributes.get("alpha", 1.0) * (a @ b)
    return np.asarray(product if c is None else product + node.attributes.get("beta", 1.0) * c, a.dtype)


def _einsum(node: OnnxNode, x: Operands) -> Array:
    operands = [operand for operand in x if operand is not None]
    if sum(operand.size for operand in operands) > 1 << 16:
        raise NotLiftable(f"node {node.name!r} is a large einsum")
    equation = str(node.attributes["equation"]).replace(" ", "")
    sizes = dict[str, int]()
    for term, operand in zip(equation.split("->")[0].split(","), operands, strict=True):
        sizes |= dict(zip(reversed(term), reversed(operand.shape), strict=False))
    within_limit([sizes.get(letter, 1) for letter in equation.partition("->")[2]])
    return np.asarray(np.einsum(equation, *operands, optimize=True))


def _dequantize(node: OnnxNode, x: Operands) -> Array:
    data, scale, zero = required(x, 0), required(x, 1), optional(x, 2)
    axis, block = node.attributes.get("axis", 1), node.attributes.get("block_size", 0)
    shifted = data.astype(np.float32) - (0 if zero is None else _along(zero, data, axis, block).astype(np.float32))
    return np.asarray(shifted * _along(scale, data, axis, block), np.float32)


def _along(values: Array, data: Array, axis: int, block: int) -> Array:
    """Scales or zero points in the shape of `data`: one for all, one for each index of an axis, or one for each block of it."""
    if block:
        return np.repeat(values, block, axis=axis)[tuple(slice(0, size) for size in data.shape)]
    if values.size == 1:
        return values.reshape(())
    shape = [1] * data.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _leaky_relu(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    return np.where(data < 0, data * np.asarray(node.attributes.get("alpha", 0.01), data.dtype), data)


def _hard_sigmoid(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    return np.asarray(np.clip(node.attributes.get("alpha", 0.2) * data + node.attributes.get("beta", 0.5), 0, 1), data.dtype)


ARITHMETIC: Mapping[str, Compute] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "ArgMax": _argument(np.argmax),
    "ArgMin": _argument(np.argmin),
    "Ceil": _unary(np.ceil),
    "Clip": _clip,
    "Cos": _unary(np.cos),
    "CumSum": _cumulative_sum,
    "DequantizeLinear": _dequantize,
    "Div": _binary(_divide),
    "Einsum": _einsum,
    "Equal": _binary(np.equal),
    "Erf": _unary(erf),
    "Exp": _unary(np.exp),
    "Floor": _unary(np.floor),
    "Gelu": lambda node, x: gelu(required(x, 0), node.attributes.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "HardSigmoid": _hard_sigmoid,
    "IsInf": _is_inf,
    "IsNaN": lambda node, x: np.isnan(required(x, 0)),
    "LeakyRelu": _leaky_relu,
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Log": _unary(np.log),
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Max": _binary(np.maximum),
    "Mean": _mean,
    "Min": _binary(np.minimum),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _unary(np.logical_not),
    "Or": _binary(np.logical_or),
    "Pow": _power,
    "Reciprocal": _unary(np.reciprocal),
    "ReduceL2": _reduction(_l2),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "ReduceSumSquare": _reduction(_sum_of_squares),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Round": _unary(np.rint),
    "Sigmoid": _unary(sigmoid),
    "Sign": _unary(np.sign),
    "Sin": _unary(np.sin),
    "Softmax": _softmax,
    "Softplus": _unary(lambda x: np.logaddexp(x, 0)),
    "Sqrt": _unary(np.sqrt),
    "Sub": _binary(np.subtract),
    "Sum": _binary(np.add),
    "Swish": lambda node, x: np.asarray(required(x, 0) * sigmoid(node.attributes.get("alpha", 1.0) * required(x, 0)), required(x, 0).dtype),
    "Tanh": _unary(np.tanh),
    "Xor": _binary(np.logical_xor),
}
