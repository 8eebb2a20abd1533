"""Weights in an ONNX file: stored as their encodings say, read as float32 through DequantizeLinear or Cast.

    float32        the initializer itself
    float16        Cast
    int8, int4     DequantizeLinear with a float32 scale for each row of the matrix
    int4-block32   DequantizeLinear with block_size 32, its scales float16 behind a Cast

The integers and scales are those of the .tflite (`edgelm.tflite.quantize`), so both files are one rounded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.onnx_builder import OnnxGraphBuilder
from edgelm.lower.rounded import rounded
from edgelm.lower.store import WeightStore
from edgelm.model import LanguageModel
from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS, QuantizedTensor, integer_values, pack_int4

FLOAT = 1
"""onnx.TensorProto.FLOAT"""


@dataclass(frozen=True)
class Layout:
    """How a matrix (rows, columns) lies in the file.

    Attributes:
        arrange: Maps the matrix, and its scales (rows, blocks) alike, to that.
        row_axis: Where the rows then are.
        column_axis: Where the columns then are.
    """

    arrange: Callable[[NDArray[Any]], NDArray[Any]]
    row_axis: int
    column_axis: int


ROWS = Layout(lambda matrix: matrix, 0, 1)
"""(rows, columns): tables."""

COLUMNS = Layout(lambda matrix: matrix.T, 1, 0)
"""(columns, rows): what x is multiplied by in MatMul."""


def gates_layout(order: Sequence[int]) -> Layout:
    """(1, rows, columns) with the gates in another order: the matrices of ONNX's recurrent ops.

    Args:
        order: Gate of the canonical matrix at each place.
    """

    def arrange(matrix: NDArray[Any]) -> NDArray[Any]:
        gates = np.split(matrix, len(order))
        ordered: NDArray[Any] = np.concatenate([gates[gate] for gate in order])[None]
        return ordered

    return Layout(arrange, 1, 2)


class OnnxWeights:
    """The weights of one model in one file.

    Args:
        model: Where they come from.
        graph: The main graph of the file.
    """

    def __init__(self, model: LanguageModel, graph: OnnxGraphBuilder) -> None:
        self.model = model
        self._graph = graph
        self._store = WeightStore(model, "litert")
        self._values: dict[str, str] = {}

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        """Canonical name -> what the weight became."""
        return self._store.encodings

    @property
    def notes(self) -> tuple[str, ...]:
        """Why weights are not stored as they were wanted."""
        return self._store.notes

    def vector(self, name: str) -> str:
        """A bias or the weight of a norm, float32."""
        if name not in self._values:
            self._values[name] = self._graph.initializer(name, self.model.float32(name))
        return self._values[name]

    def matrix(self, name: str, layout: Layout = ROWS) -> str:
        """A matrix as float32 in a layout; the same value for every call."""
        if name not in self._values:
            self._values[name] = self._written(name, self._store.whole(name), layout)
        return self._values[name]

    def _written(self, name: str, q: QuantizedTensor, layout: Layout) -> str:
        g = self._graph
        if q.scales is None:
            data = q.data.view(np.float16 if q.encoding is Encoding.FLOAT16 else np.float32).reshape(q.shape)
            weight = g.initializer(name, layout.arrange(data))
            return g.op("Cast", weight, to=FLOAT) if q.encoding is Encoding.FLOAT16 else weight
        integers = layout.arrange(integer_values(q))
        weight = self._integers(name, q.encoding, integers)
        scales = layout.arrange(q.scales.reshape(q.shape[0], -1))
        if q.encoding is not Encoding.INT4_BLOCK32:
            rows = g.initializer(f"{name}:scales", scales.reshape(-1))
            return g.op("DequantizeLinear", weight, rows, self._zeros(q), axis=layout.row_axis)
        wide = g.op("Cast", g.initializer(f"{name}:scales", scales), to=FLOAT)
        return g.op("DequantizeLinear", weight, wide, axis=layout.column_axis, block_size=BLOCK_COLUMNS)

    def _zeros(self, q: QuantizedTensor) -> str:
        """Zero points of rows, all 0; without them onnxruntime takes some of the integers it moves for unsigned ones."""
        key = f"zeros:{q.encoding}:{q.shape[0]}"
        if key not in self._values:
            self._values[key] = self._integers(key, q.encoding, np.zeros(q.shape[0], np.int8))
        return self._values[key]

    def _integers(self, name: str, encoding: Encoding, values: NDArray[np.int8]) -> str:
        """An initializer of int8, or of 4 bits a value."""
        if encoding is Encoding.INT8:
            return self._graph.initializer(name, values)
        return self._graph.packed_int4(name, values.shape, pack_int4(values))

    def rounded(self) -> LanguageModel:
        """The model with the float32 weights the file stands for."""
        return rounded(self._store)
