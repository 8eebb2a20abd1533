"""Reads what lies between token ids and the first block, and how many positions a model was made for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Norm
from edgelm_converters.onnx_attention import OnnxAttention
from edgelm_converters.onnx_graph import Array
from edgelm_converters.onnx_transformer_blocks import Stack
from edgelm_converters.onnx_transformer_functions import Copy, candidates_between, copy_between, norm_between, rows_of
from edgelm_converters.onnx_transformer_maps import Frame
from edgelm_converters.onnx_transformer_masks import mask_constants
from edgelm_converters.onnx_transformer_trace import Trace, constants_behind

UNBOUNDED_CONTEXT = 1024
"""Longest context of a model that has no table of positions and takes inputs of any length."""


@dataclass(frozen=True)
class Embedding:
    """norm(scale * table[ids] + positions).

    Attributes:
        table: (vocab, width).
        positions: (positions, width); None without.
        computed: The positions are computed, not stored: there are as many as one wants.
        scale: Of the token embeddings.
        norm: None without.
    """

    table: FloatArray
    positions: FloatArray | None
    computed: bool
    scale: float
    norm: Norm | None


def embedding_of(frame: Frame, stack: Stack) -> Embedding:
    """The embedding under the blocks.

    Raises:
        NotLiftable: Something else is done to it.
    """
    trace, source = frame.trace, stack.table
    copied, middle, norm = _copied(trace, source, stack.root)
    positions, computed = _positions(frame, source, middle, copied)
    return Embedding(np.asarray(frame.tables[source], np.float32), positions, computed, copied.scale, norm)


def _copied(trace: Trace, source: str, root: str) -> tuple[Copy, str, Norm | None]:
    """(scale and positions, the tensor that has them, the norm behind it)."""
    copied = copy_between(trace, source, root)
    if copied is not None:
        return copied, root, None
    for middle in (source, *candidates_between(trace, source, root)):
        copied = copy_between(trace, source, middle)
        norm = norm_between(trace, middle, root) if copied is not None else None
        if copied is not None and norm is not None:
            return copied, middle, norm
    raise NotLiftable(f"between the embedding and the first block ({root!r}) there is more than a scale, positions and a norm")


def _positions(frame: Frame, source: str, target: str, copied: Copy) -> tuple[FloatArray | None, bool]:
    trace, rows = frame.trace, copied.shift
    if not rows.any():
        return None, False
    names = [name for node in trace.between(source, target) for name in node.inputs]
    for constant in constants_behind(trace, names):
        table = _as_table(constant, rows.shape[1])
        for factor in dict.fromkeys((1.0, copied.scale)) if table is not None else ():
            start = _start(table * np.float32(factor), rows) if table is not None else None
            if table is not None and start is not None:
                return np.asarray(table[start:] * np.float32(factor), np.float32), False
    longer = trace.resized(UNBOUNDED_CONTEXT)
    zeros = np.zeros((longer.time, rows.shape[1]))
    return np.asarray(rows_of(longer, source, target, zeros), np.float32), not trace.fixed


def _as_table(constant: Array, width: int) -> FloatArray | None:
    if constant.dtype.kind != "f" or constant.ndim < 2 or width not in constant.shape[-1:] or not constant.size:
        return None
    return constant.reshape(-1, width)


def _start(table: FloatArray, rows: NDArray[np.float64]) -> int | None:
    """Where a table has these rows."""
    starts = np.flatnonzero(np.all(np.isclose(table, rows[0], atol=1e-5), axis=1))
    whole = (int(at) for at in starts if len(table) >= at + len(rows))
    return next((at for at in whole if np.allclose(table[at : at + len(rows)], rows, atol=1e-5)), None)


def longest_context(frame: Frame, attentions: list[OnnxAttention], embedding: Embedding) -> int:
    """How many positions the model was made for: rows of its tables of positions, rotations and masks, or its fixed input length."""
    trace = frame.trace
    if embedding.positions is not None and not embedding.computed:
        return len(embedding.positions)
    sizes = [size for attention in attentions for size in _table_sizes(trace, attention)]
    if trace.fixed:
        sizes.append(trace.time)
    return min(sizes, default=UNBOUNDED_CONTEXT)


def _table_sizes(trace: Trace, attention: OnnxAttention) -> Iterator[int]:
    """Rows of rotary tables and of square masks."""
    if attention.rotary is not None:
        widths = (attention.rotary.size // 2, attention.rotary.size)
        names = [name for node in trace.between(attention.q_source, attention.core.q) for name in node.inputs]
        for constant in constants_behind(trace, names):
            rows = constant.size // max(1, constant.shape[-1]) if constant.ndim > 1 else 0
            if constant.dtype.kind == "f" and constant.shape[-1:] and constant.shape[-1] in widths and rows > trace.time:
                yield rows
    for constant in mask_constants(trace, attention.core):
        if constant.ndim > 1 and constant.shape[-1] == constant.shape[-2] > trace.time:
            yield int(constant.shape[-1])
