"""Words and their alignment with tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.text.alignment import BOUNDARY_WORD, align_documents
from edgelm.text.corpus import encode_documents
from edgelm.text.tokenizer import Tokenizer, train_byte_bpe, train_char, train_word_level
from edgelm.text.words import normal_form, words

LINES = ["Wait... don't you see, it's 20min!", "You don't wait for me...", "it's 20 min, see?"]
TOKENIZERS = {
    "word": train_word_level(LINES, vocab_size=40),
    "byte-bpe": train_byte_bpe(LINES, vocab_size=300, lowercase=True),
    "char": train_char(LINES),
}


def test_words_are_letters_with_apostrophes_digits_or_one_symbol() -> None:
    text = "Don't wait 20min... Größe, नमस्ते ☃"
    assert [text[a:b] for a, b in words(text)] == ["Don't", "wait", "20", "min", ".", ".", ".", "Größe", ",", "नमस्ते", "☃"]
    assert words("  \n") == []
    assert normal_form("CAFE\u0301") == "café"


def test_words_are_those_of_the_word_level_tokenizer() -> None:
    tokenizer = TOKENIZERS["word"]
    for line in LINES:
        assert [normal_form(line[a:b]) for a, b in words(line)] == [tokenizer.token(i) for i in tokenizer.encode(line)]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_kind_of_tokenizer_has_the_same_words(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    (document,) = align_documents([LINES], tokenizer)
    (ids,) = encode_documents([LINES], tokenizer)
    assert document.ids.tolist() == ids.tolist()
    assert document.words == tuple(w for line in LINES for w in [*(normal_form(line[a:b]) for a, b in words(line)), BOUNDARY_WORD])
    assert document.characters == sum(len(line) + 1 for line in LINES)
    for w, word in enumerate(document.words):
        targets = document.target[document.word == w]
        joined = "".join(tokenizer.piece(ids[target + 1]) for target in targets).strip()
        assert joined.lower() == word or "..." in joined or (word == BOUNDARY_WORD and joined in ("</s>", "")), (word, joined)


def test_a_piece_in_several_words_is_shared() -> None:
    tokenizer = train_byte_bpe(["..."] * 9, vocab_size=260)
    (document,) = align_documents([["a ..."]], tokenizer)
    assert [tokenizer.piece(i) for i in document.ids[1:-1]] == [" ", "a", " ..."]
    assert document.words == ("a", ".", ".", ".", "")
    assert document.word.tolist() == [0, 0, 1, 2, 3, 4]
    assert document.share.tolist() == pytest.approx([1, 1, 1 / 3, 1 / 3, 1 / 3, 1])


def test_white_space_belongs_to_the_word_after_it() -> None:
    (document,) = align_documents([[" you  see "]], TOKENIZERS["char"])
    assert document.word.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    (blank,) = align_documents([[""]], TOKENIZERS["char"])
    assert (blank.words, blank.word.tolist()) == (("",), [0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30), min_size=1, max_size=3))
def test_no_share_is_lost(lines: list[str]) -> None:
    for tokenizer in TOKENIZERS.values():
        (document,) = align_documents([lines], tokenizer)
        shares = np.bincount(document.target, document.share, minlength=len(document.ids) - 1)
        assert np.allclose(shares, 1)
        assert document.word.max() == len(document.words) - 1
        assert (np.diff(document.target) >= 0).all()


def test_pieces_of_sentencepiece_like_tokenizers() -> None:
    tokenizer = Tokenizer.from_json(
        '{"version":"1.0","pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},'
        '"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},'
        '"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["</s>",0],["▁",-3],["▁see",-1],["▁you",-1],["r",-2],["!",-2]]}}'
    )
    (document,) = align_documents([["see your you!"]], tokenizer)
    assert [tokenizer.token(i) for i in document.ids] == ["</s>", "▁see", "▁you", "r", "▁you", "!", "</s>"]
    assert document.word.tolist() == [0, 1, 1, 2, 3, 4]
    assert tokenizer.kind == "unigram"
