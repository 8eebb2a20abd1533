"""Does an app ship the model the way it has to be shipped: stored as it is, aligned, with its runtime for every ABI?"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from edgelm.device.profile import DeviceProfile
from edgelm.errors import ArtifactError
from edgelm.package import archive
from edgelm.package.elf import ABIS
from edgelm.package.page_alignment import NativeLibrary
from edgelm.report import Check

MB = 1e6
MMAP_ALIGNMENT = 4
"""Bytes: a FlatBuffer's numbers are read where they lie; zipalign puts every stored file of an APK there."""

RUNTIME_LIBRARIES = ("libLiteRt.so", "liblitert_jni.so", "libtensorflowlite_jni.so", "libtensorflowlite.so")
ABI = "arm64-v8a"
"""What phones are; x86_64 is for emulators and Chromebooks."""

_CHUNK = 1 << 20
_ZLIB_LEVEL = 9  # as the budget of `edgelm check`: aapt2 and bundletool at their best


def size_checks(model: bytes, profile: DeviceProfile, source: str = "MODEL") -> tuple[Check, ...]:
    """The model's size and download size against the profile's limits, read off the file.

    Args:
        model: Bytes of the .tflite.
        profile: The device.
        source: What was converted, for the commands in the report.
    """
    download = len(zlib.compress(model, _ZLIB_LEVEL)) / MB
    return (
        _upper_limit("model size", len(model) / MB, profile.limits.size_mb, source),
        _upper_limit("download size", download, profile.limits.download_mb, source),
    )


def _upper_limit(name: str, megabytes: float, limit: float | None, source: str) -> Check:
    passed = None if limit is None else megabytes <= limit
    cause = "the model's weights" if passed is False else ""
    fix = f"edgelm convert {source} --recipe int4-block32 -o FOLDER: about half of int8" if passed is False else ""
    return Check(name, megabytes, limit, "MB", passed, "read", cause, fix)


def apk_checks(path: Path, model: bytes, source: str = "ARTIFACT") -> tuple[Check, ...]:
    """Is the model in the APK, uncompressed, at a multiple of 4 bytes?

    Args:
        path: An .apk file.
        model: Bytes of the .tflite that should be in it.
        source: Where the artifact lies, for the commands in the report.

    Raises:
        ArtifactError: No APK, or a damaged one.
    """
    if path.suffix == ".aab":
        raise ArtifactError(
            f"{path} is an app bundle: how files lie in the APK is decided when APKs are made of it",
            allowed="an .apk file",
            fix=f"bundletool build-apks --mode=universal --bundle={path} --output=app.apks, then unzip app.apks universal.apk",
        )
    with archive.opened(path) as opened:
        models = [entry for entry in opened.entries if entry.name.startswith("assets/") and entry.size == len(model)]
        digest = hashlib.sha256(model).digest()
        entry = next((each for each in models if _digest(opened, each) == digest), None)
        others = [each.name for each in opened.entries if each.name.endswith(".tflite")]
    if entry is None:
        cause = f"its .tflite files are {', '.join(others)}, with other bytes" if others else "it has no .tflite file"
        fix = f"edgelm package {source} --into app/src/main/assets, then build again"
        return (
            Check("model in the APK", "missing", limit="the artifact's bytes in assets/", passed=False, basis="read", cause=cause, fix=fix),
        )
    return (Check("model in the APK", entry.name, limit="in assets/", passed=True, basis="read"), _stored(entry), _aligned(entry))


def _stored(entry: archive.Entry) -> Check:
    cause = "" if entry.stored else "the build compresses .tflite files: openFd fails, and the app cannot map the model"
    fix = "" if entry.stored else 'androidResources { noCompress += "tflite" } in app/build.gradle.kts; aapt2: -0 .tflite (with the dot)'
    found = "stored" if entry.stored else "compressed"
    return Check("model uncompressed", found, limit="stored", passed=entry.stored, basis="read", cause=cause, fix=fix)


def _aligned(entry: archive.Entry) -> Check:
    if not entry.stored:
        return Check("model aligned", "compressed", limit="a multiple of 4 bytes", basis="read")
    good = entry.offset % MMAP_ALIGNMENT == 0
    cause = "" if good else "the APK was not aligned after it was packed"
    fix = "" if good else "zipalign -f -P 16 4 in.apk out.apk, then sign again"
    return Check("model aligned", f"at byte {entry.offset:,}", "a multiple of 4 bytes", "", good, "read", cause, fix)


def _digest(opened: archive.Archive, entry: archive.Entry) -> bytes:
    state = hashlib.sha256()
    left = entry.size
    with opened.open(entry) as stream:
        while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
            state.update(chunk)
            left -= len(chunk)
    return state.digest()


def abi_checks(libraries: Iterable[NativeLibrary]) -> tuple[Check, ...]:
    """Are there libraries for phones, and the runtime for every ABI that the app installs on?

    Args:
        libraries: Of an APK, an AAR or a folder `ABI/lib.so`.
    """
    libraries = tuple(libraries)
    by_abi: dict[str, set[str]] = {}
    for library in libraries:
        by_abi.setdefault(library.library.abi, set()).add(library.name.rsplit("/", 1)[-1])
    abis = ", ".join(sorted(by_abi))
    phone = Check(
        "ABI of phones",
        abis,
        limit=f"{ABI} among them",
        passed=ABI in by_abi,
        basis="read",
        cause="" if ABI in by_abi else "there is no library for 64-bit ARM phones",
        fix="" if ABI in by_abi else f'ndk {{ abiFilters += listOf("{ABI}", "x86_64") }} in app/build.gradle.kts',
    )
    checks = (phone, _own_folder(libraries))
    without = sorted(abi for abi, names in by_abi.items() if not names.intersection(RUNTIME_LIBRARIES))
    if len(without) == len(by_abi):
        return checks
    return (*checks, _runtime_everywhere(abis, without))


def _own_folder(libraries: tuple[NativeLibrary, ...]) -> Check:
    """Android takes a library by its folder's name; one for another machine fails when it is loaded."""
    strays = [library for library in libraries if library.folder in ABIS.values() and library.folder != library.library.abi]
    cause = f"{strays[0].name} is built for {strays[0].library.abi}" if strays else ""
    return Check(
        "libraries in their folders",
        f"{len(libraries) - len(strays)} of {len(libraries)}",
        limit="all built for their folder's ABI",
        passed=not strays,
        basis="read",
        cause=cause,
        fix=f"the library for {strays[0].folder}: the app fails to load this one there" if strays else "",
    )


def _runtime_everywhere(abis: str, without: list[str]) -> Check:
    missing = ", ".join(without)
    return Check(
        "runtime for every ABI",
        f"missing for {missing}" if without else abis,
        limit="the runtime's library beside every other",
        passed=not without,
        basis="read",
        cause=f"on {missing} devices the app installs and fails when it loads the runtime (UnsatisfiedLinkError)" if without else "",
        fix=f"abiFilters without {missing} in app/build.gradle.kts" if without else "",
    )
