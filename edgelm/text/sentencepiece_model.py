"""sentencepiece `.model` files as `tokenizers` objects with the same ids.

The file is a protocol buffer (sentencepiece_model.proto); the few fields that matter are read here directly, because the generated
module of the sentencepiece wheel wants a newer protobuf than TensorFlow 2.19 allows.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgelm.errors import TokenizerError
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import LONGEST_PIECE, read_bytes
from edgelm.text.tokenizer_kinds import SPACE, unmatched

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE, WORD, CHAR = 1, 2, 3, 4

Message = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; `kind` is the enumeration SentencePiece.Type."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What encoding needs of a ModelProto.

    Attributes:
        pieces: In the order of their ids.
        algorithm: TrainerSpec.ModelType: 1 unigram, 2 BPE, 3 word, 4 character.
        byte_fallback: Unknown characters become `<0x..>` pieces.
        space_suffix: Spaces belong to the end of the word before (treat_whitespace_as_suffix).
        charsmap: The compiled normalization rules; empty for the identity.
        dummy_prefix: A space is put before the text.
        squeeze_spaces: Leading, trailing and repeated spaces are dropped.
        escape_spaces: Spaces are written as U+2581.
        denormalizer: There are rules for decoded text.
    """

    pieces: tuple[Piece, ...]
    algorithm: int
    byte_fallback: bool
    space_suffix: bool
    charsmap: bytes
    dummy_prefix: bool
    squeeze_spaces: bool
    escape_spaces: bool
    denormalizer: bool = False

    def texts(self, kind: int) -> list[str]:
        """The texts of all pieces of a kind."""
        return [piece.text for piece in self.pieces if piece.kind == kind]


def load_sentencepiece(path: Path) -> Tokenizer:
    """A `tokenizers.Tokenizer` that gives the same ids as the sentencepiece file.

    Normalization uses the file's own compiled rules. The `tokenizers` library applies them to one grapheme at a time, sentencepiece to
    the longest match: they can differ where several combining marks follow a letter that the rules change. The literal text of a
    control piece (`</s>`) becomes that piece, as in every tokenizer.json; that of the unknown piece does not, as in sentencepiece.

    Raises:
        TokenizerError: The file is no sentencepiece model, its kind has no tokenizer.json form, or the converted tokenizer does not
            give the ids of the sentencepiece library on the texts of its own pieces.
    """
    content = read_bytes(path)
    model = parse_model(content, str(path))
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise TokenizerError(f"{path} is refused by sentencepiece: {error}") from error
    tokenizer = convert(model, str(path))
    _prove(tokenizer, model, processor, str(path))
    return tokenizer


def parse_model(content: bytes, name: str) -> SentencePieceModel:
    """The fields of a serialized ModelProto.

    Raises:
        TokenizerError: `content` is no ModelProto.
    """
    try:
        fields = _message(content)
        pieces = tuple(_piece(_message(_bytes(item))) for item in fields.get(1, []))
        trainer = _message(_bytes(fields.get(2, [b""])[-1]))
        normalizer = _message(_bytes(fields.get(3, [b""])[-1]))
        model = SentencePieceModel(
            pieces=pieces,
            algorithm=_integer(trainer, 3, UNIGRAM),
            byte_fallback=bool(_integer(trainer, 35, 0)),
            space_suffix=bool(_integer(trainer, 24, 0)),
            charsmap=_bytes(normalizer.get(2, [b""])[-1]),
            dummy_prefix=bool(_integer(normalizer, 3, 1)),
            squeeze_spaces=bool(_integer(normalizer, 4, 1)),
            escape_spaces=bool(_integer(normalizer, 5, 1)),
            denormalizer=bool(_bytes(_message(_bytes(fields.get(5, [b""])[-1])).get(2, [b""])[-1])),
        )
    except (ValueError, IndexError, struct.error) as error:
        raise TokenizerError(f"{name} is no sentencepiece model: {error}", allowed="a .model file written by sentencepiece") from error
    if not pieces:
        raise TokenizerError(f"{name} is no sentencepiece model: it has no pieces", allowed="a .model file written by sentencepiece")
    return model


def convert(model: SentencePieceModel, name: str) -> Tokenizer:
    """The tokenizer.json form of a parsed model.

    Raises:
        TokenizerError: Its kind has no such form.
    """
    reason = _inexpressible(model)
    if reason:
        raise TokenizerError(
            f"{name} is a sentencepiece model {reason}: a tokenizer.json cannot express that",
            allowed="unigram, bpe and char models with spaces as prefixes",
        )
    unknown = next((i for i, piece in enumerate(model.pieces) if piece.kind == UNKNOWN), None)
    if unknown is None:
        raise TokenizerError(f"{name} has no piece for unknown text", allowed="sentencepiece models with an <unk> piece")
    with library_errors(name):
        return _build(model, unknown)


def _inexpressible(model: SentencePieceModel) -> str:
    """What of a model has no tokenizer.json form; empty for the others."""
    if model.algorithm == WORD:
        return f"of type {WORD} (word), which gives one unknown token for a run of unknown words"
    if model.algorithm not in (UNIGRAM, BPE, CHAR):
        return f"of the unknown type {model.algorithm}"
    if model.space_suffix:
        return "with spaces as suffixes (treat_whitespace_as_suffix)"
    if model.denormalizer:
        return "with rules for decoded text (denormalizer_spec)"
    if model.algorithm == BPE and model.texts(UNUSED):
        return f"with unused pieces ({model.texts(UNUSED)[0]!r}), which it cuts again after the merges"
    longest = max(model.pieces, key=lambda piece: len(piece.text)).text
    if len(longest) > LONGEST_PIECE:
        return f"with a piece of {len(longest):,} characters"
    return ""


def _build(model: SentencePieceModel, unknown: int) -> Tokenizer:
    symbols = sorted(model.texts(USER_DEFINED), key=lambda text: (-len(text), text))
    if model.algorithm == UNIGRAM:
        hidden = (UNKNOWN, UNUSED)
        vocabulary = [(unmatched(piece.text), 0.0) if piece.kind in hidden else (piece.text, piece.score) for piece in model.pieces]
        tokenizer = Tokenizer(models.Unigram(vocabulary, unknown, model.byte_fallback))
    else:
        tokenizer = Tokenizer(_bpe(model, unmatched(model.pieces[unknown].text), whole_symbols=bool(symbols)))
    tokenizer.normalizer = _normalizer(model)
    if symbols:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(re.escape(text) for text in symbols)), behavior="isolated")
    leading = LONGEST_PIECE if model.squeeze_spaces else 1  # spaces before the text that decoding drops
    strip = [decoders.Strip(" ", leading, 0)] if model.dummy_prefix or model.squeeze_spaces else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = [AddedToken(text, special=True, normalized=False) for text in model.texts(CONTROL)]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _bpe(model: SentencePieceModel, unknown: str, whole_symbols: bool) -> models.BPE:
    """Merges in the order of the scores; a merge is any pair of pieces whose concatenation is a piece."""
    ids = {unmatched(piece.text) if piece.kind == UNKNOWN else piece.text: i for i, piece in enumerate(model.pieces)}
    mergeable = {piece.text for piece in model.pieces if piece.kind == NORMAL} if model.algorithm == BPE else set()
    merges: list[tuple[float, int, int, str, str]] = []
    for piece in model.pieces:
        if piece.text not in mergeable:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in mergeable and right in mergeable:
                merges.append((-piece.score, ids[left], ids[right], left, right))
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    return models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback, ignore_merges=whole_symbols)


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    """normalizer.cc: rules, then squeezed spaces, then the dummy prefix, then U+2581 for spaces, then no trailing U+2581."""
    space = SPACE if model.escape_spaces else " "
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        rules = normalizers.Precompiled(model.charsmap)
        # Precompiled sees five bytes of a grapheme at most, too few for a decomposed Hangul or kana: compose those before
        steps = [normalizers.NFC(), rules] if rules.normalize_str("e\u0301") == "\u00e9" else [rules]
    if model.squeeze_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(space))
    if model.escape_spaces:
        steps.append(normalizers.Replace(" ", SPACE))
    if model.squeeze_spaces:
        steps.append(normalizers.Replace(Regex(rf"{space}+\z"), ""))
    return normalizers.Sequence(steps)


def _prove(tokenizer: Tokenizer, model: SentencePieceModel, processor: Any, name: str) -> None:
    """Both libraries must give the same ids on the pieces, twenty to a line."""
    texts = [piece.text.replace(SPACE, " ") for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)]
    lines = ["".join(texts[i : i + 20]) for i in range(0, len(texts), 20)] + ["", " ", "  two  spaces "]
    with library_errors(name):
        converted = [encoding.ids for encoding in tokenizer.encode_batch(lines, add_special_tokens=False)]
    for line, ids, wanted in zip(lines, converted, processor.Encode(lines), strict=True):
        if ids != wanted:
            raise TokenizerError(
                f"{name} cannot be written as a tokenizer.json: {line[:40]!r} becomes {ids[:8]}, sentencepiece gives {wanted[:8]}",
                allowed="sentencepiece models whose normalization and pieces the tokenizers library can express",
            )


def _piece(fields: Message) -> Piece:
    score = struct.unpack("<f", _bytes(fields[2][-1]))[0] if 2 in fields else 0.0
    return Piece(_bytes(fields.get(1, [b""])[-1]).decode("utf-8"), score, _integer(fields, 3, NORMAL))


def _message(content: bytes) -> Message:
    """Field number -> values: varints as int, everything else as bytes."""
    fields: Message = {}
    for number, value in _fields(content):
        fields.setdefault(number, []).append(value)
    return fields


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire} at byte {position}")
        size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0:
            size, position = _varint(content, position)
        if position + size > len(content):
            raise ValueError(f"the file ends inside a field at byte {position}")
        yield number, content[position : position + size]
        position += size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number is too long at byte {position}")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def _integer(fields: Message, number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if isinstance(value, bytes):
        raise ValueError(f"field {number} is no number")
    return value
