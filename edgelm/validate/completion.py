"""Next-word accuracy of models whose tokens are less than words.

A word-level model names the next word with one token. For the others the candidates are words completed by beam search: pieces are
added until the model itself begins something new. The probability of a word is that of its pieces times that of all tokens that end
it; several ways to spell one word add up. So the figure means the same as a word-level model's: the share of positions where the
text's next word is among the one or three most probable next words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.text.alignment import BOUNDARY_WORD, AlignedDocument
from edgelm.text.tokenizer import Tokenizer
from edgelm.text.words import normal_form, words
from edgelm.validate.scorers import StepSession

Logits = NDArray[np.float32]
Floats = NDArray[np.float64]
APOSTROPHES = "'’"
PARTIAL = "\ufffd"
POSITIONS_A_DOCUMENT = 8


class SearchSession(StepSession, Protocol):
    """The part of `edgelm.runtime` sessions that beam search needs."""

    def step(self, token: int) -> Logits:
        """Takes one token -> (vocab,) logits."""

    def snapshot(self) -> Any:
        """The state as a value."""

    def restore(self, snapshot: Any) -> None:
        """Goes back to a snapshot."""


@dataclass(frozen=True)
class WordAccuracy:
    """Next-word accuracy on a sample.

    Attributes:
        top1: Share of positions whose word is the most probable one, 0 to 1.
        top3: Share of positions whose word is among the three most probable ones.
        positions: Size of the sample.
        beam: Hypotheses kept.
    """

    top1: float
    top3: float
    positions: int
    beam: int


def subword_accuracy(
    session: SearchSession,
    tokenizer: Tokenizer,
    documents: Sequence[AlignedDocument],
    *,
    positions: int = 500,
    beam: int = 6,
    max_pieces: int = 16,
    seed: int = 7,
) -> WordAccuracy:
    """Top-1 and top-3 next-word accuracy on a deterministic sample of word positions (boundaries are words too).

    Documents are taken in a random order, and from each at most eight positions, evenly spaced from a random first one; the state is
    carried from the beginning of the document. Words that begin inside a piece (the second dot of a `...` piece) are no positions.

    Args:
        session: Opened on the model, batch 1.
        tokenizer: The model's.
        documents: The text, aligned with the same tokenizer.
        positions: Size of the sample; fewer if the text has fewer.
        beam: Hypotheses kept; 6 finds the same three words as 20 nearly always.
        max_pieces: Longest word, in pieces (characters for a character model).
        seed: Of the sample.
    """
    rng = np.random.default_rng(seed)
    completer = WordCompleter(tokenizer, beam=beam, max_pieces=max_pieces)
    ranks: list[int] = []
    for i in rng.permutation(len(documents)):
        document = documents[i]
        starts = _word_starts(document)
        if session.max_positions is not None:
            starts = [start for start in starts if start[0] + max_pieces < session.max_positions]
        stride = max(1, -(-len(starts) // POSITIONS_A_DOCUMENT))
        chosen = starts[int(rng.integers(stride)) :: stride][: positions - len(ranks)]
        ranks += _ranks(session, completer, document, chosen)
        if len(ranks) >= positions:
            break
    found = np.array(ranks)
    count = max(1, len(ranks))
    return WordAccuracy(int((found == 1).sum()) / count, int(((found >= 1) & (found <= 3)).sum()) / count, len(ranks), beam)


class WordCompleter:
    """Finds the most probable next words.

    Args:
        tokenizer: The model's.
        beam: Hypotheses kept.
        max_pieces: Longest word in pieces.
    """

    def __init__(self, tokenizer: Tokenizer, beam: int = 6, max_pieces: int = 16) -> None:
        self._beam, self._max_pieces = beam, max_pieces
        self._boundary = tokenizer.boundary_id
        self._usable = np.array([i == tokenizer.boundary_id or i not in tokenizer.special_ids for i in range(tokenizer.vocab_size)])
        self._pieces = [tokenizer.piece_bytes(i) for i in range(tokenizer.vocab_size)]
        if tokenizer.boundary_id is not None:
            self._pieces[tokenizer.boundary_id] = b"\n"
        kinds = np.array([_kind(piece.decode("utf-8", errors="replace")[:1]) for piece in self._pieces])
        self._ends = {  # kind of a word -> (vocab,) True for the tokens that cannot go on with it
            "letter": ~np.isin(kinds, ["letter", "apostrophe", "partial"]),
            "digit": ~np.isin(kinds, ["digit", "partial"]),
        }

    def next_words(self, session: SearchSession, logits: Logits, previous: str, count: int = 3) -> list[tuple[str, float]]:
        """The `count` most probable next words in normal form with their log-probabilities, best first.

        Args:
            session: Stands after the previous word; it is put back there.
            logits: (vocab,) what it predicts there.
            previous: The word before, which is over: pieces that would go on with it are no candidates.
            count: Number of words.
        """
        here = session.snapshot()
        allowed = self._ends.get(_kind(previous[:1]), np.ones(len(self._pieces), np.bool_)) & self._usable
        scores = np.where(allowed, self._log_softmax(logits), -np.inf)  # (vocab,)
        completed: dict[str, float] = {}
        live = self._extend([(0.0, b"", here)], [scores], completed)
        for _ in range(self._max_pieces):
            bar = sorted(completed.values(), reverse=True)[count - 1] if len(completed) >= count else -np.inf
            live = [hypothesis for hypothesis in live if hypothesis[0] > bar]  # a word is less probable than its beginning
            if not live:
                break
            live = self._advance(session, live, completed)
        session.restore(here)
        return sorted(completed.items(), key=lambda item: (-item[1], item[0]))[:count]

    def _advance(
        self, session: SearchSession, live: list[tuple[float, bytes, Any]], completed: dict[str, float]
    ) -> list[tuple[float, bytes, Any]]:
        """Runs the last piece of each hypothesis, notes the words that may end there, and extends the others."""
        bases, continuations = [], []
        for score, text, (before, token) in live:
            session.restore(before)
            scores = self._log_softmax(session.step(token))  # (vocab,)
            shown = text.decode("utf-8", errors="replace").lstrip()
            ends = self._ends.get(_kind(shown[:1]), np.zeros(len(scores), np.bool_))
            if shown and ends.any() and not shown.endswith(PARTIAL):
                _add(completed, _first_word(shown), score + float(np.logaddexp.reduce(scores[ends])))
            bases.append((score, text, session.snapshot()))
            continuations.append(np.where(~ends & self._usable, scores, -np.inf))
        return self._extend(bases, continuations, completed)

    def _extend(
        self, bases: list[tuple[float, bytes, Any]], continuations: list[Floats], completed: dict[str, float]
    ) -> list[tuple[float, bytes, Any]]:
        """The best extensions by one piece; those that are whole words with their end are noted instead.

        Hypotheses are (log-probability, text, (snapshot before the last piece, last piece)).
        """
        candidates = []
        for (score, text, snapshot), scores in zip(bases, continuations, strict=True):
            for token in np.argsort(-scores, kind="stable")[: 2 * self._beam]:
                if scores[token] > -np.inf:
                    candidates.append((score + float(scores[token]), text, int(token), snapshot))
        live: list[tuple[float, bytes, Any]] = []
        for score, text, token, snapshot in sorted(candidates, key=lambda candidate: -candidate[0]):
            extended = text + self._pieces[token]
            word = BOUNDARY_WORD if token == self._boundary and not text.strip() else _finished_word(extended)
            if word is not None:
                _add(completed, word, score)
            elif len(live) < self._beam:
                live.append((score, extended, (snapshot, token)))
        return live

    def _log_softmax(self, logits: Logits) -> Floats:
        """(vocab,) of the tokenizer; the model's padding rows count in the sum only."""
        wide = np.asarray(logits, np.float64)
        return np.asarray((wide - np.logaddexp.reduce(wide))[: len(self._pieces)])


def _word_starts(document: AlignedDocument) -> list[tuple[int, int]]:
    """(target, word) for every word that begins with a piece of its own."""
    starts, known = list[tuple[int, int]](), -1
    for target, word in zip(document.target.tolist(), document.word.tolist(), strict=True):
        if word > known and not (starts and starts[-1][0] == target):
            starts.append((target, word))
        known = max(known, word)
    return starts


def _ranks(session: SearchSession, completer: WordCompleter, document: AlignedDocument, chosen: list[tuple[int, int]]) -> list[int]:
    """The rank of the text's word at each chosen position, 0 for not among the first three."""
    session.reset()
    ranks, taken = [], 0
    for target, word in chosen:
        for token in document.ids[taken : target + 1].tolist():
            logits = session.step(token)
        taken = target + 1
        previous = document.words[word - 1] if word else BOUNDARY_WORD
        found = [text for text, _ in completer.next_words(session, logits.copy(), previous)]
        wanted = document.words[word]
        ranks.append(found.index(wanted) + 1 if wanted in found else 0)
    return ranks


def _finished_word(text: bytes) -> str | None:
    """The first word of `text` if more than that word is there already, or if it is a symbol, which never goes on."""
    shown = text.decode("utf-8", errors="replace").lstrip()
    spans = words(shown)
    if not spans or shown.endswith(PARTIAL):
        return None
    _, end = spans[0]
    if _kind(shown[0]) in ("letter", "digit") and shown[end:] in ("", *APOSTROPHES):
        return None
    return _first_word(shown)


def _first_word(text: str) -> str:
    start, end = words(text)[0]
    return normal_form(text[start:end])


def _add(completed: dict[str, float], word: str, score: float) -> None:
    completed[word] = float(np.logaddexp(completed.get(word, -np.inf), score))


def _kind(character: str) -> str:
    """What a word that begins with `character` is made of."""
    if character == PARTIAL:
        return "partial"
    if not character or character.isspace():
        return "space"
    if character in APOSTROPHES:
        return "apostrophe"
    return {"L": "letter", "M": "letter", "N": "digit"}.get(unicodedata.category(character)[0], "symbol")
