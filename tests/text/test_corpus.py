"""Corpora: splits, documents, tokens, and what is said of bad files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelm.errors import CorpusError, TokenizerError
from edgelm.text.corpus import Corpus, encode_documents, token_documents
from edgelm.text.tokenizer import Tokenizer, train_char, train_word_level

DIALOGUES = "hi there\nhello\n\n\nhow are you\nfine\nand you\n\nbye\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_files_of_a_folder_are_its_splits(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path, train=DIALOGUES, dev="one\n\ntwo", test="three\r\n\r\nfour\r\n", LICENSE="free"))
    assert corpus.layout == "blocks"
    assert list(corpus.documents("train")) == [["hi there", "hello"], ["how are you", "fine", "and you"], ["bye"]]
    assert list(corpus.documents("valid")) == [["one"], ["two"]]
    assert list(corpus.documents("test")) == [["three"], ["four"]]
    assert list(corpus.lines("valid")) == ["one", "two"]
    assert corpus.count("train") == 3


def test_one_file_is_split_by_position(tmp_path: Path) -> None:
    lines = [f"line {i}" for i in range(40)]
    corpus = Corpus.open(write(tmp_path, text="\n".join(lines)) / "text.txt")
    assert corpus.layout == "lines"
    assert [corpus.count(split) for split in ("train", "valid", "test")] == [36, 2, 2]
    assert [document for split in ("train", "valid", "test") for document in corpus.documents(split)] == [[line] for line in lines]


def test_missing_splits_are_cut_off_train(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path, train="\n".join("abcde"), test="x\ny"))
    assert list(corpus.documents("train")) == [["a"], ["b"], ["c"], ["d"]]
    assert list(corpus.documents("valid")) == [["e"]]
    assert list(corpus.documents("test")) == [["x"], ["y"]]


def test_other_text_files_of_a_folder_are_one_text(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path, b="3\n4", a="1\n2", SOURCE="not text"))
    assert [line for split in ("train", "valid", "test") for line in corpus.lines(split)] == ["1", "2", "3", "4"]


def test_running_text_keeps_its_blank_lines(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n\n" for i in range(200))
    path = write(tmp_path, text=text) / "text.txt"
    corpus = Corpus.open(path, layout="text")
    tokenizer = train_char(corpus.lines("train"))
    ids = [i for split in ("train", "valid", "test") for document in token_documents(corpus, tokenizer, split) for i in document[1:]]
    assert tokenizer.decode(ids) == text
    assert max(map(len, corpus.documents("train"))) == 64


def test_documents_as_tokens(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path, train=DIALOGUES, valid="a", test="a"))
    tokenizer = train_word_level(corpus.lines("train"), vocab_size=50)
    documents = list(token_documents(corpus, tokenizer, "train"))
    boundary = tokenizer.boundary_id
    assert documents[0].tolist() == [boundary, *tokenizer.encode("hi there"), boundary, *tokenizer.encode("hello"), boundary]
    assert documents[0].dtype == "int32"
    sizes = [len(ids) for ids in documents]
    assert sizes == [6, 10, 3]
    for limit, count in {1: 1, 15: 1, 16: 2, 18: 2, 19: 3}.items():
        assert len(list(token_documents(corpus, tokenizer, "train", limit))) == count


def test_a_start_token_begins_the_document() -> None:
    tokenizer = train_word_level(["a </s> b"], vocab_size=10)
    text = tokenizer.to_json().replace('"b":', '"<s>":')
    with_start = Tokenizer.from_json(text)
    (ids,) = encode_documents([["a", "a"]], with_start)
    a, boundary, start = with_start.id_of("a"), with_start.boundary_id, with_start.id_of("<s>")
    assert ids.tolist() == [start, a, boundary, a, boundary]


def test_a_tokenizer_without_boundary_is_refused() -> None:
    text = train_word_level(["a b"], vocab_size=10).to_json().replace("</s>", "<x>")
    with pytest.raises(TokenizerError, match="no token that can stand between lines"):
        list(encode_documents([["a"]], Tokenizer.from_json(text)))


def test_byte_order_marks_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfa\nb\nc\n")
    assert next(Corpus.open(tmp_path / "text.txt").documents("train")) == ["a"]


def test_bad_bytes_are_named_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("größe\n".encode() + b"ab\xe9c\n")
    with pytest.raises(CorpusError, match=r"text\.txt is not UTF-8: byte 10 is 0xe9"):
        Corpus.open(tmp_path / "text.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "there is no text"), (" \n\n \n", "there is no text"), ("one\ntwo", "2 documents: too few")],
)
def test_texts_that_are_too_small(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        Corpus.open(write(tmp_path, text=text))


def test_missing_corpora_and_splits(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus at"):
        Corpus.open(tmp_path / "nothing")
    with pytest.raises(CorpusError, match=r"holds no \.txt files"):
        Corpus.open(tmp_path)
    corpus = Corpus.open(write(tmp_path, test="a\nb"))
    with pytest.raises(CorpusError, match="has no train split"):
        corpus.documents("train")


@pytest.mark.data
def test_the_reference_corpus(data_folder: Path) -> None:
    corpus = Corpus.open(data_folder / "corpora" / "sgd_dialogues")
    assert corpus.layout == "blocks"
    assert corpus.count("train") == 12_174  # SOURCE.txt of the corpus
    text = (data_folder / "corpora" / "sgd_dialogues" / "test.txt").read_text("utf-8")
    assert list(corpus.documents("test")) == [block.strip().split("\n") for block in text.strip().split("\n\n")]
