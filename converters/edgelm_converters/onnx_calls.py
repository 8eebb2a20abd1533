"""Finds out what the inputs of an ONNX language model are for, and what to feed them.

Ids are found by structure (the integer input that a table of weights is looked up with). States and caches are the float inputs; masks,
positions and lengths are told apart by type, rank and name.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxInput
from edgelm_converters.onnx_walk import looked_up

_LONGEST, _MOST = 8192, 16  # traced sizes that are tried
_WANTED = "token ids (batch, time), or one-hot rows (batch, time, vocabulary)"
MOST_TOKENS = 1 << 13  # of one call: the scores of attention are its square, 256 MB a head


@dataclass(frozen=True)
class Call:
    """How the model is called.

    Attributes:
        ids: Input that takes the tokens.
        one_hot: Width of one-hot rows; 0 where it takes ids.
        vocabularies: Rows of the tables that the ids are looked up in.
        states: Recurrent states and caches.
        others: Masks, positions, lengths, switches.
        traced_sizes: Numbers that the time may be fixed at although the file calls it free: exporters by tracing write the sizes of
            their example into reshapes and masks.
        time_first: Ids are (time, batch) instead of (batch, time).
    """

    ids: OnnxInput
    one_hot: int
    vocabularies: frozenset[int]
    states: tuple[OnnxInput, ...]
    others: tuple[OnnxInput, ...]
    traced_sizes: tuple[int, ...] = ()
    time_first: bool = False

    @property
    def rank(self) -> int:
        """Axes of the ids: 1 (time) or 2 (batch and time)."""
        return len(self.ids.shape) - bool(self.one_hot)

    @property
    def rows(self) -> int | None:
        """Sequences that one call takes; None where free."""
        return 1 if self.rank == 1 else self.ids.shape[1 if self.time_first else 0]

    @property
    def _time_axis(self) -> int:
        return 0 if self.time_first or self.rank == 1 else 1

    @property
    def time(self) -> int | None:
        """Tokens of a sequence that one call takes; None where free."""
        return self.ids.shape[self._time_axis]

    def at(self, time: int) -> Call:
        """The call with a fixed number of tokens."""
        shape = tuple(time if axis == self._time_axis else size for axis, size in enumerate(self.ids.shape))
        return dataclasses.replace(self, ids=dataclasses.replace(self.ids, shape=shape))

    def tokens(self, ids: Array) -> Array:
        """Ids (batch, time) as the model takes them."""
        if self.rank == 1:
            ids = ids[0]
        elif self.time_first:
            ids = ids.T
        return np.eye(self.one_hot, dtype=self.ids.dtype)[ids] if self.one_hot else ids.astype(self.ids.dtype)

    def empty_states(self, batch: int) -> dict[str, Array]:
        """States of zeros, and caches without a position where their length is free."""
        return {given.name: np.zeros(_state_shape(given, batch), _single(given.dtype)) for given in self.states}

    def held(self, batch: int, time: int, past: int) -> dict[str, Array]:
        """What masks, positions and lengths are for `time` tokens behind `past` earlier ones."""
        return {given.name: _other(given, batch, time, past) for given in self.others}


def find_call(graph: OnnxGraph) -> Call:
    """Tells the inputs of a model apart.

    Args:
        graph: The folded graph.

    Raises:
        UnsupportedModelError: It takes no token ids: no language model.
    """
    read = {given.name: looked_up(graph, given.name) for given in graph.inputs if np.dtype(given.dtype).kind in "iuf"}
    candidates = [given for given in graph.inputs if read.get(given.name) and not _named(given, "position", "type", "mask", "segment")]
    candidates = candidates or [given for given in graph.inputs if read.get(given.name)]
    if candidates:
        ids = max(candidates, key=lambda given: max(read[given.name]))
        return _call(graph, ids, 0, frozenset(read[ids.name]))
    hot = [given for given in graph.inputs if np.dtype(given.dtype).kind == "f" and len(given.shape) in (2, 3)]
    hot = [given for given in hot if not _named(given, "mask", "state", "hidden", "cell", "past")]
    whole = any(np.dtype(given.dtype).kind in "iu" and not _named(given, "position", "mask", "len") for given in graph.inputs)
    width = hot[0].shape[-1] if hot and not whole else None
    if width and width > 1:
        return _call(graph, hot[0], width, frozenset({width}))
    described = ", ".join(f"{given.name} {given.dtype} {shape_text(given.shape)}" for given in graph.inputs) or "none"
    raise UnsupportedModelError(f"no language model: none of its inputs is looked up in a table of tokens ({described})", allowed=_WANTED)


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape for messages."""
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _call(graph: OnnxGraph, ids: OnnxInput, one_hot: int, vocabularies: frozenset[int]) -> Call:
    rest = [given for given in graph.inputs if given.name != ids.name]
    states = tuple(given for given in rest if np.dtype(given.dtype).kind == "f" and not _named(given, "mask", "bias"))
    if not 1 <= len(ids.shape) - bool(one_hot) <= 2:
        raise UnsupportedModelError(f"no language model: its input {ids.name!r} is {shape_text(ids.shape)}", allowed=_WANTED)
    if math.prod(size or 1 for size in (ids.shape[:-1] if one_hot else ids.shape)) > MOST_TOKENS:
        raise UnsupportedModelError(
            f"the model takes {shape_text(ids.shape)} tokens at a time", allowed=f"at most {MOST_TOKENS}", fix="export it for free sizes"
        )
    others = tuple(given for given in rest if given not in states)
    return Call(ids, one_hot, vocabularies, states, others, _traced_sizes(graph))


def _traced_sizes(graph: OnnxGraph) -> tuple[int, ...]:
    """Sizes that constant shapes and masks of the graph name, the most frequent first."""
    counts = Counter[int]()
    for node in graph.nodes:
        constants = [array for name in node.inputs if (array := graph.constant(name)) is not None]
        if node.op in ("Concat", "Expand", "Reshape"):
            counts.update(int(size) for array in constants if array.ndim < 2 and array.dtype.kind == "i" for size in array.reshape(-1)[:8])
        elif node.op in ("Add", "Mul", "Where"):
            counts.update(size for mask in constants if mask.ndim >= 2 for size in mask.shape)
    return tuple(size for size, _ in counts.most_common() if 1 < size <= _LONGEST)[:_MOST]


def _named(given: OnnxInput, *words: str) -> bool:
    return any(word in given.name.lower() for word in words)


def _single(dtype: str) -> np.dtype[np.generic]:
    """Half precision runs in single precision."""
    return np.dtype(np.float32) if dtype in ("float16", "bfloat16") else np.dtype(dtype)


def _state_shape(given: OnnxInput, batch: int) -> tuple[int, ...]:
    """Free sizes are the batch, but for the positions of a cache: (batch, heads, positions, size), (2, batch, heads, positions, size)."""
    if len(given.shape) < 4:
        return tuple(batch if size is None else size for size in given.shape)
    rows = len(given.shape) - 4
    return tuple((batch if axis == rows else 0) if size is None else size for axis, size in enumerate(given.shape))


def _other(given: OnnxInput, batch: int, time: int, past: int) -> Array:
    dtype, rank = _single(given.dtype), len(given.shape)
    if _named(given, "mask", "bias"):
        return _mask(given, dtype, batch, time, past)
    if _named(given, "position"):
        positions = np.arange(past, past + time)
        return np.broadcast_to(positions, (batch, time) if rank == 2 else (time,)).astype(dtype)
    if dtype == np.bool_:
        return np.full([size or 1 for size in given.shape], past > 0)
    if _named(given, "seqlens"):  # of onnxruntime's GroupQueryAttention: the total length less one
        return np.full((batch,) if rank == 1 else (batch, 1), past + time - 1, dtype)
    if rank == 2 and given.shape[-1] != 1:
        return np.zeros((given.shape[0] or batch, given.shape[1] or time), dtype)
    length = past + time if _named(given, "total") else past
    return np.full([size or 1 for size in given.shape], length, dtype)


def _mask(given: OnnxInput, dtype: np.dtype[np.generic], batch: int, time: int, past: int) -> Array:
    """Ones for a mask of tokens; the triangle of the past for a mask of pairs."""
    rank, end = len(given.shape), past + time
    if rank == 2 and dtype.kind != "f":
        return np.ones((given.shape[0] or batch, given.shape[1] or end), dtype)
    seen = np.arange(end) <= past + np.arange(time)[:, None]  # (time, end)
    values = np.where(seen, 0, np.finfo(np.float32).min) if dtype.kind == "f" else seen
    shape = (time, end) if rank == 2 else (batch, 1, time, end)[-rank:]
    return np.broadcast_to(values, shape).astype(dtype)
