"""Token documents cut into windows and grouped into batches, in an order that only the seed and the epoch decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """A tokenized corpus, cut into pieces.

    Attributes:
        tokens: (total,) int32, all documents one after another.
        starts: (windows,) where each window's first input is.
        lengths: (windows,) tokens each window predicts; its inputs are `tokens[start : start + length]`, its targets are one further.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def predicted(self) -> int:
        """Tokens that are predicted in one pass."""
        return int(self.lengths.sum())

    @property
    def sha256(self) -> str:
        """Of the tokens and the cuts."""
        digest = hashlib.sha256(self.tokens.tobytes())
        digest.update(self.starts.tobytes())
        digest.update(self.lengths.tobytes())
        return digest.hexdigest()

    def steps(self, batch_size: int) -> int:
        """Batches of one pass."""
        return -(-len(self.starts) // batch_size)


@dataclass(frozen=True)
class Batch:
    """Rows of equal length; what pads the shorter ones weighs nothing.

    Attributes:
        ids: (batch, time) int32 inputs.
        targets: (batch, time) int32, the token after each input.
        weights: (batch, time) float32, 1 for a real target and 0 for padding.
        positions: (batch, time) int64, where each input stands in `Windows.tokens`; 0 for padding.
    """

    ids: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int64]

    @property
    def predicted(self) -> int:
        """Real targets."""
        return int(self.weights.sum())


def cut(documents: Iterable[NDArray[np.integer[Any]]], sequence_length: int, limit_tokens: int = 0) -> Windows:
    """Cuts every document into windows of at most `sequence_length` predictions; no window spans two documents.

    Args:
        documents: Token ids; those of fewer than two tokens predict nothing and are left out.
        sequence_length: Longest window.
        limit_tokens: Stop after so many tokens; 0 for all.

    Example:
        >>> cut([np.arange(6)], sequence_length=3).lengths
        array([3, 2])
    """
    kept: list[NDArray[np.int32]] = []
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    total = 0
    for document in documents:
        tokens = np.asarray(document, np.int32)[: limit_tokens - total if limit_tokens else None]
        if len(tokens) > 1:
            first = np.arange(0, len(tokens) - 1, sequence_length)
            starts.append(total + first)
            ends.append(total + np.minimum(first + sequence_length, len(tokens) - 1))
            kept.append(tokens)
            total += len(tokens)
        if limit_tokens and total >= limit_tokens - 1:
            break
    if not kept:
        return Windows(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    begin = np.concatenate(starts)
    return Windows(np.concatenate(kept), begin, np.concatenate(ends) - begin)


def batches(
    windows: Windows, batch_size: int, *, order: tuple[int, int] | None = None, first: int = 0, time: int | None = None
) -> Iterator[Batch]:
    """Batches of windows of similar length, so that little is padded.

    Args:
        windows: What `cut` made.
        batch_size: Rows of a batch; the shortest windows may make a smaller one.
        order: (seed, epoch) of the shuffle; None for the order of length.
        first: Batches to skip: a resumed epoch goes on from there.
        time: Pad every batch to this length, for models of a fixed one.
    """
    random = np.random.default_rng(order) if order else None
    rows = random.permutation(len(windows.starts)) if random else np.arange(len(windows.starts))
    rows = rows[np.argsort(-windows.lengths[rows], kind="stable")]
    groups = range(windows.steps(batch_size))
    for group in (random.permutation(len(groups)) if random else groups)[first:]:
        yield _batch(windows, rows[group * batch_size : (group + 1) * batch_size], time)


def _batch(windows: Windows, rows: NDArray[np.int64], time: int | None) -> Batch:
    lengths = windows.lengths[rows]
    columns = np.arange(time or int(lengths.max()))
    inside = columns < lengths[:, None]  # (batch, time)
    at = np.where(inside, windows.starts[rows][:, None] + columns, 0)
    ids = np.where(inside, windows.tokens[at], 0).astype(np.int32)
    targets = np.where(inside, windows.tokens[at + 1], 0).astype(np.int32)
    return Batch(ids, targets, inside.astype(np.float32), at)


def share(array: NDArray[Any], replica: int, replicas: int) -> NDArray[Any]:
    """The rows of one replica, of equal number for all; rows that are missing are zeros (of weight 0)."""
    size = -(-len(array) // replicas)
    padded = np.concatenate([array, np.zeros((size * replicas - len(array), *array.shape[1:]), array.dtype)])
    own: NDArray[Any] = padded[replica * size : (replica + 1) * size]
    return own
