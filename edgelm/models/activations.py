"""The activations of `edgelm.spec` in numpy, in any float dtype."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import Activation, FloatArray

_ERF_STEP = 1 / 512
_ERF_END = 6.0  # 1 - erf(6) is 2e-17


def activate(name: Activation, x: FloatArray) -> FloatArray:
    """Applies an activation elementwise, in x's dtype.

    `hard_sigmoid` is Keras 2's, clip(0.2 x + 0.5, 0, 1); `gelu` is the exact one, `gelu_tanh` its usual approximation
    (Hendrycks & Gimpel 2016).
    """
    return _ACTIVATIONS[name](x)


def _sigmoid(x: FloatArray) -> FloatArray:
    half = x.dtype.type(0.5)
    y: FloatArray = half * np.tanh(half * x) + half  # unlike 1 / (1 + exp(-x)), never overflows
    return y


def _gelu(x: FloatArray) -> FloatArray:
    y: FloatArray = 0.5 * x * (1 + _erf(x.astype(np.float64) * math.sqrt(0.5)))
    return y.astype(x.dtype)


def _gelu_tanh(x: FloatArray) -> FloatArray:
    y: FloatArray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return y.astype(x.dtype)


@functools.cache
def _erf_nodes() -> NDArray[np.float64]:
    return np.array([math.erf(i * _ERF_STEP) for i in range(int(_ERF_END / _ERF_STEP) + 2)])


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic Hermite interpolation of math.erf (numpy has none): off by less than 1e-12."""
    size = np.minimum(np.abs(x), _ERF_END)
    index = (size / _ERF_STEP).astype(np.int64)
    start, t = index * _ERF_STEP, size / _ERF_STEP - index
    left, right = _erf_nodes()[index], _erf_nodes()[index + 1]
    slope, next_slope = (_ERF_STEP * 2 / math.sqrt(math.pi) * np.exp(-(at**2)) for at in (start, start + _ERF_STEP))
    rise = right - left
    curve = left + t * (slope + t * (3 * rise - 2 * slope - next_slope + t * (slope + next_slope - 2 * rise)))
    return np.copysign(curve, x)


_ACTIVATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1).astype(x.dtype),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
}
