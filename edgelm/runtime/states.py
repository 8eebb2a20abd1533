"""Sessions of models whose states are values: ONNX in onnxruntime, a SavedModel in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.base import Logits, Session

States = Mapping[str, NDArray[np.float32]]
"""Name -> (1, units), or (1, kv_heads, past, head_dim) of a cache."""

Advance = Callable[[NDArray[np.int64], States], tuple[NDArray[np.float32], States]]
"""Ids (1, time) and states -> logits (1, time, vocab) and the states after the last id."""


@dataclass(frozen=True)
class StateSnapshot:
    """The states, and the position they belong to."""

    states: States
    position: int


class StateSession(Session[StateSnapshot]):
    """Runs a model through a function that takes and gives its states.

    Args:
        runtime: Name and version of what runs it.
        advance: The model.
        start: The states of an empty text.
        vocab_size: Columns of the logits.
        max_positions: Tokens it can take; None when there is no end.
        prefills: `advance` takes several ids at once; False calls it for each id.

    Attributes:
        prefills: As given.
    """

    def __init__(
        self, runtime: str, advance: Advance, start: States, vocab_size: int, max_positions: int | None, *, prefills: bool = True
    ) -> None:
        super().__init__(runtime, vocab_size, max_positions)
        self.prefills = prefills
        self._advance = advance
        self._start = dict(start)
        self._states: States = self._start

    def reset(self) -> None:
        """Forgets everything: the starting states, position 0."""
        self._states = self._start
        self.position = 0

    def step(self, token: int) -> Logits:
        """Takes one token; see `Session.step`."""
        return self._take((token,))

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Takes several tokens, in one call where the model does; see `Session.prefill`."""
        return self._take(tokens) if self.prefills else super().prefill(tokens)

    def _take(self, tokens: Sequence[int]) -> Logits:
        self._admit(tokens)
        logits, self._states = self._advance(np.array([tokens], np.int64), self._states)
        self.position += len(tokens)
        last: Logits = logits[0, -1]
        return last

    def snapshot(self) -> StateSnapshot:
        """The states themselves: no call changes them."""
        return StateSnapshot(self._states, self.position)

    def restore(self, snapshot: StateSnapshot) -> None:
        """Takes the states up again."""
        self._states, self.position = snapshot.states, snapshot.position


def zeros(shapes: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[np.float32]]:
    """States of an empty text: the first axis is the batch, 1; any other free one the past, 0.

    Args:
        shapes: Name -> sizes; what is no whole number is free.
    """
    sizes = {name: [1, *(size if isinstance(size, int) else 0 for size in shape[1:])] for name, shape in shapes.items()}
    return {name: np.zeros(size, np.float32) for name, size in sizes.items()}
