"""The peers' own virtual environments under build/peers, with pinned versions; what a peer needs compiled is compiled there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgelm.device.runner import BLOCKS_VERSION

HOME = Path(__file__).parents[2] / "build" / "peers"
WORKERS = Path(__file__).parent / "workers"
DONE = ".installed"
"""Written last, with the pins: an environment that was interrupted, or pinned otherwise, is made again."""

LLAMA_SOURCE = "llama-cpp-python==0.3.36"
LLAMA_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
LLAMA_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
)  # fmt: skip


class PeerUnavailableError(Exception):
    """A peer cannot be installed or converted here; the message is the reason in its row."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment.

    Attributes:
        name: Of its folder.
        pins: Requirements for pip.
        cost: What installing takes, for who has to wait.
        compiles: It needs a C++ compiler and cmake.
        opt_in: Left out unless it is named: it takes longest.
        finish: What is done after pip.
    """

    name: str
    pins: tuple[str, ...]
    cost: str
    compiles: bool = False
    opt_in: bool = False
    finish: Callable[[Path], None] | None = None

    @property
    def folder(self) -> Path:
        """Where it is."""
        return HOME / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def ready(self) -> bool:
        """It was installed with these pins."""
        done = self.folder / DONE
        return done.is_file() and done.read_text().split() == list(self.pins)

    def make(self) -> None:
        """Installs it where it is not ready.

        Raises:
            PeerUnavailableError: pip, the compiler or cmake failed; says what they said.
        """
        if self.ready:
            return
        print(f"{self.name}: installing {' '.join(self.pins)} ({self.cost})", file=sys.stderr, flush=True)
        if not self.python.exists():
            venv.create(self.folder, with_pip=True)
        checked([self.python, "-m", "pip", "install", "--quiet", *self.pins])
        if self.finish:
            self.finish(self.folder)
        (self.folder / DONE).write_text("\n".join(self.pins) + "\n")


def build_llama(folder: Path) -> None:
    """Compiles llama.cpp out of llama-cpp-python's source distribution for this CPU, and the small host beside it."""
    if not shutil.which("cmake") or not shutil.which("c++"):
        raise PeerUnavailableError("needs cmake and a C++ compiler: apt-get install cmake g++")
    source = HOME / "llama-src"
    if not (source / "vendor").is_dir():
        download_llama(folder, source)
    build, vendor = source / "build", source / "vendor" / "llama.cpp"
    keep_tile_configuration(vendor / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp")
    if not (build / "CMakeCache.txt").exists():
        checked(["cmake", "-S", vendor, "-B", build, *(["-G", "Ninja"] if shutil.which("ninja") else []), *LLAMA_FLAGS])
    checked(["nice", "-n", "15", "cmake", "--build", build, f"-j{os.cpu_count()}", "--target", "llama"])
    libraries = sorted(map(str, build.rglob("lib*.a")))
    headers = ["-I", vendor / "include", "-I", vendor / "ggml" / "include"]
    linked = ["-Wl,--start-group", *libraries, "-Wl,--end-group", "-fopenmp", "-lpthread", "-ldl"]
    checked(["c++", "-std=c++17", "-O2", *headers, WORKERS / "llama_host.cpp", *linked, "-o", folder / "bin" / "llama_host"])


def keep_tile_configuration(source: Path) -> None:
    """Keeps GCC 12 from dropping the stores to AMX's tile configuration.

    Its `_tile_loadconfig` tells the compiler of 8 of the 64 bytes; llama.cpp would end with a segmentation fault on a CPU with AMX.
    """
    load, barrier = "    _tile_loadconfig(&tc);\n", '    asm volatile("" : : "r"(&tc) : "memory");\n'
    text = source.read_text()
    if barrier not in text:
        source.write_text(text.replace(load, barrier + load))


def download_llama(folder: Path, source: Path) -> None:
    """Gets the source distribution by pip, checked by its hash, and unpacks it."""
    downloads = HOME / "downloads"
    archive = downloads / f"{LLAMA_SOURCE.replace('-', '_').replace('==', '-')}.tar.gz"
    if not archive.exists():
        wanted = folder / "llama.txt"
        wanted.write_text(f"{LLAMA_SOURCE} --hash=sha256:{LLAMA_SHA256}\n")
        words = ["--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes", "-d", downloads, "-r", wanted]
        checked([folder / "bin" / "python", "-m", "pip", "download", *words])
    unpacked = HOME / ".llama-src"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(unpacked, filter="data")
    next(unpacked.iterdir()).replace(source)


def checked(command: list[str | Path]) -> None:
    """Runs a command; its last words become the reason when it fails.

    Raises:
        PeerUnavailableError: It failed.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerUnavailableError(f"{Path(command[0]).name} failed: {last_words(done.stderr or done.stdout)}")


def last_words(text: str) -> str:
    """The last line that says something, at most 300 characters, with paths from the repository on: results are published."""
    lines = [line.strip() for line in text.replace(f"{HOME.parents[1]}/", "").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1][:300]


TORCH = "torch==2.13.0"
"""Exactly: other requests may pull gigabytes of CUDA."""

ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(
            "onnxruntime",
            (
                TORCH,
                "transformers==5.23.0",
                "onnxruntime==1.31.1",
                "onnxruntime-genai==0.18.0",
                "onnx==1.19.1",
                "onnx_ir==1.1.0",
            ),
            "1.4 GB, 1 to 6 minutes",
        ),
        Environment("litert", (f"ai-edge-litert=={BLOCKS_VERSION}", "numpy==1.26.4"), "0.1 GB"),
        Environment("llama", ("gguf==0.19.0", "numpy==1.26.4"), "77 MB of source, 5 to 8 CPU minutes", compiles=True, finish=build_llama),
        Environment(
            "litert_torch", (TORCH, "litert-torch==0.10.0", "transformers==5.23.0", "tensorflow-cpu==2.21.0"), "3 GB, 2 to 10 minutes"
        ),
        Environment("litert_lm", ("litert-lm==0.18.1", "numpy==2.4.6"), "0.2 GB"),
        Environment("torch", (TORCH, "numpy==1.26.4"), "0.9 GB"),
        Environment(
            "executorch", (TORCH, "executorch==1.5.1", "torchao==0.18.0"), "1.5 GB; converting M2 takes a quarter of an hour", opt_in=True
        ),
    )
}
