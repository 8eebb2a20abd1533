"""`tokenizer.json`: the file of the `tokenizers` library, and the one form of a tokenizer inside an artifact."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from edgelm.errors import TokenizerError
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import ALLOWED, check_ids, parse_json

PROBE = "Héllo ﬁ ﾊﾟ, ОДИН 12 你好 ☃\n\tx"
"""A first text for a tokenizer that was read: broken rules only show in use."""


def parse_tokenizer_json(text: str, name: str, parsed: Any = None) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` text, of any model kind (BPE, Unigram, WordPiece, WordLevel).

    What varies from call to call is switched off: truncation, padding and the dropout of merges.

    Args:
        text: Of the file.
        name: Of the file, for messages.
        parsed: What the text holds, where the caller knows already.

    Raises:
        TokenizerError: It is no JSON, or no tokenizer.
    """
    parsed = parse_json(text, name) if parsed is None else parsed
    model = parsed.get("model") if isinstance(parsed, dict) else None
    if not isinstance(model, dict):
        raise TokenizerError(f"{name} has no model section: it is no tokenizer.json", allowed=ALLOWED)
    if model.get("type", "BPE" if "merges" in model else "") == "BPE":  # old files have no type
        check_merges(model, name)
    if isinstance(model.get("vocab"), dict):
        check_ids(model["vocab"].values(), name)
    if model.get("dropout"):
        text = json.dumps({**parsed, "model": {**model, "dropout": None}})
    with library_errors(name):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.decode(tokenizer.encode(PROBE).ids)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_merges(model: dict[str, Any], name: str) -> None:
    """Every merge is two pieces that give a third; the library panics where they don't.

    Args:
        model: The `model` section of a tokenizer.json of the type BPE.
        name: The file, for the message.

    Raises:
        TokenizerError: It has no vocabulary or no merges, or a merge that is no pair or needs a piece that is not there.
    """
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise TokenizerError(f"{name}: its BPE model has no vocabulary or no merges", allowed=ALLOWED)
    prefix = len(model.get("continuing_subword_prefix") or "")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise TokenizerError(f"{name}: the merge {merge!r} is no pair of pieces", allowed="two pieces a merge")
        left, right = pair
        whole = left + right[prefix:]
        if left in vocabulary and right in vocabulary and whole in vocabulary:
            continue
        missing = next(piece for piece in (left, right, whole) if piece not in vocabulary)
        raise TokenizerError(f"{name}: the merge {left + ' ' + right!r} needs {missing!r}, which is not in the vocabulary")
