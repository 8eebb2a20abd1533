"""What the matrices of a model are multiplied with on calibration text, and how far its predictions move there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.step_data import StepData
from edgelm.model import LanguageModel
from edgelm.models.reference import ReferenceSession
from edgelm.spec import FloatArray, TransformerSpec

STREAMS = 8
"""Windows that run side by side: 2,048 positions of 10,000 words are 82 MB of logits."""


WINDOW = 256
"""Longest window in tokens."""


@dataclass
class Inputs:
    """Sums over the inputs x (columns,) of one matrix.

    Attributes:
        product: Sum of x x^T, float64 (columns, columns): the Hessian of the squared output error, but for a factor 2.
        total: Sum of x, float64 (columns,).
        count: Number of inputs.
    """

    product: NDArray[np.float64]
    total: NDArray[np.float64]
    count: int = 0

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean input, (columns,)."""
        return self.total / max(1, self.count)


def windows_of(model: LanguageModel, data: StepData, tokens: int) -> list[NDArray[np.int32]]:
    """About `tokens` training tokens in windows that the model can take.

    Raises:
        CorpusError: There are fewer than two tokens.
    """
    return data.calibration(tokens, min(WINDOW, model.spec.max_positions) if isinstance(model.spec, TransformerSpec) else WINDOW)


def matrix_inputs(model: LanguageModel, windows: Sequence[NDArray[np.int32]]) -> dict[str, Inputs]:
    """Runs a model over windows of text and sums up the inputs of every matrix that takes part in a product.

    Args:
        model: Its weights are what is computed with.
        windows: Token ids; the state starts anew in each.

    Returns:
        Canonical name -> sums. A tied table has those of the head's product; an untied one is only looked up in, and is missing.

    Example:
        >>> matrix_inputs(lstm, [np.arange(9)])["layers.0.recurrent.weight"].count
        9
    """
    sums: dict[str, Inputs] = {}
    for ids, real in side_by_side(windows):

        def observe(name: str, inputs: FloatArray, real: NDArray[np.bool_] = real) -> None:
            x = inputs[real].astype(np.float32, copy=False)  # (tokens, columns)
            columns = x.shape[1]
            met = sums.setdefault(name, Inputs(np.zeros((columns, columns)), np.zeros(columns)))
            met.product += x.T @ x
            met.total += x.sum(0, dtype=np.float64)
            met.count += len(x)

        ReferenceSession(model, len(ids), observe=observe).extend(ids)
    return sums


def side_by_side(windows: Sequence[NDArray[np.int32]], streams: int = STREAMS) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """Windows of like length, `streams` at a time.

    Yields:
        Ids (streams, longest), padded with 0 at the end, where it does not change what is before, and which of them are real.
    """
    ordered = sorted(windows, key=len)
    for start in range(0, len(ordered), streams):
        group = ordered[start : start + streams]
        lengths = np.array([len(window) for window in group])
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(real.shape, np.int32)
        ids[real] = np.concatenate(group)
        yield ids, real


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log-probabilities along the last axis."""
    shifted: FloatArray = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted
