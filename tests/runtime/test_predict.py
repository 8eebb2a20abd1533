from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models.reference import logits as reference_logits
from edgelm.runtime.predict import complete, suggest
from edgelm.runtime.sampling import GREEDY, SamplingSettings, softmax
from edgelm.runtime.session import open_session
from edgelm.spec import RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.text.tokenizer import train_byte_bpe, train_char, train_word_level

LINES = ["see you at eight", "see you later", "call me later", "call me at eight"]


def random_model(spec, gain: float = 2.0) -> LanguageModel:
    rng = np.random.default_rng(5)
    shapes = weight_shapes(spec)
    weights = {name: (gain * rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32) for name, shape in shapes.items()}
    return LanguageModel(spec, weights)


def transformer(vocab_size: int, max_positions: int = 32) -> LanguageModel:
    return random_model(
        TransformerSpec(vocab_size, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_size=24, max_positions=max_positions)
    )


@pytest.fixture(scope="module")
def words():
    return train_word_level(LINES, vocab_size=20)


def test_word_level_suggestions_are_the_likeliest_words_without_specials(words):
    model = random_model(RecurrentSpec(words.vocab_size + 3, 8, "gru", (12,)))  # three rows of padding
    session = open_session(lower(model).tflite)
    ids = [words.start_id, *words.encode("see you")]
    mass = softmax(reference_logits(model, np.array([ids]))[0, -1])
    allowed = [i for i in range(words.vocab_size) if i not in words.special_ids]
    best = sorted(allowed, key=lambda i: -mass[i])[:4]
    found = suggest(session, words, "See you ", n=4)
    assert [s.text for s in found] == [words.token(i) for i in best]
    np.testing.assert_allclose([s.probability for s in found], mass[best], rtol=1e-4)
    assert len(suggest(session, words, "see", n=100)) == len(allowed)


@pytest.mark.parametrize("family", ["recurrent", "transformer"])
def test_spelled_suggestions_equal_full_enumeration(family):
    tokenizer = train_char(["ab ba"])  # <unk>, newline, space, a, b
    size = tokenizer.vocab_size
    model = random_model(RecurrentSpec(size, 8, "lstm", (12,))) if family == "recurrent" else transformer(size)
    letters = [tokenizer.id_of("a"), tokenizer.id_of("b")]
    ends = [i for i in range(size) if i not in letters]
    start = [tokenizer.start_id, *tokenizer.encode("ab")]
    chances = {}
    for length in range(1, 7):
        for spelling in itertools.product(letters, repeat=length):
            ids = [*start, tokenizer.id_of(" "), *spelling]
            masses = [softmax(row) for row in reference_logits(model, np.array([ids]))[0]]
            chance = np.prod([masses[i - 1][ids[i]] for i in range(len(start), len(ids))]) * masses[-1][ends].sum()
            chances[tokenizer.decode(spelling)] = chance
    expected = sorted(chances.items(), key=lambda item: -item[1])[:3]
    session = open_session(lower(model).tflite)
    found = suggest(session, tokenizer, "ab", n=3)
    assert [s.text for s in found] == [word for word, _ in expected]
    np.testing.assert_allclose([s.probability for s in found], [chance for _, chance in expected], rtol=1e-3)
    assert session.position == len(start), "the session stands behind the text again"


def test_byte_level_suggestions_are_whole_words():
    tokenizer = train_byte_bpe(LINES, vocab_size=300)
    session = open_session(lower(transformer(tokenizer.vocab_size)).tflite)
    for suggestion in suggest(session, tokenizer, "see", n=5):
        assert suggestion.text == suggestion.text.strip() and " " not in suggestion.text
        assert 0 < suggestion.probability < 1


def test_long_texts_keep_their_last_half():
    tokenizer = train_byte_bpe(LINES, vocab_size=300)
    model = transformer(tokenizer.vocab_size, max_positions=16)
    session = open_session(lower(model).tflite)
    long = " ".join(2 * LINES)
    ids = [tokenizer.start_id, *tokenizer.encode(long)]
    assert len(ids) > 16
    suggest(session, tokenizer, long)
    assert session.position == 8


def test_completion_is_greedy_or_seeded(words):
    model = random_model(RecurrentSpec(words.vocab_size, 8, "lstm", (12,)), gain=4)
    session = open_session(lower(model).tflite)

    def text(settings: SamplingSettings) -> str:
        return "".join(complete(session, words, "see you", max_tokens=12, settings=settings))

    assert text(GREEDY) == text(GREEDY)
    free = [text(SamplingSettings(temperature=3, seed=seed)) for seed in range(5)]
    assert free == [text(SamplingSettings(temperature=3, seed=seed)) for seed in range(5)]
    assert len(set(free)) > 1
    assert not any("<unk>" in t or "</s>" in t for t in free)


def test_completion_goes_on_when_the_context_is_full():
    tokenizer = train_byte_bpe(LINES, vocab_size=300)
    session = open_session(lower(transformer(tokenizer.vocab_size, max_positions=8)).tflite)
    text = "".join(complete(session, tokenizer, "see", 60, SamplingSettings(seed=1)))
    assert len(text) > 30, "some of sixty tokens are bytes that make no character alone; the boundary has 1 chance in 300"
    assert session.position <= 8


class Scripted:
    """A session that wants to write given ids, whatever it is told."""

    vocab_size = 400

    def __init__(self, ids: Sequence[int], max_positions: int | None = None) -> None:
        self.script = iter(ids)
        self.max_positions = max_positions
        self.calls: list[list[int]] = []
        self.position = 0

    def reset(self) -> None:
        self.position = 0

    def prefill(self, tokens: Sequence[int]):
        self.calls.append(list(tokens))
        self.position += len(tokens)
        logits = np.zeros(self.vocab_size, np.float32)
        logits[next(self.script)] = 10
        return logits

    def step(self, token: int):
        return self.prefill([token])


def test_characters_of_several_tokens_come_whole():
    tokenizer = train_byte_bpe(LINES, vocab_size=258)
    ids = tokenizer.encode("né 🙂!")
    assert len(ids) > 7, "the smiley takes several tokens"
    pieces = list(complete(Scripted([*ids, tokenizer.boundary_id]), tokenizer, "see", 50, GREEDY))
    assert "".join(pieces) == " né 🙂!" and "\ufffd" not in "".join(pieces)


def test_half_a_character_at_the_end_is_shown_as_such():
    tokenizer = train_byte_bpe(LINES, vocab_size=258)
    ids = tokenizer.encode("🙂")[:-1]
    assert "".join(complete(Scripted([*ids, tokenizer.boundary_id]), tokenizer, "see", 50, GREEDY)).endswith("\ufffd")


def test_overflow_reads_the_last_half_again(words):
    session = Scripted([words.id_of("you")] * 20, max_positions=6)
    list(complete(session, words, "see you at", 5, GREEDY))  # boundary and three words: four positions of six
    you = words.id_of("you")
    assert [len(call) for call in session.calls] == [4, 1, 1, 3, 1, 1]
    assert session.calls[3] == [you, you, you]


def test_repetition_penalty_reaches_the_prompt(words):
    you, me = words.id_of("you"), words.id_of("me")

    class Torn(Scripted):
        def prefill(self, tokens):
            logits = np.full(self.vocab_size, -10, np.float32)
            logits[you], logits[me] = 3, 2
            return logits

    assert next(complete(Torn([]), words, "see you", 1, GREEDY)) == " you"
    assert next(complete(Torn([]), words, "see you", 1, SamplingSettings(temperature=0, repetition_penalty=2))) == " me"
