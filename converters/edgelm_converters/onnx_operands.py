"""What the evaluation of every ONNX operation shares: operands, axes, dtypes, and a limit of what is computed at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxNode

Operands = Sequence[Array | None]
"""Values of a node's inputs, None for optional ones that are left out."""

Compute = Callable[[OnnxNode, Operands], Array | tuple[Array, ...]]
"""Evaluates a node: its first outputs, as many as it can make."""

LIMIT = 1 << 26  # elements of one result; a damaged or hostile file may ask for any shape

# TensorProto.DataType; float16 and bfloat16 are computed in float32
_DTYPES: dict[int, type[np.generic]] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float32,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
    16: np.float32,
}


def dtype_of(code: int) -> type[np.generic]:
    """The numpy type that a value of TensorProto.DataType is computed in.

    Raises:
        NotLiftable: Texts, complex numbers, float8 and the like.
    """
    if code not in _DTYPES:
        raise NotLiftable(f"element type {code} is none that edgelm computes with")
    return _DTYPES[code]


def required(operands: Operands, number: int) -> Array:
    """Operand `number`.

    Raises:
        NotLiftable: It is left out.
    """
    value = operands[number] if number < len(operands) else None
    if value is None:
        raise NotLiftable(f"operand {number} is missing")
    return value


def optional(operands: Operands, number: int) -> Array | None:
    """Operand `number`, None where it is left out."""
    return operands[number] if number < len(operands) else None


def ints(array: Array) -> list[int]:
    """A vector of whole numbers."""
    return [int(value) for value in array.reshape(-1)]


def axes_of(node: OnnxNode, operands: Operands) -> list[int] | None:
    """The axes of Squeeze, Unsqueeze and reductions: an attribute in old opsets, the second operand in new ones."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"])
    given = optional(operands, 1)
    return None if given is None else ints(given)


def within_limit(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape`, where so much may be computed.

    Raises:
        NotLiftable: It may not.
    """
    if min(shape, default=0) < 0 or math.prod(shape) > LIMIT:
        raise NotLiftable(f"a tensor of shape {tuple(shape)} is computed")
    return tuple(shape)
