"""10,000 lines in three languages: the tokenizer.json of an artifact gives the ids and the texts of the library a file comes from."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as RawTokenizer

from edgelm.text.tokenizer import Tokenizer
from edgelm.text.tokenizer_kinds import BYTE_CHARACTERS

pytestmark = [pytest.mark.slow, pytest.mark.data]
CORPORA = (
    "ud_german_gsd/dev", "ud_german_gsd/test", "ud_chinese_gsdsimp/dev", "ud_chinese_gsdsimp/test", "wikitext2/test", "sgd_dialogues/test",
)  # fmt: skip
BYTES = {character: byte for byte, character in BYTE_CHARACTERS.items()}


@dataclass(frozen=True)
class Original:
    """A tokenizer file and the library it comes from."""

    path: Path
    encode: Callable[[list[str]], list[list[int]]]
    decode: Callable[[list[int]], str]


@pytest.fixture(scope="module")
def lines(data_folder: Path) -> list[str]:
    texts = [(data_folder / "corpora" / f"{name}.txt").read_text("utf-8") for name in CORPORA]
    found = [line for text in texts for line in text.split("\n") if line.strip()][:10_000]
    assert len(found) == 10_000
    return found


def hugging_face(data: Path, name: str) -> Original:
    path = data / "tokenizers" / name / "tokenizer.json"
    raw = RawTokenizer.from_file(str(path))
    return Original(
        path,
        lambda texts: [encoding.ids for encoding in raw.encode_batch(texts, add_special_tokens=False)],
        lambda ids: str(raw.decode(ids)),
    )


def gpt2(data: Path, tmp: Path) -> Original:
    """GPT-2's own algorithm (encoder.py of its release), the words cut by its own regular expression."""
    regex = pytest.importorskip("regex")
    folder = data / "tokenizers" / "gpt2_bpe"
    ids = json.loads((folder / "vocab.json").read_text("utf-8"))
    merges = (folder / "merges.txt").read_text("utf-8").split("\n")[1:]
    ranks = {tuple(merge.split()): i for i, merge in enumerate(merges) if merge}
    texts = {i: bytes(BYTES[character] for character in token) for token, i in ids.items()}
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    known: dict[str, list[int]] = {}

    def word(text: str) -> list[int]:
        parts = [BYTE_CHARACTERS[byte] for byte in text.encode()]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] = joined[-1] + part
                else:
                    joined.append(part)
            parts = joined
        return [ids[part] for part in parts]

    def encode(lines: list[str]) -> list[list[int]]:
        found = [pattern.findall(line) for line in lines]
        known.update({text: word(text) for text in {text for line in found for text in line} - known.keys()})
        return [[i for text in line for i in known[text]] for line in found]

    return Original(folder, encode, lambda line: b"".join(texts[i] for i in line).decode())


def sentencepiece_file(path: Path) -> Original:
    processor = sentencepiece.SentencePieceProcessor(str(path))
    unknown = processor.unk_id()
    return Original(path, processor.Encode, lambda ids: str(processor.Decode([i for i in ids if i != unknown])))


def trained_sentencepiece(data: Path, tmp: Path, **options: object) -> Original:
    texts = [(data / "corpora" / f"{name}.txt").read_text("utf-8").split("\n") for name in CORPORA[:3]]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(line for text in texts for line in text), model_writer=written, minloglevel=2, num_threads=1,
        hard_vocab_limit=False, character_coverage=0.99, vocab_size=3000, **options,
    )  # fmt: skip
    (tmp / "trained.model").write_bytes(written.getvalue())
    return sentencepiece_file(tmp / "trained.model")


def bert(data: Path, tmp: Path, name: str, lower: bool) -> Original:
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    path = vocabulary = data / "tokenizers" / "wordpiece_vocab_txt" / name
    if vocabulary.read_text("utf-8").startswith("{"):  # transformers reads a token a line only
        ids = json.loads(vocabulary.read_text("utf-8"))
        vocabulary = tmp / "vocab.txt"
        vocabulary.write_text("\n".join(sorted(ids, key=ids.__getitem__)), "utf-8")
    slow = legacy.BertTokenizerLegacy(str(vocabulary), do_lower_case=lower)
    return Original(
        path,
        lambda texts: [slow.convert_tokens_to_ids(slow.tokenize(text)) for text in texts],
        lambda ids: str(slow.decode(ids, skip_special_tokens=True)),
    )


def keras(data: Path, tmp: Path, **options: object) -> Original:
    text = pytest.importorskip("tf_keras.preprocessing.text")
    fitted = text.Tokenizer(**options)
    fitted.fit_on_texts([line for name in CORPORA for line in (data / "corpora" / f"{name}.txt").read_text("utf-8").split("\n")[:500]])
    (tmp / "keras.json").write_text(fitted.to_json(), "utf-8")
    unknown = fitted.word_index.get(fitted.oov_token)

    def decode(ids: list[int]) -> str:
        words = [fitted.index_word[i] for i in ids if i != unknown]
        return "".join(words) if fitted.char_level else str(fitted.sequences_to_texts([[fitted.word_index[word] for word in words]])[0])

    return Original(tmp / "keras.json", fitted.texts_to_sequences, decode)


def tiktoken(data: Path, tmp: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Original:
    """GPT-2's first 5,000 ranks under the words of another encoding; nothing is downloaded."""
    library, public = pytest.importorskip("tiktoken"), pytest.importorskip("tiktoken_ext.openai_public")
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(public, loader, lambda *_, **__: {})
    vocabulary = json.loads((data / "tokenizers" / "gpt2_bpe" / "vocab.json").read_text("utf-8"))
    ranks = {bytes(BYTES[character] for character in token): i for token, i in vocabulary.items() if i < 5_000}
    encoding = library.Encoding(name, pat_str=public.ENCODING_CONSTRUCTORS[name]()["pat_str"], mergeable_ranks=ranks, special_tokens={})
    path = tmp / f"{name}.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    return Original(path, encoding.encode_ordinary_batch, encoding.decode)


def word_list(data: Path, tmp: Path) -> Original:
    """What the lines of a vocab.txt mean: the number of the line of each word between white space."""
    found = {word for name in CORPORA for word in (data / "corpora" / f"{name}.txt").read_text("utf-8").split()[:3_000]}
    tokens = ["<unk>", "</s>", *sorted(found - {"<unk>", "</s>"})]
    (tmp / "vocab.txt").write_text("\n".join(tokens), "utf-8")
    ids = {token: i for i, token in enumerate(tokens)}
    return Original(
        tmp / "vocab.txt",
        lambda texts: [[ids.get(word, 0) for word in text.split()] for text in texts],
        lambda line: " ".join(tokens[i] for i in line if i > 1),
    )


def character_list(data: Path, tmp: Path) -> Original:
    """nanoGPT's characters: sorted, no unknown one."""
    found = sorted({character for name in CORPORA for character in (data / "corpora" / f"{name}.txt").read_text("utf-8")})
    (tmp / "chars.txt").write_text("\n".join(found), "utf-8")
    ids = {character: i for i, character in enumerate(found)}
    return Original(
        tmp / "chars.txt",
        lambda texts: [[ids[character] for character in text] for text in texts],
        lambda line: "".join(found[i] for i in line),
    )


CASES: dict[str, Callable[[Path, Path, pytest.MonkeyPatch], Original]] = {
    "gpt2 vocab.json and merges.txt": lambda data, tmp, _: gpt2(data, tmp),
    "phi-2 tokenizer.json": lambda data, *_: hugging_face(data, "phi2_bytelevel_bpe_json"),
    "t5 tokenizer.json": lambda data, *_: hugging_face(data, "t5_small_unigram_json"),
    "sentencepiece unigram": lambda data, *_: sentencepiece_file(data / "tokenizers/spm_unigram_small/test_model.model"),
    "sentencepiece Japanese": lambda data, *_: sentencepiece_file(data / "tokenizers/spm_unigram_small/test_ja_model.model"),
    "sentencepiece tok105": lambda data, *_: sentencepiece_file(data / "tokenizers/tinystories_tok105/tok105.model"),
    "sentencepiece unigram with bytes": lambda data, tmp, _: trained_sentencepiece(data, tmp, model_type="unigram", byte_fallback=True),
    "sentencepiece bpe with bytes": lambda data, tmp, _: trained_sentencepiece(
        data, tmp, model_type="bpe", byte_fallback=True, normalization_rule_name="identity", user_defined_symbols=["@-@", "<sep>"]
    ),
    "sentencepiece char": lambda data, tmp, _: trained_sentencepiece(data, tmp, model_type="char"),
    "bert vocab.txt": lambda data, tmp, _: bert(data, tmp, "bert_base_cased_vocab.txt", lower=False),
    "bert json map": lambda data, tmp, _: bert(data, tmp, "hfbert_vocab.txt", lower=True),
    "keras words": lambda data, tmp, _: keras(data, tmp),
    "keras words with oov": lambda data, tmp, _: keras(data, tmp, oov_token="<OOV>", num_words=1_000),
    "keras characters": lambda data, tmp, _: keras(data, tmp, char_level=True, oov_token="<OOV>"),
    "tiktoken gpt2": lambda data, tmp, patch: tiktoken(data, tmp, "gpt2", patch),
    "tiktoken cl100k": lambda data, tmp, patch: tiktoken(data, tmp, "cl100k_base", patch),
    "tiktoken o200k": lambda data, tmp, patch: tiktoken(data, tmp, "o200k_base", patch),
    "words of a vocab.txt": lambda data, tmp, _: word_list(data, tmp),
    "characters of a list": lambda data, tmp, _: character_list(data, tmp),
}


@pytest.mark.parametrize("case", CASES)
def test_ids_and_texts_are_the_originals(
    case: str, data_folder: Path, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CASES[case](data_folder, tmp_path, monkeypatch)
    tokenizer = Tokenizer.from_json(Tokenizer.load(original.path).to_json())
    wanted = original.encode(lines)
    assert different(lines, tokenizer.encode_batch(lines), wanted) == []
    texts = [original.decode([i for i in ids if i != tokenizer.unknown_id]) for ids in wanted]
    assert different(lines, [tokenizer.decode(ids) for ids in wanted], texts) == []
    assert tokenizer.vocab_size > max(map(max, filter(None, wanted)))


def different(lines: list[str], ours: Sequence[object], theirs: Sequence[object]) -> list[tuple[str, object, object]]:
    """The first lines that differ: a message of a readable length."""
    return [case for case in zip(lines, ours, theirs, strict=True) if case[1] != case[2]][:3]
