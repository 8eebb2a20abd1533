"""Layers whose activations are int8 with the ranges of the model, for NPUs: every product is int8 x int8 -> int8.

What is int8: the products of gates, projections, attention (q, k, v, o), feed-forward layers and head, with int32 biases; the sums of
gates; LOGISTIC and TANH of int8 values; the gating products of feed-forward layers. What stays float stands in `float_islands`.
Inputs and outputs of signatures are float32 as ever, so hosts see no difference.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.lower.layers import LayerBuilder
from edgelm.lower.store import WeightStore
from edgelm.models.static_sites import affines, input_site
from edgelm.spec import Activation, Encoding, ModelSpec, RecurrentSpec
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import QuantizedTensor, integer_values
from edgelm.tflite.static_graph import LOGISTIC_OUTPUT, TANH_OUTPUT, Affine, StaticGraphBuilder
from edgelm.tflite.writer import ModelBuilder

LARGEST_BIAS = 2.0**30
"""In steps of the accumulator: int32 with room for the sum."""


def float_islands(spec: ModelSpec) -> str:
    """What a graph with int8 activations computes in float32, in one sentence."""
    if isinstance(spec, RecurrentSpec):
        inner = {
            "rnn": "nothing in the cell",
            "gru": "the GRU's state and its blending by the gates",
            "lstm": "the LSTM's cell state and output",
            "cifg": "the CIFG's cell state and output",
        }[spec.cell]
    else:
        inner = "norms, rotary positions, attention over the cache and the residual stream"
    return f"activations are int8 with fixed ranges; float32 are embedding rows, {inner}, and the inputs and outputs of the file"


def layer_builder(builder: ModelBuilder, signature: str, store: WeightStore) -> LayerBuilder:
    """The layers of a new signature: with int8 activations where the model has ranges for them."""
    return (StaticLayerBuilder if store.model.ranges else LayerBuilder)(builder, signature, store)


class StaticLayerBuilder(LayerBuilder):
    """As `LayerBuilder`, with int8 tensors between the layers.

    Args:
        builder: The file.
        signature: Name of the new signature.
        store: The weights, of a model with ranges.

    Raises:
        UnsupportedModelError: A site has no range, or a matrix is not int8.
    """

    static = True

    def __init__(self, builder: ModelBuilder, signature: str, store: WeightStore) -> None:
        self._check(store)
        self.g: StaticGraphBuilder = builder.subgraph(signature, StaticGraphBuilder)
        self.store = store
        self._affines = {site: Affine(*affine) for site, affine in affines(store.model).items()}

    def head(self, x: Tensor) -> Tensor:
        """Logits int8 (..., vocab) of x (..., columns)."""
        model = self.store.model
        key = "embedding.weight" if model.spec.tied_head else "head.weight"
        bias = model.float32("head.bias") if model.spec.head_bias else None
        return self._product(x, key, self.store.whole(key), bias)

    def add(self, a: Tensor, b: Tensor, site: str) -> Tensor:
        """A + b, int8 with the range of `site`."""
        if a.dtype == b.dtype == "int8":
            return self.g.integer_add(a, b, self._affines[site])
        return self.g.quantize(self.g.add(a, b), self._affines[site])

    def mul(self, a: Tensor, b: Tensor, site: str) -> Tensor:
        """A * b, int8 with the range of `site`."""
        if a.dtype == b.dtype == "int8":
            return self.g.integer_mul(a, b, self._affines[site])
        return self.g.quantize(self.g.mul(a, b), self._affines[site])

    def activate(self, name: Activation, x: Tensor, site: str = "") -> Tensor:
        """An activation; of int8 values int8 where there is a kernel, and a range (of `site`) where it needs one."""
        g, to = self.g, self._affines.get(site)
        if x.dtype != "int8":
            return super().activate(name, x)
        if name == "sigmoid":
            return g.integer_unary("LOGISTIC", x, LOGISTIC_OUTPUT)
        if name == "tanh":
            return g.integer_unary("TANH", x, TANH_OUTPUT)
        if name == "relu":
            return g.integer_unary("RELU", x, g.affine(x))
        if name == "silu":
            gate = g.integer_unary("LOGISTIC", x, LOGISTIC_OUTPUT)
            return g.mul(x, gate) if to is None else g.integer_mul(x, gate, to)
        if name in ("gelu", "gelu_tanh") and to is not None:
            options = schema.GeluOptionsT()
            options.approximate = name == "gelu_tanh"
            return g.integer_unary("GELU", x, to, options)
        return super().activate(name, x)

    def _product(self, x: Tensor, key: str, q: QuantizedTensor, bias: NDArray[np.float32] | None) -> Tensor:
        name = _product_name(key)
        given, to = self._affines[input_site(name)], self._affines[f"{name}:out"]
        scales = _usable_scales(q, given.scale, to.scale)  # (rows,)
        weight = self.g.weight(key, q) if scales is q.scales else self.g.rescaled_weight(key, q, scales)
        return self.g.integer_fully_connected(self.g.quantize(x, given), weight, self._bias(bias, scales, given.scale), to)

    def _bias(self, bias: NDArray[np.float32] | None, scales: NDArray[np.float32], input_scale: float) -> Tensor | None:
        """A bias (rows,) in steps of the accumulators."""
        if bias is None:
            return None
        steps = (scales.astype(np.float64) * input_scale).astype(np.float32)
        integers = np.rint(np.clip(bias.astype(np.float64) / steps, -LARGEST_BIAS, LARGEST_BIAS))
        return self.g.accumulator_bias(integers.astype(np.int32), steps)

    @staticmethod
    def _check(store: WeightStore) -> None:
        for name, weight in store.model.weights.items():
            if weight.ndim == 2 and name != "positions.weight" and store.model.encoding(name) is not Encoding.INT8:
                raise UnsupportedModelError(
                    f"weight {name} is {store.model.encoding(name).value}, and the model has fixed activation ranges",
                    allowed="int8 for every matrix",
                    fix='set weights, embedding and head to "int8", and keep_float to []',
                )


def _product_name(key: str) -> str:
    """The product that a matrix of the file belongs to: a GRU's recurrent rows are two where the reset gate comes first."""
    if key == "embedding.weight":
        return "head"
    name, _, first = key.partition(".weight")
    return f"{name.removesuffix('.recurrent')}.candidate" if first == ":2" else name


def _usable_scales(q: QuantizedTensor, input_scale: float, output_scale: float) -> NDArray[np.float32]:
    """Row scales (rows,) whose products with the input's hold the biases: rows of zeros, which have none to speak of, get others."""
    if q.scales is None:
        raise ValueError("an int8 weight without scales")
    scales: NDArray[np.float32] = q.scales
    zeros = ~integer_values(q).any(axis=1)
    if not zeros.any():
        return scales
    return np.where(zeros, np.float32(output_scale / input_scale / 1024), scales)
