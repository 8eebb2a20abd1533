"""The parts of the app that need no Android, run on this machine's JVM: checks of what comes from outside, and the LiteRT adapter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import jvm_engine
import pytest

from edgelm import artifact, manifest, pipeline, recipe, source

APP = jvm_engine.DEMO / "app/src"
SOURCES = APP / "main/java/dev/edgelm/demo"
WITHOUT_ANDROID = (
    "bench/BenchmarkRequest.java",
    "bench/ReportFolder.java",
    "engine/OwnFiles.java",
    "litert/LiteRtRunner.java",
    "litert/LiteRtSignature.java",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both bundled models as int8 artifacts."""
    files = []
    for name in ("keyboard-lstm", "chat-transformer"):
        imported, chosen = source.load(name), recipe.load("int8")
        built = pipeline.build(imported.model, chosen, data=None, cache=None)
        facts = manifest.build(built.model, chosen, "android-arm64", built.tflite, built.encodings)
        files.append(tmp_path_factory.mktemp("models") / f"{name}.tflite")
        files[-1].write_bytes(artifact.pack(built.tflite, facts, built.model.tokenizer))
    return files


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Class path of the app's logic, its unit tests and an Interpreter on the real library."""
    folder = tmp_path_factory.mktemp("app-classes")
    harness = Path(__file__).parent / "interpreter"
    stubs = [file for file in sorted((jvm_engine.DEMO / "litert-stubs").rglob("*.java")) if file.name != "Interpreter.java"]
    sources = (
        [SOURCES / name for name in WITHOUT_ANDROID] + sorted((APP / "test").rglob("*.java")) + stubs + sorted(harness.rglob("*.java"))
    )
    path = jvm_engine.class_path()
    jvm_engine.javac(
        [
            "javac",
            "--release",
            "8",
            "-Xlint:all,-options",
            "-Werror",
            "-encoding",
            "UTF-8",
            "-cp",
            path,
            "-d",
            str(folder),
            *map(str, sources),
        ]
    )
    return os.pathsep.join([str(folder), path])


def java(*arguments: str) -> str:
    done = subprocess.run(["java", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_unit_tests_of_the_app(classes: str) -> None:
    names = [".".join(file.relative_to(APP / "test/java").with_suffix("").parts) for file in sorted((APP / "test").rglob("*Test.java"))]
    assert len(names) >= 3
    assert "OK (" in java("-cp", classes, "org.junit.runner.JUnitCore", *names)


@pytest.mark.slow
def test_adapter_gives_the_logits_of_the_jvms_own_runner(classes: str, models: list[Path]) -> None:
    library = Path(str(importlib.util.find_spec("ai_edge_litert").origin)).parent / "libLiteRt.so"
    if not library.is_file():
        pytest.skip(f"the ai-edge-litert wheel of this platform has no {library.name}")
    properties = [f"-Djava.library.path={jvm_engine.jni_folder()}", "-Djna.nosys=false", f"-Dedgelm.litert.library={library}"]
    said = java(*properties, "-cp", classes, "AdapterParity", *map(str, models))
    compared = dict(line.split() for line in said.splitlines() if line.split()[0] in ("keyboard-lstm", "chat-transformer"))
    assert compared.keys() == {"keyboard-lstm", "chat-transformer"}
    assert min(map(int, compared.values())) > 40 * 500  # 42 rows of logits of a vocabulary
