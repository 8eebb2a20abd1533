from __future__ import annotations

from pathlib import Path

import pytest
from elf_files import elf, write_archive

from edgelm.device import profile
from edgelm.errors import ArtifactError
from edgelm.package import app_checks, page_alignment

MODEL = bytes(range(256)) * 40


def test_size_and_download_are_held_against_the_profile() -> None:
    device = profile.load("android-low-end")
    size, download = app_checks.size_checks(MODEL, device)
    assert (size.measured, size.passed, size.basis) == (len(MODEL) / 1e6, True, "read")
    assert isinstance(download.measured, float)
    assert download.measured < size.measured / 10
    assert device.limits.size_mb is not None
    large, _ = app_checks.size_checks(bytes(int(device.limits.size_mb * 1e6) + 1), device)
    assert (large.passed, large.unit) == (False, "MB")
    assert "--recipe int4-block32" in large.fix


def test_a_stored_and_aligned_model_passes(tmp_path: Path) -> None:
    apk = write_archive(tmp_path / "app.apk", {"classes.dex": b"dex", "assets/keyboard.tflite": MODEL}, align=4)
    checks = app_checks.apk_checks(apk, MODEL)
    assert [(check.name, check.passed) for check in checks] == [
        ("model in the APK", True),
        ("model uncompressed", True),
        ("model aligned", True),
    ]


def test_a_compressed_model_is_named_with_the_line_that_stores_it(tmp_path: Path) -> None:
    apk = write_archive(tmp_path / "app.apk", {"assets/a.tflite": MODEL}, compressed=["assets/a.tflite"], align=4)
    _, stored, aligned = app_checks.apk_checks(apk, MODEL)
    assert (stored.passed, aligned.passed) == (False, None)
    assert 'noCompress += "tflite"' in stored.fix
    assert "with the dot" in stored.fix


def test_a_model_at_an_odd_byte_fails(tmp_path: Path) -> None:
    apk = write_archive(tmp_path / "app.apk", {"assets/a.tflite": MODEL}, align=4, shift=2)
    assert [check.passed for check in app_checks.apk_checks(apk, MODEL)] == [True, True, False]


@pytest.mark.parametrize(("name", "cause"), [("assets/a.tflite", "a.tflite, with other bytes"), ("res/a.bin", "it has no .tflite file")])
def test_an_apk_with_another_model_or_none_fails(tmp_path: Path, name: str, cause: str) -> None:
    apk = write_archive(tmp_path / "app.apk", {name: MODEL[::-1]}, align=4)
    (check,) = app_checks.apk_checks(apk, MODEL)
    assert check.passed is False
    assert cause in check.cause


def test_an_app_bundle_is_refused_with_the_command_that_makes_an_apk(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="app bundle") as caught:
        app_checks.apk_checks(tmp_path / "app.aab", MODEL)
    assert "bundletool build-apks" in caught.value.fix


def test_an_archive_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "app.apk").write_bytes(b"no zip")
    with pytest.raises(ArtifactError, match="cannot be read"):
        app_checks.apk_checks(tmp_path / "app.apk", MODEL)


def libraries(tmp_path: Path, *names: str) -> tuple[page_alignment.NativeLibrary, ...]:
    files = {f"lib/{name}": elf(name.split("/")[0]) for name in names}
    return page_alignment.found_in(write_archive(tmp_path / "app.apk", files))


def test_the_runtime_must_be_there_for_every_abi_of_the_app(tmp_path: Path) -> None:
    good = libraries(tmp_path, "arm64-v8a/libLiteRt.so", "x86_64/libLiteRt.so", "x86_64/libother.so")
    assert [check.passed for check in app_checks.abi_checks(good)] == [True, True, True]
    bad = libraries(tmp_path, "arm64-v8a/libtensorflowlite_jni.so", "armeabi-v7a/libother.so")
    phone, _, runtime = app_checks.abi_checks(bad)
    assert (phone.passed, runtime.passed, runtime.measured) == (True, False, "missing for armeabi-v7a")
    assert "UnsatisfiedLinkError" in runtime.cause
    assert "abiFilters" in runtime.fix


def test_an_app_for_emulators_only_fails(tmp_path: Path) -> None:
    phone, *_ = app_checks.abi_checks(libraries(tmp_path, "x86_64/libLiteRt.so"))
    assert (phone.passed, phone.measured) == (False, "x86_64")


def test_a_library_of_another_machine_in_an_abi_s_folder_fails(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "app.apk", {"lib/arm64-v8a/liba.so": elf("x86_64"), "lib/arm64-v8a/libb.so": elf()})
    _, folders = app_checks.abi_checks(page_alignment.found_in(path))
    assert (folders.passed, folders.measured) == (False, "1 of 2")
    assert folders.cause == "app.apk: lib/arm64-v8a/liba.so is built for x86_64"
