"""Imports the `.bin` files of llama2.c (https://github.com/karpathy/llama2.c, export.py): a header, then all tensors in a fixed order.

    version 0:  int32 (7,) of sizes; float32: embedding, attention norms, wq, wk, wv, wo, ffn norms, w1, w2, w3, final norm, the cosines
                and sines of the rotary positions, and the head where the vocabulary's size is negative
    version 1:  a header of 256 bytes: "ak42", the version, the sizes, whether the head is tied; float32: attention norms, ffn norms,
                final norm, embedding, wq, wk, wv, wo, w1, w2, w3, head
    version 2:  the same header with the size of a group; float32 norms; all other tensors as int8, then the float32 scales of their
                groups

Rotary positions turn neighbouring columns there, halves of a head here: rows of q and k change places.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import SourceError
from edgelm.model import Imported, LanguageModel, Origin
from edgelm.models import reference
from edgelm.spec import FloatArray, TransformerSpec

FORMAT = "llama2.c"

_MAGIC = struct.pack("<I", 0x616B3432)
_HEADER_BYTES = 256
_OLD_HEADER_BYTES = 28
_LARGEST = 1 << 24  # of any size in a header: 16 million words, columns or positions
_KNOWN = "llama2.c's versions 0, 1 and 2"

_LAYER_ORDER = ("q", "k", "v", "o", "gate", "down", "up")
"""wq, wk, wv, wo, w1, w2, w3."""

_OLD_ORDER = ("embedding", "attention_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up", "final_norm", "cosines", "sines", "head")
_FLOAT_ORDER = ("attention_norm", "ffn_norm", "final_norm", "embedding", *_LAYER_ORDER, "head")
_NORMS = ("attention_norm", "ffn_norm", "final_norm")
_INT8_ORDER = ("embedding", *_LAYER_ORDER, "head")

Tensors = dict[str, NDArray[np.float32]]
"""Tensor -> its values for all layers, (layers, rows, columns), or without the first axis for those outside of the layers."""


@dataclass(frozen=True)
class _Header:
    """What the beginning of a file says; `group` is the size of a quantized group in version 2."""

    version: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int
    tied: bool
    group: int = 0

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor -> its shape in the file; the head of a tied model has none."""
        kv = self.kv_heads * self.head_dim
        table = (self.positions, self.head_dim // 2)
        layered = {
            "attention_norm": (self.width,), "q": (self.width, self.width), "k": (kv, self.width), "v": (kv, self.width),
            "o": (self.width, self.width), "ffn_norm": (self.width,), "gate": (self.ffn, self.width),
            "down": (self.width, self.ffn), "up": (self.ffn, self.width),
        }  # fmt: skip
        shapes = {"embedding": (self.vocabulary, self.width), "final_norm": (self.width,), "cosines": table, "sines": table}
        shapes |= {name: (self.layers, *shape) for name, shape in layered.items()}
        return shapes if self.tied else shapes | {"head": (self.vocabulary, self.width)}


def read(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Imports a llama2.c file.

    Args:
        path: The `.bin` file.
        trust: Nothing in this format can execute, with or without it.
        name: For reports; by default the file's name without its ending.

    Returns:
        A `LanguageModel` with float32 weights, mapped where the file holds them as they are (q and k are copied). Its `source_logits`
        are those of the numpy reference. Tokenizer and hash are left to the caller.

    Raises:
        SourceError: No llama2.c file, one of an unknown version, or truncated.

    Example:
        >>> read(Path("stories15M.bin")).model.spec.layers
        6
    """
    del trust
    header, start = _header(path)
    tensors, notes = _TENSORS[header.version](path, header, start)
    spec = TransformerSpec(
        header.vocabulary, header.width, header.layers, header.heads, header.kv_heads, header.head_dim, header.ffn, header.positions,
        tied_head=header.tied,
    )  # fmt: skip
    why = f"a file of llama2.c, version {header.version}: its order of tensors and its rotary pairs are read as llama2.c does"
    origin = Origin(FORMAT, f"numpy {np.__version__} reference", "lifted", ". ".join([why, *notes]))
    model = LanguageModel(spec, _canonical(tensors, header), name=name or path.stem, origin=origin)
    return Imported(model, lambda ids: np.asarray(reference.logits(model, ids), np.float32))


def halves(weight: FloatArray, head_dim: int) -> FloatArray:
    """Rows of each head (heads * head_dim, columns) from pairs (0, 1), (2, 3), ... to evens, then odds."""
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])  # (heads, pairs, 2, columns)
    return pairs.transpose(0, 2, 1, 3).reshape(weight.shape)


def _header(path: Path) -> tuple[_Header, int]:
    """The header, and where the tensors begin."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if head[:4] == b"PK\3\4" or (head[:1] == b"\x80" and head[2:4] != bytes(2)):  # as a width: 67 million, and over 65,000
        raise SourceError(
            f"{path} is a PyTorch pickle, which could execute code when it is read",
            allowed=_KNOWN,
            fix="save the model as safetensors and name its folder",
        )
    old = head[:4] != _MAGIC
    if len(head) < (_OLD_HEADER_BYTES if old else _HEADER_BYTES):
        raise SourceError(f"{path} is truncated: it has {len(head)} bytes", allowed=_KNOWN)
    if old:
        width, ffn, layers, heads, kv_heads, words, positions = struct.unpack_from("<7i", head)
        header = _Header(0, width, ffn, layers, heads, kv_heads, abs(words), positions, tied=words > 0)
        return _checked(path, header), _OLD_HEADER_BYTES
    version, width, ffn, layers, heads, kv_heads, words, positions, tied, group = struct.unpack_from("<i7iBi", head, 4)
    if version not in (1, 2):
        raise SourceError(f"{path} is llama2.c's version {version}", allowed=_KNOWN, fix="export it again with --version 1")
    header = _Header(version, width, ffn, layers, heads, kv_heads, words, positions, bool(tied), group if version == 2 else 0)
    return _checked(path, header), _HEADER_BYTES


def _checked(path: Path, header: _Header) -> _Header:
    """The header, if its sizes can be those of a model."""
    sizes = (header.width, header.ffn, header.layers, header.heads, header.kv_heads, header.vocabulary, header.positions)
    fits = all(1 <= size <= _LARGEST for size in sizes) and header.width % header.heads == 0 and header.heads % header.kv_heads == 0
    if not fits or header.head_dim % 2:
        raise SourceError(f"{path} is no file of llama2.c: its header would say {sizes} for {_SIZES}", allowed=_KNOWN)
    if header.version == 2 and (header.group < 1 or header.width % header.group):
        raise SourceError(f"{path} says groups of {header.group} weights, which do not divide {header.width} columns", allowed=_KNOWN)
    return header


_SIZES = "width, ffn, layers, heads, kv heads, words, positions"


def _floats(path: Path, header: _Header, start: int) -> tuple[Tensors, list[str]]:
    """Versions 0 and 1: float32 tensors, mapped."""
    shapes = header.shapes()
    order = [name for name in (_FLOAT_ORDER if header.version else _OLD_ORDER) if name in shapes]
    _require_size(path, start + 4 * sum(math.prod(shapes[name]) for name in order))
    values = np.asarray(np.memmap(path, "<f4", mode="r", offset=start))
    return dict(_cut(values, order, shapes)), []


def _int8(path: Path, header: _Header, start: int) -> tuple[Tensors, list[str]]:
    """Version 2: float32 norms, then int8 tensors, then the scales of their groups."""
    shapes = header.shapes()
    order = [name for name in _INT8_ORDER if name in shapes]
    norms, matrices = (sum(math.prod(shapes[name]) for name in names) for names in (_NORMS, order))
    _require_size(path, start + 4 * norms + matrices + 4 * (matrices // header.group))
    raw = np.asarray(np.memmap(path, np.uint8, mode="r", offset=start))
    split = 4 * norms + matrices
    integers, scales = raw[4 * norms : split].view(np.int8).reshape(-1, header.group), raw[split:].view("<f4")
    values = (integers * scales[:, None]).reshape(-1)  # float32
    tensors = dict(_cut(raw[: 4 * norms].view("<f4"), _NORMS, shapes)) | dict(_cut(values, order, shapes))
    return tensors, [f"its int8 weights (groups of {header.group}) were turned into float32, and are rounded anew"]


_TENSORS = {0: _floats, 1: _floats, 2: _int8}


def _require_size(path: Path, wanted: int) -> None:
    size = path.stat().st_size
    if size != wanted:
        state = "truncated" if size < wanted else "no file of llama2.c"
        raise SourceError(f"{path} is {state}: it has {size:,} bytes, its header asks for {wanted:,}", allowed=_KNOWN)


def _cut(
    values: NDArray[np.float32], order: tuple[str, ...] | list[str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors of `order`, one after the other in `values`."""
    start = 0
    for name in order:
        end = start + math.prod(shapes[name])
        yield name, values[start:end].reshape(shapes[name])
        start = end


def _canonical(tensors: Tensors, header: _Header) -> dict[str, FloatArray]:
    weights: dict[str, FloatArray] = {}
    for name, tensor in tensors.items():
        if name in ("cosines", "sines"):
            continue
        if name in ("embedding", "final_norm", "head"):
            weights[f"{name}.weight"] = tensor
            continue
        for layer, weight in enumerate(tensor):
            weights[f"layers.{layer}.{name}.weight"] = halves(weight, header.head_dim) if name in ("q", "k") else weight
    return weights
