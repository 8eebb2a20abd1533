"""Runs a PyTorch language model as a function from token ids to logits, the source's side of the proof."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm_converters.lift import Source
from edgelm_converters.torch_forward import Forward, changed, probe_ids, steps

_CALL_TIMES = (64, 32, 16, 8)
_LONGEST = 1024
_SMALLEST = 1e-30  # probabilities below it have lost their digits in float32; log stays finite
_CLOSE = 1e-3  # of the scores' spread: float32 sums in another order stay far below


@dataclass(frozen=True)
class _Runner:
    """Feeds ids in the sizes that the module takes.

    Attributes:
        forward: How it is called.
        time: Tokens it takes at a time; None when free.
        stepwise: What it returns beside its scores goes into its next call.
        last_only: It scores the last position only.
        probabilities: It gives probabilities.
    """

    forward: Forward
    time: int | None
    stepwise: bool
    last_only: bool
    probabilities: bool

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids (batch, time) -> (batch, time, vocab)."""
        size = self.forward.rows or len(ids)
        pieces = []
        for start in range(0, len(ids), size):
            piece = ids[start : start + size]
            filled = np.concatenate([piece, np.zeros((size - len(piece), ids.shape[1]), ids.dtype)])
            pieces.append(self._scores(filled)[: len(piece)])
        scores = np.concatenate(pieces)
        return np.asarray(np.log(np.maximum(scores, _SMALLEST)) if self.probabilities else scores, np.float32)

    def _scores(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        if self.stepwise:
            return steps(self.forward, ids)
        if self.last_only:
            prefixes = [self.forward.scores(self._window(ids[:, : end + 1]))[0] for end in range(ids.shape[1])]
            return np.stack([scores.reshape(len(ids), -1) for scores in prefixes], axis=1)
        time = self.time or ids.shape[1]
        if ids.shape[1] > time:
            raise UnsupportedModelError(f"the module takes {time} tokens, met {ids.shape[1]}", allowed=f"at most {time} tokens")
        filled = np.pad(ids, ((0, 0), (0, time - ids.shape[1])))  # on the right, which a causal model does not see
        return self.forward.scores(filled)[0][:, : ids.shape[1]]

    def _window(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Fixed times are filled up on the left with token 0."""
        time = self.time or ids.shape[1]
        return np.pad(ids[:, -time:], ((0, 0), (time - min(time, ids.shape[1]), 0)))


def as_source(forward: Forward, example: NDArray[np.int64]) -> Source:
    """Measures what kind of language model a module is.

    Args:
        forward: How it is called.
        example: Ids (batch, time) that it takes.

    Raises:
        UnsupportedModelError: Earlier positions see later tokens.
    """
    import torch

    ids = probe_ids(forward, example)
    free = _takes(forward, ids, ids.shape[1]) and _takes(forward, ids, ids.shape[1] - 1)
    ids = ids if free else example
    scores, rest = forward.scores(ids)
    last_only = scores.ndim == 2
    stepwise = bool(rest) and _feeds_back(forward, ids, scores)
    if last_only and rest and not stepwise:
        _require_context(scores, forward.scores(changed(ids, 0))[0])
    if not last_only:
        _require_causal(scores, forward.scores(changed(ids, ids.shape[1] - 1))[0])
    probabilities = bool(scores.min() >= 0 and np.allclose(scores.sum(-1), 1, atol=1e-3))
    time = None if free or stepwise else ids.shape[1]
    runner = _Runner(forward, time, stepwise, last_only, probabilities)
    call_time = time or next((size for size in _CALL_TIMES if _takes(forward, ids, size)), _CALL_TIMES[-1])
    return Source(
        f"torch {torch.__version__}", time, call_time, int(scores.shape[-1]), probabilities, last_only and not stepwise, runner.logits
    )


def longest_time(forward: Forward, example: NDArray[np.int64]) -> int:
    """The most tokens, up to 1024, that a module takes at a time; it takes as many as the example has."""
    least, most = example.shape[1], max(_LONGEST, example.shape[1])
    while least < most:
        middle = (least + most + 1) // 2
        if _takes(forward, example, middle):
            least = middle
        else:
            most = middle - 1
    return least


def _takes(forward: Forward, ids: NDArray[np.int64], time: int) -> bool:
    """Whether the module runs on that many tokens; tables of positions end somewhere, and some modules take one size only."""
    try:
        forward.scores(np.resize(ids, (len(ids), time)))
    except Exception:  # forward is anyone's code, and whether it raises is the question
        return False
    return True


def _feeds_back(forward: Forward, ids: NDArray[np.int64], whole: NDArray[np.float32]) -> bool:
    """Whether the further outputs are states: fed back token by token, they give the scores of the whole sequence."""
    try:
        stepped = steps(forward, ids)
    except Exception:  # forward may not take them back at all; then they are no states
        return False
    stepped = stepped[:, -1] if whole.ndim == 2 else stepped
    return stepped.shape == whole.shape and bool(np.max(np.abs(stepped - whole)) <= _CLOSE * max(float(np.ptp(whole)), 1e-6))


def _require_context(before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """Raises when the first token does not matter for the scores after the last one."""
    if np.allclose(before, after, atol=1e-6 * max(float(np.ptp(before)), 1e-6)):
        raise UnsupportedModelError(
            "the module reads one token a call",
            allowed="a forward that reads whole sequences, with nn.LSTM instead of nn.LSTMCell for instance",
        )


def _require_causal(before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """Raises when another last token changes the scores of the positions before it."""
    earlier = before[:, :-1]
    if earlier.size and np.max(np.abs(earlier - after[:, :-1])) > _CLOSE * max(float(np.ptp(before)), 1e-6):
        raise UnsupportedModelError(
            "no language model: its earlier positions see later tokens",
            allowed="causal models: no bidirectional layer, and a causal mask in attention",
        )
