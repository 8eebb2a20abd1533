"""Quality figures against hand-made ones, and scorers against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm.errors import CorpusError
from edgelm.models.ngram import NGram
from edgelm.text.alignment import BOUNDARY_WORD, align_documents
from edgelm.text.corpus import encode_documents
from edgelm.text.tokenizer import Tokenizer, train_byte_bpe, train_char, train_word_level
from edgelm.validate.completion import WordCompleter
from edgelm.validate.quality import (
    DocumentScores,
    NGramScorer,
    Quality,
    SessionScorer,
    SourceScorer,
    compare,
    evaluate,
    quality,
    subword_accuracy,
    word_vocabulary,
)
from edgelm.validate.scorers import score_logits

DIALOGUES = [
    ["see you at eight", "at eight, at the station", "see you"],
    ["are you at the station", "i don't see you"],
    ["eight"],
]
MANY = DIALOGUES * 7


class ToyModel:
    """A recurrent model with exact arithmetic: the state is a running mean of random rows, one a token."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self.rows = rng.normal(size=(vocab_size, 16)).astype(np.float32)
        self.head = rng.normal(size=(vocab_size, 16)).astype(np.float32)

    def step(self, tokens: NDArray[Any], state: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(batch,) tokens, (batch, 16) state -> (batch, vocab) logits, state."""
        state = np.float32(0.5) * state + self.rows[tokens]
        return np.stack([self.head @ row for row in state]), state  # row by row: the same rounding for every batch

    def source_logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        state, logits = np.zeros((len(ids), 16), np.float32), []
        for column in ids.T:
            found, state = self.step(column, state)
            logits.append(found)
        return np.stack(logits, axis=1)


class ToySession:
    """The contract of edgelm.runtime's sessions over a toy model; logits are views that the next call overwrites."""

    def __init__(self, model: ToyModel, batch: int = 1, max_positions: int | None = None) -> None:
        self.model, self.batch, self.max_positions = model, batch, max_positions
        self._logits = np.zeros((batch, model.vocab_size), np.float32)
        self.reset()

    def reset(self) -> None:
        self.state, self.position = np.zeros((self.batch, 16), np.float32), 0

    def reset_rows(self, rows: NDArray[np.bool_]) -> None:
        self.state[rows] = 0

    def step_batch(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        assert self.max_positions is None or self.position < self.max_positions
        self._logits[:], self.state = self.model.step(tokens, self.state)
        self.position += 1
        return self._logits

    def step(self, token: int) -> NDArray[np.float32]:
        return self.step_batch(np.array([token]))[0]

    def stream(self, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        for token in tokens:
            yield self.step(token)

    def snapshot(self) -> tuple[NDArray[np.float32], int]:
        return self.state.copy(), self.position

    def restore(self, snapshot: tuple[NDArray[np.float32], int]) -> None:
        self.state, self.position = snapshot[0].copy(), snapshot[1]


class TableSession(ToySession):
    """Next-token probabilities from a table: token sequence so far (since the last boundary) -> {token: probability}."""

    def __init__(self, tokenizer: Tokenizer, table: dict[tuple[str, ...], dict[str, float]]) -> None:
        self.tokenizer, self.table, self.max_positions, self.batch = tokenizer, table, None, 1
        self.reset()

    def reset(self) -> None:
        self.state, self.position = (), 0

    def step(self, token: int) -> NDArray[np.float32]:
        self.state = () if token == self.tokenizer.boundary_id else (*self.state, self.tokenizer.token(token))
        logits = np.full(self.tokenizer.vocab_size, -30.0, np.float32)
        for name, probability in self.table.get(self.state, {"</s>": 1.0}).items():
            logits[self.tokenizer.id_of(name)] = math.log(probability)
        return logits

    def snapshot(self) -> Any:
        return self.state, self.position

    def restore(self, snapshot: Any) -> None:
        self.state, self.position = snapshot


def tokenizer_of(kind: str) -> Tokenizer:
    lines = [line for document in DIALOGUES for line in document]
    return {"word": train_word_level(lines, 12), "byte-bpe": train_byte_bpe(lines, 270), "char": train_char(lines)}[kind]


def same_scores(left: list[DocumentScores], right: list[DocumentScores]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-5)
        assert a.rank.tolist() == b.rank.tolist()
        assert a.top1.tolist() == b.top1.tolist()


def test_scores_of_logits_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32))
    scores = score_logits(logits, np.array([1, 0]))
    assert np.exp(scores.log_probability) == pytest.approx([0.25, 0.1])
    assert scores.rank.tolist() == [2, 3]
    assert scores.top1.tolist() == [0, 2]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_every_scorer_gives_the_same_figures(batch: int) -> None:
    tokenizer = tokenizer_of("word")
    model = ToyModel(tokenizer.vocab_size)
    documents = [*encode_documents(MANY, tokenizer), np.array([1], np.int32), np.array([1, 2], np.int32)]
    wanted = [score_logits(model.source_logits(ids[None, :-1])[0], ids[1:]) for ids in documents if len(ids) > 1]
    wanted.insert(-1, score_logits(np.zeros((0, 12), np.float32), np.zeros(0, np.int64)))
    same_scores(list(SourceScorer(model.source_logits, batch=batch).score(iter(documents))), wanted)
    same_scores(list(SessionScorer(ToySession(model, batch)).score(iter(documents))), wanted)


def test_models_with_a_limit_take_long_documents_in_pieces() -> None:
    tokenizer = tokenizer_of("word")
    model = ToyModel(tokenizer.vocab_size)
    (ids,) = encode_documents([DIALOGUES[0]], tokenizer)
    pieces = [ids[i : i + 5] for i in range(0, len(ids) - 1, 4)]
    wanted = np.concatenate([score_logits(model.source_logits(piece[None, :-1])[0], piece[1:]).log_probability for piece in pieces])
    for scorer in (SourceScorer(model.source_logits, max_tokens=4), SessionScorer(ToySession(model, max_positions=4))):
        (found,) = scorer.score([ids])
        assert found.log_probability == pytest.approx(wanted, abs=1e-5)
        assert len(found.rank) == len(ids) - 1


def test_ngram_scores_are_split_by_document() -> None:
    tokenizer = tokenizer_of("word")
    documents = list(encode_documents(MANY, tokenizer))
    model = NGram.fit(documents, tokenizer.vocab_size)
    found = list(NGramScorer(model).score(documents))
    assert [len(scores.rank) for scores in found] == [len(ids) - 1 for ids in documents]
    ids = documents[1]
    assert found[1].log_probability[2] == pytest.approx(model.log_probabilities(ids[:3])[ids[3]])


def scores_of(probabilities: list[float], ranks: list[int], top1: list[int]) -> DocumentScores:
    return DocumentScores(np.log(probabilities), np.array(ranks, np.int32), np.array(top1, np.int32))


def test_word_level_figures_by_hand() -> None:
    tokenizer = train_word_level(["a a a a b b b c c"], vocab_size=4)  # <unk> </s> a b: c is unknown
    a, b, end, unknown = (tokenizer.id_of(token) for token in ("a", "b", "</s>", "<unk>"))
    documents = list(align_documents([["a b", "a a c"]], tokenizer))
    assert documents[0].ids.tolist() == [end, a, b, end, a, a, unknown, end]
    #                  a    b     end   a    a     c(unk) end
    scores = scores_of([0.5, 0.25, 0.5, 0.5, 0.125, 0.5, 0.25], [1, 2, 1, 1, 4, 1, 3], [a, a, end, a, b, unknown, a])
    found = quality([scores], tokenizer, documents, frequent_words=2)
    assert found.perplexity == pytest.approx(2 ** (11 / 7))  # bits: 1 + 2 + 1 + 1 + 3 + 1 + 2
    assert found.word_perplexity == pytest.approx(found.perplexity)
    assert (found.words, found.words_left_out, found.tokens, found.characters) == (7, 0, 7, 10)
    assert found.bits_per_character == pytest.approx(11 / 10)
    assert found.unknown_share == pytest.approx(1 / 5)
    assert found.top1 == found.token_top1 == pytest.approx(3 / 7)  # the unknown word is a miss though its rank is 1
    assert found.top3 == found.token_top3 == pytest.approx(5 / 7)
    assert found.macro_recall == pytest.approx((2 / 3 + 0) / 2)  # a: 2 of 3; b: 0 of 1
    assert found.macro_f1 == pytest.approx((2 * 2 / (4 + 3) + 0) / 2)  # a was predicted 4 times
    assert found.carried
    restricted = quality([scores], tokenizer, documents, vocabulary=word_vocabulary(tokenizer))
    assert restricted.word_perplexity == pytest.approx(2 ** (10 / 6))
    assert (restricted.words, restricted.words_left_out) == (6, 1)
    assert restricted.perplexity == found.perplexity


def test_the_words_of_subword_models_by_hand() -> None:
    tokenizer = train_char(["ab c."])
    documents = list(align_documents([["ab c."]], tokenizer))
    scores = scores_of([0.5, 0.25, 0.5, 0.5, 0.5, 0.25], [1] * 6, [0] * 6)  # a b space c . newline
    found = quality([scores], tokenizer, documents)
    assert found.words == 4  # ab, c, . and the end of the line
    assert found.word_perplexity == pytest.approx(2 ** (8 / 4))
    assert found.perplexity == pytest.approx(2 ** (8 / 6))
    assert (found.top1, found.top3, found.macro_recall, found.macro_f1) == (None, None, None, None)
    assert found.token_top1 == 1
    known = quality([scores], tokenizer, documents, vocabulary=["c", "."])
    assert known.word_perplexity == pytest.approx(2 ** ((2 + 1 + 2) / 3))  # " c" takes two bits
    assert (known.words, known.words_left_out) == (3, 1)


@pytest.mark.parametrize("kind", ["word", "byte-bpe", "char"])
def test_evaluation_carries_or_resets_the_state(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    model = ToyModel(tokenizer.vocab_size)
    heard: list[tuple[int, int]] = []
    carried = evaluate(SessionScorer(ToySession(model)), tokenizer, DIALOGUES, on_progress=lambda *call: heard.append(call))
    batched = evaluate(SessionScorer(ToySession(model, batch=3)), tokenizer, iter(DIALOGUES))
    reset = evaluate(SessionScorer(ToySession(model)), tokenizer, DIALOGUES, reset="line")
    assert batched == carried
    assert (reset.tokens, reset.words, reset.characters) == (carried.tokens, carried.words, carried.characters)
    assert reset.perplexity != pytest.approx(carried.perplexity, rel=1e-3)
    assert (carried.carried, reset.carried) == (True, False)
    assert len(heard) == len(DIALOGUES) and heard[-1] == (carried.tokens, carried.tokens)
    assert carried.words == sum(len(document.words) for document in align_documents(DIALOGUES, tokenizer_of("word")))


def test_no_text_is_refused() -> None:
    with pytest.raises(CorpusError, match="no text to evaluate on"):
        evaluate(SessionScorer(ToySession(ToyModel(12))), tokenizer_of("word"), [])


def test_completion_finds_the_words_of_a_word_level_model() -> None:
    tokenizer = tokenizer_of("word")
    session = ToySession(ToyModel(tokenizer.vocab_size, seed=3))
    documents = list(align_documents(MANY, tokenizer))
    figures = evaluate(SessionScorer(session), tokenizer, MANY)
    found = subword_accuracy(session, tokenizer, documents, positions=10**6)
    # The toy model's favourites include <unk> at some positions, which is no word; without those both figures are the same.
    assert found.positions <= figures.words
    assert found == subword_accuracy(session, tokenizer, documents, positions=10**6)
    session.reset()
    logits = session.step(1).copy()
    words = WordCompleter(tokenizer).next_words(session, logits, BOUNDARY_WORD)
    ranked = [i for i in np.argsort(-logits) if i != tokenizer.unknown_id][:3]
    assert [word for word, _ in words] == ["" if i == 1 else tokenizer.token(i) for i in ranked]


def test_completion_adds_pieces_until_the_word_ends() -> None:
    tokenizer = train_byte_bpe(["see you", "see them"], vocab_size=262)
    names = {tokenizer.piece(i): tokenizer.token(i) for i in range(tokenizer.vocab_size)}
    see, space, y, o, u, n, dot = (names[piece] for piece in (" see", " ", "y", "o", "u", "n", "."))
    table = {
        (): {see: 1.0},
        (see,): {space: 0.6, "</s>": 0.15, dot: 0.2, n: 0.05},  # "n" would go on with "see": no candidate
        (see, space): {y: 0.5, u: 0.5},
        (see, space, u): {dot: 1.0},
        (see, space, y): {o: 1.0},
        (see, space, y, o): {u: 0.5, "</s>": 0.25, space: 0.25},
        (see, space, y, o, u): {"</s>": 0.5, dot: 0.5},
    }
    session = TableSession(tokenizer, table)
    session.reset()
    session.step(tokenizer.boundary_id or 0)
    logits = session.step(tokenizer.id_of(see) or 0)
    found = dict(WordCompleter(tokenizer).next_words(session, logits, "see", count=5))
    wanted = {"u": 0.3, ".": 0.2, "you": 0.15, "yo": 0.15, "": 0.15}
    assert {word: math.exp(score) for word, score in found.items()} == pytest.approx(wanted, abs=1e-3)
    assert session.state == (see,)  # the session is put back
    first = WordCompleter(tokenizer).next_words(session, logits, "see", count=1)
    assert first[0][0] == "u"


def test_completion_keeps_apostrophes_inside_words() -> None:
    tokenizer = train_char(["don't go"])
    newline = "\n"
    table = {
        (): {"d": 1.0},
        ("d",): {"o": 1.0},
        ("d", "o"): {"n": 1.0},
        ("d", "o", "n"): {"'": 1.0},
        ("d", "o", "n", "'"): {"t": 0.75, " ": 0.25},
        ("d", "o", "n", "'", "t"): {newline: 1.0},
    }

    class Characters(TableSession):
        def step(self, token: int) -> NDArray[np.float32]:
            self.table.setdefault((*self.state, self.tokenizer.token(token)), {newline: 1.0})
            return super().step(token)

    session = Characters(tokenizer, table)
    logits = session.step(tokenizer.boundary_id or 0)
    found = {word: math.exp(score) for word, score in WordCompleter(tokenizer).next_words(session, logits, BOUNDARY_WORD)}
    assert found["don't"] == pytest.approx(0.75, abs=1e-3)
    assert found["don"] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("kind", ["byte-bpe", "char"])
def test_completion_runs_on_every_kind(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    documents = list(align_documents(MANY, tokenizer))
    session = ToySession(ToyModel(tokenizer.vocab_size), max_positions=40)
    found = subword_accuracy(session, tokenizer, documents, positions=20, beam=3)
    assert found.positions == 20
    assert 0 <= found.top1 <= found.top3 <= 1
    assert found == subword_accuracy(session, tokenizer, documents, positions=20, beam=3)


def figures(perplexity: float, **changes: Any) -> Quality:
    values: dict[str, Any] = {
        "perplexity": perplexity, "word_perplexity": perplexity, "words": 90, "words_left_out": 0, "tokens": 100, "characters": 400,
        "bits_per_character": 1.5, "unknown_share": 0.0, "token_top1": 0.4, "token_top3": 0.6, "top1": 0.4, "top3": 0.6,
        "macro_recall": 0.3, "macro_f1": 0.25, "frequent_words": 100, "carried": True,
    }  # fmt: skip
    return Quality(**(values | changes))


def test_comparison_passes_and_fails() -> None:
    table, checks = compare(
        figures(11.2, top1=None), source=figures(11.0), trigram=figures(17.0), unigram=figures(240.0), max_loss_percent=2.0
    )
    assert [row[0] for row in table.rows] == ["source", "artifact", "trigram", "unigram"]
    assert table.rows[1] == ("artifact", "11.20", "11.20", "-", "60.0", "30.0", "25.0", "1.500")
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert [(check.name, check.passed) for check in checks] == [("perplexity loss", True), ("perplexity against a trigram", True)]
    assert checks[0].measured == pytest.approx(1.818)
    _, failing = compare(figures(20.0), source=figures(11.0), trigram=figures(17.0), max_loss_percent=2.0)
    assert [check.passed for check in failing] == [False, False]
    assert all(check.cause and check.fix for check in failing)
    _, reported = compare(figures(20.0), source=figures(11.0))
    assert [check.passed for check in reported] == [None]
    assert compare(figures(20.0))[1] == ()
