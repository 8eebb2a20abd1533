"""A readable builder of .tflite graphs.

Example:
    >>> import numpy as np
    >>> from edgelm.spec import Encoding
    >>> from edgelm.tflite.quantize import quantize
    >>> model = ModelBuilder()
    >>> g = model.subgraph("step")
    >>> x = g.input("x", (1, 64))
    >>> w = g.weight("dense.weight", quantize(np.ones((8, 64), np.float32), Encoding.INT8))
    >>> g.output("y", g.tanh(g.fully_connected(x, w)))
    >>> model.finish()[4:8]
    b'TFL3'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgelm.errors import UnsupportedModelError
from edgelm.tflite.graph import BufferPool, Graph, Tensor
from edgelm.tflite.serialize import TENSOR_TYPES, SubgraphRecord, serialize

Operand = Tensor | float
"""A tensor, or a number that becomes a float32 constant (1,)."""

FusedActivation = Literal["relu", "relu6"]
_FUSED = {None: "NONE", "relu": "RELU", "relu6": "RELU6"}

_Builder = TypeVar("_Builder", bound="GraphBuilder")


class ModelBuilder:
    """Builds one .tflite: subgraphs that share weights.

    Args:
        description: Of the model, stored in the file.
    """

    def __init__(self, description: str = "edgelm") -> None:
        self._description = description
        self._pool = BufferPool()
        self._subgraphs: list[SubgraphRecord] = []

    @overload
    def subgraph(self, signature: str) -> GraphBuilder: ...

    @overload
    def subgraph(self, signature: str, kind: type[_Builder]) -> _Builder: ...

    def subgraph(self, signature: str, kind: type[GraphBuilder] | None = None) -> GraphBuilder:
        """A new subgraph, called by signature `signature`, whose ops are those of `kind`."""
        if any(graph.signature == signature for graph in self._subgraphs):
            raise ValueError(f"two signatures are called {signature!r}")
        self._subgraphs.append(SubgraphRecord(signature))
        return (kind or GraphBuilder)(self._subgraphs[-1], self._pool)

    def finish(self, metadata: Mapping[str, bytes] | None = None) -> bytes:
        """The bytes of the file; equal calls give equal bytes.

        Args:
            metadata: Entries of `Model.metadata`, name -> content.
        """
        indices = {name: self._pool.content(np.frombuffer(content, np.uint8)) for name, content in (metadata or {}).items()}
        return serialize(self._subgraphs, self._pool.buffers, indices, self._description)


class GraphBuilder(Graph):
    """The ops of one subgraph: each takes and returns tensors, and declares the op version its operands need.

    Shapes are computed as they are built. No op freezes a leading axis (slices run to the end of the axes they don't cut), so
    `resize_tensor_input` can give a graph another batch size, as long as reshapes are written with -1 there.
    """

    def fully_connected(self, x: Tensor, w: Tensor, bias: Tensor | None = None, activation: FusedActivation | None = None) -> Tensor:
        """Multiplies x (..., columns) by w (rows, columns) transposed, plus bias (rows,) -> (..., rows).

        int8 and int4 weights quantize x row by row while running (hybrid); float16 ones are turned to float32 when the model loads.

        Raises:
            UnsupportedModelError: x and w have different numbers of columns.
        """
        if len(w.shape) != 2 or x.shape[-1] != w.shape[1]:
            raise UnsupportedModelError(f"a fully connected layer got inputs {x.shape} for weights {w.shape}")
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, _FUSED[activation])
        return self._op("FULLY_CONNECTED", [x, self._as_float32(w), bias], (*x.shape[:-1], w.shape[0]), options)

    def embedding_lookup(self, ids: Tensor, table: Tensor) -> Tensor:
        """Rows of a table (rows, columns) at ids (n,) int32 -> float32 (n, columns).

        Raises:
            UnsupportedModelError: The runtime has no lookup for such a table.
        """
        if len(ids.shape) != 1:
            raise UnsupportedModelError(f"an embedding lookup takes ids of one axis, not {ids.shape}", fix="reshape the ids to (-1,)")
        if table.dtype == "int4" and table.shape[1] % 2:
            raise UnsupportedModelError(f"an int4 table of {table.shape[1]} columns cannot be looked up: rows must end on a byte")
        if table.dtype == "float16":
            return self._float16_rows(ids, table)
        return self._op("EMBEDDING_LOOKUP", [ids, table], (*ids.shape, *table.shape[1:]), dtype="float32")

    def gather(self, table: Tensor, ids: Tensor, axis: int = 0) -> Tensor:
        """Slices of `table` at ids int32 along `axis`; the ids' axes take the place of that axis."""
        options = schema.GatherOptionsT()
        options.axis = axis % len(table.shape)
        shape = (*table.shape[: options.axis], *ids.shape, *table.shape[options.axis + 1 :])
        return self._op("GATHER", [table, ids], shape, options, quantization=self._quantization_of(table))

    def add(self, a: Operand, b: Operand) -> Tensor:
        """Adds a and b, broadcasting."""
        return self._binary("ADD", a, b, schema.AddOptionsT())

    def sub(self, a: Operand, b: Operand) -> Tensor:
        """Subtracts b from a, broadcasting."""
        return self._binary("SUB", a, b, schema.SubOptionsT())

    def mul(self, a: Operand, b: Operand) -> Tensor:
        """Multiplies a and b, broadcasting."""
        return self._binary("MUL", a, b, schema.MulOptionsT())

    def maximum(self, a: Operand, b: Operand) -> Tensor:
        """The larger of a and b, broadcasting."""
        return self._binary("MAXIMUM", a, b, schema.MaximumMinimumOptionsT())

    def minimum(self, a: Operand, b: Operand) -> Tensor:
        """The smaller of a and b, broadcasting."""
        return self._binary("MINIMUM", a, b, schema.MaximumMinimumOptionsT())

    def squared_difference(self, a: Operand, b: Operand) -> Tensor:
        """(a - b)^2, broadcasting."""
        return self._binary("SQUARED_DIFFERENCE", a, b, schema.SquaredDifferenceOptionsT())

    def rsqrt(self, x: Tensor) -> Tensor:
        """1 / sqrt(x)."""
        return self._op("RSQRT", [x], x.shape)

    def square(self, x: Tensor) -> Tensor:
        """x^2."""
        return self._op("SQUARE", [x], x.shape, schema.SquareOptionsT())

    def neg(self, x: Tensor) -> Tensor:
        """-x."""
        return self._op("NEG", [x], x.shape, schema.NegOptionsT())

    def sin(self, x: Tensor) -> Tensor:
        """Sine of x in radians."""
        return self._op("SIN", [x], x.shape)

    def cos(self, x: Tensor) -> Tensor:
        """Cosine of x in radians."""
        return self._op("COS", [x], x.shape, schema.CosOptionsT())

    def logistic(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""
        return self._op("LOGISTIC", [x], x.shape)

    def tanh(self, x: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return self._op("TANH", [x], x.shape)

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return self._op("RELU", [x], x.shape)

    def gelu(self, x: Tensor, approximate: bool = False) -> Tensor:
        """GELU by the error function, or its tanh approximation (Hendrycks and Gimpel 2016)."""
        options = schema.GeluOptionsT()
        options.approximate = approximate
        return self._op("GELU", [x], x.shape, options)

    def softmax(self, x: Tensor) -> Tensor:
        """Softmax over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self._op("SOFTMAX", [x], x.shape, options)

    def mean(self, x: Tensor, axis: int, keepdims: bool = True) -> Tensor:
        """Mean over one axis."""
        return self._reduce("MEAN", x, axis, keepdims)

    def sum(self, x: Tensor, axis: int, keepdims: bool = True) -> Tensor:
        """Sum over one axis."""
        return self._reduce("SUM", x, axis, keepdims)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The same values in another shape; one axis may be -1, which is what follows a resized batch.

        Raises:
            UnsupportedModelError: The shapes hold different numbers of values.
        """
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        try:
            concrete = np.empty(x.shape, np.bool_).reshape(tuple(shape)).shape
        except ValueError as error:
            raise UnsupportedModelError(f"a tensor {x.shape} cannot be reshaped to {tuple(shape)}") from error
        return self._op("RESHAPE", [x, self.constant(options.newShape)], concrete, options)

    def slice(self, x: Tensor, axis: int, begin: int, size: int, *, resizable: bool = True) -> Tensor:
        """x[..., begin : begin + size, ...] along `axis`; size -1 runs to the end, also after a resize.

        Args:
            x: Any shape.
            axis: The axis that is cut.
            begin: First index.
            size: How many, or -1.
            resizable: Follow a resized batch. XNNPACK leaves such slices to slower kernels, and every one cuts its share of the graph
                in two (9 % of a small transformer's time); where nothing is resized, say False.

        Raises:
            UnsupportedModelError: The slice leaves the axis.
        """
        axis %= len(x.shape)
        length = x.shape[axis] - begin if size == -1 else size
        if begin < 0 or length < 1 or begin + length > x.shape[axis]:
            raise UnsupportedModelError(f"a slice [{begin}, {begin + length}) leaves axis {axis} of {x.shape}")
        begins, sizes = np.zeros(len(x.shape), np.int32), np.full(len(x.shape), -1, np.int32)
        begins[axis], sizes[axis] = begin, size
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        if not resizable:
            sizes = np.array(shape, np.int32)
        output = self._op("SLICE", [x, self.constant(begins), self.constant(sizes)], shape, schema.SliceOptionsT())
        if resizable and (axis or size == -1):
            self._declare_batch_varies(output)  # SLICE keeps a fully declared output shape, whatever its input was resized to
        return output

    def split(self, x: Tensor, count: int) -> list[Tensor]:
        """`count` equal parts of x along its last axis.

        Raises:
            UnsupportedModelError: The axis has no `count` equal parts.
        """
        if x.shape[-1] % count:
            raise UnsupportedModelError(f"a tensor {x.shape} has no {count} equal parts along its last axis")
        options = schema.SplitOptionsT()
        options.numSplits = count
        axis = self.constant(np.array(len(x.shape) - 1, np.int32))
        return self._ops("SPLIT", [axis, x], [(*x.shape[:-1], x.shape[-1] // count)] * count, options, dtype=x.dtype)

    def concatenate(self, tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
        """Tensors one after the other along `axis`."""
        options = schema.ConcatenationOptionsT()
        options.axis = axis % len(tensors[0].shape)
        shape = list(tensors[0].shape)
        shape[options.axis] = sum(tensor.shape[options.axis] for tensor in tensors)
        return self._op("CONCATENATION", list(tensors), shape, options)

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Puts the axes of x in the order `axes`."""
        order = self.constant(np.array(axes, np.int32))
        return self._op("TRANSPOSE", [x, order], [x.shape[axis] for axis in axes], schema.TransposeOptionsT())

    def batch_matmul(self, a: Tensor, b: Tensor, transpose_b: bool = False) -> Tensor:
        """Multiplies a (..., m, k) by b (..., k, n), or b (..., n, k) with `transpose_b` -> (..., m, n); leading axes broadcast.

        Raises:
            UnsupportedModelError: The inner axes differ.
        """
        inner, columns = (b.shape[-1], b.shape[-2]) if transpose_b else (b.shape[-2], b.shape[-1])
        if a.shape[-1] != inner:
            raise UnsupportedModelError(f"a matrix product of {a.shape} and {b.shape} (transpose_b={transpose_b}) does not fit")
        options = schema.BatchMatMulOptionsT()
        options.adjY = transpose_b
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], columns)
        return self._op("BATCH_MATMUL", [a, b], shape, options)

    def dequantize(self, x: Tensor) -> Tensor:
        """A float16 or int8 tensor as float32."""
        return self._op("DEQUANTIZE", [x], x.shape, schema.DequantizeOptionsT(), dtype="float32")

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """Converts x to another dtype, value by value."""
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = TENSOR_TYPES[x.dtype], TENSOR_TYPES[dtype]
        return self._op("CAST", [x], x.shape, options, dtype=dtype)

    def _as_float32(self, w: Tensor) -> Tensor:
        """A float16 weight behind its DEQUANTIZE, one for each weight of the subgraph; other weights as they are."""
        if w.dtype != "float16":
            return w
        key = ("dequantized", w.index)
        if key not in self._made:
            self._made[key] = self.dequantize(w)
        return self._made[key]

    def _float16_rows(self, ids: Tensor, table: Tensor) -> Tensor:
        """Rows of a float16 table: no lookup op takes float16, so they are gathered as int16 bits and converted after that."""
        rows = self.gather(self._as_int16_bits(table), ids)  # (n, columns)
        return self.dequantize(self._op("BITCAST", [rows], rows.shape, schema.BitcastOptionsT(), dtype="float16"))

    def _operand(self, value: Operand) -> Tensor:
        return value if isinstance(value, Tensor) else self.constant(np.array([value], np.float32))

    def _binary(self, op: str, a: Operand, b: Operand, options: Any) -> Tensor:
        left, right = self._operand(a), self._operand(b)
        try:
            shape = np.broadcast_shapes(left.shape, right.shape)
        except ValueError as error:
            raise UnsupportedModelError(f"{op} of {left.shape} and {right.shape} does not broadcast") from error
        return self._op(op, [left, right], shape, options)

    def _reduce(self, op: str, x: Tensor, axis: int, keepdims: bool) -> Tensor:
        options = schema.ReducerOptionsT()
        options.keepDims = keepdims
        axis %= len(x.shape)
        shape = (*x.shape[:axis], *((1,) if keepdims else ()), *x.shape[axis + 1 :])
        return self._op(op, [x, self.constant(np.array([axis], np.int32))], shape, options)
