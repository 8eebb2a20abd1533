"""The files a tokenizer may come in, read into `tokenizers` objects."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edgelm.errors import TokenizerError
from edgelm.text.added_tokens import read_added_tokens, with_added_tokens
from edgelm.text.byte_bpe_files import PAIRS, read_byte_bpe
from edgelm.text.keras_tokenizer import convert_keras_tokenizer, is_keras_tokenizer
from edgelm.text.reading import ALLOWED, is_vocabulary, parse_json, read_bytes, read_text
from edgelm.text.sentencepiece_model import load_sentencepiece
from edgelm.text.tiktoken_files import is_tiktoken, read_tiktoken
from edgelm.text.tokenizer_json import parse_tokenizer_json
from edgelm.text.vocabulary_lists import read_vocabulary_list

FOLDER_NAMES = ("tokenizer.json", *PAIRS)
"""What is taken first of a folder, in this order."""
FOLDER_PATTERNS = ("*.model", "*.tiktoken", "vocab.txt", "chars.txt")
"""Then the only file of the first of these patterns that has one."""


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads whichever tokenizer `path` holds, with the tokens that files beside it add.

    Raises:
        TokenizerError: Missing, corrupt or of an unknown kind.
    """
    if path.is_dir():
        found = tokenizer_in(path)
        if found is None:
            raise TokenizerError(f"no tokenizer in {path}", allowed=ALLOWED)
        return read_tokenizer(found)
    if not path.is_file():
        raise TokenizerError(f"no tokenizer at {path}", allowed=ALLOWED)
    return with_added_tokens(_read_file(path), read_added_tokens(path.parent), str(path))


def _read_file(path: Path) -> Tokenizer:
    if path.name in PAIRS or path.name in PAIRS.values():
        return read_byte_bpe(path)
    if path.suffix == ".model":
        return read_tiktoken(path) if is_tiktoken(read_bytes(path)) else load_sentencepiece(path)
    if path.suffix == ".tiktoken":
        return read_tiktoken(path)
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix in (".txt", ".vocab"):
        return read_vocabulary_list(path)
    raise TokenizerError(f"{path} is no tokenizer file that edgelm knows", allowed=ALLOWED)


def _read_json(path: Path) -> Tokenizer:
    """A tokenizer.json, the to_json of a Keras Tokenizer (also as a JSON string, as `json.dump` writes it), or a bare vocabulary."""
    text = read_text(path)
    parsed = parse_json(text, str(path))
    if isinstance(parsed, str):
        text, parsed = parsed, parse_json(parsed, str(path))
    if is_keras_tokenizer(parsed):
        return convert_keras_tokenizer(parsed, str(path))
    if isinstance(parsed, list) or (is_vocabulary(parsed) and 0 in parsed.values()):
        return read_vocabulary_list(path)
    return parse_tokenizer_json(text, str(path), parsed)


def tokenizer_in(folder: Path) -> Path | None:
    """The tokenizer file of a folder; None where there is none.

    Raises:
        TokenizerError: There are several, and none has a name that says which.
    """
    for name in FOLDER_NAMES:
        if (folder / name).is_file():
            return folder / name
    for pattern in FOLDER_PATTERNS:
        files = sorted(folder.glob(pattern))
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(file.name for file in files)
            raise TokenizerError(f"{folder} holds several tokenizers: {names}", fix=f"name one: --tokenizer {files[0]}")
    return None
