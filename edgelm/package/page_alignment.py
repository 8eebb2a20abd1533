"""Do native libraries load on devices with 16 KB pages (Android 15 and later; Google Play asks for it)?

Two things are needed (https://developer.android.com/guide/practices/page-sizes): the linker laid the library's segments out for pages of
16 KB, and an APK that stores it uncompressed holds it at a multiple of 16 KB, because it is mapped from there. Only 64-bit devices
have such pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from edgelm.errors import ArtifactError
from edgelm.package import archive, elf
from edgelm.report import Check, Table

PAGE = 16 * 1024
PAGED_ABIS = ("arm64-v8a", "x86_64")
"""ABIs whose devices may have 16 KB pages."""

Placing = Literal["file", "stored", "compressed", "rebuilt"]


@dataclass(frozen=True)
class NativeLibrary:
    """A library and how the app ships it.

    Attributes:
        name: Of the file, with the archive it is in.
        library: Its headers.
        placing: `stored` uncompressed in an APK; `compressed` in one, unpacked when the app is installed; `rebuilt`: in an AAR or AAB, from
            which the build makes the APK; `file`: in no archive.
        offset: Of its bytes in the archive; 0 for a file.
    """

    name: str
    library: elf.Library
    placing: Placing = "file"
    offset: int = 0

    @property
    def paged(self) -> bool:
        """Devices of its ABI may have 16 KB pages."""
        return self.library.abi in PAGED_ABIS

    @property
    def folder(self) -> str:
        """Name of the folder it lies in, which is an ABI's where apps ship libraries."""
        return PurePosixPath(self.name.rpartition(": ")[2]).parent.name

    @property
    def shipped(self) -> bool:
        """It lies where an app ships it: in an archive, or in a folder named after an ABI."""
        return self.placing != "file" or self.folder in elf.ABIS.values()


def find(paths: tuple[Path, ...]) -> tuple[NativeLibrary, ...]:
    """The libraries at `paths`, by name.

    Args:
        paths: .so files, APK, AAR or AAB archives, or folders, which are searched for both.

    Raises:
        ArtifactError: A path is missing, an archive or a library is damaged, or there is no library at all.
    """
    found = [library for path in paths for library in _at(path)]
    if not found:
        raise ArtifactError(
            f"no native library in {', '.join(map(str, paths))}",
            allowed=".so files, APK, AAR or AAB archives, or folders with them",
            fix="--native-libs app/build/outputs/apk/release/app-release.apk",
        )
    return tuple(sorted(found, key=lambda library: library.name))


def found_in(apk: Path) -> tuple[NativeLibrary, ...]:
    """The libraries of one archive, by name; none is no error.

    Raises:
        ArtifactError: The archive or a library is damaged.
    """
    with archive.opened(apk) as opened:
        return tuple(sorted(_inside(opened), key=lambda library: library.name))


def checks(libraries: tuple[NativeLibrary, ...]) -> tuple[Check, ...]:
    """16 KB pages: one check for the layout of the libraries, one for their places in the APK where there are such."""
    paged = [library for library in libraries if library.paged]
    if not paged:
        return (Check("16 KB pages: segments", "no 64-bit library", limit="64-bit libraries", basis="read"),)
    bad = [(library.name, why) for library in paged if (why := flaw(library.library))]
    layout = Check(
        "16 KB pages: segments",
        _share(len(paged) - len(bad), len(paged)),
        limit="all 64-bit libraries",
        passed=not bad,
        basis="read",
        cause=_cause(bad),
        fix="a newer release of the library; your own: NDK r28, or link with -Wl,-z,max-page-size=16384" if bad else "",
    )
    stored = [library for library in paged if library.placing == "stored"]
    return (layout, _placement(stored)) if stored else (layout,)


def _placement(stored: list[NativeLibrary]) -> Check:
    bad = [(library.name, f"begins at byte {library.offset:,}") for library in stored if library.offset % PAGE]
    return Check(
        "16 KB pages: place in the APK",
        _share(len(stored) - len(bad), len(stored)),
        limit="all stored ones at multiples of 16,384 bytes",
        passed=not bad,
        basis="read",
        cause=_cause(bad),
        fix="Android Gradle plugin 8.5.1 or newer, or zipalign -f -P 16 4 in.apk out.apk, then sign again" if bad else "",
    )


def flaw(library: elf.Library) -> str:
    """Why a library cannot be loaded with 16 KB pages; empty when it can.

    Besides `p_align`, which some tools only declare, the segments themselves are looked at: the loader maps whole pages, so that file
    offset and address must agree within a page, and no page may belong to two segments.

    Example:
        >>> flaw(elf.Library("arm64-v8a", 64, (elf.Segment(offset=0, address=0, memory=100, align=4096),)))
        'is laid out for pages of 4,096 bytes'
    """
    if not library.segments:
        return "has nothing to load"
    least = min(segment.align for segment in library.segments)
    if least < PAGE or least & (least - 1):
        return f"is laid out for pages of {least:,} bytes"
    if any((segment.address - segment.offset) % PAGE for segment in library.segments):
        return "declares 16 KB pages, but offsets and addresses of its segments differ within a page"
    pairs = zip(library.segments, library.segments[1:], strict=False)
    if any((before.address + before.memory - 1) // PAGE >= after.address // PAGE for before, after in pairs if before.memory):
        return "declares 16 KB pages, but two segments share one"
    return ""


def table(libraries: tuple[NativeLibrary, ...]) -> Table:
    """Every library with its ABI, alignment and place."""
    rows = tuple((lib.name, lib.library.abi, _alignment(lib.library), _place(lib), _verdict(lib)) for lib in libraries)
    return Table("Native libraries", ("library", "ABI", "segments aligned to", "place", "16 KB pages"), rows, detail=True)


def _alignment(library: elf.Library) -> str:
    return f"{min(segment.align for segment in library.segments):,}" if library.segments else "-"


def _place(library: NativeLibrary) -> str:
    return f"stored at {library.offset:,}" if library.placing == "stored" else library.placing


def _verdict(library: NativeLibrary) -> str:
    if not library.paged:
        return "not needed"
    return "FAIL" if flaw(library.library) or (library.placing == "stored" and library.offset % PAGE) else "PASS"


def _share(good: int, total: int) -> str:
    return f"{good} of {total}"


def _cause(bad: list[tuple[str, str]]) -> str:
    if not bad:
        return ""
    (name, why), more = bad[0], len(bad) - 1
    return f"{name} {why}" + (f", and {more} more" if more else "")


def _at(path: Path) -> Iterator[NativeLibrary]:
    try:
        if path.is_dir():
            for file in sorted(each for each in path.rglob("*") if each.is_file() and each.suffix in (".so", *archive.SUFFIXES)):
                yield from _at(file)
        elif path.suffix in archive.SUFFIXES:
            yield from found_in(path)
        else:
            with path.open("rb") as stream:
                library = elf.read(stream, str(path))
            if library:
                yield NativeLibrary(str(path), library)
    except OSError as error:
        raise ArtifactError(f"native library {path} cannot be read: {error.strerror}", allowed=".so files, APK, AAR, folders") from error


def _inside(opened: archive.Archive) -> Iterator[NativeLibrary]:
    apk = opened.path.suffix == ".apk"
    for entry in opened.entries:
        if not entry.name.endswith(".so"):
            continue
        name = f"{opened.path.name}: {entry.name}"
        with opened.open(entry) as stream:
            library = elf.read(stream, name)
        if library:
            placing: Placing = ("stored" if entry.stored else "compressed") if apk else "rebuilt"
            yield NativeLibrary(name, library, placing, entry.offset)
