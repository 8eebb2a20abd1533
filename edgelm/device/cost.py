"""What one call of a signature costs: ops, multiply-accumulates and bytes, read off the graph of a .tflite."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgelm.spec import Encoding
from edgelm.tflite.reader import OpInfo, SignatureInfo, TensorInfo, TfliteModel

Tensors = Sequence[TensorInfo]

BLOCK_COLUMNS = 32

_MOVES_NOTHING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "BITCAST", "SHAPE", "CALL_ONCE", "VAR_HANDLE"})
_MOVES_ONLY = frozenset(
    {"SLICE", "STRIDED_SLICE", "CONCATENATION", "TRANSPOSE", "PACK", "UNPACK", "SPLIT", "SPLIT_V", "PAD", "TILE", "CAST"}
    | {"BROADCAST_TO", "DYNAMIC_UPDATE_SLICE", "SELECT_V2"}
)
TABLES: Mapping[str, int] = {"EMBEDDING_LOOKUP": 1, "GATHER": 0}
"""Ops that read only the rows they are asked for -> which input is the table (the other one holds the ids)."""
_RECURRENT = frozenset({"UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "RNN", "SVDF"})
_INTEGER = frozenset({"int8", "int4", "uint8", "int16"})
_BITS: Mapping[str, int] = {"int4": 4, "int8": 8, "uint8": 8, "bool": 8, "int16": 16, "float16": 16, "int64": 64, "float64": 64}


@dataclass(frozen=True)
class OpCost:
    """What one op does in one call.

    Attributes:
        name: The op, such as `FULLY_CONNECTED`.
        int8_macs: Multiply-accumulates with integer weights (8 or 4 bits).
        float_macs: Multiply-accumulates with float weights or between activations; an element-wise operation counts as one.
        weight_bytes: Bytes of constants it reads, scales included; of a table that is looked up only the rows.
        activation_bytes: Bytes of the other tensors it reads and writes.
        repeats: How often it runs in a call (more than once inside a loop); the other figures are totals.
    """

    name: str
    int8_macs: int
    float_macs: int
    weight_bytes: int
    activation_bytes: int
    repeats: int = 1


@dataclass(frozen=True)
class StepCost:
    """What one call of a signature costs.

    Attributes:
        signature: Its key.
        ops: Every op that runs, in order.
        tokens: Tokens one call advances the text by: 1, or T for `prefill_T`. A `forward` signature runs its whole window for one.
        working_set_bytes: Distinct bytes of weights and states a call touches: what has to stay in a cache to be read from there.
    """

    signature: str
    ops: tuple[OpCost, ...]
    tokens: int
    working_set_bytes: int

    @property
    def int8_macs(self) -> int:
        """Multiply-accumulates with integer weights."""
        return sum(op.int8_macs for op in self.ops)

    @property
    def float_macs(self) -> int:
        """Multiply-accumulates in floating point."""
        return sum(op.float_macs for op in self.ops)

    @property
    def weight_bytes(self) -> int:
        """Bytes of constants the ops read together."""
        return sum(op.weight_bytes for op in self.ops)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations the ops read and write together."""
        return sum(op.activation_bytes for op in self.ops)


def step_cost(model: TfliteModel, signature: str, encodings: Mapping[str, Encoding] | None = None) -> StepCost:
    """Walks the graph of a signature.

    Weights behind a DEQUANTIZE (float16) count as float32: the runtime converts them once, when it loads the file. Subgraphs that no
    signature names are loop bodies; their number of turns is not in the file, and they are taken to run once for each input token.

    Args:
        model: The file.
        signature: Such as `step`, `decode_128`, `prefill_64` or `forward`.
        encodings: Tensor name -> encoding, to ask what the same graph would cost with other weights.

    Raises:
        ArtifactError: No such signature.

    Example:
        A (16, 32) int8 FULLY_CONNECTED at batch 1 does 512 multiply-accumulates and reads 512 bytes of weights and 64 of scales.
    """
    called = model.signature(signature)
    time = max((math.prod(t.shape) for t in called.inputs.values() if t.dtype in ("int32", "int64") and len(t.shape) == 2), default=1)
    named = {known.subgraph for known in model.signatures}
    walk = _Walk(model, encodings or {})
    for op in model.ops:
        if op.subgraph == called.subgraph:
            walk.add(op, 1)
        elif op.subgraph not in named:
            walk.add(op, time)
    states = sum(tensor_bytes(tensor) for tensor in called.inputs.values())
    return StepCost(signature, tuple(walk.ops), _tokens(called), states + sum(walk.touched.values()))


def stored_bytes(shape: Sequence[int], encoding: Encoding) -> int:
    """Bytes of a (rows, columns) weight in a file, scales included; see `Encoding`.

    Example:
        >>> stored_bytes((10, 64), Encoding.INT8), stored_bytes((10, 64), Encoding.INT4_BLOCK32)
        (680, 360)
    """
    values = -(-math.prod(shape) * encoding.bits // 8)
    if encoding in (Encoding.INT8, Encoding.INT4):
        return values + 4 * shape[0]
    if encoding is Encoding.INT4_BLOCK32:
        return values + 2 * shape[0] * -(-shape[-1] // BLOCK_COLUMNS)
    return values


def encoding_of(tensor: TensorInfo) -> Encoding | None:
    """How a stored weight is encoded; None for what is no weight encoding, such as int32."""
    if tensor.dtype == "int4":
        return Encoding.INT4_BLOCK32 if tensor.quantization and tensor.quantization.block_size else Encoding.INT4
    return {"float32": Encoding.FLOAT32, "float16": Encoding.FLOAT16, "int8": Encoding.INT8}.get(tensor.dtype)


def tensor_bytes(tensor: TensorInfo) -> int:
    """Bytes of a tensor in memory; unknown (negative) sizes count as 1."""
    return -(-math.prod(max(size, 1) for size in tensor.shape) * _BITS.get(tensor.dtype, 32) // 8)


def scale_bytes(model: TfliteModel, tensor: TensorInfo) -> int:
    """Bytes of a tensor's scales, of its blocks' too."""
    quantization = tensor.quantization
    if quantization is None:
        return 0
    blocks = model.tensors[tensor.subgraph][quantization.block_scales].nbytes if quantization.block_size else 0
    return int(quantization.scales.nbytes) + blocks


def _tokens(signature: SignatureInfo) -> int:
    prefill = re.fullmatch(r"prefill_(\d+)", signature.name)
    return int(prefill[1]) if prefill else 1


class _Walk:
    """Adds up ops; keeps the distinct constants they touch."""

    def __init__(self, model: TfliteModel, encodings: Mapping[str, Encoding]) -> None:
        self._model = model
        self._encodings = encodings
        self._converted: dict[tuple[int, int], TensorInfo] = {}  # (subgraph, tensor) -> the constant a DEQUANTIZE made it from
        self.ops: list[OpCost] = []
        self.touched: dict[int, int] = {}  # buffer -> bytes

    def add(self, op: OpInfo, repeats: int) -> None:
        tensors = self._model.tensors[op.subgraph]
        inputs = [tensors[index] for index in op.inputs if index >= 0]
        outputs = [tensors[index] for index in op.outputs if index >= 0]
        if op.name == "DEQUANTIZE" and inputs[0].nbytes:
            self._converted[op.subgraph, op.outputs[0]] = inputs[0]
            return
        weights = {tensor.index: source for tensor in inputs if (source := self._constant(tensor)) is not None}
        weight_bytes = sum(self._read(op, source, inputs, tensors[index].dtype) for index, source in weights.items())
        moved = [] if op.name in _MOVES_NOTHING else [t for t in inputs + outputs if t.index not in weights]
        integer, floating = self._macs(op, inputs, outputs, list(weights.values()))
        activations = sum(tensor_bytes(tensor) for tensor in moved)
        self.ops.append(OpCost(op.name, integer * repeats, floating * repeats, weight_bytes * repeats, activations * repeats, repeats))

    def _constant(self, tensor: TensorInfo) -> TensorInfo | None:
        return tensor if tensor.nbytes else self._converted.get((tensor.subgraph, tensor.index))

    def _encoding(self, tensor: TensorInfo) -> Encoding | None:
        return self._encodings.get(tensor.name, encoding_of(tensor))

    def _read(self, op: OpInfo, weight: TensorInfo, inputs: Sequence[TensorInfo], dtype: str) -> int:
        """Bytes of a constant that one run of the op reads; notes them in the working set."""
        encoding = self._encodings.get(weight.name)
        if encoding is Encoding.FLOAT16 or (encoding is None and weight.dtype == "float16" and dtype == "float32"):
            encoding = Encoding.FLOAT32  # converted when the file is loaded
        whole = stored_bytes(weight.shape, encoding) if encoding else weight.nbytes + scale_bytes(self._model, weight)
        table = TABLES.get(op.name)
        if table is not None and len(inputs) > 1 and inputs[table].buffer == weight.buffer and weight.shape:
            rows = math.prod(inputs[1 - table].shape)
            whole = min(whole, -(-whole * rows // max(weight.shape[0], 1)))
        self.touched[weight.buffer] = max(whole, self.touched.get(weight.buffer, 0))
        return whole

    def _macs(self, op: OpInfo, inputs: Tensors, outputs: Tensors, weights: Tensors) -> tuple[int, int]:
        """(integer, float) multiply-accumulates of one run."""
        made = sum(math.prod(tensor.shape) for tensor in outputs)
        if op.name in TABLES or op.name in _MOVES_NOTHING or op.name in _MOVES_ONLY or op.name == "WHILE":
            return 0, 0
        if op.name == "BATCH_MATMUL":
            return 0, made * inputs[0].shape[-1]
        matrices = [weight for weight in weights if len(weight.shape) >= 2]
        if op.name in ("FULLY_CONNECTED", "CONV_2D") and matrices:
            return self._split(matrices[0], made * math.prod(matrices[0].shape[1:]))
        if op.name in _RECURRENT and matrices:
            steps = math.prod(inputs[0].shape[:-1])
            return self._split(matrices[0], steps * sum(math.prod(matrix.shape) for matrix in matrices))
        return 0, made

    def _split(self, weight: TensorInfo, macs: int) -> tuple[int, int]:
        encoding = self._encoding(weight)
        integer = weight.dtype in _INTEGER if encoding is None else encoding not in (Encoding.FLOAT32, Encoding.FLOAT16)
        return (macs, 0) if integer else (0, macs)
