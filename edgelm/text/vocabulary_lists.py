"""Bare vocabularies as `tokenizers` objects: vocab.txt with a token a line, a JSON map from token to id, a list of characters.

They don't say how a text is cut; the tokens and `tokenizer_config.json` beside them do:

| tokens | read as |
|---|---|
| `[UNK]` and pieces with `##` | BERT's WordPiece |
| single characters, beside special tokens | characters |
| words as `edgelm.text.words` cuts them | these words |
| other words (`u.s.`, `end.`) | the text between white space |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgelm.errors import TokenizerError
from edgelm.text.added_tokens import CONFIG
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import check_ids, is_vocabulary, parse_json, read_settings, read_text
from edgelm.text.tokenizer_kinds import BOUNDARIES, STARTS, UNKNOWNS
from edgelm.text.words import word_splitter, words

SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\d*\]")
"""How special tokens of a bare vocabulary are written: <unk>, </s>, <|endoftext|>, [CLS]."""
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_CLASSES = (
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer", "LayoutLMTokenizer",
    "FunnelTokenizer", "RetriBertTokenizer", "SqueezeBertTokenizer",
)  # fmt: skip
BERT_SPACES = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip
"""The spaces that BERT's tokenizer in transformers takes out of a decoded text (`clean_up_tokenization`)."""
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\", "<space>": " ", "<newline>": "\n", "<tab>": "\t"}
"""How characters that cannot be seen are written in a list of characters."""


def read_vocabulary_list(path: Path) -> Tokenizer:
    """The tokenizer of a bare vocabulary: see the table of this module.

    Letters are lowered where no token has an upper-case one (`do_lower_case` of tokenizer_config.json decides where it is there).

    Raises:
        TokenizerError: No tokens, columns beside the tokens, no unknown token among words, or a class that is not BERT's.
    """
    text = read_text(path)
    if not text.lstrip().startswith(("{", "[")) or (tokens := _json_tokens(text, path)) is None:
        tokens = _lines(text, path)
    return convert_vocabulary(tokens, read_settings(path.with_name(CONFIG)), str(path))


def convert_vocabulary(tokens: dict[str, int], settings: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer of a map from token to id.

    Args:
        tokens: Token -> id.
        settings: Of tokenizer_config.json; empty without one.
        name: The file, for the message.

    Raises:
        TokenizerError: See `read_vocabulary_list`.
    """
    if not tokens:
        raise TokenizerError(f"{name} holds no tokens", allowed="one token a line")
    check_ids(tokens.values(), name)
    if len(set(tokens.values())) != len(tokens):
        raise TokenizerError(f"{name}: an id belongs to several tokens", allowed="one token an id")
    class_name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if class_name and class_name not in BERT_CLASSES:
        raise TokenizerError(
            f"{name} is the vocabulary of a {class_name}, whose rules it does not hold",
            allowed=", ".join(BERT_CLASSES) + "; any tokenizer.json",
            fix="save the tokenizer as tokenizer.json (save_pretrained of its fast form)",
        )
    with library_errors(name):
        if class_name or ("[UNK]" in tokens and any(token.startswith("##") for token in tokens)):
            return _wordpiece(tokens, settings, name)
        ordinary = [token for token in tokens if not SPECIAL.fullmatch(token)]
        if ordinary and all(len(token) == 1 for token in ordinary):
            return _with_specials(_characters(tokens), tokens)
        return _with_specials(_words(tokens, ordinary, settings, name), tokens)


def _wordpiece(tokens: dict[str, int], settings: Mapping[str, Any], name: str) -> Tokenizer:
    """BERT's basic tokenizer and WordPiece."""
    unknown = str(settings.get("unk_token") or "[UNK]")
    if unknown not in tokens:
        raise TokenizerError(f"{name} has no {unknown} token", allowed="a WordPiece vocabulary with its unknown token")
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token=unknown))
    strip_accents = settings.get("strip_accents")
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars") is not False,
        strip_accents=strip_accents if isinstance(strip_accents, bool) else None,
        lowercase=_lowers(tokens, settings),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tidy = [decoders.Replace(loose, tight) for loose, tight in BERT_SPACES.items()]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(cleanup=False), decoders.Fuse(), *tidy])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in BERT_SPECIALS if token in tokens])
    return tokenizer


def _characters(tokens: dict[str, int]) -> Tokenizer:
    """A text character by character; those that are not in the list become the unknown token, or are left out without one."""
    unknown = next((token for token in UNKNOWNS if token in tokens), None)
    tokenizer = Tokenizer(models.BPE(tokens, [], unk_token=unknown, fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _words(tokens: dict[str, int], ordinary: list[str], settings: Mapping[str, Any], name: str) -> Tokenizer:
    odd = next((token for token in ordinary if token != token.strip() or len(token.split()) != 1), None)
    if odd is not None:
        raise TokenizerError(
            f"{name}: the token {odd[:60]!r} is no word; is there more than one column?",
            allowed="one token a line and nothing else (cut -f1 keeps the first column)",
        )
    unknown = next((token for token in UNKNOWNS if token in tokens), None)
    if unknown is None:
        raise TokenizerError(f"{name} has no token for words it does not hold", allowed=" or ".join(UNKNOWNS) + " among the tokens")
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token=unknown))
    if _lowers(tokens, settings):
        tokenizer.normalizer = normalizers.Lowercase()
    as_edgelm_cuts = all(words(token) == [(0, len(token))] for token in ordinary)
    tokenizer.pre_tokenizer = word_splitter() if as_edgelm_cuts else pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _with_specials(tokenizer: Tokenizer, tokens: Iterable[str]) -> Tokenizer:
    known = {*UNKNOWNS, *BOUNDARIES, *STARTS}
    special = [token for token in tokens if token in known or (token.startswith("<|") and token.endswith("|>") and len(token) > 4)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _lowers(tokens: Iterable[str], settings: Mapping[str, Any]) -> bool:
    named = settings.get("do_lower_case")
    if isinstance(named, bool):
        return named
    return not any(token != token.lower() for token in tokens if not SPECIAL.fullmatch(token))


def _json_tokens(text: str, path: Path) -> dict[str, int] | None:
    """The tokens of a JSON map or list; None where the text only looks like one (its first token is a bracket)."""
    try:
        parsed = parse_json(text, str(path))
    except TokenizerError:
        if "\n" in text.strip():
            return None
        raise
    if is_vocabulary(parsed):
        return dict(parsed)
    if isinstance(parsed, list) and parsed and all(isinstance(token, str) and token for token in parsed):
        return {token: i for i, token in enumerate(parsed)}
    if "\n" in text.strip():
        return None
    raise TokenizerError(f"{path} is no map from token to id and no list of tokens", allowed='{"[PAD]": 0, "the": 1}; ["a", "b", "c"]')


def _lines(text: str, path: Path) -> dict[str, int]:
    """The tokens of a text and their numbers, from 0; of a token that comes twice the later one, as in BERT's vocab.txt.

    Characters may stand one a line, where the line break itself gives two empty lines, or all on one line, the line break before them.
    """
    body = text.removesuffix("\n")
    if len(set(body)) == len(body) > 2 and "\n" not in body[1:]:
        return {character: i for i, character in enumerate(body)}
    lines = text.split("\n")
    if all(len(ESCAPES.get(line, line)) <= 1 or SPECIAL.fullmatch(line) for line in lines):
        return _character_lines(lines, path)
    if path.suffix == ".vocab" or all("\t" in line for line in lines if line):
        raise TokenizerError(f"{path} has columns beside the tokens", allowed="one token a line; for sentencepiece its .model file")
    return {token: i for i, token in enumerate(lines) if token}


def _character_lines(lines: list[str], path: Path) -> dict[str, int]:
    characters: list[str] = []
    for line in lines:
        if not line and characters and not characters[-1]:
            characters[-1] = "\n"  # written between two line breaks
        else:
            characters.append(ESCAPES.get(line, line))
    if not characters[-1]:
        characters.pop()
    if "" in characters:
        raise TokenizerError(f"{path}, line {characters.index('') + 1} is empty", allowed=f"a character a line; {', '.join(ESCAPES)}")
    return {token: i for i, token in enumerate(characters)}
