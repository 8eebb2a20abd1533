"""Reading the files a tokenizer comes in: bytes, text and JSON within limits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgelm.errors import TokenizerError

ALLOWED = (
    "tokenizer.json; vocab.json with merges.txt; a sentencepiece .model; a .tiktoken file of ranks; the to_json of a Keras Tokenizer; "
    "vocab.txt; a list of characters (chars.txt); or a folder with one of them"
)
LARGEST_FILE = 256 * 2**20
"""The largest published tokenizers have 40 MB; beyond this the file is something else, a model most likely."""
LARGEST_ID = 2**24 - 1
"""Largest id of a token: the `tokenizers` library walks every id up to the largest when it writes a vocabulary."""
LONGEST_PIECE = 1024
"""Characters or bytes of a piece that is to be cut into merges: every cut is looked at."""


def read_bytes(path: Path) -> bytes:
    """The content of a tokenizer file.

    Raises:
        TokenizerError: Unreadable, or too large to be a tokenizer.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise TokenizerError(f"{path} has {size / 2**20:,.0f} MB: it is no tokenizer", allowed=ALLOWED)
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from error


def read_text(path: Path) -> str:
    r"""The UTF-8 text of a tokenizer file, a byte order mark dropped and `\r\n` read as `\n`.

    Raises:
        TokenizerError: Unreadable, too large, or not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: byte {error.start}", allowed="UTF-8 text") from error


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text that the file `name` holds.

    Raises:
        TokenizerError: It is no JSON, is nested too deeply or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name} is no JSON: {error}", allowed=ALLOWED) from error


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object of settings beside a tokenizer (`tokenizer_config.json`); empty where the file is not there.

    Raises:
        TokenizerError: The file is there and is no JSON object.
    """
    if not path.is_file():
        return {}
    settings = parse_json(read_text(path), str(path))
    if not isinstance(settings, dict):
        raise TokenizerError(f"{path} is no JSON object", allowed='{"do_lower_case": false, ...}')
    return settings


def is_vocabulary(value: Any) -> bool:
    """Whether a JSON value maps pieces to ids."""
    return isinstance(value, dict) and bool(value) and all(type(i) is int for i in value.values())


def check_ids(ids: Iterable[Any], name: str) -> None:
    """Ids are integers of 0 to `LARGEST_ID`.

    Raises:
        TokenizerError: One is not.
    """
    for i in ids:
        if type(i) is not int or not 0 <= i <= LARGEST_ID:
            raise TokenizerError(f"{name}: the id {i!r} is no row of an embedding", allowed=f"integers from 0 to {LARGEST_ID:,}")
