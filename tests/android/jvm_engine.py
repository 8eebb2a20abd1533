"""The Java engine on this machine's JVM: what the tests in this folder talk to."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm.device.cache import cache_folder
from edgelm.device.debian_packages import PrivateApt, Purpose
from edgelm.errors import DebianPackagesError

DEMO = Path(__file__).parents[2] / "android_demo"
PACKAGES = ("libjna-java", "libjna-jni", "junit4", "libhamcrest-java")
"""Debian's, 800 KB in all: JNA reaches libLiteRt.so from Java, JUnit 4 is what Android Studio runs."""
PURPOSE = Purpose("the Java engine's tests (JNA and JUnit)", "pytest tests/android")
ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), "amd64")
"""Debian's name of this machine's: the JVM loads JNA's library."""
JARS = ("jna.jar", "junit4.jar", "hamcrest.jar")


class JavaError(Exception):
    """An `EdgeLmException`; any other exception ends the JVM and fails the test."""


class JvmEngine:
    """A JVM that runs `dev.edgelm.jvm.Main`: one command and one answer a line.

    Args:
        command: That starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def ask(self, *fields: object) -> list[str]:
        """The fields of the answer.

        Raises:
            JavaError: The answer is an error.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\t".join(map(str, fields)) + "\n")
        self._process.stdin.flush()
        kind, *answer = self._process.stdout.readline().rstrip("\n").split("\t")
        if kind == "error":
            raise JavaError(decoded(answer[0]))
        if kind != "ok":
            self._log.seek(0)
            pytest.fail(f"the JVM ended: {self._log.read().decode(errors='replace')[-3000:]}")
        return answer

    def encode(self, key: str, text: str) -> list[int]:
        return [int(i) for i in self.ask("encode", key, encoded(text))[0].split(",") if i]

    def logits(self, command: str, key: str, ids: Sequence[int], folder: Path) -> tuple[NDArray[np.float32], list[str]]:
        """(rows, vocab) logits of `steps` or `prefill`, and the signatures that gave them."""
        file = folder / "logits.bin"
        signatures = self.ask(command, key, ",".join(map(str, ids)), file)[0].split(" ")
        return np.fromfile(file, np.float32).reshape(len(signatures), -1), signatures

    def suggest(self, key: str, text: str, n: int = 3) -> list[tuple[str, float]]:
        words = [word.split(" ") for word in self.ask("suggest", key, encoded(text), n) if word]
        return [(decoded(word), float(probability)) for word, probability in words]

    def complete(self, key: str, text: str, tokens: int, *settings: object) -> list[str]:
        """The parts of a completion; settings are temperature, top_k, top_p, repetition penalty and seed."""
        _, *parts = self.ask("complete", key, encoded(text), tokens, *(settings or (0, 0, 1, 1, 0)))
        return [decoded(part) for part in parts[0].split(" ")] if parts and parts[0] else []

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._log.close()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def decoded(field: str) -> str:
    return base64.b64decode(field).decode("utf-8")


def start() -> JvmEngine:
    """Starts the engine; skips where there is no JDK, no apt or no LiteRT library."""
    return JvmEngine(["java", *litert_properties(), "-cp", class_path(), "dev.edgelm.jvm.Main"])


def litert_properties() -> list[str]:
    """What the JVM needs to find JNA's and LiteRT's libraries; skips where the wheel has none."""
    litert = importlib.util.find_spec("ai_edge_litert")
    assert litert and litert.origin
    library = Path(litert.origin).parent / "libLiteRt.so"
    if not library.is_file():
        pytest.skip(f"the ai-edge-litert wheel of this platform has no {library.name}")
    return [f"-Djava.library.path={jni_folder()}", "-Djna.nosys=false", f"-Dedgelm.litert.library={library}"]


def class_path() -> str:
    """The compiled engine, harness and JUnit tests with the jars they need."""
    return os.pathsep.join(map(str, [compiled(), *(packages() / "usr/share/java" / jar for jar in JARS)]))


def jni_folder() -> Path:
    return next(packages().glob("usr/lib/*/jni"))


@functools.cache
def packages() -> Path:
    """Debian's packages unpacked into the cache folder; nothing is installed."""
    folder = cache_folder() / "jvm-test-packages"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jvm-test-packages.", dir=folder.parent) as temporary:
        apt = PrivateApt(Path(temporary) / "apt", PURPOSE, architecture=ARCHITECTURE)
        try:
            apt.unpack(apt.download(PACKAGES), Path(temporary) / "unpacked")
        except DebianPackagesError as error:
            pytest.skip(f"JNA and JUnit cannot be fetched: {error.what}; {error.fix}")
        settle(Path(temporary) / "unpacked", folder)
    return folder


@functools.cache
def compiled() -> Path:
    """The classes, kept by the content of their sources: `core` as plain Java 8 with every warning an error."""
    if shutil.which("javac") is None or shutil.which("java") is None:
        pytest.skip("no JDK on this machine: apt-get install openjdk-17-jdk-headless")
    roots = [DEMO / "core/src/main/java", DEMO / "core/src/test/java", DEMO / "jvm/src/main/java"]
    sources = {root: sorted(root.rglob("*.java")) for root in roots}
    digest = hashlib.sha256(b"".join(file.read_bytes() for files in sources.values() for file in files)).hexdigest()[:16]
    folder = cache_folder() / "jvm-test-classes" / digest
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".classes.", dir=folder.parent) as temporary:
        classes = Path(temporary) / "classes"
        strict = ["javac", "--release", "8", "-Xlint:all", "-Werror", "-encoding", "UTF-8", "-d", str(classes)]
        javac([*strict, "-cp", "", *map(str, sources[roots[0]])])  # the engine alone: it may need nothing else
        jars = os.pathsep.join(str(packages() / "usr/share/java" / jar) for jar in JARS)
        javac([*strict, "-cp", f"{classes}{os.pathsep}{jars}", *(str(file) for root in roots[1:] for file in sources[root])])
        settle(classes, folder)
    return folder


def javac(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def settle(made: Path, folder: Path) -> None:
    """Renames a finished folder to its place, unless another process was faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
