"""Does the artifact compute what the source computes? Both run the same tokens and their logits are compared.

Logits are compared *centred* (their mean over the vocabulary subtracted): a constant added to all of them changes no probability,
and sources that yield log-probabilities become comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RuntimeFailure
from edgelm.model import SourceLogits
from edgelm.report import Check
from edgelm.runtime.session import ForwardSession, Session, open_session
from edgelm.validate.parity_limits import PREFILL_MISSED, Missed, ParityLimits, limits_for

__all__ = ["NEAR_TIE", "TIE", "ParityLimits", "ParityResult", "checks", "limits_for", "parity", "parity_on"]

TIE = 1e-4
"""Tokens whose source logits differ by less than the float32 limit count as equally good."""

NEAR_TIE = 0.1
"""In nats: the source gives one token at most 10 % more probability than the other. Rounding swaps such tokens at no loss."""

TOP = 3
"""Suggestions a keyboard shows."""


@dataclass(frozen=True)
class ParityResult:
    """How far an artifact is from its source on the same tokens.

    Attributes:
        runtime: Name and version of what ran the artifact.
        positions: Positions compared.
        max_abs_difference: Largest |difference| of centred logits.
        scale: Largest |centred logit| of the source.
        mean_kl: Mean over positions of KL(source || artifact), in nats: what the loss grows by where the source is right.
        max_kl: Its largest value at one position.
        top1_agreement: Share of positions where the artifact's top token is the source's, or ties with it (`TIE`).
        clear_agreement: The same, near ties (`NEAR_TIE`) allowed: what is missing are clear preferences that were lost.
        top3_agreement: Share of positions where the source's top token is among the artifact's top three.
        top3_overlap: Mean share of the source's top three that are among the artifact's, in any order.
        sqnr_db: Power of the source's centred logits over that of the differences, in dB; infinite when equal.
        first_divergence: First position where the top tokens differ and don't tie; None where they never do.
        divergence_margin: There, by how much the source prefers its own top token to the artifact's; 0 when there is none.
        prefill_difference: Largest |difference| of centred logits between prefilling and stepping the same tokens; None for
            models that have no prefill of their own.
    """

    runtime: str
    positions: int
    max_abs_difference: float
    scale: float
    mean_kl: float
    max_kl: float
    top1_agreement: float
    clear_agreement: float
    top3_agreement: float
    top3_overlap: float
    sqnr_db: float
    first_divergence: int | None
    divergence_margin: float
    prefill_difference: float | None


def parity(source_logits: SourceLogits, session: Session[Any], tokens: NDArray[np.integer[Any]]) -> ParityResult:
    """Compares an artifact, token by token, with its source's full pass.

    Texts longer than the session's context are cut into windows of that length, each from an empty state. Models that score only
    the last position of a window are compared there, on full windows: a shorter one would compare the padding.

    Args:
        source_logits: The source: ids (1, time) -> logits (1, time, vocab).
        session: The artifact; it is reset.
        tokens: (time,) token ids.

    Raises:
        RuntimeFailure: The runtime failed, both have vocabularies of different sizes, or the tokens fill no window.
    """
    sums = _Sums(min(TOP, session.vocab_size))
    prefill: float | None = None
    for window in _windows(tokens, session):
        expected = source_logits(window[None].astype(np.int32))[0]  # (time, vocab)
        if expected.shape[-1] != session.vocab_size:
            raise RuntimeFailure(f"the source has {expected.shape[-1]} logits, the artifact {session.vocab_size}")
        last = np.zeros(0)
        for row, logits in _scored(session, window):
            last = _centred(logits)
            sums.add(_centred(expected[row]), last)
        if session.prefills:
            session.reset()
            difference = float(np.abs(_centred(session.prefill(window.tolist())) - last).max())
            prefill = max(prefill or 0.0, difference)
    if not sums.positions:
        raise RuntimeFailure(f"{len(tokens)} tokens fill no window", allowed=f"at least {session.max_positions} tokens")
    return sums.result(session.runtime, prefill)


def parity_on(
    runtimes: Sequence[str], source_logits: SourceLogits, model: bytes | Path, tokens: NDArray[np.integer[Any]], *, threads: int = 1
) -> dict[str, ParityResult]:
    """`parity` on several runtimes; runtime -> result.

    Raises:
        RuntimeFailure: As in `parity`, or a runtime refuses the file.
        MissingDependencyError: A runtime is not installed.
    """
    return {runtime: parity(source_logits, open_session(model, runtime=runtime, threads=threads), tokens) for runtime in runtimes}


def _windows(tokens: NDArray[np.integer[Any]], session: Session[Any]) -> Iterator[NDArray[np.integer[Any]]]:
    length = session.max_positions or len(tokens)
    whole = isinstance(session, ForwardSession) and session.last_only
    for start in range(0, len(tokens), length):
        window = tokens[start : start + length]
        if len(window) == length or not whole:
            yield window


def _scored(session: Session[Any], window: NDArray[np.integer[Any]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rows of the window that are compared, with the artifact's logits there."""
    session.reset()
    if isinstance(session, ForwardSession) and session.last_only:
        yield len(window) - 1, session.prefill(window.tolist())
    else:
        yield from enumerate(session.stream(window.tolist()))


def _centred(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = logits.astype(np.float64)
    wide -= wide.mean()
    return wide


def _log_softmax(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = centred.max()
    normalised: NDArray[np.float64] = centred - highest - np.log(np.exp(centred - highest).sum())
    return normalised


class _Sums:
    """Running sums over positions, so that no (time, vocab) array of differences is kept."""

    def __init__(self, top: int) -> None:
        self.positions = 0
        self._top = top
        self._max_abs = self._scale = self._kl = self._max_kl = self._signal = self._noise = 0.0
        self._top1 = self._clear = self._hits = self._overlap = 0.0
        self._first: int | None = None
        self._margin = 0.0

    def add(self, source: NDArray[np.float64], artifact: NDArray[np.float64]) -> None:
        """Takes the centred logits (vocab,) of one position."""
        difference = artifact - source
        self._max_abs = max(self._max_abs, float(np.abs(difference).max()))
        self._scale = max(self._scale, float(np.abs(source).max()))
        self._signal += float(source @ source)
        self._noise += float(difference @ difference)
        log_source = _log_softmax(source)
        kl = max(0.0, float(np.exp(log_source) @ (log_source - _log_softmax(artifact))))
        self._kl += kl
        self._max_kl = max(self._max_kl, kl)
        self._rank(source, artifact)
        self.positions += 1

    def _rank(self, source: NDArray[np.float64], artifact: NDArray[np.float64]) -> None:
        own = set(np.argpartition(-source, self._top - 1)[: self._top].tolist())
        theirs = set(np.argpartition(-artifact, self._top - 1)[: self._top].tolist())
        best = int(source.argmax())
        margin = float(source[best] - source[artifact.argmax()])
        self._hits += best in theirs
        self._overlap += len(own & theirs) / self._top
        self._clear += margin <= NEAR_TIE
        if margin <= TIE:
            self._top1 += 1
        elif self._first is None:
            self._first, self._margin = self.positions, margin

    def result(self, runtime: str, prefill_difference: float | None) -> ParityResult:
        n = self.positions
        return ParityResult(
            runtime=runtime,
            positions=n,
            max_abs_difference=self._max_abs,
            scale=self._scale,
            mean_kl=self._kl / n,
            max_kl=self._max_kl,
            top1_agreement=self._top1 / n,
            clear_agreement=self._clear / n,
            top3_agreement=self._hits / n,
            top3_overlap=self._overlap / n,
            sqnr_db=10 * float(np.log10(self._signal / self._noise)) if self._noise else float("inf"),
            first_divergence=self._first,
            divergence_margin=self._margin,
            prefill_difference=prefill_difference,
        )


def checks(result: ParityResult, limits: ParityLimits, runtime: str = "") -> tuple[Check, ...]:
    """Holds a result against limits.

    Args:
        result: What `parity` measured.
        limits: From `limits_for`.
        runtime: Named in the checks where several runtimes were compared; empty otherwise.

    Returns:
        Mean KL, same top word with and without near ties, largest difference, prefill against steps where there is a prefill;
        then top-three agreement and signal to noise, which have no limits. Agreements are in percent.
    """
    where = f"parity on {runtime}" if runtime else "parity"
    scale = max(1.0, result.scale)
    largest = None if limits.max_abs_difference is None else limits.max_abs_difference * scale
    missed = Missed(_located(limits.missed.cause, result), limits.missed.fix)
    found = [
        _at_most(f"{where}: mean KL", result.mean_kl, limits.mean_kl, "nats", missed),
        _at_least(f"{where}: same top word, or within 10 %", result.clear_agreement, limits.clear_agreement, missed),
        _at_least(f"{where}: same top word", result.top1_agreement, limits.top1_agreement, missed),
        _at_most(f"{where}: largest logit difference", result.max_abs_difference, largest, "", missed),
    ]
    if result.prefill_difference is not None:
        # Where activations are rounded, a difference in the last bit can grow to what that rounding costs anyway.
        allowed = max(1e-4 * scale, result.max_abs_difference)
        found.append(_at_most(f"{where}: prefill against steps", result.prefill_difference, allowed, "", PREFILL_MISSED))
    hits = Check(f"{where}: top word in top three", 100 * result.top3_agreement, unit="%")
    noise = Check(f"{where}: signal to noise", result.sqnr_db, unit="dB")
    return (*found, hits, noise)


def _at_most(name: str, measured: float, limit: float | None, unit: str, missed: Missed) -> Check:
    if limit is None:
        return Check(name, measured, unit=unit)
    passed = measured <= limit  # False for NaN
    return Check(name, measured, limit, unit, passed, cause="" if passed else missed.cause, fix="" if passed else missed.fix)


def _at_least(name: str, share: float, limit: float | None, missed: Missed) -> Check:
    if limit is None:
        return Check(name, 100 * share, unit="%")
    passed = share >= limit
    return Check(name, 100 * share, 100 * limit, "%", passed, cause="" if passed else missed.cause, fix="" if passed else missed.fix)


def _located(cause: str, result: ParityResult) -> str:
    if result.first_divergence is None:
        return cause
    return f"{cause}; first other top word at position {result.first_divergence}, by {result.divergence_margin:.3g}"
