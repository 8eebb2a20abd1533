"""GPT-2's pair of files as `tokenizers` objects: vocab.json with merges.txt, under its first names encoder.json with vocab.bpe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgelm.errors import TokenizerError
from edgelm.text.added_tokens import CONFIG
from edgelm.text.library_errors import library_errors
from edgelm.text.reading import check_ids, is_vocabulary, parse_json, read_settings, read_text
from edgelm.text.tokenizer_json import check_merges

PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
SPECIALS = ("<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>")
UNKNOWNS = ("<unk>", "<|endoftext|>")
QWEN_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class ByteLevelRules:
    """What a class of byte-level tokenizers does before the merges.

    Attributes:
        pattern: How a text is cut into words; empty for GPT-2's pattern.
        nfc: Texts are composed first.
    """

    pattern: str = ""
    nfc: bool = False


GPT2_RULES, QWEN_RULES = ByteLevelRules(), ByteLevelRules(QWEN_PATTERN, nfc=True)
CLASSES = {
    **dict.fromkeys(
        ("", "GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer", "LongformerTokenizer"),
        GPT2_RULES,
    ),
    **dict.fromkeys(("LEDTokenizer", "WhisperTokenizer", "BlenderbotTokenizer", "OPTTokenizer"), GPT2_RULES),
    "Qwen2Tokenizer": QWEN_RULES,
    "Qwen3Tokenizer": QWEN_RULES,
}
"""`tokenizer_class` of transformers, without `Fast`, to the rules that the two files don't say."""


def read_byte_bpe(path: Path) -> Tokenizer:
    """A JSON map piece -> id, and one merge a line in the order of their use.

    `tokenizer_config.json` beside them says whose rules cut the text (`tokenizer_class`; GPT-2's without one) and whether a space is
    put before it (`add_prefix_space`).

    Args:
        path: Either file of the pair.

    Raises:
        TokenizerError: One is missing or malformed, the class is no byte-level BPE, or bytes have no piece and there is no unknown token.
    """
    vocabulary_file, merges_file = _pair(path)
    vocabulary = parse_json(read_text(vocabulary_file), str(vocabulary_file))
    if not is_vocabulary(vocabulary):
        raise TokenizerError(f"{vocabulary_file} is no map from piece to id", allowed='{"the": 1169, ...}')
    check_ids(vocabulary.values(), str(vocabulary_file))
    lines = read_text(merges_file).split("\n")
    merges = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    check_merges({"vocab": vocabulary, "merges": merges}, str(merges_file))
    settings = read_settings(path.with_name(CONFIG))
    rules = _rules(str(settings.get("tokenizer_class") or ""), vocabulary, path)
    pairs = [(left, right) for left, right in merges]
    with library_errors(str(merges_file)):
        tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token=_unknown(vocabulary, vocabulary_file)))
    _set_rules(tokenizer, rules, prefix_space=settings.get("add_prefix_space") is True)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS if name in vocabulary])
    return tokenizer


def _pair(path: Path) -> tuple[Path, Path]:
    vocabulary, merges = next(pair for pair in PAIRS.items() if path.name in pair)
    files = path.with_name(vocabulary), path.with_name(merges)
    for file, other in (files, files[::-1]):
        if not file.is_file():
            raise TokenizerError(f"{file} is missing: {other.name} needs it", allowed="both files in one folder, or tokenizer.json")
    return files


def _rules(name: str, vocabulary: dict[str, int], path: Path) -> ByteLevelRules:
    rules = CLASSES.get(name.removesuffix("Fast"))
    ends = [piece for piece in vocabulary if piece.endswith("</w>")]
    if rules is None or ends:
        which = f"the class {name}" if rules is None else f"pieces that end words ({ends[0]!r})"
        raise TokenizerError(
            f"{path.parent}: vocab.json and merges.txt of {which} are no byte-level BPE whose rules edgelm knows",
            allowed=", ".join(known for known in CLASSES if known) + "; any tokenizer.json",
            fix=f"AutoTokenizer.from_pretrained({str(path.parent)!r}).save_pretrained(...) writes its tokenizer.json",
        )
    return rules


def _unknown(vocabulary: dict[str, int], path: Path) -> str | None:
    """The token of bytes without a piece; None where every byte has one."""
    missing = [character for character in pre_tokenizers.ByteLevel.alphabet() if character not in vocabulary]
    unknown = next((name for name in UNKNOWNS if name in vocabulary), None)
    if missing and unknown is None:
        raise TokenizerError(
            f"{path}: {len(missing)} of the 256 bytes have no piece ({sorted(missing)[0]!r}), and there is no unknown token",
            allowed=f"a byte-level vocabulary with all bytes, or with one of {', '.join(UNKNOWNS)}",
        )
    return unknown if missing else None


def _set_rules(tokenizer: Tokenizer, rules: ByteLevelRules, prefix_space: bool) -> None:
    if rules.nfc:
        tokenizer.normalizer = normalizers.NFC()
    if rules.pattern:
        tokenizer.pre_tokenizer = pattern_splitter(rules.pattern)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()


def pattern_splitter(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Words cut by a regular expression of the library's engine (Oniguruma), then written as byte characters."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
