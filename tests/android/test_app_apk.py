"""The APK that is built here, and what the checks say of a spoiled one."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import app_classes
import pytest
from app_tools import apk, apk_checks, build_tools

from edgelm.device.cache import cache_folder
from edgelm.errors import RuntimeFailure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools() -> build_tools.BuildTools:
    if not (cache_folder() / build_tools.FOLDER).is_dir():
        pytest.skip("Android's build tools are not fetched: make android")
    if shutil.which("javac") is None:
        pytest.skip("no JDK on this machine: apt-get install openjdk-17-jdk-headless")
    return build_tools.fetched(lambda stage: None)


@pytest.fixture(scope="module")
def built(tools: build_tools.BuildTools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The APK with a file that only looks like a model: nothing here runs it."""
    folder = tmp_path_factory.mktemp("apk")
    (folder / "model.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(50_000))
    (folder / "engine.json").write_text("{}", encoding="utf-8")
    return apk.build(tools, [("tiny", folder / "model.tflite")], folder / "engine.json", folder / "work", lambda stage: None)


def test_a_built_apk_passes_every_check(tools: build_tools.BuildTools, built: Path) -> None:
    proofs = apk_checks.check(tools, built)
    signature, models, alignment, badging, classes = proofs
    assert signature.startswith("signature verifies from API 26 on")
    assert models == "stored uncompressed: tiny.tflite (0.05 MB)"
    assert alignment.endswith("uncompressed entries aligned to 4 bytes")
    assert badging == "dev.edgelm.demo 0.1.0, API 26 to 35, no permissions"
    assert classes.endswith("none of the stubs")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    assert "assets/models/tiny.tflite" in names
    assert "assets/golden/engine.json" in names
    assert not [name for name in names if name.startswith("lib/")]


def test_the_classes_in_the_apk_give_the_same_logits(built: Path, tmp_path: Path) -> None:
    """The backport of lambdas has rewritten them: these are the classes that dx turned into the .dex file, all verified by the JVM."""
    own = str(built.parent / "desugared.jar")
    models = app_classes.bundled_models(tmp_path)
    assert app_classes.equal_logits(os.pathsep.join([own, app_classes.compiled(tmp_path)]), models).keys() == {
        model.stem for model in models
    }


def compressed(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
    for entry in source.infolist():
        target.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)


def without_models(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
    for entry in source.infolist():
        if not entry.filename.endswith(".tflite"):
            target.writestr(entry, source.read(entry))


def crooked(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
    """Every entry stored behind the one before it, one byte off."""
    for place, entry in enumerate(source.infolist()):
        target.writestr(f"{'x' * (place % 4)}{entry.filename}", source.read(entry), zipfile.ZIP_STORED)


SPOILED: list[tuple[Callable[[zipfile.ZipFile, zipfile.ZipFile], None], str, str]] = [
    (compressed, "signature", "does not verify|failed"),
    (compressed, "models", r"compressed inside the APK: assets/models/tiny\.tflite"),
    (without_models, "models", "the APK has no model"),
    (crooked, "alignment", "not aligned to 4 bytes"),
]


@pytest.mark.parametrize(("spoil", "check", "message"), SPOILED, ids=[f"{case[0].__name__}-{case[1]}" for case in SPOILED])
def test_a_spoiled_apk_fails_its_check(
    tools: build_tools.BuildTools,
    built: Path,
    tmp_path: Path,
    spoil: Callable[[zipfile.ZipFile, zipfile.ZipFile], None],
    check: str,
    message: str,
) -> None:
    with zipfile.ZipFile(built) as source, zipfile.ZipFile(tmp_path / "spoiled.apk", "w") as target:
        spoil(source, target)
    with pytest.raises(RuntimeFailure, match=message):
        getattr(apk_checks, check)(tools, tmp_path / "spoiled.apk", apk.app_settings())


def test_a_newer_call_outside_its_class_does_not_compile(tools: build_tools.BuildTools, tmp_path: Path) -> None:
    source = tmp_path / "Hot.java"
    source.write_text("class Hot { int of(android.os.PowerManager power) { return power.getCurrentThermalStatus(); } }\n", encoding="utf-8")
    with pytest.raises(RuntimeFailure, match="cannot find symbol"):
        apk._javac([source], tmp_path / "classes", tools.platform_classes)
