"""Which runner a device can start: chosen by its ABI and C library, refused before anything is copied."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.device import adb_binaries, emulator, runner
from edgelm.device.adb_binaries import Binaries, ElfHeader, check, find, how_to_build, ndk_options, read_elf
from edgelm.device.adb_facts import DeviceFacts
from edgelm.errors import DeviceError, MissingDependencyError

MACHINES = {"arm64-v8a": (2, 183), "armeabi-v7a": (1, 40), "x86_64": (2, 62), "x86": (1, 3)}
BIONIC, GLIBC = "/system/bin/linker64", "/lib/ld-linux-aarch64.so.1"


def facts(abi: str = "arm64-v8a", is_android: bool = True) -> DeviceFacts:
    return DeviceFacts("", "", "", abi, is_android, 34 if is_android else 0, 8, 4000)


def elf(abi: str, interpreter: str = "") -> bytes:
    """The headers of a program, laid out as the System V ABI says."""
    bits, machine = MACHINES[abi]
    name = interpreter.encode() + b"\0"
    if bits == 2:
        header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1)
    else:
        header = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 3, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack("<IIIIIIII", 3, 84, 0, 0, len(name), len(name), 4, 1)
    return header + (segment if interpreter else bytes(len(segment))) + name


@pytest.fixture
def binaries(tmp_path):
    def make(abi: str, interpreter: str, library_abi: str = "") -> Binaries:
        (tmp_path / "edgelm_runner").write_bytes(elf(abi, interpreter))
        (tmp_path / "libLiteRt.so").write_bytes(elf(library_abi or abi))
        return Binaries(tmp_path / "edgelm_runner", tmp_path / "libLiteRt.so")

    return make


@pytest.mark.parametrize("abi", MACHINES)
def test_headers_of_every_abi_are_read(tmp_path, abi):
    path = tmp_path / "program"
    path.write_bytes(elf(abi, BIONIC))
    assert read_elf(path) == ElfHeader(abi, BIONIC)
    path.write_bytes(elf(abi))
    assert read_elf(path) == ElfHeader(abi, "")


def test_this_machines_programs_are_read():
    header = read_elf(Path(shutil.which("sh") or "/bin/sh").resolve())
    assert header.abi is not None
    assert "ld-linux" in header.interpreter


@given(st.binary(max_size=100), st.integers(0, 160))
def test_damaged_headers_are_one_error(tmp_path_factory, noise, cut):
    path = tmp_path_factory.getbasetemp() / "damaged"
    for data in (noise, elf("arm64-v8a", BIONIC)[:cut] + noise):
        path.write_bytes(data)
        try:
            assert isinstance(read_elf(path), ElfHeader)
        except DeviceError as error:
            assert "no program" in error.what


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DeviceError, match="cannot be read"):
        read_elf(tmp_path / "none")


def test_what_the_device_can_start_is_taken(binaries):
    check(binaries("arm64-v8a", BIONIC), facts())
    check(binaries("arm64-v8a", GLIBC), facts(is_android=False))
    check(binaries("arm64-v8a", ""), facts())  # static


@pytest.mark.parametrize(
    ("built", "interpreter", "library", "device", "what"),
    [
        ("x86_64", BIONIC, "", facts(), "edgelm_runner is built for x86_64, the device runs Android arm64-v8a"),
        ("arm64-v8a", BIONIC, "x86_64", facts(), "libLiteRt.so is built for x86_64"),
        ("arm64-v8a", BIONIC, "", facts("armeabi-v7a"), "the device runs Android armeabi-v7a"),
        ("arm64-v8a", GLIBC, "", facts(), "built for a Linux with glibc .*the device runs Android"),
        ("arm64-v8a", BIONIC, "", facts(is_android=False), "built for Android .*the device runs a Linux with glibc"),
    ],
)
def test_what_it_cannot_start_is_refused(binaries, built, interpreter, library, device, what):
    with pytest.raises(DeviceError, match=what) as caught:
        check(binaries(built, interpreter, library), device)
    assert caught.value.fix


def test_binaries_that_are_given_are_taken(tmp_path):
    assert find(facts(), Path("r"), Path("l"), cache=tmp_path) == Binaries(Path("r"), Path("l"))
    with pytest.raises(DeviceError, match="--runner needs --library"):
        find(facts(), Path("r"), None, cache=tmp_path)


@pytest.mark.parametrize(("library", "environment"), [(None, {}), (None, {"ANDROID_NDK_HOME": "/ndk"}), (Path("l"), {})])
def test_a_phone_without_a_build_names_the_app_and_the_commands(tmp_path, library, environment):
    with pytest.raises(DeviceError, match="no runner for Android arm64-v8a here") as caught:
        find(facts(), None, library, cache=tmp_path, environment=environment)
    for word in ("--app", "ANDROID_NDK_HOME", "cmake -S", "-DANDROID_ABI=arm64-v8a", "-DLITERT_LIBRARY=", "jni/arm64-v8a of the AAR"):
        assert word in caught.value.fix


def test_a_board_with_this_machines_cpu_gets_this_machines_runner(tmp_path, monkeypatch):
    monkeypatch.setattr(adb_binaries.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(runner, "host_runner", lambda cache, on_stage: cache / "runner")
    assert find(facts("x86_64", False), None, None, cache=tmp_path) == Binaries(tmp_path / "runner", runner.litert_library())


def test_an_arm64_board_gets_the_emulators_runner(tmp_path, monkeypatch):
    monkeypatch.setattr(adb_binaries.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(emulator, "find", lambda cache: None)
    with pytest.raises(DeviceError, match="no runner for Linux arm64-v8a here") as caught:
        find(facts(is_android=False), None, None, cache=tmp_path)
    assert caught.value.fix == "edgelm doctor --setup-arm64"
    monkeypatch.setattr(emulator, "find", lambda cache: emulator.Emulator(cache / "arm64"))
    assert find(facts(is_android=False), None, None, cache=tmp_path).runner == tmp_path / "arm64/bin/edgelm_runner"


def test_another_board_needs_its_own(tmp_path):
    with pytest.raises(DeviceError, match="no runner for Linux armeabi-v7a") as caught:
        find(facts("armeabi-v7a", False), None, None, cache=tmp_path)
    assert "--runner PATH" in caught.value.fix


@pytest.fixture
def ndk(tmp_path) -> Path:
    """A folder like the NDK's whose toolchain file sets nothing: CMake builds for this machine."""
    toolchain = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.write_text("")
    return tmp_path / "ndk"


def test_the_ndk_builds_with_cmake(tmp_path, ndk, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    cmake = programs / "cmake"
    cmake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit $(cat {tmp_path}/code)\n')
    cmake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    (tmp_path / "code").write_text("0")
    library, environment = tmp_path / "libLiteRt.so", {"ANDROID_NDK_HOME": str(ndk)}
    found = find(facts(), None, library, cache=tmp_path, environment=environment)
    assert found == Binaries(tmp_path / "ndk" / "arm64-v8a" / "edgelm_runner", library)
    configure, build = (tmp_path / "asked").read_text().splitlines()
    assert f"-DLITERT_LIBRARY={library}" in configure
    assert "-DANDROID_ABI=arm64-v8a" in configure
    assert build.endswith("--target edgelm_runner")
    (tmp_path / "code").write_text("1")
    with pytest.raises(DeviceError, match="cannot be built"):
        find(facts(), None, library, cache=tmp_path, environment=environment)


def test_without_cmake_or_ndk_it_says_so(tmp_path, ndk, monkeypatch):
    library = tmp_path / "libLiteRt.so"
    with pytest.raises(DeviceError, match="is no NDK"):
        find(facts(), None, library, cache=tmp_path, environment={"ANDROID_NDK_HOME": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="needs cmake"):
        find(facts(), None, library, cache=tmp_path, environment={"ANDROID_NDK_HOME": str(ndk)})


@pytest.mark.slow
def test_the_printed_options_configure_the_shipped_project(tmp_path, ndk):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    options = [*ndk_options(str(ndk), facts()), f"-DLITERT_LIBRARY={runner.litert_library()}"]
    done = subprocess.run(["cmake", "-S", runner.NATIVE, "-B", tmp_path / "build", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(option in how_to_build(facts()) for option in ndk_options("$ANDROID_NDK_HOME", facts()))
