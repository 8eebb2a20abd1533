"""Plain records of a TFLite model, and their FlatBuffer bytes.

The layout is that of TFLite's schema.fbs (identifier `TFL3`), written with three differences from the generated object API: identical
scales, tensors, ops and lists of ops are stored once however many subgraphs use them (a rung of a decode ladder differs from the next in
a few shapes only); buffers of 1 KiB and more lie after the root table (`Buffer.offset` and `size`,
64-byte aligned), so that a runtime maps the file and touches weights only when it packs them; smaller ones are 16-byte aligned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

SCHEMA_VERSION = 3
EXTERNAL_BYTES = 1024
"""Buffers from this size on are stored after the root table."""
EXTERNAL_ALIGNMENT = 64
_OFFSET_FIELD = 6  # place of `Buffer.offset`, the second field of its table, in the vtable

TENSOR_TYPES: Mapping[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int16": schema.TensorType.INT16,
    "int8": schema.TensorType.INT8,
    "int4": schema.TensorType.INT4,
    "uint8": schema.TensorType.UINT8,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}


@dataclass(frozen=True)
class Quantization:
    """Scales of a tensor's first axis: float32 (rows,) or (1,), or the index of the float16 tensor that holds those of its blocks.

    A number is scale * (integer - zero_point); only activations, which have one scale, have a zero point other than 0.
    """

    scales: NDArray[np.float32] | None = None
    block_scales: int = -1
    block_size: int = 0
    zero_point: int = 0

    @property
    def per_row(self) -> bool:
        """More than one scale."""
        return self.scales is None or len(self.scales) > 1


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of a subgraph; buffer 0 means it is computed; `batch_varies` declares its leading axis unknown (-1)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int = 0
    quantization: Quantization | None = None
    batch_varies: bool = False


@dataclass(frozen=True)
class OperatorRecord:
    """An op: builtin name, version, tensor indices (-1 for an absent optional one), generated options object or None."""

    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = None


@dataclass
class SubgraphRecord:
    """A subgraph and the signature that names its inputs and outputs: signature name -> tensor index."""

    signature: str
    tensors: list[TensorRecord] = field(default_factory=list)
    operators: list[OperatorRecord] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


def serialize(
    subgraphs: Sequence[SubgraphRecord], buffers: Sequence[NDArray[np.uint8]], metadata: Mapping[str, int], description: str
) -> bytes:
    """The bytes of a .tflite.

    Args:
        subgraphs: Each becomes a subgraph and its signature.
        buffers: 1-D uint8 each; number 0 is the empty buffer of computed tensors.
        metadata: Name -> buffer index.
        description: Of the model.
    """
    external = [index for index, data in enumerate(buffers) if data.nbytes >= EXTERNAL_BYTES]
    unknown = dict.fromkeys(external, 1 << 40)  # stands in until the root table's size is known: a zero would not be written
    root = bytearray(_ModelPacker(buffers, unknown).pack(subgraphs, metadata, description))
    tables = schema.Model.GetRootAs(root)
    pieces: list[bytearray | bytes | memoryview] = [root]
    end = len(root)
    for index in external:
        table, begin = tables.Buffers(index)._tab, _aligned(end)
        struct.pack_into("<Q", root, table.Pos + table.Offset(_OFFSET_FIELD), begin)
        pieces += [bytes(begin - end), np.ascontiguousarray(buffers[index]).data]
        end = begin + buffers[index].nbytes
    return b"".join(pieces)


def _aligned(position: int) -> int:
    return -(-position // EXTERNAL_ALIGNMENT) * EXTERNAL_ALIGNMENT


class _ModelPacker:
    """Packs one root table; children are written before their parents, as FlatBuffers wants it."""

    def __init__(self, buffers: Sequence[NDArray[np.uint8]], offsets: Mapping[int, int]) -> None:
        self._builder = flatbuffers.Builder(1 << 16)
        self._buffers = buffers
        self._offsets = offsets
        self._shared: dict[tuple[object, ...], int] = {}  # (what, content...) -> its place in the file

    def pack(self, subgraphs: Sequence[SubgraphRecord], metadata: Mapping[str, int], description: str) -> bytes:
        builder = self._builder
        codes = list(dict.fromkeys((operator.op, operator.version) for graph in subgraphs for operator in graph.operators))
        code_vector = self._offset_vector([self._operator_code(op, version) for op, version in codes])
        graph_vector = self._offset_vector([self._subgraph(graph, codes) for graph in subgraphs])
        signature_vector = self._offset_vector([self._signature(index, graph) for index, graph in enumerate(subgraphs)])
        buffer_vector = self._offset_vector([self._buffer(index) for index in range(len(self._buffers))])
        metadata_vector = self._offset_vector([self._metadata(name, index) for name, index in metadata.items()])
        text = builder.CreateString(description)
        model = self._table(
            "Model",
            Version=SCHEMA_VERSION,
            OperatorCodes=code_vector,
            Subgraphs=graph_vector,
            Description=text,
            Buffers=buffer_vector,
            Metadata=metadata_vector,
            SignatureDefs=signature_vector,
        )
        builder.Finish(model, b"TFL3")
        return bytes(builder.Output())

    def _table(self, kind: str, **fields: int) -> int:
        """Writes a table of schema.fbs; a field of 0 is left out, as FlatBuffers leaves out defaults."""
        getattr(schema, f"{kind}Start")(self._builder)
        for field_name, value in fields.items():
            getattr(schema, f"{kind}Add{field_name}")(self._builder, value)
        return int(getattr(schema, f"{kind}End")(self._builder))

    def _shared_offsets(self, offsets: Sequence[int]) -> int:
        key = ("offsets", *offsets)
        if key not in self._shared:
            self._shared[key] = self._offset_vector(offsets)
        return self._shared[key]

    def _offset_vector(self, offsets: Sequence[int]) -> int:
        """A vector of references, as `PrependUOffsetTRelative` would write them one by one: each counts from its own place."""
        builder, count = self._builder, len(offsets)
        builder.StartVector(4, count, 4)
        places = builder.Offset() + 4 * np.arange(count, 0, -1)  # (count,) counted from the end of the file, as offsets are
        references = (places - np.array(offsets, np.int64)).astype("<u4").tobytes()
        builder.head = builder.head - len(references)
        builder.Bytes[builder.head : builder.head + len(references)] = references
        return int(builder.EndVector())

    def _shared_vector(self, values: NDArray[Any]) -> int:
        key = (values.dtype.str, values.tobytes())
        if key not in self._shared:
            self._shared[key] = self._builder.CreateNumpyVector(values)
        return self._shared[key]

    def _shared_integers(self, values: tuple[int, ...]) -> int:
        key = ("integers", values)
        if key not in self._shared:
            self._shared[key] = int(self._builder.CreateNumpyVector(np.array(values, np.int32)))
        return self._shared[key]

    def _shared_string(self, text: str) -> int:
        key = ("string", text.encode())
        if key not in self._shared:
            self._shared[key] = self._builder.CreateString(text)
        return self._shared[key]

    def _operator_code(self, op: str, version: int) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, op)
        code.deprecatedBuiltinCode = min(code.builtinCode, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
        code.version = version
        return int(code.Pack(self._builder))

    def _buffer(self, index: int) -> int:
        data = self._buffers[index]
        if index in self._offsets:
            return self._table("Buffer", Offset=self._offsets[index], Size=data.nbytes)
        return self._table("Buffer", Data=self._aligned_bytes(data) if data.nbytes else 0)

    def _aligned_bytes(self, data: NDArray[np.uint8]) -> int:
        builder = self._builder
        builder.StartVector(1, data.nbytes, 16)  # schema.fbs: `data: [ubyte] (force_align: 16)`, which generated Python ignores
        builder.head = builder.head - data.nbytes
        builder.Bytes[builder.head : builder.head + data.nbytes] = data.tobytes()
        return int(builder.EndVector())

    def _metadata(self, name: str, buffer: int) -> int:
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, buffer
        return int(entry.Pack(self._builder))

    def _signature(self, index: int, graph: SubgraphRecord) -> int:
        inputs, outputs = (self._shared_offsets([*map(self._tensor_map, names.items())]) for names in (graph.inputs, graph.outputs))
        key = self._shared_string(graph.signature)
        return self._table("SignatureDef", Inputs=inputs, Outputs=outputs, SignatureKey=key, SubgraphIndex=index)

    def _tensor_map(self, named: tuple[str, int]) -> int:
        key = ("tensor map", *named)
        if key not in self._shared:
            self._shared[key] = self._table("TensorMap", Name=self._shared_string(named[0]), TensorIndex=named[1])
        return self._shared[key]

    def _subgraph(self, graph: SubgraphRecord, codes: Sequence[tuple[str, int]]) -> int:
        tensors = self._offset_vector([self._tensor(tensor) for tensor in graph.tensors])
        numbers = {code: number for number, code in enumerate(codes)}
        operators = self._shared_offsets([self._operator(operator, numbers) for operator in graph.operators])
        inputs = self._shared_integers(tuple(graph.inputs.values()))
        outputs = self._shared_integers(tuple(graph.outputs.values()))
        name = self._shared_string(graph.signature)
        return self._table("SubGraph", Tensors=tensors, Inputs=inputs, Outputs=outputs, Operators=operators, Name=name)

    def _operator(self, operator: OperatorRecord, numbers: Mapping[tuple[str, int], int]) -> int:
        options = 0 if operator.options is None else self._options(operator.options)
        key = ("operator", operator.op, operator.version, operator.inputs, operator.outputs, options)
        if key not in self._shared:
            self._shared[key] = self._pack_operator(operator, numbers[operator.op, operator.version], options)
        return self._shared[key]

    def _pack_operator(self, operator: OperatorRecord, code: int, options: int) -> int:
        inputs, outputs = self._shared_integers(operator.inputs), self._shared_integers(operator.outputs)
        kind = getattr(schema.BuiltinOptions, type(operator.options).__name__.removesuffix("T")) if options else 0
        return self._table("Operator", OpcodeIndex=code, Inputs=inputs, Outputs=outputs, BuiltinOptionsType=kind, BuiltinOptions=options)

    def _options(self, options: Any) -> int:
        values = (tuple(value) if isinstance(value, Iterable) else value for value in vars(options).values())
        key = ("options", type(options), *values)
        if key not in self._shared:
            self._shared[key] = int(options.Pack(self._builder))
        return self._shared[key]

    def _tensor(self, tensor: TensorRecord) -> int:
        shape = self._shared_integers(tensor.shape)
        name = self._shared_string(tensor.name)
        quantization = self._quantization(tensor.quantization) if tensor.quantization else 0
        signature = self._shared_integers((-1, *tensor.shape[1:])) if tensor.batch_varies else 0
        key = ("tensor", shape, name, quantization, signature, tensor.dtype, tensor.buffer)
        if key not in self._shared:
            self._shared[key] = self._pack_tensor(tensor, shape, name, quantization, signature)
        return self._shared[key]

    def _pack_tensor(self, tensor: TensorRecord, shape: int, name: int, quantization: int, signature: int) -> int:
        return self._table(
            "Tensor",
            Shape=shape,
            Type=TENSOR_TYPES[tensor.dtype],
            Buffer=tensor.buffer,
            Name=name,
            Quantization=quantization,
            ShapeSignature=signature,
            HasRank=True,
        )

    def _quantization(self, quantization: Quantization) -> int:
        scales = quantization.scales
        kind: tuple[object, ...] = (quantization.block_scales, quantization.block_size) if scales is None else (scales.tobytes(),)
        key = ("quantization", *kind, quantization.zero_point)
        if key not in self._shared:
            self._shared[key] = self._blocks(quantization) if scales is None else self._rows(scales, quantization.zero_point)
        return self._shared[key]

    def _blocks(self, quantization: Quantization) -> int:
        scales, size = quantization.block_scales, quantization.block_size
        details = self._table("BlockwiseQuantization", Scales=scales, ZeroPoints=-1, BlockSize=size)
        kind = schema.QuantizationDetails.BlockwiseQuantization
        return self._table("QuantizationParameters", DetailsType=kind, Details=details)

    def _rows(self, scales: NDArray[np.float32], zero_point: int) -> int:
        zero_points = np.full(len(scales), zero_point, np.int64)  # runtimes want as many as scales
        return self._table("QuantizationParameters", Scale=self._shared_vector(scales), ZeroPoint=self._shared_vector(zero_points))
