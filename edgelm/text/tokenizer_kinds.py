"""What the description of a tokenizer says about its tokens: the kind, the unknown token, the text each stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from tokenizers import Tokenizer as RawTokenizer

Kind = Literal["word", "byte-bpe", "bpe", "unigram", "wordpiece", "char"]

UNKNOWN = "<unk>"
BOUNDARY = "</s>"
BOUNDARIES = (BOUNDARY, "<|endoftext|>", "<eos>", "[SEP]", "<|end_of_text|>", "[EOS]")
STARTS = ("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "[BOS]")
UNKNOWNS = (UNKNOWN, "[UNK]", "<UNK>", "<|unk|>")
SPACE = "▁"


def _byte_characters() -> dict[int, str]:
    """The printable stand-ins of the 256 bytes (bytes_to_unicode of GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_CHARACTERS: Mapping[int, str] = _byte_characters()
"""Byte -> the character that byte-level BPE writes it as."""
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_BYTES = {character: byte for byte, character in BYTE_CHARACTERS.items()}


def unmatched(token: str) -> str:
    """A token as the vocabulary writes it so that no text gives it: with a space, where texts have U+2581."""
    return f" {token}"


def kind_of(raw: RawTokenizer, description: Mapping[str, Any]) -> Kind:
    """The kind of a tokenizer.

    Args:
        raw: The tokenizer.
        description: Its tokenizer.json, parsed.
    """
    model = description["model"]
    if model["type"] == "WordLevel":
        letters = [token for token in model["vocab"] if len(token) == 1 and token.isalpha()][:2]
        return "char" if len(letters) == 2 and len(raw.encode("".join(letters), add_special_tokens=False)) == 2 else "word"
    if model["type"] == "BPE":
        surroundings = json.dumps([description["pre_tokenizer"], description["normalizer"], description["decoder"]])
        if '"ByteLevel"' in surroundings:
            return "byte-bpe"
        if model["merges"]:
            return "bpe"
        return "word" if model["ignore_merges"] and '"Removed"' in surroundings else "char"  # words cut at spaces, found whole
    kinds: dict[str, Kind] = {"Unigram": "unigram", "WordPiece": "wordpiece"}
    return kinds[model["type"]]


def unknown_id_of(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    """The token of text without a piece, by the `model` section of a tokenizer.json."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    if model.get("unk_token"):
        return vocabulary.get(model["unk_token"])
    return first_present(UNKNOWNS, vocabulary)


def first_present(names: Iterable[str], vocabulary: Mapping[str, int]) -> int | None:
    """The id of the first of the names that is in the vocabulary."""
    return next((vocabulary[name] for name in names if name in vocabulary), None)


def piece_writer(kind: Kind, model: Mapping[str, Any]) -> Callable[[str], bytes]:
    """The function from a token as the vocabulary writes it to the UTF-8 bytes it stands for, spaces included.

    Args:
        kind: Of the tokenizer.
        model: The `model` section of its tokenizer.json.
    """
    if kind == "byte-bpe":
        return _bytes_of_characters
    if kind == "word":
        return lambda token: f" {token.removeprefix(SPACE)}".encode()
    inside = model.get("continuing_subword_prefix")
    if inside:
        return lambda token: (token.removeprefix(inside) if token.startswith(inside) else f" {token}").encode()
    end = model.get("end_of_word_suffix")
    if end:
        return lambda token: (f"{token.removesuffix(end)} " if token.endswith(end) else token).encode()
    return _bytes_of_metaspace


def _bytes_of_characters(token: str) -> bytes:
    """A token with a character that is no byte's is taken as it is written, as the library's decoder does."""
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode("utf-8")


def _bytes_of_metaspace(token: str) -> bytes:
    if _BYTE_PIECE.fullmatch(token):
        return bytes.fromhex(token[3:5])
    return token.replace(SPACE, " ").encode("utf-8")
