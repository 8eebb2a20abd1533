"""Layers one level above TFLite ops, written in the dialect of the runtime the graph is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.store import WeightStore
from edgelm.spec import Activation, Encoding, FloatArray
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import QuantizedTensor, quantize
from edgelm.tflite.writer import GraphBuilder, ModelBuilder

SHORT_BIAS = 1024
"""Biases of fewer outputs stay float32 and fused: an op more costs more than the bytes are worth."""


class LayerBuilder:
    """Dense layers, lookups and activations of one signature.

    Args:
        builder: The file.
        signature: Name of the new signature.
        store: The weights, shared with the other signatures.

    Attributes:
        g: The subgraph, for plain ops.
        static: Activations are int8 with ranges of their own, so that products are not joined; see `edgelm.lower.static`.
    """

    static = False

    def __init__(self, builder: ModelBuilder, signature: str, store: WeightStore) -> None:
        self.g: GraphBuilder = builder.subgraph(signature)
        self.store = store

    def dense(
        self,
        x: Tensor,
        key: str,
        names: Sequence[str],
        build: Callable[[], FloatArray],
        bias: NDArray[np.float32] | None = None,
        *,
        scales: NDArray[np.float32] | None = None,
    ) -> Tensor:
        """A matrix (rows, columns) made of `names` times x (..., columns), plus bias (rows,); see `WeightStore.matrix`."""
        return self._product(x, key, self.store.matrix(key, names, x.shape[-1], build, scales), bias)

    def plain_dense(self, x: Tensor, name: str) -> Tensor:
        """Weight `name`.weight as it is times x (..., columns), plus `name`.bias where the spec has one."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        model = self.store.model
        return self._product(x, weight, self.store.whole(weight), model.float32(bias) if bias in model.weights else None)

    def lookup(self, ids: Tensor, name: str) -> Tensor:
        """Rows of table `name` (rows, columns) at ids (n,) int32 -> float32 (n, columns)."""
        g, q = self.g, self.store.whole(name)
        if self.store.form == "tflite-2.14" and q.encoding is Encoding.INT8:
            values = g.dequantize(g.gather(g.weight_per_tensor(name, q), ids))  # (n, columns), before the row scales
            return g.mul(values, g.gather(g.row_scales(q, column=True), ids))
        if q.encoding is Encoding.FLOAT16 and self.store.form == "tflite-2.14":
            return g.embedding_lookup(ids, g.dequantize(g.weight(name, q)))  # no float16 lookup: the table is turned once, on load
        if q.encoding is Encoding.FLOAT16:
            return g.dequantize(g.gather(g.weight(name, q), ids))
        return g.embedding_lookup(ids, g.weight(name, q))

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., vocab) of x (..., columns); a tied head reads the table that `lookup` reads.

        Behind quantized weights the bias is stored in 16 bits: 20 KB less for 10,000 words, and an error (2**-11 of a bias) far below
        that of the product.
        """
        model = self.store.model
        key = "embedding.weight" if model.spec.tied_head else "head.weight"
        q = self.store.whole(key)
        if not model.spec.head_bias:
            return self._product(x, key, q, None)
        bias = model.float32("head.bias")  # (vocab,)
        if q.encoding is Encoding.FLOAT32 or len(bias) < SHORT_BIAS:
            return self._product(x, key, q, bias)
        row = self.g.weight("head.bias", quantize(bias[None], Encoding.FLOAT16))  # (1, vocab)
        return self.g.add(self._product(x, key, q, None), self.g.dequantize(row))

    def add(self, a: Tensor, b: Tensor, site: str) -> Tensor:
        """A + b; `site` names its range (`edgelm.models.static_sites`) where activations have one."""
        return self.g.add(a, b)

    def mul(self, a: Tensor, b: Tensor, site: str) -> Tensor:
        """A * b, as `add`."""
        return self.g.mul(a, b)

    def activate(self, name: Activation, x: Tensor, site: str = "") -> Tensor:
        """An activation of `edgelm.spec`, elementwise; `site` as in `add`."""
        return _ACTIVATIONS[name](self.g, x)

    def _product(self, x: Tensor, key: str, q: QuantizedTensor, bias: NDArray[np.float32] | None) -> Tensor:
        g = self.g
        offset = None if bias is None else g.constant(bias)
        if self.store.form == "tflite-2.14" and q.encoding is Encoding.INT8:
            y = g.mul(g.fully_connected(x, g.weight_per_tensor(key, q)), g.row_scales(q))  # (..., rows)
        elif q.encoding is Encoding.FLOAT16:  # XNNPACK takes float16 weights only without a float32 bias
            y = g.fully_connected(x, g.weight(key, q))
        else:
            return g.fully_connected(x, g.weight(key, q), offset)
        return y if offset is None else g.add(y, offset)


def _hard_sigmoid(g: GraphBuilder, x: Tensor) -> Tensor:
    return g.minimum(g.maximum(g.add(g.mul(x, 0.2), 0.5), 0.0), 1.0)


_ACTIVATIONS: Mapping[Activation, Callable[[GraphBuilder, Tensor], Tensor]] = {
    "linear": lambda g, x: x,
    "tanh": lambda g, x: g.tanh(x),
    "relu": lambda g, x: g.relu(x),
    "sigmoid": lambda g, x: g.logistic(x),
    "hard_sigmoid": _hard_sigmoid,
    "gelu": lambda g, x: g.gelu(x),
    "gelu_tanh": lambda g, x: g.gelu(x, approximate=True),
    "silu": lambda g, x: g.mul(x, g.logistic(x)),
}
