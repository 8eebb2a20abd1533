"""The Java tokenizers give the ids, pieces and kinds of the Python ones."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from golden import engine_golden
from jvm_engine import JavaError, JvmEngine
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from edgelm.text.byte_bpe_files import QWEN_PATTERN, pattern_splitter
from edgelm.text.keras_tokenizer import convert_keras_tokenizer
from edgelm.text.tiktoken_files import CL100K, LLAMA3, O200K, R50K
from edgelm.text.tokenizer import Tokenizer, train_byte_bpe, train_char, train_word_level

BUNDLED = Path(__file__).parents[2] / "edgelm" / "reference_models"
LINES = [*engine_golden.SENTENCES, *["Grüße aus Köln", "東京は大きい", "Ναι ΣΟΦΟΣ"] * 3]

TEXTS = (
    "I'd like to book a table for two at 8:30 pm, please!",
    "Die Straße führt über Köln nach Übersee; das kostet 12,50 €.",
    "東京は日本の首都です。ラーメンが食べたい！ｶﾞﾊﾟ",
    "naïve café Cafe\u0301 ﬁne Ǆ İstanbul ΟΔΥΣΣΕΥΣ ΣΑΣ. A\u0328\u0301\u0327",
    "👍🏽 👩\u200d👩\u200d👧 🇩🇪 e\u0301\u0301\u0301\u0301 a\U0001f3fd ☃\ufe0f",
    "tabs\tand\r\nnewlines\n\n  runs   of    spaces \u3000\u00a0\u200b end  ",
    "\x00\x01\x1f\x7f\x85control\u2028line\u2029paragraph\ufeff",
    "don't DON'T we’ll I'M 'tis rock'n'roll x'ſ",
    "1234567890 ½ ²³ ٣٤٥ Ⅷ ① 3.14e-5 0x1F",
    "한국어 조합형 \u1112\u1161\u11ab \u0939\u093f\u0928\u094d\u0926\u0940 \u0e01\u0e33 \u0600\u06dd\u0661",
    "<unk></s> <s><|endoftext|><0x41>▁x ▁▁ <extra_id_0>",
    "",
    " ",
    "a",
    "http://example.org/a_b?c=d&e=%20#f",
    "supercalifragilisticexpialidocious" * 8,
)


def random_texts(count: int) -> list[str]:
    """Strings of characters that lie on the borders of the rules, the same every time."""
    rng = random.Random(7)
    pool = [*"".join(TEXTS), *"\u0301\u0308  ▁ẞΣσ\r\n'\U00010428ﬃ㌔\u00ad"]
    return ["".join(rng.choice(pool) for _ in range(rng.randrange(1, 24))) for _ in range(count)]


def byte_bpe_with_pattern(pattern: str) -> Tokenizer:
    raw = RawTokenizer.from_str(train_byte_bpe(LINES, 700).to_json())
    raw.pre_tokenizer = pattern_splitter(pattern)
    return Tokenizer(raw)


def keras(lower: bool, oov: bool, char_level: bool = False) -> Tokenizer:
    words = ["a", "naïve", "σοφος", "οδυσσευς", "σας", "the", "straße", "i̇stanbul", "don't", "東京は大きい", "x", "y", "'", "s"]
    index = {word: i + 1 for i, word in enumerate(dict.fromkeys(["<unk>"] * oov + words))}
    config = {
        "word_index": json.dumps(index), "oov_token": "<unk>" if oov else None, "lower": lower, "char_level": char_level,
        "filters": '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', "split": " ", "num_words": None,
    }  # fmt: skip
    return Tokenizer(convert_keras_tokenizer({"class_name": "Tokenizer", "config": config}, "keras.json"))


def unigram(byte_fallback: bool, metaspace: bool) -> Tokenizer:
    texts = ["▁", "▁the", "▁▁", "e", "th", "h", "東京", "京", "ü"]
    pieces = [("<unk>", 0.0), *((text, -2.0 - i / 2) for i, text in enumerate(texts))]
    pieces += [(f"<0x{byte:02X}>", -12.0) for byte in range(256)] if byte_fallback else []
    raw = RawTokenizer(models.Unigram(pieces, 0, byte_fallback))
    cleaning = [] if metaspace else [normalizers.StripAccents(), normalizers.Strip()]
    raw.normalizer = normalizers.Sequence([normalizers.NFKD(), *cleaning, normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if metaspace else "never", split=metaspace)
    raw.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    raw.add_tokens([AddedToken("Köln", normalized=True, lstrip=True), AddedToken("a", single_word=True, rstrip=True)])
    return Tokenizer(raw)


def mixed_pre_tokenizers() -> Tokenizer:
    """Digits one by one, then GPT-2's words, as SmolLM has it."""
    raw = RawTokenizer.from_str(train_byte_bpe(LINES, 600).to_json())
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    raw.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return Tokenizer(raw)


def sentencepiece_like_bpe() -> Tokenizer:
    """Llama's form: a metaspace normalizer, byte pieces, merges, one run of unknown characters."""
    letters = [" <unk>", "▁", *"abcdefghijklmnoprstuvw", "▁t", "he", "▁the", "in", "ing"]
    ids = {piece: i for i, piece in enumerate([*letters, *(f"<0x{byte:02X}>" for byte in range(256) if byte != 0xE4)])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("i", "n"), ("in", "g")]
    raw = RawTokenizer(models.BPE(ids, merges, unk_token=" <unk>", fuse_unk=True, byte_fallback=True, ignore_merges=True))
    trailing = normalizers.Replace(Regex(r"▁+\z"), "")
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), trailing])
    return Tokenizer(raw)


def words_between_spaces() -> Tokenizer:
    raw = RawTokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "東京は大きい": 2, "a": 3, "I": 4, ",": 5}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(raw)


pytestmark = pytest.mark.slow

MADE: dict[str, Callable[[], Tokenizer]] = {
    "keyboard-lstm": lambda: Tokenizer.load(BUNDLED / "keyboard-lstm"),
    "chat-transformer": lambda: Tokenizer.load(BUNDLED / "chat-transformer"),
    "words": lambda: train_word_level(LINES, 300, lowercase=False),
    "words-between-spaces": words_between_spaces,
    "byte-bpe": lambda: train_byte_bpe(LINES, 900),
    "char": lambda: train_char(LINES),
    "qwen": lambda: byte_bpe_with_pattern(QWEN_PATTERN),
    "r50k": lambda: byte_bpe_with_pattern(R50K),
    "cl100k": lambda: byte_bpe_with_pattern(CL100K),
    "llama3": lambda: byte_bpe_with_pattern(LLAMA3),
    "o200k": lambda: byte_bpe_with_pattern(O200K),
    "digits": mixed_pre_tokenizers,
    "keras": lambda: keras(lower=True, oov=True),
    "keras-without-oov": lambda: keras(lower=True, oov=False),
    "keras-characters": lambda: keras(lower=False, oov=False, char_level=True),
    "unigram": lambda: unigram(byte_fallback=False, metaspace=True),
    "unigram-bytes": lambda: unigram(byte_fallback=True, metaspace=False),
    "sentencepiece-bpe": sentencepiece_like_bpe,
}
PUBLISHED = {
    "t5": "t5_small_unigram_json",
    "phi-2": "phi2_bytelevel_bpe_json",
    "gpt-2": "gpt2_bpe",
    "sentencepiece-english": "spm_unigram_small/test_model.model",
    "sentencepiece-japanese": "spm_unigram_small/test_ja_model.model",
    "tinystories": "tinystories_tok105/tok105.model",
}


def check_equal(jvm: JvmEngine, tokenizer: Tokenizer, name: str, folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(tokenizer.to_json(), encoding="utf-8")
    jvm.ask("tokenizer", name, file)
    for text in (*TEXTS, *random_texts(300)):
        assert jvm.encode(name, text) == tokenizer.encode(text), text
    special = (tokenizer.start_id, tokenizer.boundary_id, tokenizer.unknown_id)
    facts = [tokenizer.kind, tokenizer.vocab_size, *(-1 if i is None else i for i in special)]
    assert jvm.ask("pieces", name, folder / "pieces.txt") == list(map(str, facts))
    lines = (folder / "pieces.txt").read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        piece, word_start, special, text = line.split("\t")
        assert base64.b64decode(piece) == tokenizer.piece_bytes(i), i
        assert (word_start == "1", special == "1") == (tokenizer.is_word_start(i), i in tokenizer.special_ids), i
        assert base64.b64decode(text).decode() == tokenizer.piece(i), i


@pytest.mark.parametrize("name", MADE)
def test_same_ids_and_pieces_as_python(jvm: JvmEngine, name: str, tmp_path: Path) -> None:
    check_equal(jvm, MADE[name](), name, tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_same_ids_and_pieces_of_published_tokenizers(jvm: JvmEngine, name: str, tmp_path: Path, data_folder: Path) -> None:
    check_equal(jvm, Tokenizer.load(data_folder / "tokenizers" / PUBLISHED[name]), name, tmp_path)


def test_a_rule_that_needs_to_know_the_first_character_is_refused_behind_one_that_drops_it(jvm: JvmEngine, tmp_path: Path) -> None:
    description = json.loads(unigram(byte_fallback=False, metaspace=True).to_json())
    description["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(JavaError, match="prepend_scheme first behind the normalizer Strip is not known"):
        jvm.ask("tokenizer", "refused", tmp_path / "tokenizer.json")


@pytest.mark.parametrize("affix", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_word_affixes_are_refused_by_name(jvm: JvmEngine, affix: str, tmp_path: Path) -> None:
    description = json.loads(sentencepiece_like_bpe().to_json())
    description["model"][affix] = "</w>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(JavaError, match=f"a BPE model with {affix} is not known"):
        jvm.ask("tokenizer", "refused", tmp_path / "tokenizer.json")
