"""The app's logic and its LiteRT adapter compiled for this machine's JVM, and the comparison of the adapter with the JVM's own runner."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jvm_engine

from edgelm import artifact, manifest, pipeline, recipe, source

APP = jvm_engine.DEMO / "app/src"
SOURCES = APP / "main/java/dev/edgelm/demo"
WITHOUT_ANDROID = ("bench/BenchmarkRequest", "bench/ReportFolder", "engine/OwnFiles", "litert/LiteRtRunner", "litert/LiteRtSignature")
HARNESS = Path(__file__).parent / "interpreter"


def compiled(folder: Path) -> str:
    """Class path of the app's logic, its unit tests and an Interpreter on the real library, compiled into `folder`."""
    stubs = [file for file in (jvm_engine.DEMO / "litert-stubs").rglob("*.java") if file.name != "Interpreter.java"]
    sources = [*(SOURCES / f"{name}.java" for name in WITHOUT_ANDROID), *(APP / "test").rglob("*.java"), *stubs, *HARNESS.rglob("*.java")]
    path = jvm_engine.class_path()
    strict = ["javac", "--release", "8", "-Xlint:all,-options", "-Werror", "-encoding", "UTF-8", "-cp", path, "-d", str(folder)]
    jvm_engine.javac([*strict, *sorted(map(str, sources))])
    return os.pathsep.join([str(folder), path])


def bundled_models(folder: Path) -> list[Path]:
    """Both bundled models as int8 artifacts in one file each."""
    files = []
    for name in ("keyboard-lstm", "chat-transformer"):
        chosen = recipe.load("int8")
        built = pipeline.build(source.load(name).model, chosen, data=None, cache=None)
        facts = manifest.build(built.model, chosen, "android-arm64", built.tflite, built.encodings)
        files.append(folder / f"{name}.tflite")
        files[-1].write_bytes(artifact.pack(built.tflite, facts, built.model.tokenizer))
    return files


def equal_logits(class_path: str, models: list[Path]) -> dict[str, int]:
    """Model -> logits that have the same bits by the app's adapter and by the JVM's own runner; fails at the first that differs."""
    said = java("-Xverify:all", *jvm_engine.litert_properties(), "-cp", class_path, "AdapterParity", *map(str, models))
    lines = [line.split() for line in said.splitlines()]
    return {line[0]: int(line[1]) for line in lines if line[:1] in (["keyboard-lstm"], ["chat-transformer"])}


def java(*arguments: str) -> str:
    done = subprocess.run(["java", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
