"""Op versions: which one a graph must declare, and which ones a runtime has.

A runtime looks ops up by (name, version). A file that declares too old a version loads and then computes garbage (a per-row int8
FULLY_CONNECTED labelled 9 gives zeros in tflite-runtime 2.14), so the writer declares the true version and preflight compares it
with what the target runtime has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgelm.errors import ProfileError

TFLITE_RUNTIME_2_14 = "tflite-runtime 2.14.0"
LITERT_2_1 = "ai-edge-litert 2.1.0"
RUNTIMES = (TFLITE_RUNTIME_2_14, LITERT_2_1)
"""The runtimes whose op versions are known."""


@dataclass(frozen=True)
class VersionRule:
    """An op with these operands needs this version.

    Attributes:
        op: Builtin name, such as `FULLY_CONNECTED`.
        operands: Dtypes of the leading operands; `*` fits any.
        version: What the op must declare.
        reason: What that version brought.
        per_row: Only when a weight has one scale for each row or block.
        rank_over: Only when an operand has more axes than this.
    """

    op: str
    operands: tuple[str, ...]
    version: int
    reason: str
    per_row: bool = False
    rank_over: int = 0


# After GetBuiltinOperatorVersion of tensorflow/lite/tools/versioning/op_version.cc (TensorFlow 2.19) and of LiteRT's copy, for what
# `writer` emits. Two rules are stricter than the source, whose code looks at int8 x per-channel only: see their reasons.
RULES: tuple[VersionRule, ...] = (
    VersionRule("FULLY_CONNECTED", ("float32", "int8"), 12, "hybrid with one scale a row", per_row=True),
    VersionRule("FULLY_CONNECTED", ("float32", "int4"), 12, "as int8: the kernels that read int4 rows and blocks came later", per_row=True),
    VersionRule("FULLY_CONNECTED", ("*", "*"), 5, "keep_num_dims, which the writer always sets; covers hybrid with one scale (3)"),
    VersionRule("EMBEDDING_LOOKUP", ("*", "int8"), 4, "scales of rows: version 3 loads them in 2.14 and reads zeros", per_row=True),
    VersionRule("EMBEDDING_LOOKUP", ("*", "int4"), 4, "int4 tables", per_row=True),
    VersionRule("EMBEDDING_LOOKUP", ("*", "int8"), 3, "hybrid with one scale"),
    VersionRule("GATHER", ("int4",), 7, "int4 tables"),
    VersionRule("GATHER", ("int16",), 4, "int16 tables"),
    VersionRule("GATHER", ("int8",), 2, "int8 tables"),
    VersionRule("DEQUANTIZE", ("int4",), 6, "int4"),
    VersionRule("DEQUANTIZE", ("int8",), 5, "int8 with one scale a row", per_row=True),
    VersionRule("DEQUANTIZE", ("float16",), 3, "float16"),
    VersionRule("DEQUANTIZE", ("int8",), 2, "int8"),
    VersionRule("CAST", ("float16",), 5, "from float16"),
    VersionRule("CAST", ("int8",), 3, "from int8"),
    VersionRule("SLICE", ("*",), 5, "five axes", rank_over=4),
    VersionRule("TRANSPOSE", ("*",), 4, "five axes", rank_over=4),
    VersionRule("SUB", ("*",), 3, "broadcasting five axes", rank_over=4),
    VersionRule("DIV", ("*",), 2, "broadcasting five axes", rank_over=4),
    VersionRule("MAXIMUM", ("*",), 3, "broadcasting five axes", rank_over=4),
    VersionRule("MINIMUM", ("*",), 3, "broadcasting five axes", rank_over=4),
)


def op_version(op: str, operands: Sequence[str], *, per_row: bool = False, rank: int = 0) -> int:
    """The version an op must declare: that of the first fitting rule, else 1.

    Args:
        op: Builtin name.
        operands: Dtypes of the inputs, in order.
        per_row: A weight among them has one scale for each row or block.
        rank: The most axes an input has.

    Example:
        >>> op_version("FULLY_CONNECTED", ("float32", "int8"), per_row=True)
        12
    """
    for rule in RULES:
        fits = all(wanted in ("*", met) for wanted, met in zip(rule.operands, operands, strict=False))
        if rule.op == op and len(operands) >= len(rule.operands) and fits and per_row >= rule.per_row and rank > rule.rank_over - 1:
            if rule.rank_over and rank <= rule.rank_over:
                continue
            return rule.version
    return 1
