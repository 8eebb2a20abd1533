"""tiktoken's files of ranks as `tokenizers` objects with the same ids.

A line is a token in base64 and its rank, which is its id and its place in the order of the merges. How a text is cut into words and
which special tokens there are is not in the file: tiktoken keeps both in its code, under the name of the encoding.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models

from edgelm.errors import TokenizerError
from edgelm.text.added_tokens import CONFIG
from edgelm.text.byte_bpe_files import QWEN_PATTERN, pattern_splitter
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import LONGEST_PIECE, check_ids, read_bytes, read_settings
from edgelm.text.tokenizer_kinds import BYTE_CHARACTERS

RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?(\n|\Z)")
_WORD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CLITIC = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END_OF_WORDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# tiktoken's own patterns in the syntax of Oniguruma: the end of the text is \z, and {1,3}+ would repeat where Rust's is possessive
R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++\z|\s+(?!\S)|\s"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|\s+(?!\S)|\s"
O200K = (
    rf"{_WORD}{_UPPER}*{_LOWER}+{_CLITIC}?|{_WORD}{_UPPER}+{_LOWER}*{_CLITIC}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END_OF_WORDS}"
)
LLAMA3 = rf"{_CLITIC}|{_WORD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END_OF_WORDS}"


@dataclass(frozen=True)
class Encoding:
    """What tiktoken's code knows about a file of ranks.

    Attributes:
        pattern: How a text is cut into words, in the syntax of Oniguruma.
        ranks: Number of tokens of the published file; 0 for a pattern that is given with the file.
        specials: Special token -> id in the published encoding.
    """

    pattern: str
    ranks: int = 0
    specials: Mapping[str, int] = field(default_factory=dict)


_LLAMA3_NAMES = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|reserved_special_token_2|>", "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|reserved_special_token_4|>", "<|eot_id|>", *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
)  # fmt: skip
_QWEN_NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_END = "<|endoftext|>"

ENCODINGS: Mapping[str, Encoding] = {
    "gpt2": Encoding(R50K, 50256, {_END: 50256}),
    "r50k_base": Encoding(R50K, 50256, {_END: 50256}),
    "p50k_base": Encoding(R50K, 50280, {_END: 50256}),
    "p50k_edit": Encoding(R50K, 50280, {_END: 50256, **{name: 50281 + i for i, name in enumerate(_FIM)}}),
    "cl100k_base": Encoding(CL100K, 100256, {_END: 100257, **{name: 100258 + i for i, name in enumerate(_FIM)}, "<|endofprompt|>": 100276}),
    "o200k_base": Encoding(O200K, 199998, {_END: 199999, "<|endofprompt|>": 200018}),
    "llama3": Encoding(LLAMA3, 128000, {name: 128000 + i for i, name in enumerate(_LLAMA3_NAMES)}),
    "qwen": Encoding(QWEN_PATTERN, 151643, {name: 151643 + i for i, name in enumerate(_QWEN_NAMES)}),
}
"""The published encodings; the special tokens are theirs only together with all of their ranks."""


def is_tiktoken(content: bytes) -> bool:
    """Whether a file begins like a file of ranks (Llama 3 calls its own `tokenizer.model`)."""
    return RANK_LINE.match(content) is not None


def read_tiktoken(path: Path) -> Tokenizer:
    """A `tokenizers.Tokenizer` that gives the same ids as `tiktoken.Encoding` with these ranks.

    The encoding is the one that `tokenizer_config.json` beside the file names (`encoding`) or spells out (`pattern`), or the one in
    the file's name, or the published one with as many ranks. Special tokens of a cut or own file come from `added_tokens_decoder` of
    tokenizer_config.json.

    Raises:
        TokenizerError: A line is no token and rank, a byte has no token, or nothing says how words are cut.
    """
    ranks = parse_ranks(read_bytes(path), str(path))
    encoding = _encoding(path, read_settings(path.with_name(CONFIG)), len(ranks))
    vocabulary, merges = to_merges(ranks)
    specials = encoding.specials if encoding.ranks == len(ranks) else {}
    with library_errors(str(path)):
        tokenizer = Tokenizer(models.BPE({**vocabulary, **specials}, merges, ignore_merges=True))
        tokenizer.pre_tokenizer = pattern_splitter(encoding.pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def parse_ranks(content: bytes, name: str) -> dict[bytes, int]:
    """Token -> rank of the lines of a file.

    Raises:
        TokenizerError: A line is no token and rank, a token or rank comes twice, or one of the 256 bytes has no token.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, i = b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f"{name}, line {number}: {line[:40]!r} is no token in base64 and its rank", allowed="IHRoZQ== 262"
            ) from error
        if not token or len(token) > LONGEST_PIECE or token in ranks:
            reason = "comes twice" if token in ranks else f"has {len(token)} bytes"
            raise TokenizerError(f"{name}, line {number}: the token {token[:40]!r} {reason}", allowed=f"1 to {LONGEST_PIECE} bytes, once")
        ranks[token] = i
    check_ids(ranks.values(), name)
    if len(set(ranks.values())) != len(ranks):
        raise TokenizerError(f"{name}: a rank belongs to several tokens", allowed="one token a rank")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(f"{name}: {len(missing)} of the 256 bytes have no token (0x{missing[0]:02x})", allowed="ranks with all bytes")
    return ranks


def to_merges(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in the characters of byte-level BPE.

    tiktoken joins the neighbours whose concatenation has the lowest rank, however it is cut: every cut of a token into two tokens is a
    merge, in the order of the ranks (`TikTokenConverter` of transformers).

    Example:
        >>> to_merges({b"a": 0, b"b": 1, b"ab": 2})
        ({'a': 0, 'b': 1, 'ab': 2}, [('a', 'b')])
    """
    written = {token: "".join(BYTE_CHARACTERS[byte] for byte in token) for token in ranks}
    merges: list[tuple[int, int, int, str, str]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], written[left], written[right]))
    return {written[token]: rank for token, rank in ranks.items()}, [(left, right) for *_, left, right in sorted(merges)]


def _encoding(path: Path, settings: Mapping[str, Any], ranks: int) -> Encoding:
    named = settings.get("encoding")
    if isinstance(named, str) and named in ENCODINGS:
        return ENCODINGS[named]
    pattern = settings.get("pattern")
    if isinstance(pattern, str) and pattern and named is None:
        return Encoding(_checked(pattern, path))
    in_name = [name for name in sorted(ENCODINGS, key=len, reverse=True) if name in path.name]
    as_many = [name for name, encoding in ENCODINGS.items() if encoding.ranks == ranks]
    if named is not None or pattern is not None or not (in_name or as_many):
        raise TokenizerError(
            f"{path} does not say how words are cut" + (f": the encoding {named!r} is not known" if named is not None else ""),
            allowed=", ".join(ENCODINGS),
            fix=f'name one in {path.with_name(CONFIG)}: {{"encoding": "cl100k_base"}}, or in the name of the file',
        )
    return ENCODINGS[(in_name or as_many)[0]]


def _checked(pattern: str, path: Path) -> str:
    """A pattern that reads the same in Rust, where tiktoken runs it, and in Oniguruma.

    Raises:
        TokenizerError: It has possessive counts or the anchors ^ and $.
    """
    found = re.search(r"\{\d*,?\d*\}\+|(?<![\\\[])[$^]", pattern)
    if found:
        raise TokenizerError(
            f"{path.with_name(CONFIG)}: {found[0]!r} in the pattern means something else to the tokenizers library",
            allowed=r"\A and \z for the ends of the text, an atomic group (?>...) for a possessive count",
        )
    return pattern
