"""How good a model is on a text: perplexities, next-word accuracy, macro figures, and the comparison with source and baselines.

The text is scored document by document with the state carried through each document (the way a phone uses the model), or line by
line with the state reset. Figures per word use one segmentation for all models (`edgelm.text.words`); the end of a line is a word.

    documents = list(corpus.documents("test"))
    trigram = NGram.fit(token_documents(corpus, tokenizer, "train"), tokenizer.vocab_size)
    artifact = evaluate(SessionScorer(session), tokenizer, documents)
    table, checks = compare(artifact, trigram=evaluate(NGramScorer(trigram), tokenizer, documents), max_loss_percent=2.0)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import CorpusError
from edgelm.report import Check, Table
from edgelm.text.alignment import BOUNDARY_WORD, AlignedDocument, align_documents
from edgelm.text.tokenizer import Tokenizer
from edgelm.text.words import normal_form
from edgelm.validate.completion import WordAccuracy, subword_accuracy
from edgelm.validate.scorers import DocumentScores, NGramScorer, Progress, Scorer, SessionScorer, SourceScorer, score_with_progress

__all__ = [
    "DocumentScores", "NGramScorer", "Quality", "Scorer", "SessionScorer", "SourceScorer", "WordAccuracy", "compare", "evaluate",
    "quality", "subword_accuracy", "word_vocabulary",
]  # fmt: skip

FREQUENT_WORDS = 100


@dataclass(frozen=True)
class Quality:
    """The figures of one model on one text. Shares are 0 to 1.

    Attributes:
        perplexity: exp of the mean negative log-probability of a token.
        word_perplexity: The same of a word: its log-probability is the sum over its tokens.
        words: Words that count in `word_perplexity`, ends of lines included.
        words_left_out: Words outside of the `vocabulary` it was restricted to.
        tokens: Targets.
        characters: Characters of the text, ends of lines included.
        bits_per_character: Of the whole text.
        unknown_share: Share of the words (ends of lines apart) in which the tokenizer met something it has no token for.
        token_top1: Share of the targets that are the most probable token; unknown targets are misses.
        token_top3: Share of the targets among the three most probable tokens; unknown targets are misses.
        top1: Next-word accuracy; for word-level models only (None otherwise: see `subword_accuracy`).
        top3: Among the first three.
        macro_recall: Mean over the frequent words of the share of their occurrences that were predicted (top 1); word-level only.
        macro_f1: Mean over the frequent words of 2 hits / (predictions + occurrences); word-level only.
        frequent_words: Number of words in the macro figures.
        carried: The state was carried through each document; False: reset at every line.
    """

    perplexity: float
    word_perplexity: float
    words: int
    words_left_out: int
    tokens: int
    characters: int
    bits_per_character: float
    unknown_share: float
    token_top1: float
    token_top3: float
    top1: float | None
    top3: float | None
    macro_recall: float | None
    macro_f1: float | None
    frequent_words: int
    carried: bool


def evaluate(
    scorer: Scorer,
    tokenizer: Tokenizer,
    documents: Iterable[list[str]],
    *,
    reset: Literal["document", "line"] = "document",
    vocabulary: Collection[str] | None = None,
    frequent_words: int = FREQUENT_WORDS,
    on_progress: Progress | None = None,
) -> Quality:
    """Encodes, scores and sums up.

    Args:
        scorer: The model.
        tokenizer: The model's.
        documents: Lists of lines, such as `corpus.documents("test")`.
        reset: `document` carries the state through each document, `line` forgets it at every line.
        vocabulary: See `quality`.
        frequent_words: See `quality`.
        on_progress: Called with (targets done, targets in all).

    Raises:
        CorpusError: There is no text.
        TokenizerError: The tokenizer has no token that can stand between lines.
    """
    if reset == "line":
        documents = ([line] for document in documents for line in document)
    aligned = list(align_documents(documents, tokenizer))
    scores = score_with_progress(scorer, [document.ids for document in aligned], on_progress)
    return quality(scores, tokenizer, aligned, vocabulary=vocabulary, frequent_words=frequent_words, carried=reset == "document")


def quality(
    scores: Iterable[DocumentScores],
    tokenizer: Tokenizer,
    documents: Sequence[AlignedDocument],
    *,
    vocabulary: Collection[str] | None = None,
    frequent_words: int = FREQUENT_WORDS,
    carried: bool = True,
) -> Quality:
    """Sums up the scores of a text.

    Args:
        scores: One for each document, in their order.
        tokenizer: The model's.
        documents: The text, aligned with `tokenizer`.
        vocabulary: Words that count in the word perplexity, as `word_vocabulary` gives them: a word-level model pays for `<unk>`
            only, so a fair comparison with an open vocabulary leaves the words out that one of the models doesn't know.
        frequent_words: Number of the text's most frequent words in the macro figures.
        carried: For the record.

    Raises:
        CorpusError: There is no text.
    """
    parts = list(scores)
    if not sum(len(part.rank) for part in parts):
        raise CorpusError("there is no text to evaluate on", allowed="at least one line")
    log_probability = np.concatenate([part.log_probability for part in parts])  # (tokens,)
    rank = np.concatenate([part.rank for part in parts])  # (tokens,)
    top1 = np.concatenate([part.top1 for part in parts])  # (tokens,)
    targets = np.concatenate([document.ids[1:] for document in documents])  # (tokens,)
    known = targets != tokenizer.unknown_id
    token_top1, token_top3 = (float(np.mean((rank <= k) & known)) for k in (1, 3))
    words = _Words.of(documents, log_probability, ~known)
    counted = words.counted(vocabulary)
    by_word = tokenizer.kind == "word"
    macro = _macro(targets, top1, tokenizer, frequent_words) if by_word else (None, None)
    characters = sum(document.characters for document in documents)
    inner = words.covered & ~words.boundary
    return Quality(
        perplexity=math.exp(-float(log_probability.mean())),
        word_perplexity=math.exp(-float(words.log_probability[counted].mean())) if counted.any() else math.nan,
        words=int(counted.sum()),
        words_left_out=int((words.covered & ~counted).sum()),
        tokens=len(targets),
        characters=characters,
        bits_per_character=-float(log_probability.sum()) / math.log(2) / characters,
        unknown_share=float(words.unknown[inner].mean()) if inner.any() else 0.0,
        token_top1=token_top1,
        token_top3=token_top3,
        top1=token_top1 if by_word else None,
        top3=token_top3 if by_word else None,
        macro_recall=macro[0],
        macro_f1=macro[1],
        frequent_words=frequent_words,
        carried=carried,
    )


def word_vocabulary(tokenizer: Tokenizer) -> frozenset[str]:
    """The words a word-level tokenizer has a token for, in normal form, with the end of a line."""
    return frozenset(
        {BOUNDARY_WORD} | {normal_form(tokenizer.token(i)) for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids}
    )


@dataclass(frozen=True)
class _Words:
    """The words of a text, all (words,).

    Attributes:
        texts: In normal form.
        log_probability: Sum over the tokens.
        covered: It has a token (a character the normalizer removes has none).
        unknown: It has an unknown token.
        boundary: It is the end of a line.
    """

    texts: tuple[str, ...]
    log_probability: NDArray[np.float64]
    covered: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    boundary: NDArray[np.bool_]

    @classmethod
    def of(cls, documents: Sequence[AlignedDocument], log_probability: NDArray[np.float64], unknown: NDArray[np.bool_]) -> _Words:
        """Adds the tokens' log-probabilities up, by their shares."""
        texts = tuple(text for document in documents for text in document.words)
        first_target = np.cumsum([0, *(len(document.ids) - 1 for document in documents)])
        first_word = np.cumsum([0, *(len(document.words) for document in documents)])
        target = np.concatenate([document.target + first for document, first in zip(documents, first_target[:-1], strict=True)])
        word = np.concatenate([document.word + first for document, first in zip(documents, first_word[:-1], strict=True)])
        share = np.concatenate([document.share for document in documents])
        return cls(
            texts=texts,
            log_probability=np.bincount(word, share * log_probability[target], minlength=len(texts)).astype(np.float64),
            covered=np.bincount(word, minlength=len(texts)) > 0,
            unknown=np.bincount(word, unknown[target], minlength=len(texts)) > 0,
            boundary=np.array([text == BOUNDARY_WORD for text in texts], np.bool_),
        )

    def counted(self, vocabulary: Collection[str] | None) -> NDArray[np.bool_]:
        """Words that count in the word perplexity."""
        if vocabulary is None:
            return self.covered
        allowed = frozenset(vocabulary) | {BOUNDARY_WORD}
        return self.covered & np.array([text in allowed for text in self.texts], np.bool_)


def _macro(targets: NDArray[np.int32], top1: NDArray[np.int32], tokenizer: Tokenizer, frequent_words: int) -> tuple[float, float]:
    """Macro recall and macro F1 over the most frequent words of the text; special tokens are no words."""
    size = max(tokenizer.vocab_size, int(top1.max()) + 1)
    occurrences = np.bincount(targets, minlength=size)
    predictions = np.bincount(top1, minlength=size)
    hits = np.bincount(targets[targets == top1], minlength=size)
    candidates = occurrences.copy()
    candidates[sorted(tokenizer.special_ids)] = 0
    frequent = np.argsort(-candidates, kind="stable")[:frequent_words]
    frequent = frequent[candidates[frequent] > 0]
    if not len(frequent):
        return 0.0, 0.0
    recall = hits[frequent] / occurrences[frequent]
    f1 = 2 * hits[frequent] / (predictions[frequent] + occurrences[frequent])
    return float(recall.mean()), float(f1.mean())


def compare(
    artifact: Quality,
    *,
    source: Quality | None = None,
    trigram: Quality | None = None,
    unigram: Quality | None = None,
    max_loss_percent: float | None = None,
) -> tuple[Table, tuple[Check, ...]]:
    """The table of the report, and the checks: the loss against the source, and whether the model beats a trigram.

    Args:
        artifact: What is shipped.
        source: The model it was made from.
        trigram: The baseline with the same tokenizer on the same text.
        unigram: Word frequencies alone.
        max_loss_percent: Largest rise of the perplexity over the source; None reports it only.
    """
    given = {"source": source, "artifact": artifact, "trigram": trigram, "unigram": unigram}
    rows = tuple(_row(name, figures) for name, figures in given.items() if figures is not None)
    state = "state carried through each document" if artifact.carried else "state reset at every line"
    left_out = f"; {artifact.words_left_out:,} words outside the common vocabulary left out" if artifact.words_left_out else ""
    columns = ("model", "perplexity", "per word", "top-1 %", "top-3 %", "recall %", "macro F1 %", "bits/char")
    counted = f"{artifact.tokens:,} tokens, {artifact.words:,} words{left_out}; {state}; unknown words count as misses"
    note = f"{counted}; recall and F1 are means over the {artifact.frequent_words} most frequent words"
    checks = []
    if source is not None:
        checks.append(_loss_check(artifact, source, max_loss_percent))
    if trigram is not None:
        checks.append(_trigram_check(artifact, trigram))
    return Table("Quality on held-out text", columns, rows, note), tuple(checks)


def _loss_check(artifact: Quality, source: Quality, limit: float | None) -> Check:
    loss = 100 * (artifact.perplexity / source.perplexity - 1)
    passed = None if limit is None else loss <= limit
    failed = passed is False
    return Check(
        name="perplexity loss",
        measured=round(loss, 3),
        limit=limit,
        unit="%",
        passed=passed,
        cause=f"compression took the perplexity from {source.perplexity:.2f} to {artifact.perplexity:.2f}" if failed else "",
        fix="edgelm convert with --recipe int8: its rounding costs an LSTM well under 0.5 % of perplexity" if failed else "",
    )


def _trigram_check(artifact: Quality, trigram: Quality) -> Check:
    passed = artifact.perplexity < trigram.perplexity
    return Check(
        name="perplexity against a trigram",
        measured=round(artifact.perplexity, 3),
        limit=round(trigram.perplexity, 3),
        unit="perplexity",
        passed=passed,
        cause="" if passed else "counting words does better: the model is undertrained on this kind of text, or compressed too far",
        fix="" if passed else "edgelm convert with --recipe float32, to see whether it was the compression; otherwise train longer",
    )


def _row(name: str, figures: Quality) -> tuple[str, ...]:
    shares = (figures.top1, figures.top3, figures.macro_recall, figures.macro_f1)
    return (
        name,
        f"{figures.perplexity:.2f}",
        f"{figures.word_perplexity:.2f}",
        *("-" if share is None else f"{100 * share:.1f}" for share in shares),
        f"{figures.bits_per_character:.3f}",
    )
