"""Every kind of tokenizer file: what it says, what lies beside it, and what is refused by name."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from edgelm.errors import TokenizerError
from edgelm.text.tokenizer import Tokenizer, check_vocabulary, train_byte_bpe
from edgelm.text.tokenizer_kinds import BYTE_CHARACTERS

LINES = ["Where are you? I'm at the café.", "See you at 8, at the station."]
WORDS = {"the": 1, "you": 2, "a": 3, "see": 4}


def ranks_file(path: Path, *tokens: bytes) -> Path:
    every = [*(bytes([byte]) for byte in range(256)), *tokens]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(every)))
    return path


def keras_json(**config: Any) -> str:
    words = config.pop("word_index", WORDS)
    filled = {"filters": ",.!?", "lower": True, "split": " ", "char_level": False, "oov_token": None, "num_words": None, **config}
    return json.dumps({"class_name": "Tokenizer", "config": {**filled, "word_index": json.dumps(words)}})


def pair_of_files(folder: Path) -> Tokenizer:
    """vocab.json and merges.txt of a byte-level BPE of 280 pieces, and that tokenizer."""
    trained = train_byte_bpe(LINES * 5, vocab_size=280)
    model = json.loads(trained.to_json())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]), "utf-8")
    return trained


def test_tiktoken_merges_by_rank(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(ranks_file(tmp_path / "my_cl100k_base.tiktoken", b" t", b"he", b" the"))
    assert tokenizer.kind == "byte-bpe" and tokenizer.vocab_size == 259
    assert tokenizer.encode(" the then") == [258, 258, ord("n")]
    assert tokenizer.decode(tokenizer.encode("ein ☃ in 12345\n")) == "ein ☃ in 12345\n"
    assert Tokenizer.load(tmp_path).encode("1234567") == [ord(digit) for digit in "1234567"]


@pytest.mark.parametrize(
    ("name", "beside", "text", "pieces"),
    [
        ("r50k_base.tiktoken", {}, "x1234", ["x", "1234"]),
        ("cl100k_base.tiktoken", {}, "x1234", ["x", "123", "4"]),
        ("any.tiktoken", {"encoding": "qwen"}, "x1234", ["x", "1", "2", "3", "4"]),
        ("any.tiktoken", {"pattern": r"\d{2}|\D+"}, "x1234", ["x", "12", "34"]),
        ("tokenizer.model", {"encoding": "llama3"}, "x1234", ["x", "123", "4"]),
    ],
)
def test_the_encoding_says_how_words_are_cut(name: str, beside: dict[str, str], text: str, pieces: list[str], tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    path = ranks_file(tmp_path / name, b"12", b"34", b"1234", b"123", b"x1")
    tokenizer = Tokenizer.load(path)
    assert [tokenizer.decode([i]) for i in tokenizer.encode(text)] == pieces


def test_published_special_tokens_come_with_all_their_ranks(tmp_path: Path) -> None:
    fillers = [bytes([i >> 8, i & 255, 0]) for i in range(50256 - 256)]
    tokenizer = Tokenizer.load(ranks_file(tmp_path / "gpt2.tiktoken", *fillers))
    assert (tokenizer.vocab_size, tokenizer.boundary_id, tokenizer.special_ids) == (50257, 50256, {50256})
    assert tokenizer.encode("a<|endoftext|>") == [ord("a"), 50256]


TIKTOKEN_ERRORS = {
    "no base64": (b"**** 0\n", "line 1: .* is no token in base64"),
    "no rank": (b"YQ==\n", "line 1"),
    "twice": (b"YQ== 0\nYQ== 1\n", "line 2: .* comes twice"),
    "same rank": (b"".join(base64.b64encode(bytes([b])) + b" 0\n" for b in range(256)), "a rank belongs to several"),
    "bytes missing": (b"YQ== 0\n", "255 of the 256 bytes have no token"),
    "huge rank": (b"YQ== 99999999999\n", "the id 99999999999 is no row"),
}


@pytest.mark.parametrize("case", TIKTOKEN_ERRORS)
def test_bad_ranks_are_named(case: str, tmp_path: Path) -> None:
    content, message = TIKTOKEN_ERRORS[case]
    (tmp_path / "gpt2.tiktoken").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_ranks_without_an_encoding_are_refused(tmp_path: Path) -> None:
    path = ranks_file(tmp_path / "mine.tiktoken")
    with pytest.raises(TokenizerError, match="does not say how words are cut"):
        Tokenizer.load(path)
    for beside, message in (({"encoding": "mine"}, "'mine' is not known"), ({"pattern": r"\d{1,3}+|\D+"}, r"'\{1,3\}\+' in the pattern")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.load(path)


def test_keras_words_leave_the_index_0_free(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(keras_json())
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.token_count, tokenizer.unknown_id) == ("word", 5, 4, None)
    assert tokenizer.encode("See, YOU see  axes the ΣΑΣ") == [4, 2, 4, 1]
    assert tokenizer.decode([4, 2]) == "see you" and tokenizer.piece(2) == " you" and tokenizer.piece(0) == ""
    path.write_text(json.dumps(keras_json(oov_token="a", num_words=4)))  # to_json written with json.dump
    assert Tokenizer.load(path).encode("See the sea") == [3, 1, 3]
    path.write_text(keras_json(char_level=True, word_index={"s": 1, "e": 2, " ": 3}, oov_token=None))
    assert Tokenizer.load(path).encode("See  you") == [1, 2, 2, 3, 3]
    path.write_text(keras_json(lower=False, word_index={"οδος": 1, "οδοσ": 2, "Σ": 3}))
    assert Tokenizer.load(path).encode("Σ οδος") == [3, 1]


KERAS_ERRORS = {
    "no words": ({"word_index": {}}, "word_index is no map"),
    "index 0": ({"word_index": {"a": 0}}, "reserved index 0"),
    "index twice": ({"word_index": {"a": 1, "b": 1}}, "an index twice"),
    "oov": ({"oov_token": "<OOV>"}, "'<OOV>' is not in word_index"),
    "split": ({"split": ""}, "split is ''"),
    "filters": ({"filters": None}, "filters is 'None'"),
    "analyzer": ({"analyzer": "f"}, "its analyzer is Python code"),
    "num_words": ({"num_words": "many"}, "num_words is 'many'"),
}


@pytest.mark.parametrize("case", KERAS_ERRORS)
def test_bad_keras_tokenizers_are_named(case: str, tmp_path: Path) -> None:
    config, message = KERAS_ERRORS[case]
    (tmp_path / "tokenizer.json").write_text(keras_json(**config))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind", "text", "ids"),
    [
        ("[PAD]\n[UNK]\n[SEP]\nsee\n##s\nyou\n", "wordpiece", "Sees you ☃", [3, 4, 5, 1]),
        ('{"[UNK]": 1, "see": 0, "##s": 2}', "wordpiece", "sees", [0, 2]),
        ("<unk>\n</s>\nsee\nyou\n,\n", "word", "See, you sees", [2, 4, 3, 0]),
        ("<unk>\nSee,\r\nyou", "word", "See, you see", [1, 2, 0]),
        ("a\nb\n\n\n \n<unk>\n", "char", "ab\n cab", [0, 1, 2, 3, 4, 0, 1]),
        ("\n abc", "char", "a\nb☃c", [2, 0, 3, 4]),
        ("a\n\\n\n<space>\n", "char", "a \n", [0, 2, 1]),
        ('["a", "b", "\\n"]', "char", "b\na", [1, 2, 0]),
    ],
    ids=["bert", "bert-map", "words", "split-words", "characters", "one-line", "escapes", "list"],
)
def test_bare_vocabularies(content: str, kind: str, text: str, ids: list[int], tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content.encode())
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.kind, tokenizer.encode(text)) == (kind, ids)
    again = Tokenizer.from_json(tokenizer.to_json())
    assert (again.kind, again.encode(text), again.decode(ids)) == (kind, ids, tokenizer.decode(ids))


VOCABULARY_ERRORS = {
    "empty": ("", "is empty|holds no tokens"),
    "no unknown word": ("see\nyou\nthere\n", "no token for words it does not hold"),
    "columns": ("the\t12\nyou\t5\n", "columns beside the tokens"),
    "counts": ("<unk> 0\nthe 12\nyou 5\n", "'<unk> 0' is no word"),
    "JSON": ('{"a": "b"}', "no map from token to id"),
    "same id": ('{"a": 0, "b": 0}', "an id belongs to several tokens"),
    "negative": ('{"a": -1, "b": 0}', "the id -1 is no row"),
    "gap in characters": ("a\n\nb\n", "line 2 is empty"),
}


@pytest.mark.parametrize("case", VOCABULARY_ERRORS)
def test_bad_vocabularies_are_named(case: str, tmp_path: Path) -> None:
    content, message = VOCABULARY_ERRORS[case]
    (tmp_path / "vocab.txt").write_text(content, "utf-8")
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_the_config_of_a_bert_vocabulary_decides_about_case(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\nsee\n##s\n")
    assert Tokenizer.load(tmp_path).encode("SEE") == [1]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    assert Tokenizer.load(tmp_path).encode("SEE see") == [0, 1]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')
    with pytest.raises(TokenizerError, match="vocabulary of a EsmTokenizer"):
        Tokenizer.load(tmp_path)


def test_added_tokens_keep_their_ids_over_a_gap(tmp_path: Path) -> None:
    trained = pair_of_files(tmp_path)
    plain = Tokenizer.load(tmp_path)
    assert plain.encode(" See you") == trained.encode("See you")  # a pair of files says nothing of a space before the text
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 310, "<tool>": 285}')
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>", "rstrip": true}, "pad_token": "<nowhere>"}')
    tokenizer = Tokenizer.load(tmp_path / "vocab.json")
    assert tokenizer.vocab_size == 311 and tokenizer.token_count == 282
    assert tokenizer.encode("you<tool>you<|im_end|> ") == [*plain.encode("you"), 285, *plain.encode("you"), 310]
    assert tokenizer.decode([285, 310]) == "<tool>"
    assert tokenizer.id_of("<nowhere>") is None
    assert Tokenizer.from_json(tokenizer.to_json()).encode("<tool><|im_end|>") == [285, 310]


def test_the_decoder_of_the_config_wins(tmp_path: Path) -> None:
    pair_of_files(tmp_path)
    config = {"added_tokens_decoder": {"300": {"content": "<x>", "special": True}}, "add_prefix_space": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("<x>") == [300] and tokenizer.decode([300]) == ""
    assert tokenizer.decode(tokenizer.encode("you")) == " you"
    for decoder, message in (({"5": "<x>"}, "which belongs to"), ({"300": ""}, "is no token"), ({"a": "<x>"}, "no map from id")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.load(tmp_path)


def test_pairs_whose_rules_are_not_known_are_refused(tmp_path: Path) -> None:
    pair_of_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    with pytest.raises(TokenizerError, match="of the class CLIPTokenizer are no byte-level BPE"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2TokenizerFast"}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "café"
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(TokenizerError, match="254 of the 256 bytes have no piece"):
        Tokenizer.load(tmp_path)


def test_merge_dropout_is_switched_off(tmp_path: Path) -> None:
    raw = RawTokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=1.0))
    assert raw.encode("ab").ids == [0, 1]
    assert Tokenizer.from_json(raw.to_str()).encode("ab") == [2]


def test_pieces_of_words_that_end_with_a_mark() -> None:
    raw = RawTokenizer(models.BPE({"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3}, [("a", "b</w>")], end_of_word_suffix="</w>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder(suffix="</w>")
    tokenizer = Tokenizer.from_json(raw.to_str())
    assert [tokenizer.piece(i) for i in tokenizer.encode("ab")] == ["ab "]
    assert tokenizer.decode(tokenizer.encode("ab ab")) == "ab ab"


def test_rows_of_added_tokens_and_padding(tmp_path: Path) -> None:
    pair_of_files(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 280, "<|im_end|>": 281}')
    tokenizer = Tokenizer.load(tmp_path)
    assert check_vocabulary(tokenizer, 282) == ""
    assert check_vocabulary(tokenizer, 320) == "38 of 320 vocabulary rows have no token (padding)"
    assert "is it the tokenizer of this model?" in check_vocabulary(tokenizer, 32_000)
    with pytest.raises(TokenizerError, match=r"only 280 rows: 2 added tokens have none \(<\|im_start\|>, <\|im_end\|>\)"):
        check_vocabulary(tokenizer, 280)
    with pytest.raises(TokenizerError, match=r"282 tokens, the model only 279 rows\n") as failure:
        check_vocabulary(tokenizer, 279)
    assert "--tokenizer" in failure.value.fix


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """A file with a few bytes changed, dropped or put in."""
    place = st.integers(0, len(content))
    change = st.tuples(
        place, st.integers(0, 12), st.one_of(st.binary(max_size=6), st.sampled_from([b"null", b"-1", b"9" * 30, b"[]", b'""']))
    )

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for start, length, new in changes:
            changed = changed[:start] + new + changed[start + length :]
        return changed

    return st.lists(change, min_size=1, max_size=3).map(apply)


RANKS = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)) + b"YWI= 256\n"
PAIR = json.dumps({character: byte for byte, character in BYTE_CHARACTERS.items()} | {"ab": 256}).encode()
SEEDS = {
    "tokenizer.json": train_byte_bpe(LINES, vocab_size=258).to_json().encode(),
    "unigram/tokenizer.json": json.dumps(
        {"version": "1.0", "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}, "added_tokens": []}
    ).encode(),
    "keras.json": keras_json(oov_token="a").encode(),
    "vocab.json": PAIR,
    "gpt2.tiktoken": RANKS,
    "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\nthe\n##re\n",
    "chars.txt": b"a\nb\n \n\n\n<unk>\n",
    "tokenizer_config.json": b'{"added_tokens_decoder": {"300": {"content": "<x>", "special": true}}, "eos_token": "<x>"}',
}


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_files_give_a_tokenizer_or_one_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    loaded = path
    if name in ("vocab.json", "tokenizer_config.json"):
        (tmp_path / "vocab.json").write_bytes(PAIR)
        (tmp_path / "merges.txt").write_text("a b\n")
        loaded = tmp_path / "vocab.json"

    @settings(max_examples=60, deadline=10_000)
    @given(mutated(SEEDS[name]))
    def any_mutation(content: bytes) -> None:
        path.write_bytes(content)
        try:
            tokenizer = Tokenizer.load(loaded)
            tokenizer.decode(tokenizer.encode("Where are you? ☃ ab<x>"))
        except TokenizerError as error:
            assert len(str(error)) < 2_000

    any_mutation()
