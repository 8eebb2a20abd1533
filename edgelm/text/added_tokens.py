"""The tokens that files beside a tokenizer add to it: added_tokens.json, special_tokens_map.json, tokenizer_config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgelm.errors import TokenizerError
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import check_ids, is_vocabulary, read_settings
from edgelm.text.tokenizer_kinds import unmatched

CONFIG = "tokenizer_config.json"
SPECIAL_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class AddedEntry:
    """A token that is matched in the text before the model sees it.

    Attributes:
        content: The text it is written as.
        id: Its id; None where only the vocabulary says it.
        special: It stands for no text.
        normalized: It is looked for after normalization.
        single_word: It is no part of a longer word.
        lstrip: It takes the white space before it.
        rstrip: It takes the white space behind it.
    """

    content: str
    id: int | None = None
    special: bool = False
    normalized: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


def read_added_tokens(folder: Path) -> list[AddedEntry]:
    """What the files of a folder add, by id; tokens of which no file says the id come last.

    `added_tokens_decoder` of tokenizer_config.json is the most detailed and wins; then added_tokens.json; then the special tokens
    that tokenizer_config.json and special_tokens_map.json name.

    Raises:
        TokenizerError: A file is no JSON object, or an entry is no token.
    """
    config, roles = read_settings(folder / CONFIG), read_settings(folder / "special_tokens_map.json")
    special = {entry.content: entry for settings in (roles, config) for entry in _special_tokens(settings, str(folder))}
    entries = {entry.content: entry for entry in _decoder_entries(config, str(folder / CONFIG))}
    added = read_settings(folder / "added_tokens.json")
    if added and not is_vocabulary(added):
        raise TokenizerError(f"{folder / 'added_tokens.json'} is no map from token to id", allowed='{"<|im_end|>": 50296, ...}')
    for content, i in added.items():
        known = special.get(content)
        shape = vars(known) if known else {"content": content, "normalized": True}
        entries.setdefault(content, AddedEntry(**{**shape, "id": i}))
    for content, entry in special.items():
        entries.setdefault(content, entry)
    check_ids((entry.id for entry in entries.values() if entry.id is not None), str(folder))
    return sorted(entries.values(), key=lambda entry: (entry.id is None, entry.id or 0))


def with_added_tokens(tokenizer: Tokenizer, entries: list[AddedEntry], name: str) -> Tokenizer:
    """A tokenizer with added tokens at exactly their ids, whatever gap lies before them.

    Args:
        tokenizer: Left as it is.
        entries: As `read_added_tokens` gives them. Those the tokenizer has added already stay as they are; those without an id that
            are not in the vocabulary are left out: no model was trained with them.
        name: The file or folder, for the message.

    Raises:
        TokenizerError: An id is taken, is another one in the vocabulary, or cannot be given (Unigram ids have no gaps).
    """
    entries = [entry for entry in entries if entry.id is None or tokenizer.id_to_token(entry.id) != unmatched(entry.content)]
    present = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items()}
    entries = [entry for entry in entries if entry.content not in present or entry.id not in (None, present[entry.content])]
    entries = [entry for entry in entries if entry.id is not None or tokenizer.token_to_id(entry.content) is not None]
    if not entries:
        return tokenizer
    with library_errors(name):
        description = json.loads(tokenizer.to_str())
        taken = {i: token for token, i in tokenizer.get_vocab(with_added_tokens=True).items()}
    ids = {token: i for i, token in taken.items()}
    vocabulary = description["model"]["vocab"]
    for entry in entries:
        wanted = ids[entry.content] if entry.id is None else entry.id
        if taken.get(wanted, entry.content) != entry.content or ids.get(entry.content, wanted) != wanted:
            reason = f"belongs to {taken[wanted]!r}" if wanted in taken else f"is not its id {ids[entry.content]} in the vocabulary"
            raise TokenizerError(f"{name}: the added token {entry.content!r} has the id {wanted}, which {reason}")
        taken[wanted], ids[entry.content] = entry.content, wanted
        if isinstance(vocabulary, dict):
            vocabulary[entry.content] = wanted  # left to itself the library gives the next free id
        description["added_tokens"].append({**vars(entry), "id": wanted})
    with library_errors(name):
        extended = Tokenizer.from_str(json.dumps(description))
    for entry in entries:
        if extended.token_to_id(entry.content) != ids[entry.content]:
            raise TokenizerError(
                f"{name}: the added token {entry.content!r} has the id {ids[entry.content]}, which leaves a gap behind the "
                f"{len(vocabulary):,} pieces of a Unigram model",
                allowed="ids without gaps",
            )
    return extended


def _decoder_entries(config: Mapping[str, Any], name: str) -> Iterator[AddedEntry]:
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(key.isascii() and key.isdigit() for key in decoder):
        raise TokenizerError(f"{name}: added_tokens_decoder is no map from id to token", allowed='{"50256": {"content": "<|endoftext|>"}}')
    for key, value in decoder.items():
        yield _entry(value, name, i=int(key[:12]), special=False)


def _special_tokens(settings: Mapping[str, Any], name: str) -> Iterator[AddedEntry]:
    for role in SPECIAL_ROLES:
        if settings.get(role):
            yield _entry(settings[role], name, i=None, special=True)
    for key in SPECIAL_LISTS:
        value = settings.get(key) or []
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            yield _entry(item, name, i=None, special=True)


def _entry(value: Any, name: str, i: int | None, special: bool) -> AddedEntry:
    """A token written as its text, or as an object of its text and how it is matched."""
    fields = {"content": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str) or not fields["content"]:
        raise TokenizerError(f"{name}: {str(value)[:60]!r} is no token", allowed='"</s>" or {"content": "</s>", "special": true}')
    flags = {flag: fields.get(flag) is True for flag in ("normalized", "single_word", "lstrip", "rstrip")}
    return AddedEntry(fields["content"], i, special or fields.get("special") is True, **flags)
