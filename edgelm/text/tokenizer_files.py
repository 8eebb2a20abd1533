"""The files a tokenizer may come in, read into `tokenizers` objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgelm.errors import TokenizerError
from edgelm.text.library_errors import library_errors
from edgelm.text.sentencepiece_model import load_sentencepiece

ALLOWED = "tokenizer.json; vocab.json with merges.txt; a sentencepiece .model; or a folder with one of them"
PROBE = "Héllo ﬁ ﾊﾟ"
"""A first text for a tokenizer that was read: broken normalization rules only show in use."""
BYTE_LEVEL_SPECIALS = ("<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>")


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads whichever tokenizer `path` holds.

    Raises:
        TokenizerError: Missing, corrupt or of an unknown kind.
    """
    if path.is_dir():
        return read_tokenizer(_in_folder(path))
    if not path.is_file():
        raise TokenizerError(f"no tokenizer at {path}", allowed=ALLOWED)
    if path.name in ("merges.txt", "vocab.json"):
        return _read_byte_bpe(path.with_name("vocab.json"), path.with_name("merges.txt"))
    if path.suffix == ".model":
        return load_sentencepiece(path)
    if path.suffix == ".json":
        return parse_tokenizer_json(_text(path), str(path))
    raise TokenizerError(f"{path} is no tokenizer file that edgelm knows", allowed=ALLOWED)


def parse_tokenizer_json(text: str, name: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` text; truncation and padding are switched off.

    Raises:
        TokenizerError: It is no JSON, or no tokenizer.
    """
    parsed = _json(text, name)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):
        raise TokenizerError(f"{name} has no model section: it is no tokenizer.json", allowed=ALLOWED)
    if parsed["model"].get("type") == "BPE":
        _check_merges(parsed["model"], name)
    with library_errors(name):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.encode(PROBE)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _in_folder(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            return folder / name
    sentencepieces = sorted(folder.glob("*.model"))
    if len(sentencepieces) == 1:
        return sentencepieces[0]
    if sentencepieces:
        names = ", ".join(file.name for file in sentencepieces)
        raise TokenizerError(f"{folder} holds several tokenizers: {names}", fix=f"name one: {sentencepieces[0]}")
    raise TokenizerError(f"no tokenizer in {folder}", allowed=ALLOWED)


def _read_byte_bpe(vocabulary_file: Path, merges_file: Path) -> Tokenizer:
    """GPT-2's pair of files: a JSON map piece -> id, and one merge a line."""
    for file, other in ((vocabulary_file, merges_file), (merges_file, vocabulary_file)):
        if not file.is_file():
            raise TokenizerError(f"{file} is missing: {other.name} needs it", allowed=ALLOWED)
    vocabulary = _json(_text(vocabulary_file), str(vocabulary_file))
    if not isinstance(vocabulary, dict) or not all(type(i) is int for i in vocabulary.values()):
        raise TokenizerError(f"{vocabulary_file} is no map from piece to id", allowed='{"the": 1169, ...}')
    lines = _text(merges_file).split("\n")
    merges = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    _check_merges({"vocab": vocabulary, "merges": merges}, str(merges_file))
    with library_errors(str(merges_file)):
        tokenizer = Tokenizer(models.BPE(vocabulary, [(left, right) for left, right in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(name, special=True, normalized=False) for name in BYTE_LEVEL_SPECIALS if name in vocabulary]
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _check_merges(model: dict[str, Any], name: str) -> None:
    """Every merge is two pieces that give a third; the library panics where they don't."""
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise TokenizerError(f"{name}: its BPE model has no vocabulary or no merges", allowed=ALLOWED)
    prefix = len(model.get("continuing_subword_prefix") or "")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(piece, str) for piece in pair):
            raise TokenizerError(f"{name}: the merge {merge!r} is no pair of pieces", allowed="two pieces a merge")
        missing = next((piece for piece in (*pair, pair[0] + pair[1][prefix:]) if piece not in vocabulary), None)
        if missing is not None:
            raise TokenizerError(f"{name}: the merge {' '.join(pair)!r} needs {missing!r}, which is not in the vocabulary")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: byte {error.start}", allowed="UTF-8 text") from error
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from error


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TokenizerError(f"{name} is no JSON: {error}", allowed=ALLOWED) from error
