"""What every lift has in common: the verdict that there is none, the source as a function, and the proof that both are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.model import LanguageModel, LiftProof, Origin, SourceLogits
from edgelm.spec import FloatArray, ModelSpec, RecurrentSpec

TOLERANCE = 1e-3  # of the logits' spread: float32 sums in another order stay below 1e-5, a wrong gate order or epsilon is above 1e-2
_SEQUENCES, _TIME, _LONGEST = 4, 24, 1024


class NotLiftable(Exception):  # noqa: N818 - a verdict of the lifter, not an error shown to anyone
    """The lifter did not recognise the graph as a model family it can rebuild; the model goes the opaque way.

    Attributes:
        reason: One clause for the report, e.g. "layer 'conv1d' (Conv1D) is in no family edgelm rebuilds".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Lift:
    """A model taken out of a graph, not yet proven.

    Attributes:
        spec: What it is.
        weights: Canonical name -> array.
        probabilities: The source's output is softmax probabilities instead of logits.
        last_only: The source's output is (batch, vocab) for the last position only.
        one_hot: The source wants one-hot vectors (batch, time, vocab) instead of ids.
        notes: What the lift leaves out, one sentence each, for the report.
    """

    spec: ModelSpec
    weights: dict[str, FloatArray]
    probabilities: bool
    last_only: bool
    one_hot: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A language model in its framework.

    Attributes:
        framework: Name and version.
        time: Tokens it takes at a time; None when free.
        call_time: Tokens a converted graph takes: `time`, or the largest of 64, 32, 16, 8 that the model runs on.
        vocab_size: Scores per position.
        probabilities: It gives probabilities, which `logits` maps through log.
        last_only: It gives scores for the last position only; `logits` runs every prefix.
        logits: Ids (batch, time) int32 -> (batch, time, vocab) float32.
    """

    framework: str
    time: int | None
    call_time: int
    vocab_size: int
    probabilities: bool
    last_only: bool
    logits: SourceLogits


def proven(model: LanguageModel, source: Source, file_format: str, lowest: int = 0, notes: Sequence[str] = ()) -> LanguageModel | str:
    """The lifted model with its proof, or why it is not the source.

    Args:
        model: The lifted model.
        source: The source.
        file_format: Of the source, for the report.
        lowest: The smallest id to prove with.
        notes: What the lift leaves out, a sentence each.
    """
    spec = model.spec
    proof, allowed = prove(model, source, lowest)
    if not proof.max_abs_difference <= allowed:
        return (
            f"taken for a {spec.family} model, but its logits differ from the source's by {proof.max_abs_difference:.3g} "
            f"(at most {allowed:.3g} is allowed)"
        )
    kind = spec.cell if isinstance(spec, RecurrentSpec) else "decoder"
    why = f"recognised as a {spec.family} model ({kind}); logits equal the source's on {proof.tokens} random tokens"
    return model.replace(origin=Origin(file_format, source.framework, "lifted", ". ".join([why, *notes]), proof))


def prove(model: LanguageModel, source: Source, lowest: int = 0) -> tuple[LiftProof, float]:
    """Compares a lifted model with its source on random tokens.

    Logits are centred over the vocabulary, since a constant added to all of them changes nothing; probabilities are compared as
    log-probabilities.

    Args:
        model: The lifted model.
        source: The source.
        lowest: The smallest id to use.

    Returns:
        The proof, and the largest difference that would be accepted: `TOLERANCE` times the spread of the source's logits.
    """
    from edgelm.models import reference

    limit = model.spec.max_positions if not isinstance(model.spec, RecurrentSpec) else _LONGEST
    window = source.time if source.last_only else None  # only a full one shows a score that is not of padding
    time = min(limit, window or min(_TIME, source.time or _TIME))
    low = min(lowest, model.spec.vocab_size - 1)
    ids = np.random.default_rng(20).integers(low, model.spec.vocab_size, (_SEQUENCES, time), dtype=np.int32)
    theirs, ours = source.logits(ids), np.asarray(reference.logits(model, ids), np.float32)  # (batch, time, vocab)
    if theirs.shape != ours.shape:
        return LiftProof(0, float("inf"), 0.0), 0.0
    if source.last_only and source.time:  # shorter prefixes of a fixed window are padded with token 0, which a lifted model reads too
        theirs, ours = theirs[:, -1:], ours[:, -1:]
    centre = _log_softmax if source.probabilities else _centred
    theirs, ours = centre(theirs), centre(ours)
    difference = float(np.max(np.abs(theirs - ours)))
    agreement = float(np.mean(theirs.argmax(-1) == ours.argmax(-1)))
    return LiftProof(int(np.prod(theirs.shape[:2])), difference, agreement), TOLERANCE * float(np.ptp(theirs))


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(logits - logits.mean(axis=-1, keepdims=True), np.float32)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def same_table(head: FloatArray, table: FloatArray | None) -> bool:
    """The head's weight (vocab, width) is the embedding table itself."""
    return table is not None and np.array_equal(head, table)


def check_classes(vocab: int, classes: int) -> None:
    """Sees to it that the model scores the tokens it reads.

    Args:
        vocab: Size of the input vocabulary.
        classes: Size of the output's last axis.

    Raises:
        UnsupportedModelError: They differ: a classifier or a regression.
    """
    if vocab == classes:
        return
    kind = "a regression or a yes/no classifier" if classes == 1 else "a classifier or a translation model, not a language model"
    raise UnsupportedModelError(
        f"the model reads a vocabulary of {vocab} tokens but has {classes} output{'s' * (classes != 1)}: {kind}",
        allowed="a model that scores the next token of its own input vocabulary",
        fix="give the last Dense layer as many units as the Embedding has rows, and train it on the next token",
    )


def check_head_activation(name: str) -> str:
    """The head's activation, where its outputs can be read as scores of a vocabulary.

    Raises:
        UnsupportedModelError: They cannot: sigmoid, relu, ...
    """
    if name not in ("linear", "softmax", "log_softmax"):
        raise UnsupportedModelError(
            f"the last layer's activation is {name!r}: its outputs are no distribution over a vocabulary",
            allowed="softmax, or linear for logits",
        )
    return name
