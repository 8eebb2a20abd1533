"""Which tokens make up which words, so that models with different tokenizers are compared by the word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgelm.text.corpus import DOCUMENTS_A_BATCH, boundary_tokens
from edgelm.text.tokenizer import Tokenizer
from edgelm.text.words import normal_form, words

BOUNDARY_WORD = ""
"""The boundary token is a word of its own."""

Span = tuple[int, int]


@dataclass(frozen=True)
class AlignedDocument:
    """A document as ids, and the words its targets (ids 1 ... time - 1) belong to.

    A piece that lies in several words (`...`, `'s,`) belongs to each of them in equal shares; white space of its own to the word
    after it; every target's shares sum to 1.

    Attributes:
        ids: (time,) int32, as `encode_documents` gives them.
        words: The words in normal form; `BOUNDARY_WORD` for the end of each line.
        target: (m,) int64, index of a target, ascending.
        word: (m,) int64, index of a word the target belongs to.
        share: (m,) float64.
        characters: Characters of the text; the end of a line is one.
    """

    ids: NDArray[np.int32]
    words: tuple[str, ...]
    target: NDArray[np.int64]
    word: NDArray[np.int64]
    share: NDArray[np.float64]
    characters: int


def align_documents(documents: Iterable[list[str]], tokenizer: Tokenizer) -> Iterator[AlignedDocument]:
    """Encodes documents and aligns their tokens with `words` of the text.

    Raises:
        TokenizerError: The tokenizer has no token that can stand between lines.
    """
    start, boundary = boundary_tokens(tokenizer)
    remaining = iter(documents)
    while batch := list(islice(remaining, DOCUMENTS_A_BATCH)):
        encoded = iter(tokenizer.encode_spans([line for document in batch for line in document]))
        for document in batch:
            yield _align(document, list(islice(encoded, len(document))), start, boundary)


def _align(document: list[str], encoded: list[tuple[list[int], list[Span]]], start: int, boundary: int) -> AlignedDocument:
    ids, texts = [start], list[str]()
    target, word, share = list[int](), list[int](), list[float]()
    for line, (line_ids, token_spans) in zip(document, encoded, strict=True):
        word_spans = words(line)
        owners = _owners(line, token_spans, word_spans)
        for i, (first, last) in enumerate(owners):
            for owner in range(first, last + 1):
                target.append(len(ids) - 1 + i)
                word.append(len(texts) + owner)
                share.append(1 / (last - first + 1))
        texts += [*(normal_form(line[a:b]) for a, b in word_spans), BOUNDARY_WORD]
        ids += [*line_ids, boundary]
        target.append(len(ids) - 2)
        word.append(len(texts) - 1)
        share.append(1.0)
    return AlignedDocument(
        ids=np.array(ids, np.int32),
        words=tuple(texts),
        target=np.array(target, np.int64),
        word=np.array(word, np.int64),
        share=np.array(share, np.float64),
        characters=sum(len(line) + 1 for line in document),
    )


def _owners(line: str, token_spans: list[Span], word_spans: list[Span]) -> Iterator[tuple[int, int]]:
    """First and last word of every token; len(word_spans), the boundary, for white space after the last word."""
    first = 0
    for start, end in token_spans:
        while start < end and line[start].isspace():
            start += 1
        while first < len(word_spans) and word_spans[first][1] <= start:
            first += 1
        last = first
        while last + 1 < len(word_spans) and word_spans[last + 1][0] < end:
            last += 1
        yield first, last
