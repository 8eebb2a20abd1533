"""Feeds token ids to an ONNX model in the form it wants, and arranges what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm_converters.onnx_calls import Call
from edgelm_converters.onnx_node import Array, OnnxInput
from edgelm_converters.onnx_session import CallError, Session

_SMALLEST = 1e-30  # probabilities below it have lost their digits in float32; log stays finite


@dataclass(frozen=True)
class Runner:
    """One way of running a model.

    Attributes:
        session: The model.
        call: What its inputs are for.
        rows: Sequences of a call; None for any number.
        scores: Name of the output that holds the scores.
        vocab_size: Scores of a position.
        last_only: It scores the last position only.
        probabilities: It gives probabilities.
        fed: State input -> the output that it goes on from: one token is fed at a time. None: whole sequences are fed.
    """

    session: Session
    call: Call
    rows: int | None
    scores: str
    vocab_size: int
    last_only: bool
    probabilities: bool
    fed: Mapping[str, str] | None = None

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids (batch, time) -> (batch, time, vocab).

        Raises:
            UnsupportedModelError: More tokens than the model takes, or the runtime fails on them.
        """
        size = self.rows or (1 if self.call.rank == 1 else len(ids))
        pieces = []
        try:
            for start in range(0, len(ids), size):
                piece = ids[start : start + size]
                filled = np.concatenate([piece, np.zeros((size - len(piece), ids.shape[1]), ids.dtype)])
                pieces.append(self._scored(filled)[: len(piece)])
        except CallError as error:
            raise UnsupportedModelError(f"the model cannot be run on {ids.shape[1]} tokens: {error}") from error
        scores = np.concatenate(pieces)
        return np.asarray(np.log(np.maximum(scores, _SMALLEST)) if self.probabilities else scores, np.float32)

    def _scored(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        if self.fed is not None:
            return self._steps(ids, self.fed)
        time = self.call.time or ids.shape[1]
        if ids.shape[1] > time:
            raise UnsupportedModelError(f"the model takes {time} tokens, met {ids.shape[1]}", allowed=f"at most {time} tokens")
        missing = time - ids.shape[1]
        if not self.last_only:  # filled up on the right, which a causal model does not see
            return self.window(np.pad(ids, ((0, 0), (0, missing))))[:, : ids.shape[1]]
        prefixes = [ids[:, : end + 1] for end in range(ids.shape[1])]
        windows = [np.pad(prefix, ((0, 0), (self.call.time - prefix.shape[1] if self.call.time else 0, 0))) for prefix in prefixes]
        return np.concatenate([self.window(window) for window in windows], axis=1)

    def _steps(self, ids: NDArray[np.int32], fed: Mapping[str, str]) -> NDArray[np.float32]:
        states, scores = self.call.empty_states(len(ids)), []
        for position in range(ids.shape[1]):
            token = ids[:, position : position + 1]
            outputs = self.session.run(self.feeds(token, states, position))
            scores.append(self._of(outputs, token))
            states = {name: outputs[output] for name, output in fed.items()}
        return np.concatenate(scores, axis=1)

    def window(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores of one call from empty states: (rows, time or 1, vocab).

        Raises:
            CallError: The runtime refused.
        """
        return self._of(self.session.run(self.feeds(ids, self.call.empty_states(len(ids)), 0)), ids)

    def feeds(self, ids: NDArray[np.int32], states: Mapping[str, Array], past: int) -> dict[str, Array]:
        """All inputs of a call for ids (rows, time) behind `past` earlier tokens."""
        rows, time = ids.shape
        return {self.call.ids.name: self.call.tokens(ids), **states, **self.call.held(rows, time, past)}

    def _of(self, outputs: Mapping[str, Array], ids: NDArray[np.int32]) -> NDArray[np.float32]:
        found = self.arranged(outputs[self.scores], *ids.shape)
        if found is None:
            raise CallError(f"output {self.scores!r} is {outputs[self.scores].shape} for {ids.shape[0]} x {ids.shape[1]} tokens")
        return found

    def arranged(self, scores: Array, rows: int, time: int) -> NDArray[np.float32] | None:
        """An output as (rows, time, vocab), or (rows, 1, vocab) for the last position only; None where it is neither."""
        if scores.ndim not in (1, 2, 3) or scores.dtype.kind != "f":
            return None
        flat = scores.reshape(-1, scores.shape[-1])
        order = (time, rows) if self.call.time_first else (rows, time)
        if scores.ndim == 3 and scores.shape[:2] not in (order, (rows, 1), (1, rows)):
            return None
        if len(flat) == rows * time:
            shaped = flat.reshape(*order, -1)
            return np.asarray(shaped.swapaxes(0, 1) if self.call.time_first else shaped, np.float32)
        return np.asarray(flat[:, None], np.float32) if len(flat) == rows else None

    def state_outputs(self) -> dict[str, str] | None:
        """State input -> the output of its shape that holds what it becomes, matched in order.

        Returns:
            None where some have none, or the model does not take one token at a time.
        """
        rows = self.rows or 1
        try:
            outputs = self.session.run(self.feeds(np.zeros((rows, 1), np.int32), self.call.empty_states(rows), 0))
        except CallError:
            return None
        left = {name: array for name, array in outputs.items() if name != self.scores}
        fed = dict[str, str]()
        for state in self.call.states:
            name = next((name for name, array in left.items() if _becomes(state, array)), None)
            if name is None:
                return None
            fed[state.name] = name
            del left[name]
        return fed


def _becomes(state: OnnxInput, array: Array) -> bool:
    """Whether an output has the shape of a state."""
    same = array.ndim == len(state.shape) and array.dtype.kind == "f"
    return same and all(size in (None, met) for size, met in zip(state.shape, array.shape, strict=True))
