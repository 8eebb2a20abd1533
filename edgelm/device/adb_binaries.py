"""The runner and the LiteRT library that a device can start: chosen by its ABI and C library, checked before anything is copied.

The check reads the ELF headers (System V ABI, "ELF-64 Object File Format"): class and machine name the ABI, the program header
PT_INTERP names the dynamic linker, `/system/bin/linker64` on Android and `ld-linux-*` with glibc.
"""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.device import emulator
from edgelm.device import runner as runners
from edgelm.device.adb_errors import printable
from edgelm.device.adb_facts import MACHINES, Abi, DeviceFacts
from edgelm.errors import DeviceError, MissingDependencyError

OnStage = Callable[[str, int, int], None]
ELF_ABIS: Mapping[tuple[int, int], Abi] = {(2, 183): "arm64-v8a", (1, 40): "armeabi-v7a", (2, 62): "x86_64", (1, 3): "x86"}
"""(EI_CLASS: 1 for 32 bit, 2 for 64 bit; e_machine) -> ABI."""
PT_INTERP = 3
LIBRARY_OF_ANDROID = "libLiteRt.so: jni/{abi} of the AAR com.google.ai.edge.litert:litert:2.1.0, which is a zip"


@dataclass(frozen=True)
class Binaries:
    """What runs a model on a device.

    Attributes:
        runner: `edgelm_runner`.
        library: `libLiteRt.so`.
    """

    runner: Path
    library: Path


@dataclass(frozen=True)
class ElfHeader:
    """What a binary was built for.

    Attributes:
        abi: None for a CPU that LiteRT does not run on.
        interpreter: The dynamic linker it asks for; empty for a shared library or a static program.
    """

    abi: Abi | None
    interpreter: str


def read_elf(path: Path) -> ElfHeader:
    """Reads the headers of an ELF file.

    Raises:
        DeviceError: It cannot be read, or is no ELF file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path} cannot be read: {error.strerror}", fix="--runner PATH --library PATH") from error
    try:
        return _parse_elf(data)
    except (struct.error, ValueError) as error:
        raise DeviceError(f"{path} is no program or library for a phone: {error}", allowed="an ELF file") from error


def check(binaries: Binaries, facts: DeviceFacts) -> None:
    """Refuses binaries the device cannot start.

    Raises:
        DeviceError: Another ABI, or another C library.
    """
    for path in (binaries.runner, binaries.library):
        built_for = read_elf(path).abi
        if built_for != facts.abi:
            raise DeviceError(
                f"{path.name} is built for {built_for or 'another CPU'}, the device runs {facts.system}",
                allowed=facts.abi,
                fix=how_to_build(facts) if facts.is_android else "--runner PATH --library PATH of the device's ABI",
            )
    interpreter = read_elf(binaries.runner).interpreter
    for_android = interpreter.startswith("/system/")
    if interpreter and for_android != facts.is_android:
        built, device = ("Android", "a Linux with glibc") if for_android else ("a Linux with glibc", "Android")
        raise DeviceError(
            f"{binaries.runner.name} is built for {built} (it asks for {interpreter}), the device runs {device}",
            fix=how_to_build(facts) if facts.is_android else "without --runner and --library: the cached runner",
        )


def find(
    facts: DeviceFacts,
    runner: Path | None,
    library: Path | None,
    *,
    cache: Path,
    environment: Mapping[str, str] = os.environ,
    on_stage: OnStage = lambda stage, done, total: None,
) -> Binaries:
    """The binaries for a device: those given, else the cached ones of a board, else a build with the NDK.

    Args:
        facts: The device.
        runner: `edgelm_runner` built for it, or None.
        library: `libLiteRt.so` built for it, or None.
        cache: edgelm's cache folder.
        environment: ANDROID_NDK_HOME names the NDK.
        on_stage: Called with a stage, what is done and the total.

    Raises:
        DeviceError: There are none for this device; names the commands that give them.
        MissingDependencyError: A compiler is missing.
        RuntimeFailure: The compiler failed.
    """
    if runner and library:
        return Binaries(runner, library)
    if runner:
        raise DeviceError("--runner needs --library PATH", fix=LIBRARY_OF_ANDROID.format(abi=facts.abi))
    if facts.is_android:
        ndk = environment.get("ANDROID_NDK_HOME", "")
        if not library or not ndk:
            raise DeviceError(f"there is no runner for {facts.system} here", fix=how_to_build(facts))
        return Binaries(_build_with_ndk(Path(ndk), library, facts, cache, on_stage), library)
    return _of_a_board(facts, cache, on_stage)


def _of_a_board(facts: DeviceFacts, cache: Path, on_stage: OnStage) -> Binaries:
    """The runner of this host where the board has the same CPU, else the arm64 one built with the emulator's tools."""
    if MACHINES.get(platform.machine()) == facts.abi:
        return Binaries(runners.host_runner(cache, lambda stage: on_stage(stage, 0, 0)), runners.litert_library())
    machine = emulator.find(cache) if facts.abi == "arm64-v8a" else None
    if isinstance(machine, emulator.Emulator):
        return Binaries(machine.folder / "bin" / "edgelm_runner", machine.folder / "bin" / "libLiteRt.so")
    fix = emulator.SETUP if facts.abi == "arm64-v8a" else "--runner PATH --library PATH of the device's ABI"
    raise DeviceError(f"there is no runner for {facts.system} here", fix=fix)


def _build_with_ndk(ndk: Path, library: Path, facts: DeviceFacts, cache: Path, on_stage: OnStage) -> Path:
    """Builds the runner with CMake and the NDK's toolchain file, anew each time, which takes seconds."""
    if not (ndk / "build" / "cmake" / "android.toolchain.cmake").is_file():
        raise DeviceError(f"ANDROID_NDK_HOME={ndk} is no NDK", fix="sdkmanager 'ndk;27.2.12479018'; export ANDROID_NDK_HOME=THAT-FOLDER")
    build = cache / "ndk" / facts.abi
    configure = [
        "cmake",
        "-S",
        str(runners.NATIVE),
        "-B",
        str(build),
        *ndk_options(str(ndk), facts),
        f"-DLITERT_LIBRARY={library.absolute()}",
    ]
    for command in (configure, ["cmake", "--build", str(build), "--target", "edgelm_runner"]):
        on_stage(f"building the runner for {facts.system}", 0, 0)
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise MissingDependencyError(
                "building with the NDK needs cmake", fix="apt install cmake, or sdkmanager 'cmake;3.22.1'"
            ) from error
        if done.returncode:
            raise DeviceError(f"the runner cannot be built: {printable(done.stderr[-300:])}", fix=how_to_build(facts))
    return build / "edgelm_runner"


def how_to_build(facts: DeviceFacts) -> str:
    """The commands that give a runner for an Android device; the demo app needs none of it."""
    build = f"build-{facts.abi}"
    options = " ".join((*ndk_options("$ANDROID_NDK_HOME", facts), "-DLITERT_LIBRARY=libLiteRt.so"))
    lines = (
        "--app, which runs the demo app's own benchmark; or build the runner:",
        "export ANDROID_NDK_HOME=NDK-FOLDER; edgelm profile ARTIFACT --device adb --library libLiteRt.so",
        f"by hand: cmake -S {runners.NATIVE} -B {build} {options} && cmake --build {build}",
        f"  and then: --runner {build}/edgelm_runner --library libLiteRt.so",
        LIBRARY_OF_ANDROID.format(abi=facts.abi),
    )
    return "\n    ".join(lines)


def ndk_options(ndk: str, facts: DeviceFacts) -> tuple[str, ...]:
    """CMake's options for a build with the NDK at `ndk`."""
    return (
        f"-DCMAKE_TOOLCHAIN_FILE={ndk}/build/cmake/android.toolchain.cmake",
        f"-DANDROID_ABI={facts.abi}",
        "-DANDROID_PLATFORM=android-26",
        "-DCMAKE_BUILD_TYPE=Release",
    )


def _parse_elf(data: bytes) -> ElfHeader:
    if data[:4] != b"\x7fELF" or data[5:6] != b"\x01":
        raise ValueError("no little-endian ELF header")
    is_64 = data[4] == 2
    (machine,) = struct.unpack_from("<H", data, 18)
    (offset,) = struct.unpack_from("<Q" if is_64 else "<I", data, 32 if is_64 else 28)
    size, count = struct.unpack_from("<HH", data, 54 if is_64 else 42)
    interpreter = ""
    for index in range(count):
        start = offset + index * size
        (kind,) = struct.unpack_from("<I", data, start)
        if kind == PT_INTERP:
            place, length = _segment(data, start, is_64)
            interpreter = data[place : place + length].rstrip(b"\0").decode("ascii", "replace")
    return ElfHeader(ELF_ABIS.get((data[4], machine)), interpreter)


def _segment(data: bytes, start: int, is_64: bool) -> tuple[int, int]:
    """p_offset and p_filesz of the program header at `start`."""
    if is_64:
        place, _, _, length = struct.unpack_from("<QQQQ", data, start + 8)
    else:
        place, _, _, length = struct.unpack_from("<IIII", data, start + 4)
    return int(place), int(length)
