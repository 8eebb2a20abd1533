"""How far an answer on an arm64 core may be from this host's, by how the graph computes: a table with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgelm.tflite.reader import TfliteModel

Arithmetic = Literal["integer", "float", "rounded"]

EXACT_OPS = frozenset(
    {
        "ADD",
        "CONCATENATION",
        "DEQUANTIZE",
        "EMBEDDING_LOOKUP",
        "GATHER",
        "GELU",
        "MAXIMUM",
        "MINIMUM",
        "MUL",
        "PACK",
        "PAD",
        "QUANTIZE",
        "RELU",
    }
    | {"RESHAPE", "SLICE", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "SUB", "TANH", "TRANSPOSE", "UNPACK"}
)
"""Ops whose float32 results are the same to the last bit: one rounding each, which IEEE 754 defines; and TANH and GELU, which XNNPACK
computes by the same fused multiply-adds and one division on x86 and arm64 (tests/validate/test_arm64.py compares them)."""

MATRIX_OPS = frozenset({"FULLY_CONNECTED", "BATCH_MATMUL"})


@dataclass(frozen=True)
class Limit:
    """What an answer on an arm64 core may differ by.

    Attributes:
        relative: Largest difference of an output, relative to its largest value on this host.
        reason: Why.
    """

    relative: float
    reason: str


LIMITS: Mapping[Arithmetic, Limit] = {
    "integer": Limit(0.0, "products and sums are integers and the float ops between them give the same bits on every CPU"),
    "float": Limit(
        1e-5, "only the order of float32 sums and the approximation of exp differ (6e-8 an operation); at most 1e-6 was measured"
    ),
    "rounded": Limit(
        0.05,
        "activations are rounded to int8 while it runs; where another order of float32 sums (1e-7) tips one over a tie it moves by a "
        "step, 1/127 of the largest. Calls without a tie agree to 4e-7, others to 0.012 in logits and 0.023 in states: twice that; a "
        "wrong kernel is off by about 1",
    ),
}
"""Arithmetic -> limit."""

SAME = 1e-5
"""Relative difference below which a call counts as the same."""


def arithmetic_of(model: TfliteModel) -> Arithmetic:
    """How a graph computes, which decides how far two CPUs may differ.

    Args:
        model: The file.

    Returns:
        `integer`: int8 products whose float surroundings are exact. `rounded`: values that two CPUs compute differently in the last bit
        are rounded to int8. `float`: nothing is rounded.
    """
    rounds, differs = False, False
    for op in model.ops:
        tensors = model.tensors[op.subgraph]
        operands = [tensors[index] for index in op.inputs if index >= 0]
        floats = any(tensors[index].dtype == "float32" for index in op.outputs)
        if op.name in MATRIX_OPS and floats and operands[1].dtype in ("int8", "int4"):
            return "rounded"
        rounds |= op.name == "QUANTIZE" and operands[0].dtype == "float32"
        differs |= floats and op.name not in EXACT_OPS
    if not rounds:
        return "float"
    return "rounded" if differs else "integer"
