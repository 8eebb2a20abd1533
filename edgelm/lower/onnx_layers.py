"""Layers one level above ONNX ops: dense layers, lookups, norms, activations, and the int8 places of models with fixed ranges.

Where a model has ranges, QuantizeLinear and DequantizeLinear stand at every site of `edgelm.models.static_sites`, where
`edgelm.models.reference_static` rounds: engines turn each such pair around a product into an int8 product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.onnx_builder import OnnxGraphBuilder
from edgelm.lower.onnx_weights import COLUMNS, OnnxWeights
from edgelm.model import LanguageModel
from edgelm.models.reference_static import FIXED_OUTPUTS
from edgelm.models.static_sites import affines, input_site
from edgelm.spec import Activation


class OnnxLayers:
    """The layers of one graph.

    Args:
        g: The graph that nodes go to.
        weights: Of the file.
        sites: Site -> scale and zero point; None reads them from a model that has ranges.
    """

    def __init__(self, g: OnnxGraphBuilder, weights: OnnxWeights, sites: Mapping[str, tuple[float, int]] | None = None) -> None:
        self.g = g
        self.weights = weights
        if sites is None:
            sites = affines(weights.model) if weights.model.ranges else {}
        self._affines = sites

    @property
    def model(self) -> LanguageModel:
        """The model that is written."""
        return self.weights.model

    @property
    def static(self) -> bool:
        """Activations between matrices are int8."""
        return bool(self._affines)

    def inside(self, body: OnnxGraphBuilder) -> OnnxLayers:
        """The same layers for a subgraph; matrices are still written outside, so that a loop does not read them anew."""
        return OnnxLayers(body, self.weights, self._affines)

    def scalar(self, value: float) -> str:
        """A float32 constant ()."""
        return self.g.constant(np.array(value, np.float32))

    def row(self, values: NDArray[Any]) -> str:
        """A float32 constant."""
        return self.g.constant(values.astype(np.float32))

    def at(self, site: str, x: str) -> str:
        """X, rounded to the int8 range of `site` where the model has ranges."""
        return self._rounded(x, self._affines[site]) if self.static else x

    def dense(self, x: str, name: str) -> str:
        """Matrix `name`.weight times x (..., columns) plus `name`.bias where the spec has one: (..., rows)."""
        y = self.g.op("MatMul", self.at(input_site(name), x), self.weights.matrix(f"{name}.weight", COLUMNS))
        if f"{name}.bias" in self.model.weights:
            y = self.g.op("Add", y, self.weights.vector(f"{name}.bias"))
        return self.at(f"{name}:out", y)

    def lookup(self, ids: str, name: str) -> str:
        """Rows of table `name` at ids (any shape): (..., columns)."""
        return self.g.op("Gather", self.weights.matrix(name), ids, axis=0)

    def head(self, x: str) -> str:
        """Logits (..., vocab) of x (..., columns); a tied head reads the table that `lookup` reads."""
        g, spec = self.g, self.model.spec
        if not spec.tied_head:
            return self.dense(x, "head")
        table = g.op("Transpose", self.weights.matrix("embedding.weight"), perm=(1, 0))
        y = g.op("MatMul", self.at("head:in", x), table)
        return self.at("head:out", g.op("Add", y, self.weights.vector("head.bias")) if spec.head_bias else y)

    def rms(self, x: str, epsilon: float) -> str:
        """X over the root of its mean square along the last axis (Zhang & Sennrich 2019)."""
        g = self.g
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.ints(-1), keepdims=1)
        return g.op("Div", x, g.op("Sqrt", g.op("Add", mean, self.scalar(epsilon))))

    def activate(self, name: Activation, x: str) -> str:
        """An activation of `edgelm.spec`, elementwise; int8 as its kernels give it where the model has ranges."""
        if name == "silu" and self.static:
            return self.g.op("Mul", x, self.activate("sigmoid", x))
        y = self.float_activate(name, x)
        return self._rounded(y, FIXED_OUTPUTS[name]) if self.static and name in FIXED_OUTPUTS else y

    def float_activate(self, name: Activation, x: str) -> str:
        """An activation of values that stay float in every model."""
        return _ACTIVATIONS[name](self.g, x)

    def _rounded(self, x: str, affine: tuple[float, int]) -> str:
        scale, zero_point = self.scalar(affine[0]), self.g.constant(np.array(affine[1], np.int8))
        return self.g.op("DequantizeLinear", self.g.op("QuantizeLinear", x, scale, zero_point), scale, zero_point)


_ACTIVATIONS: Mapping[Activation, Callable[[OnnxGraphBuilder, str], str]] = {
    "linear": lambda g, x: x,
    "tanh": lambda g, x: g.op("Tanh", x),
    "relu": lambda g, x: g.op("Relu", x),
    "sigmoid": lambda g, x: g.op("Sigmoid", x),
    "hard_sigmoid": lambda g, x: g.op("HardSigmoid", x, alpha=0.2, beta=0.5),
    "gelu": lambda g, x: g.op("Gelu", x),
    "gelu_tanh": lambda g, x: g.op("Gelu", x, approximate="tanh"),
    "silu": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
}
