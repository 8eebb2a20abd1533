"""Op versions: which one a graph must declare, and which ones a runtime has.

A runtime looks ops up by (name, version). A file that declares too old a version loads and then computes garbage (a per-row int8
FULLY_CONNECTED labelled 9 gives zeros in tflite-runtime 2.14), so the writer declares the true version and preflight compares it
with what the target runtime has.
"""

from __future__ import annotations

import functools
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
    VersionRule("EMBEDDING_LOOKUP", ("*", "int4"), 4, "int4 tables, with scales of rows or blocks", per_row=True),
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
    VersionRule("SLICE", ("int8",), 2, "int8"),
    VersionRule("TRANSPOSE", ("*",), 4, "five axes", rank_over=4),
    VersionRule("TRANSPOSE", ("int8",), 2, "int8"),
    VersionRule("SPLIT", ("*", "int8"), 2, "int8"),
    VersionRule("ADD", ("int8",), 2, "int8"),
    VersionRule("MUL", ("int8",), 2, "int8 with an output scale above the product of the input scales"),
    VersionRule("LOGISTIC", ("int8",), 2, "int8"),
    VersionRule("TANH", ("int8",), 2, "int8"),
    VersionRule("RELU", ("int8",), 2, "int8"),
    VersionRule("GELU", ("int8",), 2, "int8"),
    VersionRule("SUB", ("*",), 3, "broadcasting five axes", rank_over=4),
    VersionRule("DIV", ("*",), 2, "broadcasting five axes", rank_over=4),
    VersionRule("MAXIMUM", ("*",), 3, "broadcasting five axes", rank_over=4),
    VersionRule("MINIMUM", ("*",), 3, "broadcasting five axes", rank_over=4),
)


@functools.cache
def op_version(op: str, operands: tuple[str, ...], *, per_row: bool = False, rank: int = 0) -> int:
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
        if rule.op == op and per_row >= rule.per_row and (not rule.rank_over or rank > rule.rank_over) and _fits(rule.operands, operands):
            return rule.version
    return 1


def _fits(wanted: Sequence[str], met: Sequence[str]) -> bool:
    return len(met) >= len(wanted) and all(want in ("*", dtype) for want, dtype in zip(wanted, met, strict=False))


def required_versions(ops: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Op -> the newest version of it among (op, version) pairs, sorted by name."""
    newest: dict[str, int] = {}
    for op, version in sorted(ops):
        newest[op] = max(version, newest.get(op, 0))
    return newest


def max_version(runtime: str, op: str) -> int:
    """The newest version of `op` that `runtime` has; 0 when it has none.

    Args:
        runtime: One of `RUNTIMES`.
        op: Builtin name.

    Raises:
        ProfileError: The runtime is not known.

    Example:
        >>> max_version(TFLITE_RUNTIME_2_14, "FULLY_CONNECTED"), max_version(LITERT_2_1, "FULLY_CONNECTED")
        (10, 14)
    """
    if runtime not in RUNTIMES:
        raise ProfileError(f"the op versions of runtime {runtime!r} are not known", allowed=", ".join(RUNTIMES))
    return _MAX_VERSIONS.get(op, (0, 0))[RUNTIMES.index(runtime)]


def unsupported_ops(runtime: str, required: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Of required op versions those `runtime` lacks: op -> (required, newest the runtime has; 0 for none).

    Raises:
        ProfileError: The runtime is not known.
    """
    has = {op: max_version(runtime, op) for op in required}
    return {op: (version, has[op]) for op, version in required.items() if version > has[op]}


# (newest in tflite-runtime 2.14.0, newest in ai-edge-litert 2.1.0) -> ops, as their register.cc have it: both were asked for every
# builtin op and version. They have all older versions too (BROADCAST_TO starts at 2). tests/tflite/test_versions.py asks them again.
_OPS_BY_VERSIONS: Mapping[tuple[int, int], str] = {
    (0, 1): (
        "DILATE REDUCE_WINDOW STABLEHLO_ADD STABLEHLO_AND STABLEHLO_CASE STABLEHLO_COMPOSITE STABLEHLO_GATHER STABLEHLO_MAXIMUM "
        "STABLEHLO_MINIMUM STABLEHLO_MULTIPLY STABLEHLO_PAD STABLEHLO_REDUCE_WINDOW STABLEHLO_RNG_BIT_GENERATOR "
        "STABLEHLO_SCATTER STABLEHLO_SHIFT_LEFT "
    ),
    (1, 1): (
        "ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS CONV_3D "
        "CONV_3D_TRANSPOSE COS CUMSUM DENSIFY ELU EMBEDDING_LOOKUP_SPARSE EXPAND_DIMS FLOOR HARD_SWISH HASHTABLE HASHTABLE_FIND "
        "HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE IF IMAG L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGICAL_AND "
        "LOGICAL_NOT LOGICAL_OR LSH_PROJECTION MATRIX_DIAG MATRIX_SET_DIAG MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 "
        "NON_MAX_SUPPRESSION_V5 ONE_HOT POW PRELU RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANK READ_VARIABLE REAL REDUCE_ALL "
        "REDUCE_ANY RELU_0_TO_1 RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT ROUND SCATTER_ND SEGMENT_SUM SHAPE SIN "
        "SKIP_GRAM SQUARE UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM "
        "VAR_HANDLE WHILE ZEROS_LIKE "
    ),
    (1, 2): ("LOG SQRT "),
    (1, 4): ("DYNAMIC_UPDATE_SLICE "),
    (2, 2): (
        "DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GELU GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL LOG_SOFTMAX RANGE "
        "REDUCE_PROD SELECT_V2 SIGN SPACE_TO_DEPTH SPLIT_V SQUARED_DIFFERENCE SQUEEZE SUM WHERE "
    ),
    (2, 3): ("RSQRT "),
    (3, 3): (
        "ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO FLOOR_DIV "
        "GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD REDUCE_MAX REDUCE_MIN RELU RELU6 REVERSE_V2 RNN SOFTMAX "
        "SPARSE_TO_DENSE TANH TILE TOPK_V2 UNIDIRECTIONAL_SEQUENCE_RNN "
    ),
    (3, 4): ("EMBEDDING_LOOKUP NOT_EQUAL QUANTIZE "),
    (4, 4): (
        "BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION FILL LSTM MAXIMUM MINIMUM PACK RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR "
        "SELECT SPACE_TO_BATCH_ND SPLIT SVDF UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK "
    ),
    (4, 5): ("EQUAL GATHER_ND PAD PADV2 TRANSPOSE_CONV "),
    (5, 5): ("ABS ADD SUB "),
    (5, 7): ("DEQUANTIZE "),
    (5, 8): ("CAST "),
    (6, 7): ("GATHER SLICE TRANSPOSE "),
    (7, 7): ("DEPTHWISE_CONV_2D MUL "),
    (7, 8): ("CONV_2D "),
    (8, 8): ("STRIDED_SLICE "),
    (10, 14): ("FULLY_CONNECTED "),
}

_MAX_VERSIONS: Mapping[str, tuple[int, int]] = {op: versions for versions, ops in _OPS_BY_VERSIONS.items() for op in ops.split()}
