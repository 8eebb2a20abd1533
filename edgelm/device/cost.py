"""What one call of a signature costs: ops, multiply-accumulates and bytes, read off the graph of a .tflite.

Bytes are told apart by where they are read from. Constants and the signature's inputs (states, caches of keys and values) are touched
once a call, so that they come from whatever level holds all of them; what ops hand to each other was written a moment ago.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgelm.spec import Encoding
from edgelm.tflite.reader import OpInfo, SignatureInfo, TensorInfo, TfliteModel

Tensors = Sequence[TensorInfo]

BLOCK_COLUMNS = 32
TILE_COLUMNS = 64
ROUNDED_VALUE = 2
"""A value looked up in an integer table takes as long as so many functions: TFLite's kernel turns them to float one by one."""

_MOVES_NOTHING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "BITCAST", "SHAPE", "CALL_ONCE", "VAR_HANDLE"})
_MOVES_ONLY = frozenset(
    {"SLICE", "STRIDED_SLICE", "CONCATENATION", "TRANSPOSE", "PACK", "UNPACK", "SPLIT", "SPLIT_V", "PAD", "TILE", "CAST"}
    | {"BROADCAST_TO", "DYNAMIC_UPDATE_SLICE", "SELECT_V2"}
)
TABLES: Mapping[str, int] = {"EMBEDDING_LOOKUP": 1, "GATHER": 0}
"""Ops that read only the rows they are asked for -> which input is the table (the other one holds the ids)."""
_RECURRENT = frozenset({"UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "RNN", "SVDF"})
_FUNCTIONS = frozenset({"TANH", "LOGISTIC", "GELU", "ELU", "EXP", "LOG", "SIN", "COS", "SOFTMAX", "LOG_SOFTMAX", "HARD_SWISH", "POW"})
_OWN_KERNELS = frozenset({*TABLES, *_RECURRENT, "CAST", "WHILE", "SELECT_V2", "DYNAMIC_UPDATE_SLICE", "GATHER_ND", "ONE_HOT"})
_BITS: Mapping[str, int] = {"int4": 4, "int8": 8, "uint8": 8, "bool": 8, "int16": 16, "float16": 16, "int64": 64, "float64": 64}

Multiplied = Literal["int8", "int4", "int4_block", "float"]
"""What the kernel of a product reads: bytes, half bytes with a scale for each row or each block, or float32."""

_MULTIPLIED: Mapping[Encoding, Multiplied] = {
    Encoding.FLOAT32: "float",
    Encoding.FLOAT16: "float",
    Encoding.INT8: "int8",
    Encoding.INT4: "int4",
    Encoding.INT4_BLOCK32: "int4_block",
}


@dataclass(frozen=True)
class OpCost:
    """What one op does in one call.

    Attributes:
        name: The op, such as `FULLY_CONNECTED`.
        macs: Multiply-accumulates of a product.
        multiplied: The weights' kind; None when two activations are multiplied, or nothing is.
        rows: Rows that meet the matrix of a product: 1 in a step, T in a `prefill_T`.
        ragged: The weights are int8 and their columns no multiple of `TILE_COLUMNS`.
        functions: Values that go through a function such as tanh or exp, or `ROUNDED_VALUE` for each that is looked up in an integer table.
        weight_bytes: Bytes of constants it reads, scales included; of a table that is looked up only the rows.
        state_bytes: Bytes of the signature's inputs it reads.
        activation_bytes: Bytes of the other tensors it reads and writes.
        packed_bytes: Bytes of a second operand that is no constant: a product rearranges it before it multiplies.
        repeats: How often it runs in a call (more than once inside a loop); the other figures are totals.
        own_kernel: TFLite's own kernel runs it, not XNNPACK.
    """

    name: str
    macs: int = 0
    multiplied: Multiplied | None = None
    rows: int = 1
    ragged: bool = False
    functions: int = 0
    weight_bytes: int = 0
    state_bytes: int = 0
    activation_bytes: int = 0
    packed_bytes: int = 0
    repeats: int = 1
    own_kernel: bool = False


@dataclass(frozen=True)
class StepCost:
    """What one call of a signature costs.

    Attributes:
        signature: Its key.
        ops: Every op that runs, in order.
        tokens: Tokens one call advances the text by: 1, or T for `prefill_T`. A `forward` signature runs its whole window for one.
        working_set_bytes: Distinct bytes of weights and states a call touches, and the activations of its largest op: what has to stay
            in a cache to be read from there.
    """

    signature: str
    ops: tuple[OpCost, ...]
    tokens: int
    working_set_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of constants the ops read together."""
        return sum(op.weight_bytes for op in self.ops)


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
        A (16, 32) int8 FULLY_CONNECTED of one row does 512 multiply-accumulates and reads 512 bytes of weights and 64 of scales.
    """
    called = model.signature(signature)
    time = max((math.prod(t.shape) for t in called.inputs.values() if t.dtype in ("int32", "int64") and len(t.shape) == 2), default=1)
    named = {known.subgraph for known in model.signatures}
    walk = _Walk(model, encodings or {}, frozenset(tensor.index for tensor in called.inputs.values()))
    for op in model.ops:
        if op.subgraph == called.subgraph:
            walk.add(op, 1)
        elif op.subgraph not in named:
            walk.add(op, time)
    states = sum(tensor_bytes(tensor) for tensor in called.inputs.values())
    arena = max((one.activation_bytes + one.packed_bytes) // one.repeats for one in walk.ops) if walk.ops else 0
    return StepCost(signature, tuple(walk.ops), _tokens(called), states + sum(walk.touched.values()) + arena)


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

    def __init__(self, model: TfliteModel, encodings: Mapping[str, Encoding], states: frozenset[int]) -> None:
        self._model = model
        self._encodings = encodings
        self._states = states
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
        moved = [] if op.name in _MOVES_NOTHING else [t for t in inputs + outputs if t.index not in weights]
        states = [tensor for tensor in moved if tensor.index in self._states]
        macs, multiplied, rows = self._product(op, inputs, outputs, list(weights.values()))
        made = sum(math.prod(tensor.shape) for tensor in outputs)
        packed = tensor_bytes(inputs[1]) if op.name == "BATCH_MATMUL" and inputs[1].index not in weights else 0
        cost = OpCost(
            op.name,
            macs=macs * repeats,
            multiplied=multiplied,
            rows=rows,
            ragged=multiplied == "int8" and any(len(w.shape) == 2 and w.shape[-1] % TILE_COLUMNS for w in weights.values()),
            functions=self._functions(op, inputs, made) * repeats,
            weight_bytes=sum(self._read(op, source, inputs, tensors[index].dtype) for index, source in weights.items()) * repeats,
            state_bytes=sum(tensor_bytes(tensor) for tensor in states) * repeats,
            activation_bytes=sum(tensor_bytes(tensor) for tensor in moved if tensor not in states) * repeats,
            packed_bytes=packed * repeats,
            repeats=repeats,
            own_kernel=op.name in _OWN_KERNELS or op.custom,
        )
        self.ops.append(cost)

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

    def _product(self, op: OpInfo, inputs: Tensors, outputs: Tensors, weights: Tensors) -> tuple[int, Multiplied | None, int]:
        """Multiply-accumulates of one run, the weights' kind and the rows that meet them."""
        made = sum(math.prod(tensor.shape) for tensor in outputs)
        if op.name == "BATCH_MATMUL":
            return made * inputs[0].shape[-1], None, inputs[0].shape[-2]
        matrices = [weight for weight in weights if len(weight.shape) >= 2]
        if op.name in ("FULLY_CONNECTED", "CONV_2D") and matrices:
            matrix = matrices[0]
            return made * math.prod(matrix.shape[1:]), self._multiplied(matrix), made // matrix.shape[0]
        if op.name in _RECURRENT and matrices:
            steps = math.prod(inputs[0].shape[:-1])
            return steps * sum(math.prod(matrix.shape) for matrix in matrices), self._multiplied(matrices[0]), 1
        return 0, None, 1

    def _functions(self, op: OpInfo, inputs: Tensors, made: int) -> int:
        if op.name in TABLES and self._multiplied(inputs[TABLES[op.name]]) != "float":
            return ROUNDED_VALUE * made
        return made if op.name in _FUNCTIONS else 0

    def _multiplied(self, weight: TensorInfo) -> Multiplied:
        encoding = self._encoding(weight)
        return _MULTIPLIED[encoding] if encoding else "int8"  # uint8 and int16 have kernels of that speed
