"""Words: the one segmentation behind every per-word figure.

A word is a run of letters and marks with inner apostrophes, a run of digits, or one other character that is no space. The word-level
tokenizer splits by the same regular expression, so that the figures of word, subword and character models speak of the same words.
"""

from __future__ import annotations

import unicodedata

from tokenizers import Regex, pre_tokenizers

WORD_PATTERN = r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|[^\s\p{L}\p{M}\p{N}]"
"""Oniguruma syntax, the engine of the `tokenizers` library."""


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that keeps the words and drops the spaces between them."""
    return pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)


_SPLITTER = word_splitter()


def words(text: str) -> list[tuple[int, int]]:
    """Where the words of `text` are, as (start, end) in characters.

    Example:
        >>> [text[a:b] for text in ["Don't wait 20min!"] for a, b in words(text)]
        ["Don't", 'wait', '20', 'min', '!']
    """
    return [span for _, span in _SPLITTER.pre_tokenize_str(text)]


def normal_form(word: str) -> str:
    """The form in which words of different models are compared: NFC and lower case."""
    return unicodedata.normalize("NFC", word).lower()
