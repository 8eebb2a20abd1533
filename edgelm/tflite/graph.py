"""Tensors, constants and weights of one subgraph, and the buffers all subgraphs of a file share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS, QuantizedTensor
from edgelm.tflite.serialize import OperatorRecord, Quantization, SubgraphRecord, TensorRecord
from edgelm.tflite.versions import op_version

COMPUTED = "t"
"""Name of every tensor that is neither read nor written from outside: with names of their own, all would take a table each."""

_ONE_SCALE = Quantization(np.ones(1, np.float32))
_WEIGHT_DTYPES = {
    Encoding.FLOAT32: "float32",
    Encoding.FLOAT16: "float16",
    Encoding.INT8: "int8",
    Encoding.INT4: "int4",
    Encoding.INT4_BLOCK32: "int4",
}


@dataclass(frozen=True)
class Tensor:
    """A handle to a tensor of one subgraph.

    Attributes:
        index: Its place in the subgraph.
        shape: As built; a runtime may resize the leading axes of inputs.
        dtype: `float32`, `int32`, `int8`, ...
    """

    index: int
    shape: tuple[int, ...]
    dtype: str


_TELLING = 256
"""First bytes of a weight, which tell nearly all weights apart; the few that begin alike are compared."""


class BufferPool:
    """The buffers of one file: equal content shares one.

    Weights of other scales do not, whatever their bytes: kernels may keep what they packed by the address of the bytes.
    """

    def __init__(self) -> None:
        self.buffers: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)]  # number 0 is the buffer of computed tensors
        self._by_content: dict[bytes, int] = {}
        self._by_name: dict[str, tuple[int, QuantizedTensor]] = {}
        self._by_weight: dict[tuple[tuple[int, ...], bytes], list[tuple[int, QuantizedTensor]]] = {}

    def content(self, data: NDArray[np.uint8]) -> int:
        """The index of a buffer with these bytes; a new one only when there is none yet."""
        key = hashlib.sha256(data.tobytes()).digest()
        if key not in self._by_content:
            self._by_content[key] = self._append(data)
        return self._by_content[key]

    def weight(self, name: str, q: QuantizedTensor) -> int:
        """The index of the buffer of weight `name`; layers that share their weights have one for all of them."""
        if name not in self._by_name:
            alike = self._by_weight.setdefault((q.shape, q.data[:_TELLING].tobytes()), [])
            equal = next((index for index, other in alike if _same(other, q)), None)
            index = self._append(q.data) if equal is None else equal
            if equal is None:
                alike.append((index, q))
            self._by_name[name] = (index, q)
        index, stored = self._by_name[name]
        if stored is not q and not _same(stored, q):
            raise ValueError(f"two different weights are called {name!r}")
        return index

    def _append(self, data: NDArray[np.uint8]) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1


def _same(a: QuantizedTensor, b: QuantizedTensor) -> bool:
    equal_scales = b.scales is None if a.scales is None else b.scales is not None and np.array_equal(a.scales, b.scales)
    return a.encoding is b.encoding and a.shape == b.shape and equal_scales and np.array_equal(a.data, b.data)


class Graph:
    """One subgraph without its ops: inputs, outputs, constants and weights."""

    def __init__(self, record: SubgraphRecord, pool: BufferPool) -> None:
        self._record = record
        self._pool = pool
        self._made: dict[tuple[object, ...], Tensor] = {}  # what -> the one tensor of it in this subgraph

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Tensor:
        """An input called `name` in the signature."""
        if name in self._record.inputs:
            raise ValueError(f"signature {self._record.signature!r} has two inputs called {name!r}")
        tensor = self._tensor(shape, dtype, name=name)
        self._record.inputs[name] = tensor.index
        return tensor

    def output(self, name: str, tensor: Tensor) -> None:
        """Makes `tensor` the output called `name` in the signature; an input (a state) may have the same name."""
        if name in self._record.outputs:
            raise ValueError(f"signature {self._record.signature!r} has two outputs called {name!r}")
        self._record.outputs[name] = tensor.index
        record = self._record.tensors[tensor.index]
        if record.name == COMPUTED:
            self._record.tensors[tensor.index] = dataclasses.replace(record, name=f"{name}:out")

    def constant(self, array: NDArray[Any]) -> Tensor:
        """A float32 or int32 constant; equal constants share one buffer in the file."""
        if array.dtype not in (np.float32, np.int32):
            raise ValueError(f"constants are float32 or int32, not {array.dtype}")
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        buffer = self._pool.content(data)
        key = ("constant", buffer, array.dtype.str, array.shape)
        if key not in self._made:
            self._made[key] = self._tensor(array.shape, array.dtype.name, name=f"constant_{buffer}", buffer=buffer)
        return self._made[key]

    def weight(self, name: str, q: QuantizedTensor) -> Tensor:
        """A weight, with its scales; all tensors of one name share one buffer, in all subgraphs.

        Returns:
            (rows, columns) of dtype float32, float16, int8 or int4.
        """
        key, buffer = ("weight", name), self._pool.weight(name, q)
        if key not in self._made:
            quantization = self._quantization(name, q)
            self._made[key] = self._tensor(q.shape, _WEIGHT_DTYPES[q.encoding], name=name, buffer=buffer, quantization=quantization)
        return self._made[key]

    def weight_per_tensor(self, name: str, q: QuantizedTensor) -> Tensor:
        """An int8 weight with scale 1 for runtimes without per-row kernels; the caller multiplies by `row_scales`.

        It shares the buffer of `weight(name, q)`.

        Raises:
            UnsupportedModelError: The weight is not int8.
        """
        if q.encoding is not Encoding.INT8:
            raise UnsupportedModelError(
                f"weight {name} is {q.encoding}: the form with one scale takes int8", allowed="int8, float16, float32"
            )
        key, buffer = ("per tensor", name), self._pool.weight(name, q)
        if key not in self._made:
            self._made[key] = self._tensor(q.shape, "int8", name=f"{name}:unscaled", buffer=buffer, quantization=_ONE_SCALE)
        return self._made[key]

    def rescaled_weight(self, name: str, q: QuantizedTensor, scales: NDArray[np.float32]) -> Tensor:
        """An int8 weight with other row scales (rows,) than its own, which rows of zeros may have; it shares the buffer of `weight`."""
        key, buffer = ("rescaled", name), self._pool.weight(name, q)
        if key not in self._made:
            self._made[key] = self._tensor(q.shape, "int8", name=name, buffer=buffer, quantization=Quantization(scales))
        return self._made[key]

    def accumulator_bias(self, values: NDArray[np.int32], scales: NDArray[np.float32]) -> Tensor:
        """A bias (rows,) for int8 products: int32 multiples of its scales (rows,), those of the products."""
        buffer = self._pool.content(np.ascontiguousarray(values).view(np.uint8))
        return self._tensor(values.shape, "int32", name=f"bias_{buffer}", buffer=buffer, quantization=Quantization(scales))

    def row_scales(self, q: QuantizedTensor, *, column: bool = False) -> Tensor:
        """The scales of an int8 weight as a constant: (rows,) to multiply outputs with, or (rows, 1) to gather from."""
        if q.encoding is not Encoding.INT8 or q.scales is None:
            raise ValueError(f"a {q.encoding} weight has no row scales")
        return self.constant(q.scales.reshape(-1, 1) if column else q.scales)

    def _as_int16_bits(self, weight: Tensor) -> Tensor:
        """The buffer of a float16 weight as int16."""
        key = ("bits", weight.index)
        if key not in self._made:
            record = self._record.tensors[weight.index]
            self._made[key] = self._tensor(weight.shape, "int16", name=f"{record.name}:bits", buffer=record.buffer)
        return self._made[key]

    def _quantization(self, name: str, q: QuantizedTensor) -> Quantization | None:
        if q.scales is None:
            return None
        if q.encoding is not Encoding.INT4_BLOCK32:
            return Quantization(np.ascontiguousarray(q.scales, np.float32))
        data = np.ascontiguousarray(q.scales, np.float16)
        scales = self._tensor(data.shape, "float16", name=f"{name}:scales", buffer=self._pool.content(data.reshape(-1).view(np.uint8)))
        return Quantization(block_scales=scales.index, block_size=BLOCK_COLUMNS)

    def _tensor(
        self, shape: Sequence[int], dtype: str, *, name: str = "", buffer: int = 0, quantization: Quantization | None = None
    ) -> Tensor:
        tensor = Tensor(len(self._record.tensors), tuple(int(size) for size in shape), dtype)
        self._record.tensors.append(TensorRecord(name or COMPUTED, tensor.shape, dtype, buffer, quantization))
        return tensor

    def _declare_batch_varies(self, tensor: Tensor) -> None:
        """Declares the leading axis of `tensor` unknown, for kernels that trust a full shape more than their resized input."""
        self._record.tensors[tensor.index] = dataclasses.replace(self._record.tensors[tensor.index], batch_varies=True)

    def _quantization_of(self, tensor: Tensor) -> Quantization | None:
        return self._record.tensors[tensor.index].quantization

    def _op(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        options: Any = None,
        *,
        dtype: str = "",
        quantization: Quantization | None = None,
    ) -> Tensor:
        """Adds an op with one output, of the first input's dtype unless `dtype` says otherwise; None is an absent optional input."""
        return self._ops(op, inputs, [shape], options, dtype=dtype, quantization=quantization)[0]

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
        """As `_op`, with one output for each of `shapes`."""
        present = [tensor for tensor in inputs if tensor is not None]
        outputs = [self._tensor(shape, dtype or present[0].dtype, quantization=quantization) for shape in shapes]
        per_row = any(known.per_row for known in map(self._quantization_of, present) if known)
        rank = max((len(tensor.shape) for tensor in present), default=0)
        version = op_version(op, tuple(tensor.dtype for tensor in present), per_row=per_row, rank=rank)
        indices = tuple(-1 if tensor is None else tensor.index for tensor in inputs)
        self._record.operators.append(OperatorRecord(op, version, indices, tuple(output.index for output in outputs), options))
        return outputs
