"""The part of an ELF file that decides whether a 16 KB device can load it: machine and loadable segments.

System V ABI, chapters 4 (file header) and 5 (program header). Only the headers are read, every offset is checked before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from edgelm.errors import ArtifactError

MAGIC = b"\x7fELF"
ABIS = {183: "arm64-v8a", 62: "x86_64", 40: "armeabi-v7a", 3: "x86", 243: "riscv64"}
"""e_machine -> Android ABI."""

_PT_LOAD = 1
_WINDOW = 1 << 20  # program headers follow the file header in every linker's output; a file that hides them further in is refused


@dataclass(frozen=True)
class Segment:
    """One PT_LOAD entry; all numbers are bytes.

    Attributes:
        offset: In the file.
        address: In memory, relative to where the library is loaded.
        memory: Size in memory.
        align: What the linker laid it out for, the largest page size it can be loaded with.
    """

    offset: int
    address: int
    memory: int
    align: int


@dataclass(frozen=True)
class Library:
    """A shared library.

    Attributes:
        abi: Android's name of its machine, or `machine N`.
        bits: 32 or 64.
        segments: What is loaded, by address.
    """

    abi: str
    bits: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class _Layout:
    """Where one of the two classes of files keeps what is read; offsets and sizes in bytes.

    Attributes:
        bits: 32 or 64.
        header: Size of the file header.
        table: Where in it the offset of the program headers is.
        offset: `struct` format of that offset.
        counts: Where in it the size and number of program headers are.
        entry: `struct` format of one program header.
        fields: Which of its values are offset, address, size in memory and alignment.
    """

    bits: int
    header: int
    table: int
    offset: str
    counts: int
    entry: str
    fields: tuple[int, int, int, int]


_LAYOUTS = {
    1: _Layout(32, 52, 28, "<I", 42, "<IIIIIIII", (1, 2, 5, 7)),
    2: _Layout(64, 64, 32, "<Q", 54, "<IIQQQQQQ", (2, 3, 6, 7)),
}
"""Byte 4 of the file, its class -> layout."""


def read(stream: BinaryIO, name: str) -> Library | None:
    """Reads the headers of a library.

    Args:
        stream: At the start of the file; at most 1 MiB is read.
        name: For errors.

    Returns:
        None when it is no ELF file (apps do ship other things named .so).

    Raises:
        ArtifactError: It is truncated, big-endian, or its headers point outside of it.
    """
    data = stream.read(_WINDOW)
    if not data.startswith(MAGIC):
        return None
    if len(data) < 6 or data[4] not in _LAYOUTS or data[5] != 1:
        raise _damaged(name, "its header is neither 32- nor 64-bit little-endian")
    layout = _LAYOUTS[data[4]]
    if len(data) < layout.header:
        raise _damaged(name, "it ends within its header")
    machine = struct.unpack_from("<H", data, 18)[0]
    start = struct.unpack_from(layout.offset, data, layout.table)[0]
    size, count = struct.unpack_from("<HH", data, layout.counts)
    if start + count * size > len(data) or (count and size < struct.calcsize(layout.entry)):
        raise _damaged(name, "its program headers lie outside of it")
    entries = (struct.unpack_from(layout.entry, data, start + i * size) for i in range(count))
    loaded = (Segment(*(entry[i] for i in layout.fields)) for entry in entries if entry[0] == _PT_LOAD)
    abi = ABIS.get(machine, f"machine {machine}")
    return Library(abi, layout.bits, tuple(sorted(loaded, key=lambda segment: segment.address)))


def _damaged(name: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"native library {name} is damaged: {why}", allowed="a little-endian ELF shared library", fix=f"readelf -lW {name}"
    )
