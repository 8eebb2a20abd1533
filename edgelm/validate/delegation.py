"""Which ops of a graph XNNPACK takes over from TFLite's own kernels, on each of the two runtimes.

The lists were asked of the runtimes, not read: a graph of one op each, loaded by tflite-runtime 2.14.0 and ai-edge-litert 2.1.0, shows a
DELEGATE node or not (tests/validate/test_delegation.py asks again). They cover the ops of language models; others count as not taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgelm.report import Table
from edgelm.tflite.reader import OpInfo, TensorInfo, TfliteModel, weight_values

BOTH = frozenset(
    {"ABS", "ADD", "CONCATENATION", "DIV", "ELU", "FLOOR", "FULLY_CONNECTED", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MINIMUM"}
    | {"MUL", "NEG", "PAD", "RELU", "RESHAPE", "SLICE", "SOFTMAX", "SPLIT", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB"}
    | {"TANH", "TRANSPOSE"}
)
DELEGATED: Mapping[str, frozenset[str]] = {
    "tflite-runtime": BOTH,
    "ai-edge-litert": BOTH | {"BATCH_MATMUL", "COS", "DEQUANTIZE", "EXP", "GELU", "MEAN", "QUANTIZE", "REDUCE_MAX", "RSQRT", "SIN", "SUM"},
}
"""Runtime -> ops with float32 operands that XNNPACK takes."""
MOST_CONCATENATED: Mapping[str, int] = {"tflite-runtime": 4, "ai-edge-litert": 5}

_LOOKUPS = frozenset({"EMBEDDING_LOOKUP", "GATHER"})
_FLOAT_LIKE = frozenset({"float32", "int8", "uint8"})


@dataclass(frozen=True)
class Delegation:
    """What became of one op: whether XNNPACK takes it, and why not."""

    taken: bool
    reason: str = ""


def delegation(op: OpInfo, model: TfliteModel, runtime: str) -> Delegation:
    """Whether XNNPACK takes an op.

    Args:
        op: The op.
        model: Its file.
        runtime: `ai-edge-litert` or `tflite-runtime`.
    """
    tensors = model.tensors[op.subgraph]
    inputs = [tensors[index] for index in op.inputs if index >= 0]
    if op.custom:
        return Delegation(False, "a custom op")
    if op.name == "DEQUANTIZE" and inputs[0].nbytes:
        return Delegation(True)  # of a constant: folded into the op behind it
    if op.name not in DELEGATED[runtime]:
        return Delegation(
            False, "a lookup: TFLite's own kernel reads the one row it needs" if op.name in _LOOKUPS else "XNNPACK has no such op here"
        )
    if op.name == "SLICE" and runtime == "ai-edge-litert" and _open_ended(inputs[2], model):
        return Delegation(False, "XNNPACK wants every size of a slice spelt out, not -1 for the rest")
    return _RULES.get(op.name, _elementwise)(inputs, runtime)


def _open_ended(sizes: TensorInfo, model: TfliteModel) -> bool:
    if not sizes.nbytes or sizes.dtype != "int32":
        return False
    return bool((weight_values(model, sizes)[0] < 0).any())


def _elementwise(inputs: list[TensorInfo], runtime: str) -> Delegation:
    data = inputs[0].dtype
    if data not in _FLOAT_LIKE:
        return Delegation(False, f"XNNPACK takes no {data} operands")
    if data != "float32" and runtime == "tflite-runtime":
        return Delegation(False, "XNNPACK of 2.14 is built without integer operators")
    return Delegation(True)


def _concatenation(inputs: list[TensorInfo], runtime: str) -> Delegation:
    most = MOST_CONCATENATED[runtime]
    if len(inputs) > most:
        return Delegation(False, f"XNNPACK concatenates at most {most} tensors")
    return _elementwise(inputs, runtime)


def _split(inputs: list[TensorInfo], runtime: str) -> Delegation:
    return _elementwise(inputs[1:], runtime)  # input 0 is the axis


def _fully_connected(inputs: list[TensorInfo], runtime: str) -> Delegation:
    x, w = inputs[0], inputs[1]
    if w.dtype in ("float32", "float16"):
        return _elementwise([x], runtime)
    if runtime == "tflite-runtime":
        return Delegation(False, "XNNPACK of 2.14 takes no integer weights: TFLite's own kernel is about 3 times slower")
    if w.dtype == "int4" and w.quantization and not w.quantization.block_size and w.quantization.scales.size < 2 < w.shape[0]:
        return Delegation(False, "XNNPACK takes int4 weights with a scale for each row or block only")
    return _elementwise([x], runtime)


_RULES: Mapping[str, Callable[[list[TensorInfo], str], Delegation]] = {
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    "FULLY_CONNECTED": _fully_connected,
}


def delegation_table(model: TfliteModel, runtime: str, delegate: str) -> Table:
    """Op by op how many XNNPACK takes, and why not the others.

    Args:
        model: The file.
        runtime: `ai-edge-litert` or `tflite-runtime`.
        delegate: `xnnpack`, or `none` when the app turns it off.
    """
    counts: Counter[tuple[str, int, Delegation]] = Counter()
    for op in model.ops:
        found = delegation(op, model, runtime) if delegate == "xnnpack" else Delegation(False, "the profile's app uses no delegate")
        counts[op.name, op.version, found] += 1
    ordered = sorted(counts.items(), key=lambda item: (item[0][2].taken, item[0][0], item[0][1]))
    rows = tuple(
        (name, str(version), str(count), "yes" if found.taken else "no", found.reason) for (name, version, found), count in ordered
    )
    taken = sum(count for (_, _, found), count in counts.items() if found.taken)
    note = f"XNNPACK takes {taken} of {len(model.ops)} ops of all signatures together; the others run on TFLite's own kernels."
    return Table("Ops and XNNPACK", ("op", "version", "count", "delegated", "why not"), rows, note)
