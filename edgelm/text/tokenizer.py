"""One tokenizer class around the `tokenizers` library; `tokenizer.json` is its only form inside an artifact."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Encoding, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from edgelm.errors import TokenizerError
from edgelm.text.tokenizer_files import parse_tokenizer_json, read_tokenizer
from edgelm.text.words import word_splitter

Kind = Literal["word", "byte-bpe", "bpe", "unigram", "wordpiece", "char"]

UNKNOWN = "<unk>"
BOUNDARY = "</s>"
BOUNDARIES = (BOUNDARY, "<|endoftext|>", "<eos>", "[SEP]", "<|end_of_text|>", "[EOS]")
STARTS = ("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "[BOS]")
UNKNOWNS = (UNKNOWN, "[UNK]", "<UNK>", "<|unk|>")
_SPACE = "▁"


class Tokenizer:
    """Text to ids and back.

    Attributes:
        kind: `word`, `byte-bpe`, `bpe`, `unigram`, `wordpiece` or `char`.
        vocab_size: Largest id + 1.
        boundary_id: The token that stands between turns and lines: the first present of `</s>`, `<|endoftext|>`, `<eos>`, `[SEP]`;
            a newline for character tokenizers; None when there is none.
        start_id: The token before a text: `<s>`, `<bos>`, `[CLS]`, ... where present, otherwise `boundary_id`.
        unknown_id: The token of text that has no piece; None where every text has one.
        special_ids: Tokens that stand for no text.

    Example:
        >>> tokenizer = train_word_level(["see you at 8", "see you"], vocab_size=6)
        >>> tokenizer.decode(tokenizer.encode("See YOU tomorrow"))
        'see you'
    """

    def __init__(self, raw: RawTokenizer) -> None:
        self._raw = raw
        self._vocabulary: dict[str, int] = raw.get_vocab(with_added_tokens=True)
        self._tokens = {i: token for token, i in self._vocabulary.items()}
        description = json.loads(raw.to_str())
        self.kind: Kind = _kind(raw, description)
        self.vocab_size = max(self._tokens, default=-1) + 1
        self.unknown_id = _unknown_id(description["model"], self._vocabulary)
        boundaries = (*BOUNDARIES, "\n") if self.kind == "char" else BOUNDARIES
        self.boundary_id = _first_present(boundaries, self._vocabulary)
        start = _first_present(STARTS, self._vocabulary)
        self.start_id = self.boundary_id if start is None else start
        added = raw.get_added_tokens_decoder()
        self._verbatim = frozenset(added)  # added tokens are matched in the text as they are written
        marked = {i for i, token in added.items() if token.special}
        named = {self._vocabulary[name] for name in (*BOUNDARIES, *STARTS) if name in self._vocabulary}
        unknown = set() if self.unknown_id is None else {self.unknown_id}
        self.special_ids: frozenset[int] = frozenset(marked | named | unknown)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads tokenizer.json, vocab.json with merges.txt, a sentencepiece .model, or the folder that holds one of them.

        Raises:
            TokenizerError: Missing, corrupt or of an unknown kind.
        """
        return cls(read_tokenizer(Path(path)))

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer of a `tokenizer.json` text.

        Raises:
            TokenizerError: It is no JSON, or no tokenizer.
        """
        return cls(parse_tokenizer_json(text, "tokenizer.json"))

    def to_json(self) -> str:
        """The text of its `tokenizer.json`, the same for the same tokenizer.

        Vocabularies that map tokens to ids are sorted by token: words that begin alike stand together and deflate 8 % smaller.
        """
        description = json.loads(self._raw.to_str(pretty=False))
        vocabulary = description["model"].get("vocab")
        if isinstance(vocabulary, dict):
            description["model"]["vocab"] = dict(sorted(vocabulary.items()))
        return json.dumps(description, ensure_ascii=False, separators=(",", ":"))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no special tokens are added."""
        return list(self._raw.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        return [list(encoding.ids) for encoding in self._raw.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of many texts with the (start, end) characters of the text each id stands for."""
        encodings: list[Encoding] = self._raw.encode_batch(list(texts), add_special_tokens=False)
        return [(list(encoding.ids), list(encoding.offsets)) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return str(self._raw.decode([int(i) for i in ids], skip_special_tokens=True))

    def id_of(self, token: str) -> int | None:
        """Id of a token as it is written in the vocabulary (`Ġthe`, `▁the`, `##ing`, `</s>`); None when it is not there."""
        return self._vocabulary.get(token)

    def token(self, token_id: int) -> str:
        """Token as it is written in the vocabulary; empty for an id without one."""
        return self._tokens.get(int(token_id), "")

    def piece(self, token_id: int) -> str:
        """Text one token stands for, with the leading space of a token that begins a word.

        Bytes that are no character of their own are shown as U+FFFD, special tokens as they are written.
        """
        if int(token_id) in self.special_ids:
            return self.token(token_id)
        return self.piece_bytes(token_id).decode("utf-8", errors="replace")

    def piece_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes one token stands for; empty for special tokens.

        The pieces of a text joined give the text after normalization, with a leading space where the tokenizer puts one.
        """
        if int(token_id) in self.special_ids:
            return b""
        token = self.token(token_id)
        if int(token_id) in self._verbatim:
            return token.encode("utf-8")
        if self.kind == "byte-bpe":
            return bytes(_BYTES[character] for character in token)
        if self.kind == "wordpiece":
            return token[2:].encode("utf-8") if token.startswith("##") else f" {token}".encode()
        if self.kind == "word":
            return f" {token}".encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace(_SPACE, " ").encode("utf-8")

    def is_word_start(self, token_id: int) -> bool:
        """Whether the token begins a new word.

        It does with a leading space (byte-level `Ġ`, metaspace `▁`, white space of a character tokenizer), without `##`
        (WordPiece), always for word-level tokenizers, and for special tokens such as the boundary; not for
        the unknown token of other kinds.
        """
        if self.kind == "word" or int(token_id) in self.special_ids - {self.unknown_id}:
            return True
        return self.piece_bytes(token_id)[:1].isspace()


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> str:
    """Holds a tokenizer against the rows of a model.

    Returns:
        A note for the report when the model has more rows than the tokenizer has tokens (padding); empty when they agree.

    Raises:
        TokenizerError: The tokenizer has ids the model has no row for.
    """
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model only {vocab_size:,} rows",
            allowed=f"a tokenizer of at most {vocab_size:,} tokens",
            fix="give the tokenizer that the model was trained with (--tokenizer)",
        )
    padding = vocab_size - tokenizer.vocab_size
    return f"{padding:,} of {vocab_size:,} vocabulary rows have no token (padding)" if padding else ""


def train_word_level(lines: Iterable[str], vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """The `vocab_size` - 2 most frequent words, `<unk>` and `</s>`."""
    raw = RawTokenizer(models.WordLevel({}, unk_token=UNKNOWN))
    raw.normalizer = _normalizer(lowercase)
    raw.pre_tokenizer = word_splitter()
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=[UNKNOWN, BOUNDARY], show_progress=False)
    return _train(raw, lines, trainer)


def train_byte_bpe(lines: Iterable[str], vocab_size: int, lowercase: bool = False) -> Tokenizer:
    """Byte-level BPE (Radford et al. 2019) with `</s>`: every text can be written, so there is no unknown token.

    Raises:
        TokenizerError: `vocab_size` is less than the 256 bytes and `</s>`.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 1:
        raise TokenizerError(f"a byte-level vocabulary of {vocab_size} tokens is too small", allowed=f"at least {len(alphabet) + 1}")
    raw = RawTokenizer(models.BPE())
    if lowercase:
        raw.normalizer = _normalizer(lowercase)
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[BOUNDARY], initial_alphabet=sorted(alphabet), show_progress=False)
    return _train(raw, lines, trainer)


def train_char(lines: Iterable[str]) -> Tokenizer:
    """Every character of the lines, the newline (the boundary) and `<unk>`; ids in the order of code points after `<unk>`.

    Raises:
        TokenizerError: There is no text.
    """
    characters = set().union(*lines)
    if not characters:
        raise TokenizerError("a tokenizer cannot be trained on no text")
    vocabulary = {token: i for i, token in enumerate([UNKNOWN, *sorted(characters | {"\n"})])}
    raw = RawTokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN, fuse_unk=False))
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens([UNKNOWN])
    return Tokenizer(raw)


def _train(raw: RawTokenizer, lines: Iterable[str], trainer: trainers.Trainer) -> Tokenizer:
    raw.train_from_iterator(lines, trainer)
    return Tokenizer(raw)


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]) if lowercase else normalizers.NFC()


def _kind(raw: RawTokenizer, description: dict[str, Any]) -> Kind:
    model = description["model"]
    if model["type"] == "WordLevel":
        letters = [token for token in model["vocab"] if len(token) == 1 and token.isalpha()][:2]
        return "char" if len(letters) == 2 and len(raw.encode("".join(letters), add_special_tokens=False)) == 2 else "word"
    if model["type"] == "BPE":
        surroundings = json.dumps([description["pre_tokenizer"], description["normalizer"], description["decoder"]])
        if '"ByteLevel"' in surroundings:
            return "byte-bpe"
        return "bpe" if model["merges"] else "char"
    kinds: dict[str, Kind] = {"Unigram": "unigram", "WordPiece": "wordpiece"}
    return kinds[model["type"]]


def _unknown_id(model: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    if model.get("unk_token"):
        return vocabulary.get(model["unk_token"])
    return _first_present(UNKNOWNS, vocabulary)


def _first_present(names: Iterable[str], vocabulary: dict[str, int]) -> int | None:
    return next((vocabulary[name] for name in names if name in vocabulary), None)


def _byte_characters() -> dict[str, int]:
    """The printable stand-ins of the 256 bytes (bytes_to_unicode of GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_characters()
