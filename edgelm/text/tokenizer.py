"""One tokenizer class around the `tokenizers` library; `tokenizer.json` is its only form inside an artifact."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Encoding, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from edgelm.errors import TokenizerError
from edgelm.text.library_errors import library_errors
from edgelm.text.tokenizer_files import read_tokenizer
from edgelm.text.tokenizer_json import parse_tokenizer_json
from edgelm.text.tokenizer_kinds import (
    BOUNDARIES,
    BOUNDARY,
    STARTS,
    UNKNOWN,
    Kind,
    first_present,
    kind_of,
    piece_writer,
    unknown_id_of,
)
from edgelm.text.words import word_splitter

TOKENIZER = "the tokenizer"


class Tokenizer:
    """Text to ids and back.

    Attributes:
        kind: `word`, `byte-bpe`, `bpe`, `unigram`, `wordpiece` or `char`.
        vocab_size: Largest id + 1.
        token_count: Number of ids with a token: less than `vocab_size` where ids are left out, as Keras leaves out 0.
        boundary_id: The token that stands between turns and lines: the first present of `</s>`, `<|endoftext|>`, `<eos>`, `[SEP]`;
            a newline for character tokenizers; None when there is none.
        start_id: The token before a text: `<s>`, `<bos>`, `[CLS]`, ... where present, otherwise `boundary_id`.
        unknown_id: The token of text that has no piece; None where every text has one.
        added_ids: Tokens that are matched in the text as they are written, before the model sees it.
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
        self._description = description = json.loads(raw.to_str())
        self.kind: Kind = kind_of(raw, description)
        self.vocab_size = max(self._tokens, default=-1) + 1
        self._write_piece = piece_writer(self.kind, description["model"])
        self.token_count = len(self._tokens)
        self.unknown_id = unknown_id_of(description["model"], self._vocabulary)
        boundaries = (*BOUNDARIES, "\n") if self.kind == "char" else BOUNDARIES
        self.boundary_id = first_present(boundaries, self._vocabulary)
        start = first_present(STARTS, self._vocabulary)
        self.start_id = self.boundary_id if start is None else start
        added = raw.get_added_tokens_decoder()
        self.added_ids: frozenset[int] = frozenset(added)
        marked = {i for i, token in added.items() if token.special}
        named = {self._vocabulary[name] for name in (*BOUNDARIES, *STARTS) if name in self._vocabulary}
        unknown = set() if self.unknown_id is None else {self.unknown_id}
        self.special_ids: frozenset[int] = frozenset(marked | named | unknown)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads any of the files that hold a tokenizer, or the folder that holds one.

        tokenizer.json; vocab.json with merges.txt; a sentencepiece .model; a .tiktoken file; the to_json of a Keras Tokenizer;
        vocab.txt; a list of characters. Tokens that added_tokens.json and tokenizer_config.json beside it add are honoured.

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
        model = self._description["model"]
        if isinstance(vocabulary := model.get("vocab"), dict):
            model = {**model, "vocab": dict(sorted(vocabulary.items()))}
        return json.dumps({**self._description, "model": model}, ensure_ascii=False, separators=(",", ":"))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no special tokens are added.

        Raises:
            TokenizerError: The rules of the tokenizer are broken in a way that only this text shows.
        """
        with library_errors(TOKENIZER):
            return list(self._raw.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts.

        Raises:
            TokenizerError: As in `encode`.
        """
        with library_errors(TOKENIZER):
            return [list(encoding.ids) for encoding in self._raw.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of many texts with the (start, end) characters of the text each id stands for.

        Raises:
            TokenizerError: As in `encode`.
        """
        with library_errors(TOKENIZER):
            encodings: list[Encoding] = self._raw.encode_batch(list(texts), add_special_tokens=False)
        return [(list(encoding.ids), list(encoding.offsets)) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        with library_errors(TOKENIZER):
            return str(self._raw.decode([i for i in map(int, ids) if i not in self.special_ids], skip_special_tokens=True))

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
        if not token or int(token_id) in self.added_ids:
            return token.encode("utf-8")
        return self._write_piece(token)

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
    """Holds a tokenizer, its added tokens included, against the rows of a model's embedding.

    Returns:
        A note for the report when rows have no token: rows padded to a multiple of 64 or 128, an index that is reserved; empty when
        every row has one.

    Raises:
        TokenizerError: The tokenizer has ids the model has no row for.
    """
    if tokenizer.vocab_size > vocab_size:
        without = [i for i in range(vocab_size, tokenizer.vocab_size) if tokenizer.token(i)]
        only_added = tokenizer.added_ids.issuperset(without)
        names = ", ".join(tokenizer.token(i) for i in without[:3]) + (", ..." if len(without) > 3 else "")
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model only {vocab_size:,} rows"
            + (f": {len(without):,} added tokens have none ({names})" if only_added else ""),
            allowed=f"a tokenizer of at most {vocab_size:,} tokens",
            fix="give the tokenizer that the model was trained with (--tokenizer)"
            + (", or take these out of its added tokens if the model was trained without them" if only_added else ""),
        )
    empty = vocab_size - tokenizer.token_count
    doubt = "; is it the tokenizer of this model?" if 2 * empty > vocab_size else ""
    return f"{empty:,} of {vocab_size:,} vocabulary rows have no token (padding{doubt})" if empty else ""


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
