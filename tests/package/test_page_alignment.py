from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import ai_edge_litert
import pytest
from elf_files import GOOD, PAGE, SMALL_PAGES, Segments, write_archive
from elf_files import elf as elf_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelm.errors import ArtifactError
from edgelm.package import elf, page_alignment


def library(data: bytes) -> elf.Library:
    read = elf.read(io.BytesIO(data), "lib.so")
    assert read is not None
    return read


@pytest.mark.parametrize("abi", ["arm64-v8a", "x86_64", "armeabi-v7a", "x86"])
def test_machine_and_segments_are_read(abi: str) -> None:
    read = library(elf_bytes(abi))
    assert read.abi == abi
    assert [(s.offset, s.address, s.memory, s.align) for s in read.segments] == list(GOOD)


def test_what_is_no_elf_file_is_none() -> None:
    assert elf.read(io.BytesIO(b"#!/bin/sh\n"), "lib.so") is None
    assert elf.read(io.BytesIO(b""), "lib.so") is None


@pytest.mark.parametrize("length", [4, 5, 19, 40, 63, 64, 100, 119, 170])
def test_a_truncated_library_is_an_error(length: int) -> None:
    with pytest.raises(ArtifactError, match=r"native library lib\.so is damaged"):
        elf.read(io.BytesIO(elf_bytes()[:length]), "lib.so")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 170), st.binary(min_size=1, max_size=8))
def test_hostile_headers_are_read_or_refused(at: int, change: bytes) -> None:
    data = bytearray(elf_bytes())
    data[at : at + len(change)] = change
    try:
        read = elf.read(io.BytesIO(bytes(data)), "lib.so")
    except ArtifactError:
        return
    if read is not None:
        assert isinstance(page_alignment.flaw(read), str)


@pytest.mark.parametrize(
    ("segments", "why"),
    [
        (GOOD, ""),
        (((0, 0, 0x1000, 65536), (0x1000, 0x11000, 0x800, 65536)), ""),
        (SMALL_PAGES, "is laid out for pages of 4,096 bytes"),
        (((0, 0, 16, 48 * 1024),), "is laid out for pages of 49,152 bytes"),
        (((0, 0, 16, PAGE), (0x1000, 0x6000, 16, PAGE)), "offsets and addresses of its segments differ"),
        (((0, 0, 0x1000, PAGE), (0x1000, 0x1000, 16, PAGE)), "two segments share one"),
        (((0, 0, 0x1000, 0),), "is laid out for pages of 0 bytes"),
        ((), "has nothing to load"),
    ],
)
def test_a_library_is_judged_by_its_segments_not_only_by_what_it_declares(segments: Segments, why: str) -> None:
    found = page_alignment.flaw(library(elf_bytes(segments=segments)))
    assert why in found
    assert bool(found) == bool(why)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, which links a real library")
@pytest.mark.parametrize(("page", "fits"), [(16384, True), (65536, True), (4096, False)])
def test_libraries_of_a_real_linker(tmp_path: Path, page: int, fits: bool) -> None:
    source = tmp_path / "a.c"
    source.write_text("int table[9000] = {1}; int f(void) { return table[5]; }\n")
    output = tmp_path / "liba.so"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-z,max-page-size={page}", "-o", output, source], check=True, timeout=60)
    (check,) = page_alignment.checks(page_alignment.find((output,)))
    assert check.passed is fits
    assert bool(check.fix) is not fits


def test_the_wheel_of_the_host_is_no_library_for_16_kb_pages() -> None:
    libraries = page_alignment.find((Path(ai_edge_litert.__path__[0]) / "libLiteRt.so",))
    (check,) = page_alignment.checks(libraries)
    assert (check.passed, check.measured, check.basis) == (False, "0 of 1", "read")
    assert "libLiteRt.so is laid out for pages of 4,096 bytes" in check.cause
    assert "max-page-size=16384" in check.fix


def test_stored_libraries_of_an_apk_must_begin_at_16_kb(tmp_path: Path) -> None:
    files = {"lib/arm64-v8a/liba.so": elf_bytes(), "lib/x86_64/liba.so": elf_bytes("x86_64")}
    good = write_archive(tmp_path / "good.apk", files, align=PAGE)
    layout, place = page_alignment.checks(page_alignment.find((good,)))
    assert (layout.passed, place.passed, place.measured) == (True, True, "2 of 2")
    shifted = write_archive(tmp_path / "shifted.apk", files, align=PAGE, shift=4096)
    _, place = page_alignment.checks(page_alignment.find((shifted,)))
    assert (place.passed, place.measured) == (False, "0 of 2")
    assert "shifted.apk: lib/arm64-v8a/liba.so begins at byte 4,096" in place.cause
    assert "zipalign" in place.fix


def test_compressed_libraries_and_those_the_build_places_later_have_no_place_to_check(tmp_path: Path) -> None:
    packed = write_archive(tmp_path / "a.apk", {"lib/arm64-v8a/liba.so": elf_bytes()}, compressed=["lib/arm64-v8a/liba.so"])
    aar = write_archive(tmp_path / "a.aar", {"jni/arm64-v8a/liba.so": elf_bytes(), "classes.jar": b"PK"})
    bundle = write_archive(tmp_path / "a.aab", {"base/lib/arm64-v8a/liba.so": elf_bytes()})
    for path in (packed, aar, bundle):
        assert [check.name for check in page_alignment.checks(page_alignment.find((path,)))] == ["16 KB pages: segments"]


def test_32_bit_libraries_need_no_16_kb_pages(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.apk", {"lib/armeabi-v7a/liba.so": elf_bytes("armeabi-v7a", SMALL_PAGES)})
    libraries = page_alignment.find((path,))
    (check,) = page_alignment.checks(libraries)
    assert check.passed is None
    assert page_alignment.table(libraries).rows[0][-1] == "not needed"


def test_one_bad_library_among_good_ones_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "jniLibs" / "arm64-v8a"
    folder.mkdir(parents=True)
    (folder / "libgood.so").write_bytes(elf_bytes())
    (folder / "libbad.so").write_bytes(elf_bytes(segments=SMALL_PAGES))
    (folder / "libscript.so").write_bytes(b"no library")
    libraries = page_alignment.find((tmp_path,))
    assert all(each.shipped for each in libraries)
    (check,) = page_alignment.checks(libraries)
    assert check.measured == "1 of 2"
    assert "libbad.so" in check.cause


@pytest.mark.parametrize("damage", ["directory", "local header", "data"])
def test_damaged_archives_are_an_error(tmp_path: Path, damage: str) -> None:
    path = write_archive(tmp_path / "a.apk", {"lib/arm64-v8a/liba.so": elf_bytes() * 40}, compressed=["lib/arm64-v8a/liba.so"])
    data = bytearray(path.read_bytes())
    at = {"directory": len(data) - 22, "local header": 0, "data": 60}[damage]
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"archive .*a\.apk cannot be read"):
        page_alignment.find((path,))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 500), st.binary(min_size=1, max_size=6))
def test_hostile_archives_are_read_or_refused(tmp_path: Path, at: int, change: bytes) -> None:
    path = write_archive(tmp_path / "a.apk", {"lib/arm64-v8a/liba.so": elf_bytes()}, compressed=["lib/arm64-v8a/liba.so"])
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(change)] = change
    path.write_bytes(data)
    try:
        page_alignment.checks(page_alignment.found_in(path))
    except ArtifactError:
        return


def test_missing_paths_are_an_error(tmp_path: Path) -> None:
    for name, why in (("missing.so", "No such file"), ("missing.apk", "No such file"), ("a" * 300, "name too long")):
        with pytest.raises(ArtifactError, match=why):
            page_alignment.find((tmp_path / name,))
    with pytest.raises(ArtifactError, match="no native library"):
        page_alignment.find((tmp_path,))


def test_a_library_that_unpacks_to_gigabytes_is_read_only_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "bomb.apk"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("lib/arm64-v8a/libbomb.so", "w") as entry:
        entry.write(elf_bytes())
        for _ in range(64):
            entry.write(bytes(1 << 20))
    (found,) = page_alignment.find((path,))
    assert found.library.abi == "arm64-v8a"
