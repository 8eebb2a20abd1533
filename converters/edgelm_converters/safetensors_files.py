"""Safetensors files read as data: a checked header, memory-mapped tensors, bfloat16 among them.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's size, a JSON header that names dtype, shape and place of
each tensor, then the tensors, little-endian, row by row, without gaps. A large model is cut into shards, and
`model.safetensors.index.json` says which shard holds which tensor.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from ml_dtypes import bfloat16

from edgelm.errors import SourceError
from edgelm.spec import FloatArray

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

MAX_HEADER_BYTES = 1 << 24
"""Room for some 150,000 tensors. (The library takes 100 MB; parsed, JSON of that size can fill gigabytes.)"""

SIZES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Dtype of the format -> bytes of a value."""

FLOATS: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(bfloat16)}
"""Dtype that weights are read from -> numpy's."""

_DAMAGED = "download or save the file again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        file: Where it is.
        dtype: Its name in the format, such as `BF16`.
        shape: As stored.
        start: Its first byte, counted from the beginning of the file.
        data: The whole file, mapped; None for an empty one.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    data: mmap.mmap

    def read(self) -> FloatArray:
        """The values, mapped and read-only: float32, float16, or bfloat16 (`ml_dtypes`), which numpy widens like float16.

        Raises:
            SourceError: They are no floats of 16 or 32 bits.
        """
        if self.dtype not in FLOATS:
            raise SourceError(f"{self.file}: a weight of dtype {self.dtype} cannot be read", allowed=", ".join(FLOATS))
        return np.frombuffer(self.data, FLOATS[self.dtype], math.prod(self.shape), self.start).reshape(self.shape)


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder: those of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.

    Nothing but headers is read; weights stay on disk until `StoredTensor.read`.

    Raises:
        SourceError: A file is missing, truncated or damaged, a shard lies outside of the folder, or lacks a tensor of the index.

    Example:
        >>> read_tensors(Path("SmolLM2-135M"))["model.norm.weight"].shape
        (576,)
    """
    if not (folder / INDEX).is_file():
        return read_header(folder / WEIGHTS)
    placed = _weight_map(folder / INDEX)
    shards = {name: read_header(folder / name) for name in sorted(set(placed.values()))}
    for tensor, shard in placed.items():
        if tensor not in shards[shard]:
            raise SourceError(f"{folder / shard} has no tensor {tensor}, which {INDEX} places there", fix=_DAMAGED)
    return {tensor: shards[shard][tensor] for tensor, shard in placed.items()}


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file name of its shard, every one within the folder and there."""
    placed = read_json(path).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise SourceError(f"{path} has no weight_map from tensor to file", allowed='{"weight_map": {"TENSOR": "FILE", ...}}', fix=_DAMAGED)
    for name in sorted(set(placed.values())):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name or not place.parts:
            raise SourceError(f"{path} names the shard {name!r}, which is not inside the folder", allowed="files beside the index")
        if not (path.parent / name).is_file():
            raise SourceError(f"the shard {name} is missing from {path.parent}", fix="download the folder again, with all its shards")
    return placed


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one table.

    Raises:
        SourceError: Missing, no JSON, or no table.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}", fix=_DAMAGED) from error
    if not isinstance(plain, dict):
        raise SourceError(f"{path} is no table of keys", fix=_DAMAGED)
    return plain


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, with every place in it checked.

    Raises:
        SourceError: Missing, truncated, or its header is no header: too large, no JSON, an unknown dtype, places that overlap, leave gaps
            or do not fit their shapes.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header, begin = _header(path, file, size)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    tensors: dict[str, StoredTensor] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (first, last) = _entry(path, name, entry)
        places.append((first, last, name))
        tensors[name] = StoredTensor(path, dtype, shape, begin + first, data)
    _check_places(path, places, size - begin)
    return tensors


def _header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header's table, and where the data begins."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise _damaged(path, f"the file has {size:,} bytes, its header alone is said to have {length:,}")
    if length > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header is said to have {length:,} bytes (at most {MAX_HEADER_BYTES:,} are allowed)")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table of tensors")
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands there twice")
    return table


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Dtype, shape and place of a tensor, which has to be as long as its shape says."""
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"tensor {name} has no dtype, shape and data_offsets") from error
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise _damaged(path, f"tensor {name} has dtype {dtype!r}, which is none of {', '.join(SIZES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name} has shape {shape!r} at {offsets!r}: these are no sizes")
    if offsets[1] - offsets[0] != math.prod(shape) * SIZES[dtype]:
        raise _damaged(path, f"tensor {name} ({dtype}, {shape}) takes {math.prod(shape) * SIZES[dtype]:,} bytes, its place is {offsets}")
    return dtype, tuple(shape), (offsets[0], offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 8 and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _check_places(path: Path, places: list[tuple[int, int, str]], available: int) -> None:
    """Tensors follow each other without overlaps and gaps, up to the end of the file."""
    end = 0
    for first, last, name in sorted(places):
        if first != end:
            raise _damaged(path, f"tensor {name} begins at byte {first:,} of the data, the one before it ends at {end:,}")
        end = last
    if end != available:
        raise _damaged(path, f"its tensors take {end:,} bytes, the file holds {available:,}")


def _damaged(path: Path, why: str) -> SourceError:
    return SourceError(f"{path} is truncated or no safetensors file: {why}", fix=_DAMAGED)
