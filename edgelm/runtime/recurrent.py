"""Sessions of models with one `step` signature and explicit states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.base import Logits, Session
from edgelm.runtime.engine import Engine

STEP = "step"


@dataclass(frozen=True)
class RecurrentSnapshot:
    """Copies of the states, in the order of the signature's inputs, and the position they belong to."""

    states: tuple[NDArray[Any], ...]
    position: int


class RecurrentSession(Session[RecurrentSnapshot]):
    """Steps a recurrent model; with `batch` > 1 it runs that many texts side by side, for evaluation.

    Args:
        engine: A model with signature `step(token (N,), states (N, units)) -> logits (N, vocab), states`.
        batch: N; the graph is resized to it.

    Attributes:
        batch: Texts side by side.
    """

    def __init__(self, engine: Engine, batch: int = 1) -> None:
        shapes = engine.signatures[STEP]
        super().__init__(engine.runtime, vocab_size=shapes.outputs["logits"][-1], max_positions=None)
        self.batch = batch
        self._call = engine.call(STEP, {name: (batch, *shape[1:]) for name, shape in shapes.inputs.items() if shape[0] != batch})
        self._token = self._call.inputs["token"]  # (batch,)
        self._logits: Logits = self._call.outputs["logits"]  # (batch, vocab)
        self._first_logits: Logits = self._logits[0]
        names = [name for name in self._call.inputs if name != "token"]
        self._states = tuple((self._call.inputs[name], self._call.outputs[name]) for name in names)  # each (batch, units)

    def reset(self) -> None:
        """Forgets everything: zero states, position 0."""
        for state, _ in self._states:
            state.fill(0)
        self.position = 0

    def reset_rows(self, rows: NDArray[np.bool_]) -> None:
        """Forgets the texts of some rows; `position` goes on counting steps.

        Args:
            rows: (batch,) True where a new text begins.
        """
        for state, _ in self._states:
            state[rows] = 0

    def step(self, token: int) -> Logits:
        """Takes one token of a session with batch 1; see `Session.step`."""
        if not 0 <= token < self.vocab_size:
            self._refuse(token)
        self._token[0] = token
        self._advance()
        return self._first_logits

    def step_batch(self, tokens: NDArray[np.integer[Any]]) -> Logits:
        """Takes one token a text.

        Args:
            tokens: (batch,) token ids.

        Returns:
            (batch, vocab) logits, a view that holds until the next call.

        Raises:
            RuntimeFailure: A token is outside of the vocabulary, or the runtime failed.
        """
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            self._refuse(int(tokens.min() if tokens.min() < 0 else tokens.max()))
        self._token[:] = tokens
        self._advance()
        return self._logits

    def _advance(self) -> None:
        self._call.invoke()
        for state, new in self._states:
            state[:] = new
        self.position += 1

    def snapshot(self) -> RecurrentSnapshot:
        """Copies the states, a few kilobytes."""
        return RecurrentSnapshot(tuple(state.copy() for state, _ in self._states), self.position)

    def restore(self, snapshot: RecurrentSnapshot) -> None:
        """Writes the states back."""
        for (state, _), saved in zip(self._states, snapshot.states, strict=True):
            state[:] = saved
        self.position = snapshot.position
