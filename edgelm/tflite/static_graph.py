"""Graphs whose activations are int8 with a scale and a zero point fixed in the file.

A tensor is int8 from the op that makes it int8 until an op that has no int8 form reads it: there a DEQUANTIZE is put in, once for each
tensor. Ops that only move values (SPLIT, RESHAPE, GATHER, ...) pass int8 on. So a graph is written as a float graph is, and what stays
float stands where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgelm.tflite.graph import BufferPool, Tensor
from edgelm.tflite.serialize import Quantization, SubgraphRecord
from edgelm.tflite.writer import GraphBuilder

_MOVES = frozenset({"SPLIT", "RESHAPE", "GATHER", "SLICE", "TRANSPOSE"})

UnaryOp = Literal["LOGISTIC", "TANH", "RELU", "GELU"]


@dataclass(frozen=True)
class Affine:
    """What the integers of a tensor mean: scale * (integer - zero_point), integers from -128 to 127."""

    scale: float  # a float32 number
    zero_point: int

    @property
    def record(self) -> Quantization:
        """As the file has it."""
        return Quantization(np.array([self.scale], np.float32), zero_point=self.zero_point)


LOGISTIC_OUTPUT = Affine(1 / 256, -128)
TANH_OUTPUT = Affine(1 / 128, 0)
"""The outputs that int8 kernels of LOGISTIC and TANH must have."""


class StaticGraphBuilder(GraphBuilder):
    """The ops of one subgraph with int8 activations; what `GraphBuilder` has takes int8 tensors too, and makes them float first."""

    def __init__(self, record: SubgraphRecord, pool: BufferPool) -> None:
        super().__init__(record, pool)
        self._float: dict[int, Tensor] = {}  # int8 tensor -> its DEQUANTIZE
        self._rounded: dict[tuple[int, Affine], Tensor] = {}

    def quantize(self, x: Tensor, to: Affine) -> Tensor:
        """X as int8; an int8 tensor that has this scale and zero point already is returned as it is."""
        if x.dtype == "int8" and self.affine(x) == to:
            return x
        key = (x.index, to)
        if key not in self._rounded:
            self._rounded[key] = self._integer_op("QUANTIZE", [x], x.shape, to, schema.QuantizeOptionsT())
        return self._rounded[key]

    def affine(self, x: Tensor) -> Affine:
        """What the integers of an int8 activation mean."""
        known = self._quantization_of(x)
        if known is None or known.scales is None or len(known.scales) != 1:
            raise ValueError(f"tensor {x.index} is no int8 activation")
        return Affine(float(known.scales[0]), known.zero_point)

    def integer_fully_connected(self, x: Tensor, w: Tensor, bias: Tensor | None, to: Affine) -> Tensor:
        """X int8 (..., columns) times int8 w (rows, columns) transposed, plus int32 bias (rows,) -> int8 (..., rows)."""
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        return self._integer_op("FULLY_CONNECTED", [x, w, bias], (*x.shape[:-1], w.shape[0]), to, options)

    def integer_add(self, a: Tensor, b: Tensor, to: Affine) -> Tensor:
        """The sum of two int8 tensors of one shape, int8."""
        return self._integer_op("ADD", [a, b], a.shape, to, schema.AddOptionsT())

    def integer_mul(self, a: Tensor, b: Tensor, to: Affine) -> Tensor:
        """The product of two int8 tensors of one shape, element by element, int8."""
        return self._integer_op("MUL", [a, b], a.shape, to, schema.MulOptionsT())

    def integer_unary(self, op: UnaryOp, x: Tensor, to: Affine, options: Any = None) -> Tensor:
        """An activation function of an int8 tensor, int8."""
        return self._integer_op(op, [x], x.shape, to, options)

    def output(self, name: str, tensor: Tensor) -> None:
        """As of `GraphBuilder`, in float32."""
        super().output(name, self._as_float(tensor))

    def _integer_op(self, op: str, inputs: Sequence[Tensor | None], shape: Sequence[int], to: Affine, options: Any) -> Tensor:
        return super()._ops(op, inputs, [shape], options, dtype="int8", quantization=to.record)[0]

    def _ops(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shapes: Sequence[Sequence[int]],
        options: Any = None,
        *,
        dtype: str = "",
        quantization: Quantization | None = None,
    ) -> list[Tensor]:
        """As of `Graph`: moves pass int8 on, other ops get float inputs."""
        moved = [tensor for tensor in inputs if tensor is not None and self._is_activation(tensor)]
        if moved and op in _MOVES:
            return super()._ops(op, inputs, shapes, options, dtype="int8", quantization=self._quantization_of(moved[0]))
        if op == "DEQUANTIZE":
            return super()._ops(op, inputs, shapes, options, dtype=dtype)
        floats = [None if tensor is None else self._as_float(tensor) for tensor in inputs]
        return super()._ops(op, floats, shapes, options, dtype="" if moved else dtype, quantization=quantization)

    def _is_activation(self, tensor: Tensor) -> bool:
        """It is int8 and computed: weights are int8 too, and have a buffer."""
        return tensor.dtype == "int8" and self._record.tensors[tensor.index].buffer == 0

    def _as_float(self, tensor: Tensor) -> Tensor:
        if not self._is_activation(tensor):
            return tensor
        if tensor.index not in self._float:
            self._float[tensor.index] = self.dequantize(tensor)
        return self._float[tensor.index]
