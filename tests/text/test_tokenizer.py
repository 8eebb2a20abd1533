"""Tokenizers give exactly the ids of the library they come from."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from tokenizers import Tokenizer as RawTokenizer

from edgelm.errors import TokenizerError
from edgelm.text.tokenizer import Tokenizer, check_vocabulary, train_byte_bpe, train_char, train_word_level

LINES = [
    "Where are you? I'm at the café.",
    "I'm on my way to the café now!",
    "See you at 8, at the station.",
    "Are you at the station now?",
]
# Combining marks are left out: the tokenizers library applies sentencepiece's rules a grapheme at a time (see load_sentencepiece).
# So is the literal text of control pieces: it becomes that piece in every tokenizer.json.
PLAIN_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("M", "Cs")), max_size=40).filter(
    lambda text: not any(control in text for control in ("<s>", "</s>", "<pad>"))
)


def corpus_lines(data_folder: Path) -> list[str]:
    files = ("ud_german_gsd/test.txt", "ud_chinese_gsdsimp/test.txt", "sgd_dialogues/dev.txt")
    return [line for file in files for line in (data_folder / "corpora" / file).read_text("utf-8").split("\n")[:1000]]


def sentencepiece_model(lines: list[str], **options: object) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines * 5), model_writer=written, minloglevel=2, hard_vocab_limit=False, **options
    )
    return written.getvalue()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["spm_unigram_small/test_model", "spm_unigram_small/test_ja_model", "tinystories_tok105/tok105"])
def test_sentencepiece_files_give_the_ids_of_sentencepiece(data_folder: Path, name: str) -> None:
    path = data_folder / "tokenizers" / f"{name}.model"
    tokenizer = Tokenizer.load(path)
    original = sentencepiece.SentencePieceProcessor(str(path))
    lines = corpus_lines(data_folder)
    wanted = original.Encode(lines)
    assert tokenizer.encode_batch(lines) == wanted
    assert Tokenizer.from_json(tokenizer.to_json()).encode_batch(lines) == wanted
    without_unknown = [ids for ids in wanted if tokenizer.unknown_id not in ids]
    assert len(without_unknown) > 500
    assert [tokenizer.decode(ids) for ids in without_unknown] == original.Decode(without_unknown)
    assert tokenizer.vocab_size == original.GetPieceSize()
    assert (tokenizer.unknown_id, tokenizer.start_id, tokenizer.boundary_id) == (original.unk_id(), original.bos_id(), original.eos_id())

    @settings(max_examples=300, deadline=None)
    @given(PLAIN_TEXT)
    def any_text(text: str) -> None:
        assert tokenizer.encode(text) == original.Encode(text)

    any_text()


@pytest.mark.data
def test_decomposed_text_is_composed_as_sentencepiece_does(data_folder: Path) -> None:
    path = data_folder / "tokenizers" / "spm_unigram_small" / "test_ja_model.model"
    original = sentencepiece.SentencePieceProcessor(str(path))
    for text in ("cafe\u0301", "\u304b\u3099\u304d\u3099", "\u1112\u1161\u11ab", "½ ﬁn ①②℃"):
        assert Tokenizer.load(path).encode(text) == original.Encode(text)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "vocab_size": 60},
        {"model_type": "bpe", "vocab_size": 80},
        {"model_type": "char", "vocab_size": 60},
        {"model_type": "bpe", "vocab_size": 330, "byte_fallback": True, "normalization_rule_name": "identity"},
        {"model_type": "unigram", "vocab_size": 330, "byte_fallback": True, "user_defined_symbols": ["<sep>", "at"]},
        {"model_type": "bpe", "vocab_size": 80, "user_defined_symbols": ["<sep>", "at"]},
        {"model_type": "bpe", "vocab_size": 80, "add_dummy_prefix": False, "remove_extra_whitespaces": False},
        {"model_type": "unigram", "vocab_size": 60, "pad_id": 3, "normalization_rule_name": "nmt_nfkc_cf"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_kind_of_sentencepiece_model(options: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(LINES, **options))
    tokenizer = Tokenizer.load(tmp_path)
    original = sentencepiece.SentencePieceProcessor(str(path))
    assert tokenizer.kind == options["model_type"]
    for text in [*LINES, "", " ", "<sep>", "where<sep>are <sep> you", "  two  spaces ", "station\nat\tthe", "ünïcode ☃ 你好", "atat"]:
        assert tokenizer.encode(text) == original.Encode(text), text

    @settings(max_examples=100, deadline=None)
    @given(st.one_of(PLAIN_TEXT, st.text(alphabet="atheSion. ☃\n", max_size=40)))
    def any_text(text: str) -> None:
        assert tokenizer.encode(text) == original.Encode(text)

    any_text()


def test_byte_fallback_decodes_every_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(LINES, model_type="bpe", vocab_size=330, byte_fallback=True, normalization_rule_name="identity"))
    tokenizer = Tokenizer.load(path)
    assert tokenizer.decode(tokenizer.encode("snow ☃ 你好")) == "snow ☃ 你好"
    assert tokenizer.piece_bytes(tokenizer.encode("☃")[-1]) == "☃".encode()[-1:]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["phi2_bytelevel_bpe_json", "t5_small_unigram_json"])
def test_tokenizer_json_gives_the_ids_of_tokenizers(data_folder: Path, name: str) -> None:
    folder = data_folder / "tokenizers" / name
    tokenizer, original = Tokenizer.load(folder), RawTokenizer.from_file(str(folder / "tokenizer.json"))
    lines = corpus_lines(data_folder)
    wanted = [encoding.ids for encoding in original.encode_batch(lines, add_special_tokens=False)]
    assert tokenizer.encode_batch(lines) == wanted
    assert Tokenizer.from_json(tokenizer.to_json()).encode_batch(lines) == wanted
    assert tokenizer.to_json() == Tokenizer.from_json(tokenizer.to_json()).to_json()

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=40))
    def any_text(text: str) -> None:
        assert tokenizer.encode(text) == original.encode(text, add_special_tokens=False).ids

    any_text()


@pytest.mark.slow
@pytest.mark.data
def test_vocab_and_merges_give_the_ids_of_gpt2_and_lose_nothing(data_folder: Path) -> None:
    folder = data_folder / "tokenizers" / "gpt2_bpe"
    tokenizer = Tokenizer.load(folder)
    original = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    lines = corpus_lines(data_folder)
    ids = tokenizer.encode_batch(lines)
    assert ids == [encoding.ids for encoding in original.encode_batch(lines)]
    assert [tokenizer.decode(line) for line in ids] == lines
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.boundary_id, tokenizer.unknown_id) == ("byte-bpe", 50257, 50256, None)
    assert Tokenizer.load(folder / "merges.txt").encode("Hello world") == [15496, 995]  # GPT-2's published ids

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=40))
    def any_text(text: str) -> None:
        if "<|endoftext|>" not in text:
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert b"".join(map(tokenizer.piece_bytes, tokenizer.encode(text))) == text.encode()

    any_text()


@pytest.mark.data
def test_wordpiece_marks_continuations(data_folder: Path, tmp_path: Path) -> None:
    vocabulary = data_folder / "tokenizers" / "wordpiece_vocab_txt" / "bert_base_cased_vocab.txt"
    original = BertWordPieceTokenizer(str(vocabulary), lowercase=False)
    (tmp_path / "tokenizer.json").write_text(original.to_str())
    tokenizer = Tokenizer.load(tmp_path)
    lines = corpus_lines(data_folder)
    assert tokenizer.encode_batch(lines) == [encoding.ids for encoding in original.encode_batch(lines, add_special_tokens=False)]
    ids = tokenizer.encode("embeddings")
    assert tokenizer.kind == "wordpiece" and len(ids) > 1
    assert [tokenizer.is_word_start(i) for i in ids] == [True] + [False] * (len(ids) - 1)
    assert tokenizer.token(tokenizer.boundary_id or 0) == "[SEP]" and tokenizer.token(tokenizer.start_id or 0) == "[CLS]"


@pytest.mark.slow
def test_training_has_the_settings_of_the_reference_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    script = Path(__file__).parents[2] / "training" / "train_reference.py"
    found = importlib.util.spec_from_file_location("train_reference", script)
    assert found and found.loader
    reference = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "train_reference", reference)  # its dataclasses look their module up
    found.loader.exec_module(reference)
    trained = {
        "keyboard-lstm": train_word_level(LINES, vocab_size=10_000),
        "chat-transformer": train_byte_bpe(LINES, vocab_size=4_000, lowercase=True),
    }
    for name, tokenizer in trained.items():
        saved = tmp_path / "tokenizer.json"
        reference.train_tokenizer(name, iter(LINES)).save(str(saved), pretty=False)
        assert json.loads(saved.read_text()) == json.loads(tokenizer.to_json())
        dialogue = [LINES[0], LINES[3]]
        loaded = Tokenizer.load(saved)
        wanted = reference.encode(RawTokenizer.from_file(str(saved)), [dialogue], 512)[0].tolist()
        boundary = loaded.boundary_id
        assert wanted == [boundary, *loaded.encode(LINES[0]), boundary, *loaded.encode(LINES[3]), boundary]


def test_word_level() -> None:
    tokenizer = train_word_level(LINES, vocab_size=12)
    assert tokenizer.vocab_size == 12
    assert (tokenizer.kind, tokenizer.unknown_id, tokenizer.boundary_id, tokenizer.start_id) == ("word", 0, 1, 1)
    assert tokenizer.special_ids == {0, 1}
    assert tokenizer.decode(tokenizer.encode("YOU at the moon")) == "you at the"
    assert tokenizer.encode("moon") == [0]
    assert all(tokenizer.is_word_start(i) for i in range(12))
    assert tokenizer.token(tokenizer.encode("I'M")[0]) in ("i'm", "<unk>")
    assert train_word_level(LINES, vocab_size=12).to_json() == tokenizer.to_json()


def test_byte_bpe_loses_nothing_and_marks_word_starts() -> None:
    tokenizer = train_byte_bpe(LINES, vocab_size=300)
    ids = tokenizer.encode("at the café ☃")
    assert tokenizer.decode(ids) == " at the café ☃"  # the prefix space makes the first word like the others
    assert tokenizer.piece(ids[0]).startswith(" ")
    assert tokenizer.is_word_start(ids[0]) and not tokenizer.is_word_start(tokenizer.encode("☃")[-1])
    assert tokenizer.unknown_id is None and tokenizer.boundary_id == 0
    with pytest.raises(TokenizerError, match="256 tokens is too small"):
        train_byte_bpe(LINES, vocab_size=256)


def test_characters() -> None:
    tokenizer = train_char(LINES)
    text = "See you\nat 8."
    assert tokenizer.kind == "char"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.piece(tokenizer.boundary_id or 0) == "\n"
    assert [tokenizer.is_word_start(i) for i in tokenizer.encode("a t☃")] == [False, True, False, False]
    assert tokenizer.encode("☃☃") == [tokenizer.unknown_id] * 2
    assert Tokenizer.from_json(tokenizer.to_json()).kind == "char"
    with pytest.raises(TokenizerError, match="no text"):
        train_char([])


def test_spans_are_characters_of_the_text() -> None:
    tokenizer = train_byte_bpe(LINES, vocab_size=300, lowercase=True)
    line = "The CAFÉ at 8"
    ids, spans = tokenizer.encode_spans([line])[0]
    assert ids == tokenizer.encode(line)
    assert all(line[a:b].strip().lower() == tokenizer.piece(i).strip() for i, (a, b) in zip(ids, spans, strict=True) if b - a > 1)
    assert spans[-1][1] == len(line)


def test_vocabulary_against_model_rows() -> None:
    tokenizer = train_word_level(LINES, vocab_size=12)
    assert check_vocabulary(tokenizer, 12) == ""
    assert check_vocabulary(tokenizer, 16) == "4 of 16 vocabulary rows have no token (padding)"
    with pytest.raises(TokenizerError, match="12 tokens, the model only 11 rows"):
        check_vocabulary(tokenizer, 11)


BAD_FILES = {
    "missing": ("nothing.json", None, "no tokenizer at"),
    "no JSON": ("tokenizer.json", b"{", "is no JSON"),
    "not UTF-8": ("tokenizer.json", b"\xff\xfe{", "is not UTF-8: byte 0"),
    "JSON list": ("tokenizer.json", b"[1]", "no list of tokens"),
    "other JSON": ("tokenizer.json", b'{"a": 1}', "has no model section"),
    "broken model": ("tokenizer.json", b'{"model": {"type": "BPE"}}', "no vocabulary or no merges"),
    "unknown model": ("tokenizer.json", b'{"model": {"type": "X"}}', "is refused by the tokenizers library"),
    "vocabulary alone": ("vocab.json", b'{"a": 0}', "merges.txt is missing"),
    "other kind": ("tokenizer.bin", b"abc", "is no tokenizer file"),
    "random .model": ("a.model", bytes(range(256)), "is no sentencepiece model"),
    "empty .model": ("a.model", b"", "it has no pieces"),
    "text .model": ("a.model", b"hello world", "is no sentencepiece model"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path / name)


def test_truncated_sentencepiece_models_are_named(tmp_path: Path) -> None:
    content = sentencepiece_model(LINES, model_type="bpe", vocab_size=80, normalization_rule_name="identity")
    path = tmp_path / "cut.model"
    for size in range(1, len(content), 7):
        path.write_bytes(content[:size])
        try:
            Tokenizer.load(path)
        except TokenizerError as error:
            assert "cut.model" in str(error)


def test_merges_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    for merges, message in {"a b": "needs 'ab'", "a c": "needs 'c'", "a b c": "is no pair"}.items():
        (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.load(tmp_path)
        model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [merges]}
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.from_json(json.dumps({"version": "1.0", "model": model}))


def test_broken_normalization_rules_are_named() -> None:
    rules = base64.b64encode(b"\x04\x00\x00\x00abcd").decode()  # the library panics when it first uses them
    normalizer = {"type": "Precompiled", "precompiled_charsmap": rules}
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}
    with pytest.raises(TokenizerError, match="refused by the tokenizers library"):
        Tokenizer.from_json(json.dumps({"version": "1.0", "normalizer": normalizer, "model": model}))


def test_folders_without_or_with_several_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer in"):
        Tokenizer.load(tmp_path)
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(TokenizerError, match=r"several tokenizers: a\.model, b\.model"):
        Tokenizer.load(tmp_path)


def test_word_sentencepiece_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "word.model"
    path.write_bytes(sentencepiece_model(LINES, model_type="word", vocab_size=20))
    with pytest.raises(TokenizerError, match="of type 3"):
        Tokenizer.load(path)
