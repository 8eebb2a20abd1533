"""Sessions of models that were converted as they are: one `forward` signature over a window of fixed length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgelm.errors import RuntimeFailure
from edgelm.runtime.base import Logits, Session
from edgelm.runtime.engine import Engine

FORWARD = "forward"
PAD = 0
SMALLEST = np.float32(1e-30)
"""Probabilities are raised to it before the logarithm; float32 reaches 1e-38."""


class ForwardSession(Session[tuple[int, ...]]):
    """Runs the whole window again for each token.

    A shorter text is padded with id 0: on the right where the model scores every position (a causal model doesn't see what
    follows), on the left where it scores the last one only (Keras' `pad_sequences` does it that way). Outputs that are
    probabilities (not negative, sum 1) are turned into logarithms.

    Args:
        engine: A model with signature `forward(ids (1, time)) -> (1, time, vocab) or (1, vocab)`.

    Attributes:
        last_only: The model scores the last position only.

    Raises:
        RuntimeFailure: The signature has several inputs or outputs.
    """

    def __init__(self, engine: Engine) -> None:
        shapes = engine.signatures[FORWARD]
        if len(shapes.inputs) != 1 or len(shapes.outputs) != 1:
            met = f"{', '.join(shapes.inputs)} -> {', '.join(shapes.outputs)}"
            raise RuntimeFailure(f"signature {FORWARD} is {met}", allowed="one input of token ids and one output")
        (ids,), (scores,) = shapes.inputs.items(), shapes.outputs.items()
        super().__init__(engine.runtime, vocab_size=scores[1][-1], max_positions=ids[1][-1])
        self._time = ids[1][-1]
        self._call = engine.call(FORWARD)
        self._ids = self._call.inputs[ids[0]][0]  # (time,)
        self._scores = self._call.outputs[scores[0]][0]  # (time, vocab) or (vocab,)
        self.last_only = self._scores.ndim == 1
        self._tokens: list[int] = []

    def reset(self) -> None:
        """Forgets everything: an empty window."""
        self._tokens.clear()
        self.position = 0

    def step(self, token: int) -> Logits:
        """Takes one token; see `Session.step`."""
        return self.prefill((token,))

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Takes several tokens in one call; see `Session.prefill`."""
        self._extend(tokens)
        return self._log(self._scores if self.last_only else self._scores[self.position - 1])

    def stream(self, tokens: Sequence[int]) -> Iterator[Logits]:
        """Takes several tokens, in one call where the model scores every position; see `Session.stream`."""
        if self.last_only:
            yield from super().stream(tokens)
            return
        start = self.position
        self._extend(tokens)
        for row in range(start, self.position):
            yield self._log(self._scores[row])

    def _extend(self, tokens: Sequence[int]) -> None:
        self._admit(tokens)
        self._tokens.extend(tokens)
        self.position = len(self._tokens)
        self._ids.fill(PAD)
        if self.last_only:
            self._ids[self._time - self.position :] = self._tokens
        else:
            self._ids[: self.position] = self._tokens
        self._call.invoke()

    def _log(self, scores: Logits) -> Logits:
        if scores.min() >= 0 and abs(float(scores.sum()) - 1) < 0.01:  # logits do neither; rounded int8 probabilities still do
            logarithms: Logits = np.log(np.maximum(scores, SMALLEST))
            return logarithms
        return scores

    def snapshot(self) -> tuple[int, ...]:
        """The tokens so far."""
        return tuple(self._tokens)

    def restore(self, snapshot: tuple[int, ...]) -> None:
        """Takes the tokens back; the next call computes them again anyway."""
        self._tokens[:] = snapshot
        self.position = len(snapshot)
