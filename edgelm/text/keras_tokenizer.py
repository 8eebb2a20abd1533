"""The `to_json` of a Keras `Tokenizer` (keras.preprocessing.text) as `tokenizers` objects with the same ids.

Keras lowers the text, writes the split string for every character of `filters`, cuts at the split string and looks the words up; index 0
is reserved and no word has it. Words that are not known, or whose index is not below `num_words`, become `oov_token`, or are left out
where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgelm.errors import TokenizerError
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import check_ids, is_vocabulary, parse_json
from edgelm.text.tokenizer_kinds import SPACE

FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}*\KΣ(?!\p{Case_Ignorable}*\p{Cased})"
"""Where Python's `lower` writes ς: Σ behind a letter and before none (Unicode, SpecialCasing.txt)."""


def is_keras_tokenizer(parsed: Any) -> bool:
    """Whether a JSON value is what `Tokenizer.to_json` writes."""
    return isinstance(parsed, dict) and parsed.get("class_name") == "Tokenizer" and isinstance(parsed.get("config"), dict)


def convert_keras_tokenizer(parsed: Mapping[str, Any], name: str) -> Tokenizer:
    """A `tokenizers.Tokenizer` that gives the ids of `texts_to_sequences`.

    Without `oov_token` the words are written as `▁word` and looked up whole by a BPE model without merges: it leaves out what it does
    not know, which a WordLevel model cannot do.

    Args:
        parsed: The JSON object of `to_json`.
        name: The file, for the message.

    Raises:
        TokenizerError: A field is missing or of another type, or the tokenizer has an analyzer or an empty split string.
    """
    config = parsed["config"]
    words = _words(config, name)
    oov, lower = config.get("oov_token"), config.get("lower", True) is True
    if oov is not None and oov not in words:
        raise TokenizerError(
            f"{name}: the oov_token {str(oov)[:40]!r} is not in word_index", allowed="a tokenizer fitted with its oov_token"
        )
    if config.get("analyzer"):
        raise TokenizerError(f"{name}: its analyzer is Python code", allowed="Keras tokenizers without an analyzer")
    with library_errors(name):
        if config.get("char_level"):
            return _characters(words, oov, lower)
        return _word_tokenizer(words, oov, lower, _text_field(config, "filters", name), _text_field(config, "split", name) or " ")


def _words(config: Mapping[str, Any], name: str) -> dict[str, int]:
    """The words whose index the model can meet: 1 to `num_words` - 1, and the unknown token's."""
    written = config.get("word_index")
    index = parse_json(written, f"{name}: word_index") if isinstance(written, str) else written
    if index is None or not is_vocabulary(index):
        raise TokenizerError(f"{name}: word_index is no map from word to index", allowed="a Keras Tokenizer after fit_on_texts")
    check_ids(index.values(), name)
    limit = config.get("num_words")
    if limit is not None and type(limit) is not int:
        raise TokenizerError(f"{name}: num_words is {str(limit)[:40]!r}", allowed="an integer or null")
    if 0 in index.values() or len(set(index.values())) != len(index):
        raise TokenizerError(f"{name}: word_index gives an index twice, or the reserved index 0", allowed="indices from 1, one a word")
    return {word: i for word, i in index.items() if not limit or i < limit or word == config.get("oov_token")}


def _text_field(config: Mapping[str, Any], key: str, name: str) -> str:
    value = config.get(key, "")
    if not isinstance(value, str) or (key == "split" and key in config and not value):
        raise TokenizerError(f"{name}: {key} is {str(value)[:40]!r}", allowed="characters")
    return value


def _characters(words: dict[str, int], oov: str | None, lower: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(words, [], unk_token=oov, fuse_unk=False))
    if lower:
        tokenizer.normalizer = normalizers.Sequence(_lowering())
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _word_tokenizer(words: dict[str, int], oov: str | None, lower: bool, filters: str, split: str) -> Tokenizer:
    steps = _lowering() if lower else []
    if filters:
        steps.append(normalizers.Replace(Regex("|".join(f"\\x{{{ord(character):x}}}" for character in dict.fromkeys(filters))), split))
    if oov is not None:
        tokenizer = Tokenizer(models.WordLevel(words, unk_token=oov))
    else:
        tokenizer = Tokenizer(models.BPE({SPACE + word: i for word, i in words.items()}, [], ignore_merges=True))
        steps += [normalizers.Replace(split, split + SPACE), normalizers.Prepend(SPACE)]
        tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(split, behavior="removed")
    return tokenizer


def _lowering() -> list[normalizers.Normalizer]:
    """Python's `str.lower`; the library's own lowers letter by letter and knows no final sigma."""
    return [normalizers.Replace(Regex(FINAL_SIGMA), "ς"), normalizers.Lowercase()]
