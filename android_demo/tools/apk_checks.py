"""What is proven of a built APK: signature, entries, alignment, manifest, classes."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from apk import ALIGNMENT
from build_tools import BuildTools
from project import AppSettings, app_settings

from edgelm.errors import RuntimeFailure

RUNTIME_PACKAGE = "org.tensorflow.lite"
ABSENT_ON_ANDROID = ("java.lang.invoke.LambdaMetafactory", "java.lang.management", "java.awt", "java.beans", "javax.")
"""What Java 8 has and Android 8 has not."""


def check(tools: BuildTools, apk: Path) -> list[str]:
    """Checks an APK.

    Returns:
        What was proven, one line each.

    Raises:
        RuntimeFailure: A check failed.
    """
    checks: tuple[Callable[[BuildTools, Path, AppSettings], str], ...] = (signature, models, alignment, badging, classes)
    settings = app_settings()
    return [proof(tools, apk, settings) for proof in checks]


def signature(tools: BuildTools, apk: Path, settings: AppSettings) -> str:
    """Signed so that Android from `min_sdk` on installs it."""
    said = tools.apksigner("verify", "--verbose", "--min-sdk-version", str(settings.min_sdk), apk)
    schemes = re.findall(r"Verified using (v[\d.]+) scheme .*: true", said)
    _require("Verifies" in said and bool({"v2", "v3"} & set(schemes)), f"the signature does not verify:\n{said}")
    return f"signature verifies from API {settings.min_sdk} on (schemes {', '.join(schemes)}; debug key)"


def models(tools: BuildTools, apk: Path, settings: AppSettings) -> str:
    """Every model is stored, not compressed: only then can it be mapped from inside the APK."""
    with zipfile.ZipFile(apk) as archive:
        found = [entry for entry in archive.infolist() if entry.filename.endswith(".tflite")]
    packed = [entry.filename for entry in found if entry.compress_type != zipfile.ZIP_STORED]
    _require(bool(found), "the APK has no model")
    _require(not packed, f"compressed inside the APK: {', '.join(packed)}")
    listed = ", ".join(f"{Path(entry.filename).name} ({entry.file_size / 1e6:.2f} MB)" for entry in found)
    return f"stored uncompressed: {listed}"


def alignment(tools: BuildTools, apk: Path, settings: AppSettings) -> str:
    """Uncompressed entries start at multiples of four bytes, counted here and by zipalign."""
    data = apk.read_bytes()
    with zipfile.ZipFile(apk) as archive:
        starts = {entry.filename: _start(data, entry) for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED}
    crooked = [name for name, start in starts.items() if start % ALIGNMENT]
    _require(not crooked, f"not aligned to {ALIGNMENT} bytes: {', '.join(crooked)}")
    tools.native("zipalign", "-c", "-p", str(ALIGNMENT), apk)
    return f"{len(starts)} uncompressed entries aligned to {ALIGNMENT} bytes"


def badging(tools: BuildTools, apk: Path, settings: AppSettings) -> str:
    """The installer's view: id, levels, launcher; and no permission asked for."""
    said = tools.native("aapt2", "dump", "badging", apk)
    wanted = (
        f"package: name='{settings.application_id}' versionCode='{settings.version_code}' versionName='{settings.version_name}'",
        f"sdkVersion:'{settings.min_sdk}'",
        f"targetSdkVersion:'{settings.target_sdk}'",
        f"launchable-activity: name='{settings.namespace}.MainActivity'",
    )
    missing = [line for line in wanted if line not in said]
    _require(not missing, f"aapt2 dump badging lacks: {missing}")
    _require("uses-permission" not in said, "the app asks for a permission")
    return f"{settings.application_id} {settings.version_name}, API {settings.min_sdk} to {settings.target_sdk}, no permissions"


def classes(tools: BuildTools, apk: Path, settings: AppSettings) -> str:
    """All of the app and core, nothing of the stubs, nothing that Android lacks."""
    said = tools.native("dexdump", "-d", apk)
    defined = set(re.findall(r"^  Class descriptor  : 'L([^;]+);'", said, re.MULTILINE))
    own = (settings.namespace, "dev.edgelm.core")
    packages = {prefix: sum(name.startswith(prefix.replace(".", "/") + "/") for name in defined) for prefix in own}
    foreign = sorted(name for name in defined if not name.startswith("dev/edgelm/"))
    _require(all(packages.values()), f"classes are missing: {packages}")
    _require(not foreign, f"classes of others are packaged: {foreign[:5]}")
    absent = [name for name in ABSENT_ON_ANDROID if f"L{name.replace('.', '/')}" in said]
    _require(not absent and "invoke-custom" not in said, f"used, but not on Android {settings.min_sdk}: {absent or 'invoke-custom'}")
    _require(f"L{RUNTIME_PACKAGE.replace('.', '/')}/Interpreter;" in said, "the LiteRT adapter is not in the APK")
    return f"{packages[settings.namespace]} classes of the app, {packages['dev.edgelm.core']} of core, none of the stubs"


def _start(data: bytes, entry: zipfile.ZipInfo) -> int:
    """Where an entry's content begins: behind its local header, whose name and extra field have their own lengths."""
    name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
    return entry.header_offset + 30 + int(name) + int(extra)


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise RuntimeFailure(f"the APK fails a check: {otherwise}", fix="make android")
