"""What an app does with a session: next-word suggestions, and a continuation as it is written."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.base import Session
from edgelm.runtime.sampling import SamplingSettings, ranked, sample, softmax
from edgelm.text.tokenizer import Tokenizer

LONGEST_WORD = 12
"""Pieces a suggested word has at most; English words of a 10,000-piece vocabulary have fewer than 6."""

BEAM = 3
"""Unfinished words kept for each word asked for."""

RECENT = 64
"""Tokens the repetition penalty looks back on."""

WORD_CHARACTERS = (b"'", b"-")
"""ASCII characters besides letters and digits that go on with a word."""


@dataclass(frozen=True)
class Suggestion:
    """A next word.

    Attributes:
        text: The word, without surrounding white space.
        probability: Of this word and its end after the text, among all continuations.
    """

    text: str
    probability: float


def suggest(session: Session[Any], tokenizer: Tokenizer, text: str, n: int = 3) -> list[Suggestion]:
    """The n likeliest next words, likeliest first; fewer when the model knows fewer.

    A word-level model is asked once. Other models spell: a beam of unfinished words is extended piece by piece, and a word's
    probability is that of its pieces times that of a word end behind them.

    Args:
        session: It is reset; afterwards it stands behind `text`.
        tokenizer: Of the same model.
        text: What was written so far; its last half where it is longer than the context.
        n: Words wanted.

    Raises:
        RuntimeFailure: The runtime failed.
    """
    ids = _prompt(session, tokenizer, text.rstrip(), room=0 if tokenizer.kind == "word" else LONGEST_WORD)
    mass = softmax(session.prefill(ids))  # (vocab,)
    pieces = _pieces(tokenizer, session.vocab_size)
    if tokenizer.kind == "word":
        mass = np.where(pieces.starts, mass, 0)
        return [Suggestion(tokenizer.piece(i).strip(), float(mass[i])) for i in ranked(mass, n) if mass[i] > 0]
    words = _spell(session, tokenizer, pieces, mass, n)
    best = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:n]
    return [Suggestion(word, probability) for word, probability in best]


def complete(session: Session[Any], tokenizer: Tokenizer, text: str, max_tokens: int, settings: SamplingSettings) -> Iterator[str]:
    """Continues a text, yielding it as it is written.

    It ends after `max_tokens` tokens or at a boundary. When the context is full, its last half is read again and writing goes on.

    Args:
        session: It is reset.
        tokenizer: Of the same model.
        text: The beginning.
        max_tokens: Tokens to add at most.
        settings: How each token is chosen; equal seeds give equal texts.

    Yields:
        Whole characters; a character that spans several tokens comes with the last of them.

    Raises:
        RuntimeFailure: The runtime failed.
    """
    rng = np.random.default_rng(settings.seed)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    ids = _prompt(session, tokenizer, text, room=1)
    logits = session.prefill(ids)
    for _ in range(max_tokens):
        token = sample(_writable(logits, tokenizer), settings, rng, ids[-RECENT:])
        if token in tokenizer.special_ids or token == tokenizer.boundary_id:
            break
        ids.append(token)
        if written := decoder.decode(tokenizer.piece_bytes(token)):
            yield written
        if session.max_positions is not None and session.position >= session.max_positions:
            session.reset()
            logits = session.prefill(ids[-max(1, session.max_positions // 2) :])
        else:
            logits = session.step(token)
    if rest := decoder.decode(b"", final=True):
        yield rest


def _prompt(session: Session[Any], tokenizer: Tokenizer, text: str, room: int) -> list[int]:
    """Resets the session and gives the ids to prefill: the last half of the context where text and room exceed it.

    A model must be told something: an empty text for a tokenizer without a start token becomes id 0.
    """
    session.reset()
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    ids = start + tokenizer.encode(text)
    if session.max_positions is not None and len(ids) + room > session.max_positions:
        ids = ids[-max(1, session.max_positions // 2) :]
    return ids or [0]


def _writable(logits: NDArray[np.float32], tokenizer: Tokenizer) -> NDArray[np.float64]:
    """The logits without the unknown token and the rows that have no token (padding)."""
    scores = logits.astype(np.float64)
    scores[tokenizer.vocab_size :] = -np.inf
    if tokenizer.unknown_id is not None:
        scores[tokenizer.unknown_id] = -np.inf
    return scores


@dataclass(frozen=True)
class _Pieces:
    """Boolean rows (vocab,): tokens a word can start with, go on with, and end before; padding is none of them."""

    starts: NDArray[np.bool_]
    continues: NDArray[np.bool_]
    ends: NDArray[np.bool_]


@functools.lru_cache(maxsize=4)
def _pieces(tokenizer: Tokenizer, vocab_size: int) -> _Pieces:
    starts, continues, ends = (np.zeros(vocab_size, bool) for _ in range(3))
    for i in range(min(tokenizer.vocab_size, vocab_size)):
        begins, first = tokenizer.is_word_start(i), tokenizer.piece_bytes(i)[:1]
        special = i in tokenizer.special_ids or i == tokenizer.boundary_id
        starts[i] = begins and not special
        continues[i] = not begins and not special and (first >= b"\x80" or first.isalnum() or first in WORD_CHARACTERS)
        ends[i] = not continues[i]
    return _Pieces(starts, continues, ends)


@dataclass(frozen=True)
class _Unfinished:
    """The beginning of a word, the session's state before its last piece, and its probability."""

    probability: float
    ids: tuple[int, ...]
    before: Any


def _spell(session: Session[Any], tokenizer: Tokenizer, pieces: _Pieces, mass: NDArray[np.float64], n: int) -> dict[str, float]:
    """Words and their probabilities, by a beam; the session comes back to where it was."""
    words: dict[str, float] = {}
    here = session.snapshot()
    beam = _likeliest(np.where(pieces.starts, mass, 0), (), here, BEAM * n)
    for _ in range(LONGEST_WORD if session.max_positions is None else min(LONGEST_WORD, session.max_positions - session.position)):
        least = sorted(words.values(), reverse=True)[n - 1] if len(words) >= n else 0.0
        beam = [word for word in beam if word.probability > least]  # a word only loses probability as it grows
        grown: list[_Unfinished] = []
        for word in beam:
            session.restore(word.before)
            mass = word.probability * softmax(session.step(word.ids[-1]))
            if text := b"".join(tokenizer.piece_bytes(i) for i in word.ids).decode("utf-8", errors="replace").strip():
                words[text] = words.get(text, 0.0) + float(mass[pieces.ends].sum())
            grown += _likeliest(np.where(pieces.continues, mass, 0), word.ids, session.snapshot(), BEAM * n)
        beam = sorted(grown, key=lambda word: -word.probability)[: BEAM * n]
        if not beam:
            break
    session.restore(here)
    return words


def _likeliest(mass: NDArray[np.float64], ids: tuple[int, ...], state: Any, count: int) -> list[_Unfinished]:
    return [_Unfinished(float(mass[i]), (*ids, int(i)), state) for i in ranked(mass, count) if mass[i] > 0]
