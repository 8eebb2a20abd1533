"""Reads a .tflite without running it: ops and their versions, tensors, signatures, weights, metadata.

Nothing of the file is trusted: offsets, indices and lengths are checked, and a file that fails a check is an `ArtifactError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgelm.errors import ArtifactError
from edgelm.tflite.quantize import unpack_int4

_IDENTIFIER = b"TFL3"

# A hostile file can name the same table many times over; real ones have a few ten thousand tensors and ops.
_MOST_TABLES = 2_000_000

_DTYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_OPS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}

_NUMPY_DTYPES: Mapping[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "float64": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class QuantizationInfo:
    """How a tensor's integers become numbers.

    Attributes:
        scales: float32, one, or one for each slice along `axis`; empty when blocks have them.
        zero_points: int64, as many.
        axis: The axis of the scales.
        block_size: Values along the last axis that share a scale; 0 without blocks.
        block_scales: Index of the float16 tensor that holds the blocks' scales; -1 without.
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int
    block_size: int = 0
    block_scales: int = -1

    @property
    def summary(self) -> str:
        """Such as `per row (10000)`, `per tensor`, `blocks of 32`."""
        if self.block_size:
            return f"blocks of {self.block_size}"
        return f"per row ({self.scales.size})" if self.scales.size > 1 else "per tensor"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: its subgraph, place in it, name, shape, dtype, buffer (0 when computed) and the buffer's bytes."""

    subgraph: int
    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    nbytes: int
    quantization: QuantizationInfo | None


@dataclass(frozen=True)
class OpInfo:
    """An op: name (of a custom op: its custom name), declared version, tensor indices (-1 for absent ones)."""

    name: str
    version: int
    subgraph: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool = False


@dataclass(frozen=True)
class SignatureInfo:
    """A signature: the subgraph it calls, and the tensors behind its input and output names."""

    name: str
    subgraph: int
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Outline:
    """What a .tflite asks of its runtime.

    Attributes:
        signatures: In file order.
        kinds: (name, version, custom) of each kind of op the file names.
    """

    signatures: tuple[SignatureInfo, ...]
    kinds: tuple[tuple[str, int, bool], ...]

    @property
    def op_versions(self) -> tuple[tuple[str, int], ...]:
        """The (builtin op, version) pairs, sorted; `versions.required_versions` takes them."""
        return tuple(sorted((name, version) for name, version, custom in self.kinds if not custom))

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """Names of custom ops, Flex ops among them, sorted."""
        return tuple(sorted(name for name, _, custom in self.kinds if custom))


@dataclass(frozen=True)
class TfliteModel:
    """What a .tflite holds.

    Attributes:
        description: Of the model.
        tensors: Of each subgraph.
        ops: Of all subgraphs, in execution order.
        signatures: In file order.
        buffers: 1-D uint8 views into the file.
        metadata: `Model.metadata` entries.
        nbytes: Size of the whole file.
    """

    description: str
    tensors: tuple[tuple[TensorInfo, ...], ...]
    ops: tuple[OpInfo, ...]
    signatures: tuple[SignatureInfo, ...]
    buffers: tuple[NDArray[np.uint8], ...]
    metadata: Mapping[str, bytes]
    nbytes: int

    @property
    def op_versions(self) -> tuple[tuple[str, int], ...]:
        """The distinct (builtin op, version) pairs, sorted; `versions.required_versions` takes them."""
        return tuple(sorted({(op.name, op.version) for op in self.ops if not op.custom}))

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """Names of custom ops that are no Flex ops, sorted."""
        return tuple(sorted({op.name for op in self.ops if op.custom and not op.name.startswith("Flex")}))

    @property
    def flex_ops(self) -> tuple[str, ...]:
        """Names of the ops that need the TensorFlow (Flex) delegate, sorted."""
        return tuple(sorted({op.name for op in self.ops if op.custom and op.name.startswith("Flex")}))

    @property
    def has_int4_blocks(self) -> bool:
        """Whether weights are int4 with a scale for each block; LiteRT 2.1.0 reads them by its Interpreter, not by its CompiledModel."""
        return any(tensor.quantization and tensor.quantization.block_size for tensors in self.tensors for tensor in tensors)

    def signature(self, name: str) -> SignatureInfo:
        """The signature called `name`.

        Raises:
            ArtifactError: There is none.
        """
        for signature in self.signatures:
            if signature.name == name:
                return signature
        raise ArtifactError(f"the model has no signature {name!r}", allowed=", ".join(known.name for known in self.signatures))

    def tensor(self, name: str) -> TensorInfo:
        """The first tensor called `name`.

        Raises:
            ArtifactError: There is none.
        """
        for tensor in (tensor for subgraph in self.tensors for tensor in subgraph):
            if tensor.name == name:
                return tensor
        raise ArtifactError(f"the model has no tensor {name!r}")

    def bytes_by_weight(self) -> dict[str, int]:
        """Bytes of each stored tensor with its row scales, largest first; a shared buffer counts once, under its first name."""
        sizes: dict[int, tuple[str, int]] = {}
        for tensor in (tensor for subgraph in self.tensors for tensor in subgraph if tensor.nbytes):
            scales = tensor.quantization.scales.nbytes if tensor.quantization else 0
            name, size = sizes.get(tensor.buffer, (tensor.name, 0))
            sizes[tensor.buffer] = (name, max(size, tensor.nbytes + scales))
        return dict(sorted(sizes.values(), key=lambda item: (-item[1], item[0])))


def read(data: bytes) -> TfliteModel:
    """Reads the bytes of a .tflite; what is appended after the model (a ZIP of associated files) is left alone.

    Raises:
        ArtifactError: The bytes are no .tflite, or it is truncated or corrupt.
    """
    return _translated(data, lambda reader: reader.model())


def outline(data: bytes) -> Outline:
    """Reads signatures and kinds of ops alone, which takes a small part of the time that `read` takes.

    Raises:
        ArtifactError: As `read`, as far as it looks.
    """
    return _translated(data, lambda reader: reader.outline())


def _translated(data: bytes, reads: Callable[[_Reader], _T]) -> _T:
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise ArtifactError("the file is no .tflite model: its bytes 4 to 8 are not `TFL3`", fix="give the path of a .tflite file")
    try:
        return reads(_Reader(data))
    except (struct.error, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ArtifactError(f"the .tflite model is truncated or corrupt ({error})", fix="convert the model again") from error


def weight_values(model: TfliteModel, tensor: TensorInfo) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The stored values of a weight and its scales.

    Returns:
        Values in the tensor's shape (int4 as int8); scales float32 (rows,) or (1,), float16 (rows, blocks), or None.

    Raises:
        ArtifactError: The tensor has no buffer, or its bytes don't fill its shape.
    """
    quantization = tensor.quantization
    if quantization is None or not quantization.block_size:
        return _stored_values(model, tensor), quantization.scales if quantization else None
    siblings = model.tensors[tensor.subgraph]
    if not 0 <= quantization.block_scales < len(siblings):
        raise ArtifactError(f"tensor {tensor.name!r} has its scales in a tensor that is not there")
    return _stored_values(model, tensor), _stored_values(model, siblings[quantization.block_scales])


def _stored_values(model: TfliteModel, tensor: TensorInfo) -> NDArray[Any]:
    raw = model.buffers[tensor.buffer]
    count = int(np.prod(tensor.shape, dtype=np.int64))
    try:
        values: NDArray[Any] = unpack_int4(raw, count) if tensor.dtype == "int4" else raw.view(_NUMPY_DTYPES[tensor.dtype])
        return values.reshape(tensor.shape)
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"tensor {tensor.name!r} has {raw.nbytes} bytes for {tensor.dtype} {tensor.shape}") from error


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


class _Reader:
    """Walks the generated accessors; whatever they raise on corrupt bytes is translated by `read`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._root = schema.Model.GetRootAs(data, 0)
        self._tables = 0
        self._known_tensors: dict[int, TensorInfo] = {}  # place in the file -> table: subgraphs share most of theirs
        self._known_ops: dict[int, OpInfo] = {}

    def model(self) -> TfliteModel:
        root = self._root
        buffers = self._each(root.BuffersLength(), lambda i: self._buffer(root.Buffers(i)))
        self._sizes = [buffer.nbytes for buffer in buffers]
        codes = self._each(root.OperatorCodesLength(), lambda i: self._code(root.OperatorCodes(i)))
        graphs = self._each(root.SubgraphsLength(), lambda i: root.Subgraphs(i))
        tensors = tuple(self._tensors(graph, number) for number, graph in enumerate(graphs))
        ops = tuple(op for number, graph in enumerate(graphs) for op in self._ops(graph, number, codes, len(tensors[number])))
        signatures = self._each(
            root.SignatureDefsLength(),
            lambda i: self._signature(root.SignatureDefs(i), lambda graph, j: self._at(self._at(tensors, graph), j)),
        )
        entries = self._each(root.MetadataLength(), lambda i: root.Metadata(i))
        metadata = {self._text(entry.Name()): self._at(buffers, entry.Buffer()).tobytes() for entry in entries}
        return TfliteModel(self._text(root.Description()), tensors, ops, signatures, buffers, metadata, len(self._data))

    def outline(self) -> Outline:
        root = self._root
        self._sizes = [0] * root.BuffersLength()  # signatures have no weights
        codes = self._each(root.OperatorCodesLength(), lambda i: self._code(root.OperatorCodes(i)))
        signatures = self._each(root.SignatureDefsLength(), lambda i: self._signature(root.SignatureDefs(i), self._tensor_of))
        return Outline(signatures, codes)

    def _tensor_of(self, subgraph: int, index: int) -> TensorInfo:
        _require(0 <= subgraph < self._root.SubgraphsLength(), f"subgraph {subgraph} is not there")
        graph = self._root.Subgraphs(subgraph)
        _require(0 <= index < graph.TensorsLength(), f"tensor {index} of subgraph {subgraph} is not there")
        return self._tensor(graph.Tensors(index), subgraph, index)

    def _each(self, length: int, item: Callable[[int], _T]) -> tuple[_T, ...]:
        self._tables += length
        _require(self._tables <= _MOST_TABLES and length <= len(self._data), "it has absurdly many tables")
        return tuple(item(i) for i in range(length))

    def _buffer(self, buffer: Any) -> NDArray[np.uint8]:
        offset, size = buffer.Offset(), buffer.Size()
        if offset > 1:  # schema.fbs: 0 and 1 mean that the data is inside the root table
            _require(offset + size <= len(self._data), f"a weight ends at byte {offset + size} of {len(self._data)}")
            return np.frombuffer(self._data, np.uint8, count=size, offset=offset)
        return np.empty(0, np.uint8) if buffer.DataIsNone() else np.asarray(buffer.DataAsNumpy(), np.uint8)

    def _code(self, code: Any) -> tuple[str, int, bool]:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = number == schema.BuiltinOperator.CUSTOM
        return (self._text(code.CustomCode()) if custom else _OPS[number]), code.Version(), custom

    def _tensors(self, graph: Any, number: int) -> tuple[TensorInfo, ...]:
        return self._each(graph.TensorsLength(), lambda i: self._tensor(graph.Tensors(i), number, i))

    def _tensor(self, tensor: Any, subgraph: int, index: int) -> TensorInfo:
        known = self._known_tensors.get(tensor._tab.Pos)
        if known is not None:
            return TensorInfo(subgraph, index, known.name, known.shape, known.dtype, known.buffer, known.nbytes, known.quantization)
        shape = () if tensor.ShapeIsNone() else tuple(tensor.ShapeAsNumpy().tolist())
        quantization = self._quantization(tensor.Quantization())
        nbytes = self._at(self._sizes, tensor.Buffer())
        info = TensorInfo(subgraph, index, self._text(tensor.Name()), shape, _DTYPES[tensor.Type()], tensor.Buffer(), nbytes, quantization)
        self._known_tensors[tensor._tab.Pos] = info
        return info

    def _quantization(self, quantization: Any) -> QuantizationInfo | None:
        if quantization is None:
            return None
        scales, zero_points = np.empty(0, np.float32), np.empty(0, np.int64)
        if quantization.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization:
            table, blocks = quantization.Details(), schema.BlockwiseQuantization()
            _require(table is not None, "blocks without scales")
            blocks.Init(table.Bytes, table.Pos)
            return QuantizationInfo(scales, zero_points, quantization.QuantizedDimension(), blocks.BlockSize(), blocks.Scales())
        if quantization.ScaleIsNone():
            return None
        scales = quantization.ScaleAsNumpy()
        if not quantization.ZeroPointIsNone():
            zero_points = quantization.ZeroPointAsNumpy()
        return QuantizationInfo(scales, zero_points, quantization.QuantizedDimension())

    def _ops(self, graph: Any, number: int, codes: tuple[tuple[str, int, bool], ...], tensors: int) -> tuple[OpInfo, ...]:
        def op(i: int) -> OpInfo:
            operator = graph.Operators(i)
            known = self._known_ops.get(operator._tab.Pos) or self._op(operator, number, codes)
            inside = all(-1 <= index < tensors for index in known.inputs + known.outputs)
            _require(inside, f"{known.name} names a tensor that is not there")
            return OpInfo(known.name, known.version, number, known.inputs, known.outputs, known.custom)

        return self._each(graph.OperatorsLength(), op)

    def _op(self, operator: Any, subgraph: int, codes: tuple[tuple[str, int, bool], ...]) -> OpInfo:
        name, version, custom = self._at(codes, operator.OpcodeIndex())
        inputs = () if operator.InputsIsNone() else tuple(operator.InputsAsNumpy().tolist())
        outputs = () if operator.OutputsIsNone() else tuple(operator.OutputsAsNumpy().tolist())
        self._known_ops[operator._tab.Pos] = OpInfo(name, version, subgraph, inputs, outputs, custom)
        return self._known_ops[operator._tab.Pos]

    def _signature(self, signature: Any, tensor_of: Callable[[int, int], TensorInfo]) -> SignatureInfo:
        graph = signature.SubgraphIndex()
        inputs = self._each(signature.InputsLength(), lambda i: signature.Inputs(i))
        outputs = self._each(signature.OutputsLength(), lambda i: signature.Outputs(i))
        return SignatureInfo(
            self._text(signature.SignatureKey()),
            graph,
            {self._text(entry.Name()): tensor_of(graph, entry.TensorIndex()) for entry in inputs},
            {self._text(entry.Name()): tensor_of(graph, entry.TensorIndex()) for entry in outputs},
        )

    def _at(self, items: Any, index: int) -> Any:
        _require(0 <= index < len(items), f"index {index} of {len(items)}")
        return items[index]

    def _text(self, raw: bytes | None) -> str:
        return "" if raw is None else raw.decode("utf-8")
