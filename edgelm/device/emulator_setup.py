"""`edgelm doctor --setup-arm64`: fetches and builds what `edgelm.device.emulator` runs.

Folder `arm64` of the cache afterwards:

    root/        unpacked Debian packages: QEMU with its libraries, the cross compiler, arm64's glibc and libstdc++
    bin/         edgelm_runner and libLiteRt.so for arm64, insn_count.so for QEMU
    cores/NAME/  what a program emulated on that core sees as /: lib and proc/cpuinfo
    manifest.json  versions, and the sha256 of every file that is run

What is fetched lies in `arm64.download` until all is done, so that a later call goes on where one stopped. The set-up itself is made
under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgelm.device import emulator, runner
from edgelm.device.debian_packages import PrivateApt, Purpose
from edgelm.errors import EmulatorError

OnStage = Callable[[str, int, int], None]

PURPOSE = Purpose("the emulator of arm64 cores", emulator.SETUP, instead="measure on a phone: edgelm profile ARTIFACT --device adb")
EMULATOR, COMPILER = "qemu-user", "g++-12-aarch64-linux-gnu"
HOST_COMPILER = ("gcc-12", "libc6-dev")
"""Fetched too where no C compiler is installed: QEMU's plugin is code of this host."""
PLATFORM = "manylinux_2_27_aarch64"
WHEELS: Mapping[str, str] = {"2.1.0": "92b24d2507fccf5680c26e712c156266dcf64a892df3921dd42f4a7d26527462"}
"""Version of ai-edge-litert -> sha256 of its wheel for `PLATFORM` and CPython 3.11."""

LIBRARY, PLUGIN, RUNNER = "libLiteRt.so", "insn_count.so", "edgelm_runner"
RUN_BY_HOST = ("root/usr/bin/qemu-aarch64", "root/usr/lib/x86_64-linux-gnu/*.so*", "root/lib/x86_64-linux-gnu/*.so*")
RUN_BY_GUEST = ("root/usr/aarch64-linux-gnu/lib/*.so*", "bin/*", "cores/*/proc/cpuinfo")
UNUSED = (
    *("root/usr/share", "root/etc", "root/usr/bin/qemu-[!a]*", "root/usr/bin/qemu-a[!a]*", "root/usr/bin/qemu-aarch64_be"),
    *("root/usr/bin/*lto-dump*", "root/usr/lib/gcc*/*/*/lto*", "root/usr/lib/gcc*/*/*/plugin"),
)
"""Removed after unpacking: 150 MB of other emulators, documentation and link-time optimisation."""

COST = (
    "about 100 MB are fetched (QEMU 7.2 and GCC 12 of Debian 12, LiteRT for arm64) and 200 MB kept in {folder}; "
    "about a minute and the download; no system package is installed"
)


COST_OF_BUILDING = "the runner is built again for this version of edgelm, about half a minute; nothing is fetched"


def cost(cache: Path) -> str:
    """What a set-up costs, in one sentence, before it begins."""
    folder = cache / emulator.FOLDER
    return COST_OF_BUILDING if _only_to_build(folder) else COST.format(folder=folder)


def is_set_up(cache: Path) -> bool:
    """Whether the set-up is there, undamaged and of this version of edgelm."""
    folder = cache / emulator.FOLDER
    return folder.exists() and not emulator.damage_of(folder) and emulator.is_current(folder)


def set_up(cache: Path, on_stage: OnStage) -> None:
    """Makes the set-up, or what it lacks; nothing when it is there.

    Args:
        cache: edgelm's cache folder.
        on_stage: Progress: stage, done, total.

    Raises:
        EmulatorError: Another kind of machine, LiteRT cannot be fetched, a cache that cannot be written, or a build that fails.
        DebianPackagesError: No apt, no network, no room, or a package that fails its check.
    """
    require_host()
    folder = cache / emulator.FOLDER
    if is_set_up(cache):
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{emulator.FOLDER}.", dir=cache) as temporary:
            made = Path(temporary) / emulator.FOLDER
            if _only_to_build(folder):
                _rebuild(folder, made, on_stage)
            else:
                _make(made, cache / f"{emulator.FOLDER}.download", on_stage)
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    except OSError as error:
        raise EmulatorError(
            f"{cache} cannot be written: {error.strerror}", fix="EDGELM_CACHE=FOLDER edgelm doctor --setup-arm64"
        ) from error


def _only_to_build(folder: Path) -> bool:
    """Whether all that was fetched is there undamaged."""
    if not folder.exists() or emulator.damage_of(folder):
        return False
    return bool(emulator.read_manifest(folder)["litert"] == importlib.metadata.version(emulator.RUNTIME))


def require_host(system: str | None = None, machine: str | None = None) -> None:
    """Refuses hosts the emulator is not made for.

    Args:
        system: `platform.system()` of the host; None asks.
        machine: `platform.machine()` of it; None asks.

    Raises:
        EmulatorError: An arm64 host, which needs none, or no Linux on x86-64.
    """
    system, machine = system or platform.system(), machine or platform.machine()
    if machine in emulator.ARM64:
        raise EmulatorError(
            "this machine is arm64 itself: the proof runs natively, nothing has to be set up", fix="edgelm check ARTIFACT --arm64"
        )
    if system != "Linux" or machine != "x86_64":
        raise EmulatorError(
            f"the emulator is made for Linux on x86-64; this is {system} on {machine}",
            allowed="Debian or Ubuntu on x86-64",
            fix="run edgelm in a container of Debian 12, or measure on a phone: edgelm profile ARTIFACT --device adb",
        )


def _make(folder: Path, download: Path, on_stage: OnStage) -> None:
    """Fetches, unpacks and builds everything into a new folder."""
    apt = PrivateApt(download / "apt", PURPOSE)
    apt.require_tools()
    version = importlib.metadata.version(emulator.RUNTIME)
    download.mkdir(parents=True, exist_ok=True)
    on_stage("fetching ai-edge-litert for arm64", 0, 0)
    wheel = fetch_wheel(version, download)
    on_stage("fetching QEMU and the cross compiler", 0, 0)
    wanted = (EMULATOR, COMPILER) if shutil.which("cc") else (EMULATOR, COMPILER, *HOST_COMPILER)
    packages = apt.fetch(wanted)
    on_stage("unpacking", 0, 0)
    apt.unpack([package for package in packages if package.name != "libc6"], folder / "root")  # programs run with the host's own
    for pattern in UNUSED:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with zipfile.ZipFile(wheel) as archive:
        (folder / "bin").mkdir()
        (folder / "bin" / LIBRARY).write_bytes(archive.read(f"ai_edge_litert/{LIBRARY}"))
    _write_cores(folder)
    on_stage("building the runner and the instruction counter", 0, 0)
    sources = emulator.sources_sha256()
    build(folder / "root", folder / "bin" / LIBRARY, folder / "bin")
    _write_manifest(folder, {package.name: package.version for package in packages}, version, sources)
    shutil.rmtree(download)


def _rebuild(folder: Path, temporary: Path, on_stage: OnStage) -> None:
    """Builds what is built anew, for a set-up of another version of edgelm; a kill in between shows as damage."""
    on_stage("building the runner and the instruction counter", 0, 0)
    temporary.mkdir()
    sources = emulator.sources_sha256()
    build(folder / "root", folder / "bin" / LIBRARY, temporary)
    for built in temporary.iterdir():
        built.replace(folder / "bin" / built.name)
    made = emulator.read_manifest(folder)
    _write_manifest(folder, made["packages"], made["litert"], sources)


def fetch_wheel(version: str, folder: Path) -> Path:
    """The arm64 wheel of ai-edge-litert; pip checks its hash.

    Args:
        version: The version that is installed here.
        folder: Where it goes.

    Raises:
        EmulatorError: The hash of that version is not known, pip cannot reach an index, or the file fails the check.
    """
    if version not in WHEELS:
        raise EmulatorError(
            f"the arm64 wheel of ai-edge-litert {version} is not known",
            allowed=", ".join(WHEELS),
            fix=f"pip install ai-edge-litert=={next(iter(WHEELS))}",
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"ai-edge-litert=={version} --hash=sha256:{WHEELS[version]}\n", encoding="utf-8")
    target = ["--only-binary=:all:", "--platform", PLATFORM, "--python-version", "3.11", "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *target, "-d", str(folder)]
    done = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob(f"ai_edge_litert-{version}-*aarch64.whl"))
    if done.returncode != 0 or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise EmulatorError(
            f"pip cannot fetch ai-edge-litert {version} for arm64: {(errors or [done.stderr.strip()[-200:] or 'no message'])[0]}",
            fix="check the network and pip's index; edgelm doctor --setup-arm64 goes on where it stopped",
        )
    return wheels[0]


def build(root: Path, library: Path, output: Path) -> None:
    """Builds the runner and the plugin.

    Args:
        root: The unpacked packages.
        library: The arm64 LiteRT.
        output: Folder of what is built.

    Raises:
        EmulatorError: A compiler failed.
    """
    compiler: list[str | Path] = [root / "usr/bin/aarch64-linux-gnu-g++-12", f"--sysroot={root}"]
    fetched = root / "usr/bin/x86_64-linux-gnu-gcc-12"
    host = [fetched, f"--sysroot={root}"] if fetched.exists() else [shutil.which("cc") or "cc"]
    plugin = [*host, "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-nostdlib", runner.NATIVE / "insn_count.c", "-o", output / PLUGIN]
    _compile(plugin, root if fetched.exists() else None)
    _compile(runner.compile_command(compiler, library, output / RUNNER), root)


def _compile(command: Sequence[str | Path], root: Path | None) -> None:
    """Runs a compiler: a fetched one with the libraries of `root`, or the host's."""
    environment = {**os.environ, **({"LD_LIBRARY_PATH": emulator.libraries(root)} if root else {})}
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        fix = f"rm -r {root.parent} && {emulator.SETUP}" if root else "apt-get install gcc"
        raise EmulatorError(f"{words[0]} cannot be run: {error.strerror}", fix=fix) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise EmulatorError(f"{Path(words[0]).name} failed: {said}", allowed="a host with glibc 2.36 or later, as Debian 12 has")


def _write_cores(folder: Path) -> None:
    for core in emulator.CORES:
        sysroot = emulator.sysroot(folder, core)
        (sysroot / "proc").mkdir(parents=True)
        (sysroot / "proc" / "cpuinfo").write_text(emulator.CPUINFO.format(part=core.part), encoding="ascii")
        (sysroot / "lib").symlink_to("../../root/usr/aarch64-linux-gnu/lib")


def _write_manifest(folder: Path, packages: Mapping[str, str], version: str, sources: str) -> None:
    files = sorted({path for pattern in RUN_BY_HOST + RUN_BY_GUEST for path in folder.glob(pattern) if path.is_file()})
    manifest = {
        "schema": emulator.SCHEMA,
        "litert": version,
        "packages": dict(packages),
        "sources": sources,
        "files": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    (folder / emulator.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
