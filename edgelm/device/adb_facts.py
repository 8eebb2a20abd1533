"""What the device behind adb is: its ABI, its C library, its name, cores, memory and thermal status.

Nothing it answers is trusted: values are cut to one printable line, numbers have to be numbers, and the answers are told apart by a
mark the device cannot guess before it is asked.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgelm.device.adb import AdbDevice
from edgelm.device.adb_errors import printable
from edgelm.errors import DeviceError

Abi = Literal["arm64-v8a", "armeabi-v7a", "x86_64", "x86"]
ABIS: tuple[Abi, ...] = ("arm64-v8a", "armeabi-v7a", "x86_64", "x86")
MACHINES: Mapping[str, Abi] = {
    "aarch64": "arm64-v8a",
    "arm64": "arm64-v8a",
    "armv7l": "armeabi-v7a",
    "armv8l": "armeabi-v7a",
    "x86_64": "x86_64",
    "i686": "x86",
}
"""What `uname -m` says -> ABI, for boards without Android's properties."""

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "manufacturer": ("getprop", "ro.product.manufacturer"),
    "model": ("getprop", "ro.product.model"),
    "soc": ("getprop", "ro.soc.model"),
    "platform": ("getprop", "ro.board.platform"),
    "hardware": ("getprop", "ro.hardware"),
    "abi": ("getprop", "ro.product.cpu.abi"),
    "api": ("getprop", "ro.build.version.sdk"),
    "machine": ("uname", "-m"),
    "linker": ("ls", "/system/bin/linker64", "/system/bin/linker"),
    "cores": ("grep", "-c", "^processor", "/proc/cpuinfo"),
    "memory": ("grep", "MemTotal", "/proc/meminfo"),
}
"""Answer -> the command that gives it; a board without Android has no `getprop`, which is no error."""

THERMAL_STATUSES = 7
MAX_ANSWER = 80


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself; "" or 0 where it does not.

    Attributes:
        manufacturer: Such as `Google`.
        model: Such as `Pixel 6`.
        soc: The system on chip.
        abi: Which binaries it runs.
        is_android: It has bionic's linker, so that only binaries of the NDK start; otherwise it is a Linux with glibc.
        android_api: API level.
        cores: CPU cores.
        ram_mb: Memory, MB (10^6 bytes).
    """

    manufacturer: str
    model: str
    soc: str
    abi: Abi
    is_android: bool
    android_api: int
    cores: int
    ram_mb: float

    @property
    def system(self) -> str:
        """`Android arm64-v8a` or `Linux x86_64`."""
        return f"{'Android' if self.is_android else 'Linux'} {self.abi}"


def ask(device: AdbDevice) -> DeviceFacts:
    """Asks a device for all its facts at once.

    Raises:
        DeviceError: It went away, or it names no ABI that LiteRT runs on.
    """
    mark = secrets.token_hex(8)
    script = "; ".join(f"echo; echo {mark}; {shlex.join(command)} 2>/dev/null" for command in QUESTIONS.values())
    answers = device.shell("sh", "-c", script, task="asking the device what it is").output.split(f"\n{mark}\n")[1:]
    known = dict(zip(QUESTIONS, (_line(answer) for answer in answers), strict=False))
    return DeviceFacts(
        manufacturer=known.get("manufacturer", ""),
        model=known.get("model", ""),
        soc=known.get("soc", "") or known.get("platform", "") or known.get("hardware", ""),
        abi=_abi(known.get("abi", ""), known.get("machine", "")),
        is_android=known.get("linker", "").startswith("/system/bin/linker"),
        android_api=_whole(known.get("api", ""), 1000),
        cores=_whole(known.get("cores", ""), 4096),
        ram_mb=_memory_mb(known.get("memory", "")),
    )


def thermal_status(device: AdbDevice) -> int | None:
    """Android's thermal status now, 0 (none) to 6 (shutdown); None where the device has none (before Android 10, no Android)."""
    answer = device.shell("dumpsys", "thermalservice", task="reading the thermal status").output
    found = re.search(r"^Thermal Status: (\d)\s*$", answer, re.MULTILINE)
    return int(found[1]) if found and int(found[1]) < THERMAL_STATUSES else None


def _abi(named: str, machine: str) -> Abi:
    """The property decides (a 64-bit kernel may carry a 32-bit system), else the kernel."""
    abi = next((one for one in ABIS if one == named), None) or MACHINES.get(machine)
    if abi is None:
        raise DeviceError(
            f"the device's CPU is {named or machine or 'unknown'!r}",
            allowed=", ".join(ABIS),
            fix="use another device, or --import report.json",
        )
    return abi


def _line(answer: str) -> str:
    """The first line of an answer, short and printable."""
    return printable((answer.strip().splitlines() or [""])[0], MAX_ANSWER)


def _whole(text: str, most: int) -> int:
    return min(int(text), most) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def _memory_mb(line: str) -> float:
    found = re.fullmatch(r"MemTotal:\s*([0-9]{1,12}) kB", line)
    return round(int(found[1]) * 1024 / 1e6) if found else 0
