"""What a model says of every token of a text, whatever runs the model: a source, a session on a .tflite, an n-gram.

A document is (time,) ids; its targets are ids 1 ... time - 1, each predicted from all ids before it. Models with a limited context
take a longer document in pieces of that length, each piece starting afresh with its first token as context only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgelm.model import SourceLogits
from edgelm.models.ngram import NGram

Ids = NDArray[np.int32]
Logits = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (targets done, targets in all)."""

LOGITS_A_CALL = 8_000_000
"""Logits that one call for several documents may return: 32 MB in float32. One long document alone may return more."""
TARGETS_A_BATCH = 100_000


@dataclass(frozen=True)
class DocumentScores:
    """The targets of one document, n = time - 1.

    Attributes:
        log_probability: (n,) float64, natural logarithm of the target's probability.
        rank: (n,) int32, 1 + the number of tokens with a higher probability.
        top1: (n,) int32, the most probable token.
    """

    log_probability: NDArray[np.float64]
    rank: NDArray[np.int32]
    top1: NDArray[np.int32]


class Scorer(Protocol):
    """Anything that scores documents, in their order, as a stream."""

    def score(self, documents: Iterable[Ids]) -> Iterator[DocumentScores]:
        """One `DocumentScores` a document."""


class StepSession(Protocol):
    """The part of `edgelm.runtime` sessions that scoring needs."""

    @property
    def max_positions(self) -> int | None:
        """Tokens the session can take; None when there is no end."""

    def reset(self) -> None:
        """Forgets everything."""

    def stream(self, tokens: Sequence[int]) -> Iterator[Logits]:
        """Takes tokens one by one and yields (vocab,) logits after each."""


@runtime_checkable
class BatchSession(StepSession, Protocol):
    """A recurrent session that runs several texts side by side."""

    @property
    def batch(self) -> int:
        """Texts side by side."""

    def step_batch(self, tokens: NDArray[np.integer[Any]]) -> Logits:
        """(batch,) tokens -> (batch, vocab) logits."""

    def reset_rows(self, rows: NDArray[np.bool_]) -> None:
        """Forgets the texts where `rows`, (batch,), is True."""


def score_logits(logits: Logits, targets: NDArray[np.integer[Any]]) -> DocumentScores:
    """Scores from logits.

    Args:
        logits: (n, vocab).
        targets: (n,).
    """
    rows = max(1, LOGITS_A_CALL // 4 // logits.shape[1])
    parts = [_score_rows(logits[i : i + rows], targets[i : i + rows]) for i in range(0, len(targets), rows)]
    return _join(parts)


def _score_rows(logits: Logits, targets: NDArray[np.integer[Any]]) -> DocumentScores:
    wanted = logits[np.arange(len(targets)), targets]  # (n,)
    rank = 1 + np.count_nonzero(logits > wanted[:, None], axis=1)
    peak = logits.max(axis=1)
    total = np.exp(logits - peak[:, None]).sum(axis=1, dtype=np.float64)
    log_probability = wanted.astype(np.float64) - peak - np.log(total)
    return DocumentScores(log_probability, rank.astype(np.int32), logits.argmax(axis=1).astype(np.int32))


@dataclass(frozen=True)
class SourceScorer:
    """Runs the source itself, several documents of like length a call.

    Attributes:
        source_logits: ids (batch, time) -> logits (batch, time, vocab).
        max_tokens: Longest piece of a document that is run at once.
        batch: Documents a call, at most.
    """

    source_logits: SourceLogits
    max_tokens: int = 1024
    batch: int = 16

    def score(self, documents: Iterable[Ids]) -> Iterator[DocumentScores]:
        """See `Scorer`."""
        remaining = iter(documents)
        vocab_size = self.source_logits(np.zeros((1, 1), np.int32)).shape[-1]
        while window := list(islice(remaining, 4 * self.batch)):
            pieces = [_pieces(ids, self.max_tokens) for ids in window]
            scored = iter(self._score_pieces([piece for parts in pieces for piece in parts], vocab_size))
            yield from (_join(list(islice(scored, len(parts)))) for parts in pieces)

    def _score_pieces(self, pieces: Sequence[Ids], vocab_size: int) -> list[DocumentScores]:
        """Scores in the order of the pieces; pieces of like length go into one call."""
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
        result: dict[int, DocumentScores] = {}
        while order:
            size = self.batch
            while size > 1 and size * len(pieces[order[:size][-1]]) * vocab_size > LOGITS_A_CALL:
                size -= 1
            group, order = order[:size], order[size:]
            result |= zip(group, self._run([pieces[i] for i in group]), strict=True)
        return [result[i] for i in range(len(pieces))]

    def _run(self, pieces: Sequence[Ids]) -> Iterator[DocumentScores]:
        longest = max(len(piece) - 1 for piece in pieces)
        ids = np.zeros((len(pieces), longest), np.int32)  # (batch, time)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece) - 1] = piece[:-1]  # the padding on the right changes nothing left of it
        logits = self.source_logits(ids)  # (batch, time, vocab)
        for row, piece in enumerate(pieces):
            yield score_logits(logits[row, : len(piece) - 1], piece[1:])


@dataclass(frozen=True)
class SessionScorer:
    """Steps a session through the documents, reset before each; with `session.batch` > 1 that many documents side by side."""

    session: StepSession

    def score(self, documents: Iterable[Ids]) -> Iterator[DocumentScores]:
        """See `Scorer`."""
        if isinstance(self.session, BatchSession) and self.session.batch > 1:
            return _side_by_side(self.session, documents)
        return _one_by_one(self.session, documents)


def _one_by_one(session: StepSession, documents: Iterable[Ids]) -> Iterator[DocumentScores]:
    for ids in documents:
        parts = []
        for piece in _pieces(ids, session.max_positions):
            session.reset()
            steps = zip(session.stream(piece[:-1].tolist()), piece[1:], strict=True)
            parts += [score_logits(logits[None], target[None]) for logits, target in steps]
        yield _join(parts)


def _side_by_side(session: BatchSession, documents: Iterable[Ids]) -> Iterator[DocumentScores]:
    """A row whose document ends takes the next one."""
    rows = _Rows(documents, session.batch)
    session.reset()
    while rows.occupied.any():
        session.reset_rows(rows.fresh)
        logits = session.step_batch(rows.tokens())  # (batch, vocab)
        rows.record(score_logits(logits, rows.targets()))
        yield from rows.finished()
    yield from rows.finished()


class _Rows:
    """Which document, and which place in it, every row of a batch is at."""

    def __init__(self, documents: Iterable[Ids], batch: int) -> None:
        self._waiting = enumerate(documents)
        self._documents: list[Ids] = [np.zeros(2, np.int32)] * batch  # empty rows run on a dummy text
        self._numbers = [0] * batch
        self._parts: list[list[tuple[float, int, int]]] = [[] for _ in range(batch)]
        self._done: dict[int, DocumentScores] = {}
        self._next = 0
        self.at = np.zeros(batch, np.int64)
        self.occupied = np.zeros(batch, np.bool_)
        self.fresh = np.ones(batch, np.bool_)
        for row in range(batch):
            self._fill(row)

    def _fill(self, row: int) -> None:
        self._documents[row], self.at[row], self._parts[row] = np.zeros(2, np.int32), 0, []
        self.fresh[row], self.occupied[row] = True, False
        for number, ids in self._waiting:
            if len(ids) > 1:
                self._documents[row], self._numbers[row], self.occupied[row] = ids, number, True
                return
            self._done[number] = _join([])

    def tokens(self) -> NDArray[np.int32]:
        """(batch,) inputs."""
        return np.array([ids[at] for ids, at in zip(self._documents, self.at, strict=True)], np.int32)

    def targets(self) -> NDArray[np.int32]:
        """(batch,) targets."""
        return np.array([ids[at + 1] for ids, at in zip(self._documents, self.at, strict=True)], np.int32)

    def record(self, scores: DocumentScores) -> None:
        """Keeps the scores of one step, (batch,), and moves on."""
        self.fresh[:] = False
        for row in np.flatnonzero(self.occupied):
            self._parts[row].append((float(scores.log_probability[row]), int(scores.rank[row]), int(scores.top1[row])))
            self.at[row] += 1
            if self.at[row] + 1 == len(self._documents[row]):
                log_probability, rank, top1 = zip(*self._parts[row], strict=True)
                self._done[self._numbers[row]] = DocumentScores(
                    np.array(log_probability, np.float64), np.array(rank, np.int32), np.array(top1, np.int32)
                )
                self._fill(row)

    def finished(self) -> Iterator[DocumentScores]:
        """Documents that are done and whose turn it is."""
        while self._next in self._done:
            yield self._done.pop(self._next)
            self._next += 1


@dataclass(frozen=True)
class NGramScorer:
    """The baseline."""

    model: NGram

    def score(self, documents: Iterable[Ids]) -> Iterator[DocumentScores]:
        """See `Scorer`."""
        for batch in _batches(documents):
            found = self.model.predict(batch)
            ends = np.cumsum([len(ids) - 1 for ids in batch])[:-1]
            columns = zip(np.split(found.log_probability, ends), np.split(found.rank, ends), np.split(found.top1, ends), strict=True)
            yield from (DocumentScores(*column) for column in columns)


def score_with_progress(scorer: Scorer, documents: Sequence[Ids], on_progress: Progress | None) -> Iterator[DocumentScores]:
    """The scores of all documents; `on_progress` hears of every document that is done."""
    total = sum(len(ids) - 1 for ids in documents)
    done = 0
    for scores in scorer.score(documents):
        done += len(scores.rank)
        if on_progress is not None:
            on_progress(done, total)
        yield scores


def _batches(documents: Iterable[Ids]) -> Iterator[list[Ids]]:
    batch: list[Ids] = []
    for ids in documents:
        batch.append(ids)
        if sum(map(len, batch)) >= TARGETS_A_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _pieces(ids: Ids, longest: int | None) -> list[Ids]:
    """Pieces of at most `longest` targets; each begins with the last token of the piece before."""
    size = longest or max(1, len(ids))
    return [ids[start : start + size + 1] for start in range(0, len(ids) - 1, size)]


def _join(parts: Sequence[DocumentScores]) -> DocumentScores:
    if not parts:
        return DocumentScores(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32))
    return DocumentScores(
        np.concatenate([part.log_probability for part in parts]),
        np.concatenate([part.rank for part in parts]),
        np.concatenate([part.top1 for part in parts]),
    )
