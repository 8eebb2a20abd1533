"""ELF files and archives made for the tests: small, and wrong in one chosen way."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

MACHINES = {"arm64-v8a": 183, "x86_64": 62, "armeabi-v7a": 40, "x86": 3}
PAGE = 16 * 1024

Segments = Sequence[tuple[int, int, int, int]]
"""(offset, address, size in memory, alignment) of each PT_LOAD."""

GOOD: Segments = ((0, 0, 0x1000, PAGE), (0x1000, PAGE + 0x1000, 0x800, PAGE))
SMALL_PAGES: Segments = ((0, 0, 0x1000, 4096), (0x1000, 0x2000, 0x800, 4096))


def elf(abi: str = "arm64-v8a", segments: Segments = GOOD) -> bytes:
    """A library with these segments, after one PT_NOTE that is none of them."""
    wide = abi in ("arm64-v8a", "x86_64")
    header, entry = (64, 56) if wide else (52, 32)
    ident = b"\x7fELF" + bytes((2 if wide else 1, 1, 1)) + bytes(9)
    count = len(segments) + 1
    if wide:
        head = struct.pack("<HHIQQQIHHHHHH", 3, MACHINES[abi], 1, 0, header, 0, 0, header, entry, count, 0, 0, 0)
        table = [struct.pack("<IIQQQQQQ", 4, 4, 0, 0, 0, 8, 8, 4)]
        table += [struct.pack("<IIQQQQQQ", 1, 5, offset, address, address, size, size, align) for offset, address, size, align in segments]
    else:
        head = struct.pack("<HHIIIIIHHHHHH", 3, MACHINES[abi], 1, 0, header, 0, 0, header, entry, count, 0, 0, 0)
        table = [struct.pack("<IIIIIIII", 4, 0, 0, 0, 8, 8, 4, 4)]
        table += [struct.pack("<IIIIIIII", 1, offset, address, address, size, size, 5, align) for offset, address, size, align in segments]
    return ident + head + b"".join(table) + b"code"


def write_archive(path: Path, files: Mapping[str, bytes], *, compressed: Sequence[str] = (), align: int = 1, shift: int = 0) -> Path:
    """A ZIP whose stored entries begin at multiples of `align` (+ `shift`), padded in the extra field as zipalign does."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            begins = archive.fp.tell() + 30 + len(name.encode())
            room = (shift - begins) % align
            info.extra = bytes(room) if room == 0 or room >= 4 else bytes(room + align)
            if info.extra:
                info.extra = struct.pack("<HH", 0xD935, len(info.extra) - 4) + bytes(len(info.extra) - 4)
            archive.writestr(info, content)
    return path
