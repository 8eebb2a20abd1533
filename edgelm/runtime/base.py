"""What every session can do, whichever signatures its model has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextFullError, RuntimeFailure

Logits = NDArray[np.float32]
SnapshotT = TypeVar("SnapshotT")


class Session(ABC, Generic[SnapshotT]):
    """A model in the middle of a text.

    Logits are views of the runtime's own tensor: they hold until the next call on the session; copy them to keep them.

    Args:
        runtime: Name and version of the runtime.
        vocab_size: Columns of the logits.
        max_positions: Tokens the session can take before it is full; None when there is no end.

    Attributes:
        position: Tokens taken since the last reset.
        prefills: `prefill` is computed by other code than `step`, so that a proof has to compare both.

    Example:
        >>> session = open_session(Path("keyboard/model.tflite"))
        >>> session.prefill([17, 4, 250]).argmax()  # the likeliest fourth token
        981
    """

    prefills = False

    def __init__(self, runtime: str, vocab_size: int, max_positions: int | None) -> None:
        self.runtime = runtime
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.position = 0

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything: position 0."""

    @abstractmethod
    def step(self, token: int) -> Logits:
        """Takes one token.

        Returns:
            (vocab,) logits of the next token, a view that holds until the next call.

        Raises:
            ContextFullError: `max_positions` tokens were taken already.
            RuntimeFailure: The token is outside of the vocabulary, or the runtime failed.
        """

    @abstractmethod
    def snapshot(self) -> SnapshotT:
        """The state as a value, for `restore`. It stays good after `reset` and belongs to this session alone."""

    @abstractmethod
    def restore(self, snapshot: SnapshotT) -> None:
        """Goes back, or over, to where `snapshot` was taken."""

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Takes several tokens, in larger calls where the model has them.

        Returns:
            (vocab,) logits after the last one, a view that holds until the next call.

        Raises:
            ContextFullError: They don't fit; none of them was taken.
            RuntimeFailure: There are none, or one is outside of the vocabulary.
        """
        self._admit(tokens)
        for token in tokens:
            logits = self.step(token)
        return logits

    def stream(self, tokens: Sequence[int]) -> Iterator[Logits]:
        """Takes several tokens and yields the (vocab,) logits after each: what scoring a text needs.

        Raises:
            ContextFullError: They don't fit; none of them was taken.
            RuntimeFailure: There are none, or one is outside of the vocabulary.
        """
        self._admit(tokens)
        for token in tokens:
            yield self.step(token)

    def _admit(self, tokens: Sequence[int]) -> None:
        """Refuses an empty list, an id outside of the vocabulary and more tokens than there is room for."""
        if not len(tokens):
            raise RuntimeFailure("no tokens were given", allowed="at least one token id")
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            self._refuse(min(tokens) if min(tokens) < 0 else max(tokens))
        if self.max_positions is not None and self.position + len(tokens) > self.max_positions:
            self._full(len(tokens))

    def _refuse(self, token: int) -> NoReturn:
        raise RuntimeFailure(f"token id {token} is outside of the vocabulary", allowed=f"0 to {self.vocab_size - 1}")

    def _full(self, wanted: int) -> NoReturn:
        raise ContextFullError(
            f"the context is full: it holds {self.max_positions} tokens, {self.position} are taken, {wanted} more were given",
            allowed=f"{self.max_positions} tokens",
            fix="reset the session and prefill the last part of the text, or convert with a longer context",
        )
