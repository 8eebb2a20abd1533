"""Text corpora: files of documents, split into train, valid and test, read as a stream.

A document is a list of lines (the turns of a dialogue, the paragraphs of a text). As tokens a document is one sequence with a
boundary token before, between and after its lines, so that a model carries its state through the whole document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import CorpusError, TokenizerError
from edgelm.text.tokenizer import Tokenizer

Split = Literal["train", "valid", "test"]
Layout = Literal["blocks", "lines", "text"]

SPLIT_FILES: Mapping[str, tuple[str, ...]] = {
    "train": ("train.txt",),
    "valid": ("valid.txt", "dev.txt", "validation.txt"),
    "test": ("test.txt",),
}
HELD_OUT_SHARE = 0.05
"""Share of the documents that valid, and again test, get when the files define no such split."""
LINES_A_CHUNK = 64
DOCUMENTS_A_BATCH = 256


@dataclass(frozen=True)
class Corpus:
    """Documents on disk.

    Attributes:
        path: What was opened.
        layout: `blocks` (a document is the lines between blank lines), `lines` (every line is a document) or `text` (64 lines after
            another are a document and blank lines are kept: running text for character models).
        ranges: Split -> (files, first document, end) of the documents that belong to it.
    """

    path: Path
    layout: Layout
    ranges: Mapping[str, tuple[tuple[Path, ...], int, int]]

    @classmethod
    def open(cls, path: Path | str, layout: Layout | None = None) -> Corpus:
        """Opens a text file, or a folder with train.txt, valid.txt (or dev.txt) and test.txt, or a folder of other .txt files.

        Every file is read once to check it. Splits that the files don't define are cut off by position: the last 5 % of the
        documents are test, the 5 % before them valid. Files with an upper-case name (LICENSE.txt) are about the corpus, not of it.

        Args:
            path: File or folder.
            layout: See the class; None takes `blocks` if there are blank lines between the lines, otherwise `lines`.

        Raises:
            CorpusError: Missing, empty, not UTF-8 (with the byte offset), or with too few documents to be split.
        """
        path = Path(path)
        given = _split_files(path)
        layout = layout or _detect_layout([file for files in given.values() for file in files])
        counts = {split: sum(1 for _ in _documents(files, layout)) for split, files in given.items()}
        for split, count in counts.items():
            if not count:
                raise CorpusError(f"{' and '.join(map(str, given[split]))}: there is no text", allowed="UTF-8 text, one utterance a line")
        ranges = {split: (files, 0, counts[split]) for split, files in given.items() if split != "all"}
        divided = "all" if "all" in given else "train"
        if divided in given:
            missing = [split for split in ("valid", "test") if split not in given]
            ranges |= _divide(path, given[divided], counts[divided], missing)
        return cls(path, layout, ranges)

    def documents(self, split: Split) -> Iterator[list[str]]:
        """The documents of a split, in the order of the files.

        Raises:
            CorpusError: The corpus has no such split.
        """
        files, first, end = self._range(split)
        return islice(_documents(files, self.layout), first, end)

    def lines(self, split: Split) -> Iterator[str]:
        """The lines of all documents of a split: what a tokenizer is trained on."""
        return (line for document in self.documents(split) for line in document)

    def count(self, split: Split) -> int:
        """Number of documents of a split."""
        _, first, end = self._range(split)
        return end - first

    def _range(self, split: Split) -> tuple[tuple[Path, ...], int, int]:
        if split not in self.ranges:
            raise CorpusError(f"{self.path} has no {split} split", allowed=", ".join(self.ranges), fix=f"add {SPLIT_FILES[split][0]}")
        return self.ranges[split]


def encode_documents(documents: Iterable[list[str]], tokenizer: Tokenizer) -> Iterator[NDArray[np.int32]]:
    """Documents as ids: a boundary before, between and after the lines (the first one is the start token where there is one).

    Yields:
        int32 arrays of shape (1 + sum(len(line) + 1),), at least 2 long.

    Raises:
        TokenizerError: The tokenizer has no token that can stand between lines.
    """
    start, boundary = boundary_tokens(tokenizer)
    remaining = iter(documents)
    while batch := list(islice(remaining, DOCUMENTS_A_BATCH)):
        encoded = iter(tokenizer.encode_batch([line for document in batch for line in document]))
        for document in batch:
            ids = [start]
            for line_ids in islice(encoded, len(document)):
                ids += [*line_ids, boundary]
            yield np.array(ids, np.int32)


def token_documents(corpus: Corpus, tokenizer: Tokenizer, split: Split, limit_tokens: int | None = None) -> Iterator[NDArray[np.int32]]:
    """`encode_documents` of a split, up to the document that would exceed `limit_tokens` (one document at least)."""
    total = 0
    for ids in encode_documents(corpus.documents(split), tokenizer):
        total += len(ids)
        if limit_tokens is not None and limit_tokens < total > len(ids):
            return
        yield ids


def boundary_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens before a document and after each of its lines.

    Raises:
        TokenizerError: The tokenizer has no token that can stand between lines.
    """
    if tokenizer.boundary_id is None or tokenizer.start_id is None:
        raise TokenizerError(
            "the tokenizer has no token that can stand between lines", allowed="</s>, <|endoftext|>, <eos> or [SEP] in the vocabulary"
        )
    return tokenizer.start_id, tokenizer.boundary_id


def _split_files(path: Path) -> dict[str, tuple[Path, ...]]:
    """Split -> files; `all` when the files don't tell the splits apart."""
    if path.is_file():
        return {"all": (path,)}
    if not path.is_dir():
        raise CorpusError(f"no corpus at {path}", allowed="a text file, or a folder with train.txt, valid.txt and test.txt")
    given: dict[str, tuple[Path, ...]] = {}
    for split, names in SPLIT_FILES.items():
        present = next((path / name for name in names if (path / name).is_file()), None)
        if present is not None:
            given[split] = (present,)
    if given:
        return given
    files = tuple(sorted(file for file in path.glob("*.txt") if not file.stem.isupper()))
    if not files:
        raise CorpusError(f"{path} holds no .txt files", allowed="train.txt, valid.txt and test.txt, or other .txt files")
    return {"all": files}


def _divide(path: Path, files: tuple[Path, ...], count: int, missing: Sequence[str]) -> dict[str, tuple[tuple[Path, ...], int, int]]:
    """Cuts the splits that are missing off the end of the documents."""
    held_out = max(1, round(HELD_OUT_SHARE * count))
    end = count - held_out * len(missing)
    if end < 1:
        raise CorpusError(
            f"{path} has {count} documents: too few to set aside {' and '.join(missing)}",
            allowed=f"at least {len(missing) + 1} documents (blocks separated by blank lines, or lines)",
            fix="give a folder with train.txt, valid.txt and test.txt",
        )
    ranges = {"train": (files, 0, end)}
    for split in missing:
        ranges[split] = (files, end, end + held_out)
        end += held_out
    return ranges


def _detect_layout(files: Sequence[Path]) -> Layout:
    """`blocks` as soon as a line of text follows a blank line that follows a line of text."""
    for file in files:
        seen_text = seen_gap = False
        for line in _lines(file):
            if not line.strip():
                seen_gap = seen_text
            elif seen_gap:
                return "blocks"
            else:
                seen_text = True
    return "lines"


def _documents(files: Sequence[Path], layout: Layout) -> Iterator[list[str]]:
    for file in files:
        lines = _lines(file)
        if layout == "lines":
            yield from ([line] for line in lines if line.strip())
        elif layout == "text":
            while chunk := list(islice(lines, LINES_A_CHUNK)):
                yield chunk
        else:
            yield from _blocks(lines)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _lines(file: Path) -> Iterator[str]:
    """Lines without their ends; a byte order mark is dropped.

    Raises:
        CorpusError: Unreadable, or not UTF-8.
    """
    offset = 0
    try:
        with file.open("rb") as stream:
            for raw in stream:
                line = raw.decode("utf-8")
                yield (line.removeprefix("\ufeff") if offset == 0 else line).rstrip("\r\n")
                offset += len(raw)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file} is not UTF-8: byte {offset + error.start} is 0x{error.object[error.start]:02x}",
            allowed="UTF-8 text",
            fix=f"iconv -f WINDOWS-1252 -t UTF-8 {file.name} > utf8.txt",
        ) from error
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror}") from error
