"""Where the bytes of a file lie inside an APK, AAR or AAB, and whether they are stored as they are."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from edgelm.errors import ArtifactError

SUFFIXES = (".apk", ".aar", ".aab", ".zip")
_LOCAL_HEADER, _LOCAL_MAGIC = 30, b"PK\x03\x04"
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, RuntimeError, OverflowError)
"""What `zipfile` raises on hostile archives: damaged, encrypted (RuntimeError), or packed in a way it does not know (its subclass)."""


@dataclass(frozen=True)
class Entry:
    """One file of an archive.

    Attributes:
        name: With folders.
        stored: Not compressed, so that Android can map it into memory.
        offset: Where its bytes begin in the archive.
        size: Bytes when unpacked, as the archive claims.
    """

    name: str
    stored: bool
    offset: int
    size: int


class Archive:
    """An open archive; every failure is an `ArtifactError` that names it.

    Attributes:
        path: The file.
        entries: Its files, in the order of its directory.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self._stream = stream
        try:
            self._zip = zipfile.ZipFile(stream)
            self.entries = tuple(self._entry(info) for info in self._zip.infolist() if not info.is_dir())
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _entry(self, info: zipfile.ZipInfo) -> Entry:
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_HEADER)
        if not header.startswith(_LOCAL_MAGIC):
            raise zipfile.BadZipFile(f"{info.filename!r} has no local header")
        name, extra = struct.unpack_from("<HH", header, 26)
        return Entry(
            info.filename, info.compress_type == zipfile.ZIP_STORED, info.header_offset + _LOCAL_HEADER + name + extra, info.file_size
        )

    @contextmanager
    def open(self, entry: Entry) -> Iterator[BinaryIO]:
        """The unpacked bytes of an entry as a stream.

        Raises:
            ArtifactError: They are damaged, encrypted or packed in an unknown way.
        """
        try:
            with self._zip.open(entry.name) as stream:
                yield cast(BinaryIO, stream)
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ArtifactError:
        return ArtifactError(f"archive {self.path} cannot be read: {error}", allowed="a whole APK, AAR or AAB", fix=f"unzip -t {self.path}")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Opens an APK, AAR or AAB.

    Raises:
        ArtifactError: It is missing or no readable archive.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ArtifactError(f"archive {path} cannot be opened: {error.strerror}", allowed="an APK, AAR or AAB") from error
    with stream:
        yield Archive(path, stream)
