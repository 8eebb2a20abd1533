"""One option for each of several things: the least total loss within a budget of bytes, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import Encoding


@dataclass(frozen=True)
class Option:
    """One way to store one matrix.

    Attributes:
        encoding: The way.
        size: Bytes, scales included.
        loss: Rise of the loss with only this matrix stored so, in nats a token.
    """

    encoding: Encoding
    size: int
    loss: float


@dataclass(frozen=True)
class _Front:
    """The best totals of the matrices so far: sizes rise, losses fall, and nothing that is larger and worse is kept.

    Attributes:
        sizes: (points,) bytes.
        losses: (points,) nats a token.
        before: (points,) the point of the front before that each came from.
        options: (points,) the option that was added to it.
    """

    sizes: NDArray[np.int64]
    losses: NDArray[np.float64]
    before: NDArray[np.int64]
    options: NDArray[np.int64]


def choose(table: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Encoding]:
    """The encoding of every matrix with the least sum of losses among all choices whose sizes sum up to at most `budget`.

    Dynamic programming over totals: matrix by matrix the front of (size, loss) is extended by every option. It has at most one point for
    each size that can be reached, and matrices of few different shapes reach few.

    Args:
        table: Name -> its options.
        budget: Bytes; at least the sum of the smallest options.

    Example:
        >>> small, large = Option(Encoding.INT4, 10, 0.5), Option(Encoding.INT8, 20, 0.1)
        >>> choose({"a": [small, large], "b": [small, Option(Encoding.INT8, 20, 0.4)]}, budget=30)
        {'a': <Encoding.INT8: 'int8'>, 'b': <Encoding.INT4: 'int4'>}
    """
    none = np.zeros(1, np.int64)
    fronts = [_Front(none, np.zeros(1), none, none)]
    smallest = {name: min(option.size for option in options) for name, options in table.items()}
    reserved = sum(smallest.values())  # what the matrices to come take at least
    for name, options in table.items():
        reserved -= smallest[name]
        fronts.append(_extended(fronts[-1], options, budget - reserved))
    chosen: dict[str, Encoding] = {}
    point = len(fronts[-1].sizes) - 1  # the largest total has the least loss
    for front, (name, options) in zip(reversed(fronts[1:]), reversed(list(table.items())), strict=True):
        chosen[name] = options[front.options[point]].encoding
        point = front.before[point]
    return {name: chosen[name] for name in table}


def _extended(front: _Front, options: Sequence[Option], limit: int) -> _Front:
    sizes = np.concatenate([front.sizes + option.size for option in options])
    losses = np.concatenate([front.losses + option.loss for option in options])
    before = np.tile(np.arange(len(front.sizes)), len(options))
    added = np.repeat(np.arange(len(options)), len(front.sizes))
    order = np.lexsort((losses, sizes))
    order = order[sizes[order] <= limit]
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
    order = order[losses[order] < best_before]
    return _Front(sizes[order], losses[order], before[order], added[order])
