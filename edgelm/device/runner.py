"""The native runner `edgelm_runner`: built from `edgelm/native` with a C++ compiler, run here, under an emulator or on a phone.

It reaches LiteRT through the C API of the `libLiteRt.so` that the ai-edge-litert wheel ships, as an app does. On this host it is built
once for each state of its sources, its compiler and the library, into a cache folder.

Example:
    >>> runner = host_runner(Path("~/.cache/edgelm").expanduser())
    >>> calls = [{"token": np.array([17], np.int32), "h_0": np.zeros((1, 512), np.float32), ...}]
    >>> run_calls([runner], Path("keyboard/model.tflite"), "step", calls)[0]["logits"].shape
    (1, 10000)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.device import packed_calls
from edgelm.device.packed_calls import Tensors as Tensors
from edgelm.errors import MissingDependencyError, RuntimeFailure

NATIVE = Path(__file__).parent.parent / "native"
"""The sources, shipped with the package."""

LITERT_VERSION = "2.1.0"
"""The version that edgelm installs."""
BLOCKS_VERSION = "2.1.2"
"""The one whose C API loads weights in 4-bit blocks; the Python interpreter of both does."""
LITERT_VERSIONS = (LITERT_VERSION, BLOCKS_VERSION)
"""Those whose C API `native/litert_c.h` declares; later ones have no functions for the options of the CPU."""

COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL")
"""The C++ library goes into the runner and stays out of sight of libLiteRt.so, which brings its own."""

GET_COMPILER = "apt-get install g++ (Debian, Ubuntu), or dnf install gcc-c++ (Fedora)"


def quiet(_stage: str) -> None:
    """Says nothing of the stages."""


def litert_library() -> Path:
    """`libLiteRt.so` of the installed ai-edge-litert.

    Raises:
        MissingDependencyError: It is not installed, or in another version than the runner is written for.
    """
    fix = f"pip install ai-edge-litert=={LITERT_VERSION}"
    package = importlib.util.find_spec("ai_edge_litert")
    library = Path(package.origin).parent / "libLiteRt.so" if package and package.origin else None
    if library is None or not library.is_file():
        raise MissingDependencyError("the native runner needs libLiteRt.so of ai-edge-litert for Linux, which is not installed", fix=fix)
    version = importlib.metadata.version("ai-edge-litert")
    if version not in LITERT_VERSIONS:
        allowed = ", ".join(LITERT_VERSIONS)
        raise MissingDependencyError(f"ai-edge-litert is {version}: its C API is not the runner's", allowed=allowed, fix=fix)
    return library


def sources() -> tuple[Path, ...]:
    """The runner's C++ files, without headers."""
    return tuple(sorted(NATIVE.glob("*.cpp")))


def compile_command(compiler: Sequence[str | Path], library: Path, output: Path, version: str = LITERT_VERSION) -> list[str]:
    """The command that builds the runner.

    Args:
        compiler: A C++17 compiler and what it always needs, such as `["aarch64-linux-gnu-g++-12", "--sysroot=..."]`.
        library: The `libLiteRt.so` of the same machine; the runner finds it beside itself, or where it lies now.
        output: The runner.
        version: Of the library, for reports.
    """
    found_in = ("-Xlinker", "-rpath", "-Xlinker", f"$ORIGIN:{library.parent}")
    main = NATIVE / "runner.cpp"
    others = [word for source in sources() if source != main for word in ("-include", source)]  # one unit: half the time of seventeen
    named = f'-DEDGELM_LITERT_VERSION="{version}"'
    return [str(word) for word in (*compiler, *FLAGS, named, *others, main, library, *found_in, "-ldl", "-o", output)]


def host_runner(
    cache: Path, on_stage: Callable[[str], None] = quiet, *, library: Path | None = None, version: str = LITERT_VERSION
) -> Path:
    """The runner for this machine, built when it is not there yet (about 8 s).

    Args:
        cache: edgelm's cache folder; the runner goes into its folder `runner`.
        on_stage: Told that the runner is being built.
        library: `libLiteRt.so` of one of `LITERT_VERSIONS`; None for the one that is installed.
        version: Of the library.

    Raises:
        MissingDependencyError: No C++ compiler, or no LiteRT.
        RuntimeFailure: The compiler failed, or the cache cannot be written.
    """
    if library is None:
        library, version = litert_library(), importlib.metadata.version("ai-edge-litert")
    compiler = host_compiler()
    runner = cache / "runner" / _fingerprint(compiler, library) / "edgelm_runner"
    if not runner.is_file():
        on_stage("building the native runner")
        _build(compiler, library, runner, version)
    return runner


def host_compiler() -> Path:
    """The first C++ compiler of `COMPILERS`, or the one that the environment variable CXX names.

    Raises:
        MissingDependencyError: There is none; names what to install.
    """
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return Path(found)
    met = f"CXX={named} is no program" if named else "no C++ compiler was found"
    raise MissingDependencyError(f"the native runner has to be built and {met}", allowed=", ".join(COMPILERS), fix=GET_COMPILER)


def _fingerprint(compiler: Path, library: Path) -> str:
    """Names a build by all that goes into it."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest = hashlib.sha256(b"\0".join((str(compiler).encode(), version, " ".join(FLAGS).encode(), str(library).encode())))
    for file in (*sorted(path for path in NATIVE.iterdir() if path.suffix in {".cpp", ".h"}), library):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build(compiler: Path, library: Path, runner: Path, version: str) -> None:
    try:
        runner.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build.", dir=runner.parent) as folder:
            built = Path(folder) / runner.name
            command = compile_command([compiler], library, built, version)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeFailure(f"{compiler} cannot build the native runner: {_first_error(done.stderr)}", fix=GET_COMPILER)
            built.replace(runner)
    except OSError as error:
        raise RuntimeFailure(
            f"the native runner cannot be built in {runner.parent}: {error.strerror}", fix="EDGELM_CACHE=FOLDER"
        ) from error


def _first_error(text: str) -> str:
    lines = text.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


def run_runner(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, timeout: float | None = None) -> str:
    """Runs a command line that ends in the runner's, and gives what it prints.

    Args:
        command: Such as `["qemu-aarch64", "-L", sysroot, runner, "info"]`.
        environment: Variables on top of this process's.
        timeout: Seconds.

    Raises:
        RuntimeFailure: It printed `error: ...`, died, or took too long.
    """
    words = [str(word) for word in command]
    variables = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=timeout, env=variables)
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailure(f"the native runner took more than {timeout:g} s") from error
    except OSError as error:
        raise RuntimeFailure(f"{words[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        said = lines[-1].removeprefix("error: ") if lines else f"it ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        raise RuntimeFailure(f"the native runner failed: {said}")
    return done.stdout


def run_calls(
    runner: Sequence[str | Path],
    model: Path,
    signature: str,
    calls: Sequence[Tensors],
    *,
    threads: int = 1,
    repeat: int = 1,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """Runs one signature on given inputs; states and caches are the caller's.

    Args:
        runner: The runner, after the emulator's command line where it needs one.
        model: A .tflite.
        signature: Name of the signature.
        calls: For each call, input name -> array in the shape and dtype that the file states.
        threads: Threads of LiteRT's pool.
        repeat: How often each call runs, for counting instructions.
        environment: Variables on top of this process's.
        timeout: Seconds.

    Returns:
        For each call, output name -> array.

    Raises:
        RuntimeFailure: No such signature, an input of another name, shape or dtype, or the runner failed.
        ArtifactError: The model cannot be read.
    """
    wanted = packed_calls.find(model, signature)
    with tempfile.TemporaryDirectory(prefix="edgelm-calls.") as folder:
        inputs, outputs = Path(folder) / "inputs.bin", Path(folder) / "outputs.bin"
        inputs.write_bytes(b"".join(packed_calls.pack(call, wanted) for call in calls))
        words: list[str | Path] = ["calls", model, "--signature", signature, "--inputs", inputs, "--outputs", outputs]
        run_runner([*runner, *words, "--threads", str(threads), "--repeat", str(repeat)], environment, timeout)
        return packed_calls.unpack(outputs.read_bytes(), wanted, len(calls))


def run_tokens(
    runner: Sequence[str | Path], model: Path, ids: Sequence[int], *, prefill: int = 0, weight_cache: Path | None = None, threads: int = 1
) -> NDArray[np.float32]:
    """The logits of a session.

    Args:
        runner: The runner, after the emulator's command line where it needs one.
        model: A .tflite.
        ids: Token ids.
        prefill: How many of them are given at once; the others follow one by one.
        weight_cache: XNNPACK's weight cache file, made when it is not there.
        threads: Threads of LiteRT's pool.

    Returns:
        (calls, vocab) float32: after the prefill, where there is one, and after each other token.

    Raises:
        RuntimeFailure: The runner failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgelm-tokens.") as folder:
        outputs = Path(folder) / "logits.bin"
        cached: list[str | Path] = ["--weight-cache", weight_cache] if weight_cache else []
        words: list[str | Path] = ["tokens", model, "--ids", ",".join(map(str, ids)), "--outputs", outputs, *cached]
        run_runner([*runner, *words, "--prefill", str(prefill), "--threads", str(threads)])
        return np.fromfile(outputs, np.float32).reshape(len(ids) - max(prefill - 1, 0), -1)


def run_bench(
    runner: Sequence[str | Path], model: Path, *, environment: Mapping[str, str] | None = None, **options: int | str | Path
) -> dict[str, Any]:
    """A session as an app has it, timed.

    Args:
        runner: The runner, after the emulator's command line where it needs one.
        model: A .tflite.
        environment: Variables on top of this process's.
        **options: `prompt`, `tokens`, `warmup`, `threads`, `seed`, `weight_cache`, as the runner's options.

    Returns:
        The profile report `edgelm-profile/1` as plain JSON values; `edgelm.device.profile_report` reads and checks it.

    Raises:
        RuntimeFailure: The runner failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgelm-bench.") as folder:
        report = Path(folder) / "report.json"
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        run_runner([*runner, "bench", model, *words, "--json", report], environment)
        plain: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return plain


def run_info(runner: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """ABI, core features and runtime version of where the runner runs.

    Raises:
        RuntimeFailure: The runner failed.
    """
    plain: dict[str, Any] = json.loads(run_runner([*runner, "info"], environment))
    return plain
