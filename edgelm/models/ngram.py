"""Interpolated modified Kneser-Ney n-gram models over token ids: the baseline in every quality report.

Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3. The highest order counts
n-grams, every lower order counts the distinct words an n-gram follows; each order is discounted by one of three constants (for
counts of one, two, three and more) and interpolated with the order below, the lowest with the uniform distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import CorpusError

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OrderTable:
    """The n-grams of one order, sorted by (context, word).

    Attributes:
        words: (n,) int64, last word of each n-gram.
        shares: (n,) float64, its discounted count over the count of its context.
        contexts: (c,) packed contexts, sorted; a single zero for order 1.
        starts: (c + 1,) where each context's n-grams begin.
        backoffs: (c,) float64, the weight each context gives to the order below.
    """

    words: NDArray[np.int64]
    shares: Floats
    contexts: Keys
    starts: NDArray[np.int64]
    backoffs: Floats

    def find(self, context: int) -> tuple[slice, float]:
        """The n-grams of a packed context and its weight for the order below; nothing and 1 for a context never seen."""
        i = int(np.searchsorted(self.contexts, np.uint64(context)))
        if i == len(self.contexts) or int(self.contexts[i]) != context:
            return slice(0, 0), 1.0
        return slice(int(self.starts[i]), int(self.starts[i + 1])), float(self.backoffs[i])


@dataclass(frozen=True)
class Predictions:
    """What a model says of the targets of a text.

    Attributes:
        log_probability: (n,) float64, natural logarithm.
        rank: (n,) int32, 1 + the number of words that are more probable.
        top1: (n,) int32, the most probable word.
    """

    log_probability: Floats
    rank: NDArray[np.int32]
    top1: NDArray[np.int32]


@dataclass(frozen=True)
class NGram:
    """A fitted model.

    Attributes:
        vocab_size: Words have the ids 0 ... vocab_size - 1.
        tables: Order 1 first.

    Example:
        >>> model = NGram.fit([np.array([0, 1, 2, 1, 2, 0])], vocab_size=3, order=2)
        >>> float(np.exp(model.log_probabilities([1])).sum())
        1.0
    """

    vocab_size: int
    tables: tuple[OrderTable, ...]

    @classmethod
    def fit(cls, documents: Iterable[NDArray[np.int32]], vocab_size: int, order: int = 3) -> NGram:
        """Counts and discounts.

        Args:
            documents: (time,) ids each. The first token is context only; before it the context is filled up with copies of it.
            vocab_size: Number of words.
            order: 1 for unigrams, 3 for trigrams.

        Raises:
            CorpusError: No document is longer than one token.
            ValueError: `order` ids do not fit 64 bits, or an id is not below `vocab_size`.
        """
        bits = _bits(vocab_size)
        if order < 1 or order * bits > 64:
            raise ValueError(f"order {order} with {vocab_size} words: {order} * {bits} bits must be within 1 and 64")
        packed = [_pack(ids, order, bits, vocab_size) for ids in documents if len(ids) > 1]
        if not packed:
            raise CorpusError("there is no text to count n-grams in", allowed="documents of at least two tokens")
        keys, counts = np.unique(np.concatenate(packed), return_counts=True)
        tables = []
        for n in range(order, 0, -1):
            tables.append(_table(keys, counts.astype(np.int64), bits))
            if n > 1:  # the first word goes; what is left is counted once for each distinct first word
                keys, counts = np.unique(keys & np.uint64((1 << (n - 1) * bits) - 1), return_counts=True)
        return cls(vocab_size, tuple(reversed(tables)))

    @property
    def order(self) -> int:
        """3 for trigrams."""
        return len(self.tables)

    @property
    def ngrams(self) -> int:
        """Number of n-grams of all orders."""
        return sum(len(table.words) for table in self.tables)

    def log_probabilities(self, context: Sequence[int]) -> Floats:
        """Log-probabilities of the next word, (vocab,), after `context`; its first token is repeated if it is too short."""
        return np.log(self._probabilities(self._context(context), self.order))

    def predict(self, documents: Sequence[NDArray[np.int32]]) -> Predictions:
        """Scores the tokens 1 ... time - 1 of every document, one document's targets after another's.

        Positions are grouped by context, so that the cost follows the number of distinct contexts rather than that of tokens.
        """
        bits = _bits(self.vocab_size)
        packed = [_pack(ids, self.order, bits, self.vocab_size) for ids in documents if len(ids) > 1]
        keys = np.concatenate(packed) if packed else np.zeros(0, np.uint64)
        contexts = keys >> np.uint64(bits)  # (n,)
        targets = (keys & np.uint64((1 << bits) - 1)).astype(np.int64)  # (n,)
        tails = contexts & np.uint64((1 << max(self.order - 2, 0) * bits) - 1)  # contexts of the order below
        order = np.lexsort((contexts, tails))
        changes = np.flatnonzero(np.diff(contexts[order])) + 1
        result = Predictions(np.empty(len(keys)), np.empty(len(keys), np.int32), np.empty(len(keys), np.int32))
        lower: _Lower | None = None
        for rows in np.split(order, changes) if len(keys) else []:
            tail = int(tails[rows[0]])
            if lower is None or lower.context != tail:
                lower = _Lower(tail, self._probabilities(tail, self.order - 1))
            grams, backoff = self.tables[-1].find(int(contexts[rows[0]]))
            scored = lower.score(self.tables[-1].words[grams], self.tables[-1].shares[grams], backoff, targets[rows])
            result.log_probability[rows], result.rank[rows], result.top1[rows] = scored
        return result

    def _context(self, context: Sequence[int]) -> int:
        size = self.order - 1
        if size and not len(context):
            raise ValueError("an n-gram model predicts after at least one token")
        recent = [int(token) for token in context[len(context) - min(size, len(context)) :]]
        packed = 0
        for token in recent[:1] * (size - len(recent)) + recent:
            packed = packed << _bits(self.vocab_size) | token
        return packed

    def _probabilities(self, context: int, order: int) -> Floats:
        """Probabilities of order `order`, (vocab,), after a packed context of order - 1 tokens; order 0 is uniform."""
        result = np.full(self.vocab_size, 1.0 / self.vocab_size)
        bits = _bits(self.vocab_size)
        for n in range(1, order + 1):
            table = self.tables[n - 1]
            grams, backoff = table.find(context & ((1 << (n - 1) * bits) - 1))
            result *= backoff
            result[table.words[grams]] += table.shares[grams]
        return result


class _Lower:
    """The distribution of the order below after one context, sorted once for the ranks under all longer contexts."""

    def __init__(self, context: int, probabilities: Floats) -> None:
        self.context = context
        self.probabilities = probabilities  # (vocab,)
        self.ascending = np.sort(probabilities)
        self.best = int(np.argmax(probabilities))

    def score(
        self, words: NDArray[np.int64], shares: Floats, backoff: float, targets: NDArray[np.int64]
    ) -> tuple[Floats, NDArray[np.int64], int]:
        """Log-probability (n,) and rank (n,) of the targets, and the best word.

        The probability of a word is backoff * lower, plus its share if it is one of `words`. The rank counts the lower
        distribution as a whole, takes `words` out of it and counts them again with their shares.
        """
        floors = self.probabilities[words]  # (grams,)
        full = backoff * floors + shares
        own = np.zeros(len(targets))
        if len(words):
            at = np.minimum(np.searchsorted(words, targets), len(words) - 1)
            own = np.where(words[at] == targets, shares[at], 0.0)
        wanted = backoff * self.probabilities[targets] + own  # (n,)
        bar = self.probabilities[targets] + own / backoff  # the same in units of the lower distribution
        above = len(self.ascending) - np.searchsorted(self.ascending, bar, side="right")
        above -= len(floors) - np.searchsorted(np.sort(floors), bar, side="right")
        above += len(full) - np.searchsorted(np.sort(full), wanted, side="right")
        best = self.best
        if len(words) and full.max() >= backoff * self.probabilities[best]:
            best = int(words[np.argmax(full)])
        return np.log(wanted), 1 + above, best


def _bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())


def _pack(ids: NDArray[np.int32], order: int, bits: int, vocab_size: int) -> Keys:
    """The n-gram that ends in each of ids[1:], (time - 1,), first word in the highest bits."""
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise ValueError(f"ids {int(ids.min())} ... {int(ids.max())} are not within a vocabulary of {vocab_size}")
    padded = np.concatenate([np.repeat(ids[:1], max(order - 2, 0)), ids]).astype(np.uint64)
    size = len(ids) - 1
    last = len(padded) - size  # where the targets begin
    keys = np.zeros(size, np.uint64)
    for back in range(order - 1, -1, -1):
        keys = keys << np.uint64(bits) | padded[last - back : last - back + size]
    return keys


def _table(keys: Keys, counts: NDArray[np.int64], bits: int) -> OrderTable:
    """Shares and backoff weights from the sorted n-grams of one order and their counts."""
    contexts, starts = np.unique(keys >> np.uint64(bits), return_index=True)
    discounts = _discounts(counts)
    discount = discounts[np.minimum(counts, 3)]  # (n,)
    sizes = np.diff(np.append(starts, len(keys)))
    totals = np.add.reduceat(counts, starts)  # (contexts,)
    return OrderTable(
        words=(keys & np.uint64((1 << bits) - 1)).astype(np.int64),
        shares=(counts - discount) / np.repeat(totals, sizes),
        contexts=contexts,
        starts=np.append(starts, len(keys)).astype(np.int64),
        backoffs=np.add.reduceat(discount, starts) / totals,
    )


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """The discounts of counts 0, 1, 2 and 3 or more, (4,): equation 26 of Chen & Goodman.

    Where a text is too small to have n-grams of each count from one to four, or gives a value outside (0, count), the
    constants are 0.5, 1 and 1.5.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if n.all():
        y = n[0] / (n[0] + 2 * n[1])
        found = np.array([0.0, *(i - (i + 1) * y * n[i] / n[i - 1] for i in (1, 2, 3))])
        if all(0 < found[i] < i for i in (1, 2, 3)):
            return found
    return np.array([0.0, 0.5, 1.0, 1.5])
