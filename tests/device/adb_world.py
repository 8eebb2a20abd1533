"""A device behind adb without a phone: Debian's real adbd and adb in namespaces of their own.

The adbd runs in a root of its own, in a private network namespace, so that nothing listens outside it: this machine's programs with
the x86-64 adbd, or an arm64 Debian with the arm64 adbd under QEMU's user emulation, registered in a private binfmt_misc. What Android
has and Debian does not are shell stubs on the adbd's PATH: `getprop`, `pm`, `am`, `pidof`, `dumpsys`. The adb client on PATH is a
wrapper that enters the namespaces.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgelm.device.cache import cache_folder
from edgelm.device.debian_packages import PrivateApt, Purpose
from edgelm.errors import DebianPackagesError

ADBD = (
    *("adbd", "android-libbase", "android-libboringssl", "android-libcutils", "android-liblog"),
    *("libbrotli1", "liblz4-1", "libprotobuf32", "libsystemd0", "libzstd1"),
)
ADB = ("adb", "android-libziparchive", "libusb-1.0-0")
ARM64_SYSTEM = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "liblzma5", "libcap2", "libgcrypt20", "libgpg-error0", "libcrypt1"),
    *("dash", "grep", "coreutils", "libacl1", "libattr1", "libgmp10", "libselinux1", "libpcre2-8-0"),
)
PURPOSE = Purpose("a device behind adb", "pytest tests/device")
SUITES = ("bookworm-backports", "bookworm")
"""adbd 34 and QEMU 10, whose emulation adbd survives, are in Debian 12's backports only."""
SERIAL = "127.0.0.1:5599"
BOOT_S = 30.0

BOOT = """
set -e
root=$1 system=$2 tools=$3 size=$4 options=$5 qemu=$6
ip link set lo up
for name in usr etc bin lib lib64; do
  if [ -L "$system/$name" ]; then ln -s "usr/$name" "$root/$name"
  elif [ -d "$system/$name" ]; then mkdir "$root/$name"; mount --rbind "$system/$name" "$root/$name"; fi
done
for name in proc dev sys; do mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"; done
mkdir "$root/adbd"; mount --bind "$tools" "$root/adbd"
if [ -n "$size" ]; then mount -t tmpfs -o "size=$size,$options" tmpfs "$root/data/local/tmp"; fi
if [ -n "$qemu" ]; then
  mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
  elf='\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00'
  mask='\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff'
  printf '%s' ":aarch64:M::$elf:$mask:$qemu:OCF" > /proc/sys/fs/binfmt_misc/register
fi
libraries=$(cd "$tools"; for folder in usr/lib/*-linux-gnu usr/lib/*-linux-gnu/android; do printf '/adbd/%s:' "$folder"; done)
set +e
env ADBD_PORT=5599 QEMU_CPU=cortex-a76 "LD_LIBRARY_PATH=${libraries%:}" PATH=/stubs:/usr/sbin:/usr/bin:/sbin:/bin \\
  chroot "$root" /adbd/usr/lib/android-sdk/platform-tools/adbd &
wait
sleep infinity  # without its adbd the device is unplugged, but the adb server stays
"""

STUBS = {
    "getprop": 'cat "/props/$1" 2>/dev/null || echo',
    "pm": '[ "$1" = path ] && [ -e "/packages/$2" ] && echo "package:/data/app/$2/base.apk"',
    "pidof": '[ -e "/running/$1" ] && echo 4711',
    "dumpsys": 'echo "IsStatusOverride: false"; cat /thermal 2>/dev/null',
}


@functools.cache
def packages(architecture: str, *names: str) -> Path:
    """A folder with Debian packages unpacked, in edgelm's cache; tests that need them are skipped where they cannot be had."""
    folder = cache_folder() / "tests" / f"{names[0]}-{architecture}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(folder, architecture, names)
        except (DebianPackagesError, OSError) as error:
            if not folder.is_dir():  # another test process was faster
                pytest.skip(f"Debian's packages {', '.join(names[:2])} cannot be had: {error}")
    return folder


def _fetch(folder: Path, architecture: str, names: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        apt, unpacked = PrivateApt(Path(name) / "apt", PURPOSE, SUITES, architecture), Path(name) / "unpacked"
        apt.unpack(apt.download(names), unpacked)
        for emulator in (unpacked / "usr" / "bin").glob("qemu-*"):
            if emulator.name != "qemu-aarch64":
                emulator.unlink()  # 40 other machines, 300 MB
        unpacked.rename(folder)


@functools.cache
def _namespaces() -> str:
    """Why there are no namespaces here; empty when there are."""
    if missing := [tool for tool in ("unshare", "nsenter", "setpriv", "ip", "chroot", "apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        return f"no {', no '.join(missing)} here"
    done = subprocess.run(["unshare", "-Urnmpf", "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    return f"no private namespaces here: {done.stderr.strip()}" if done.returncode else ""


@dataclass
class World:
    """A running device.

    Attributes:
        root: Its file system, seen from outside; `/data/local/tmp` of a device of limited size is not.
        bin: The adb client that reaches the device.
    """

    root: Path
    bin: Path
    process: subprocess.Popen[bytes]
    log: Path

    def plug_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes it the device that adb finds."""
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)

    @classmethod
    def boot(cls, folder: Path, *, size: str = "", options: str = "mode=777", arm64: bool = False) -> World:
        """Starts a device.

        Args:
            folder: Empty; for its files.
            size: Size of its /data/local/tmp, such as `1m`; empty for no limit.
            options: How that is mounted, such as `noexec`.
            arm64: Emulates an arm64 device.
        """
        if reason := _namespaces():
            pytest.skip(reason)
        root, programs, log = folder / "root", folder / "bin", folder / "adbd.log"
        for sub in ("data/local/tmp", "sdcard/Android/data", "tmp", "stubs", "props", "packages", "running"):
            (root / sub).mkdir(parents=True)
        for name, script in STUBS.items():
            _program(root / "stubs" / name, script)
        tools = packages("arm64", *ADBD, *ARM64_SYSTEM) if arm64 else packages("amd64", *ADBD, *ADB)
        system = tools if arm64 else ""
        qemu = packages("amd64", "qemu-user") / "usr/bin/qemu-aarch64" if arm64 else ""
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "-Urnmpf", "--kill-child"]  # nothing outlives the test process
        boot = [*unshare, "sh", "-c", BOOT, "boot", root, system, tools, size, options, qemu]
        process = subprocess.Popen(list(map(str, boot)), stdout=log.open("wb"), stderr=subprocess.STDOUT)
        world = cls(root, programs, process, log)
        world._client(folder)
        world._wait()
        return world

    def _client(self, folder: Path) -> None:
        tools = packages("amd64", *ADBD, *ADB)
        libraries = ":".join(f"{tools}/usr/lib/x86_64-linux-gnu{sub}" for sub in ("", "/android"))
        (folder / "home").mkdir()
        self.bin.mkdir()
        # the first port is past the last: the server shall not find the device as an emulator, too
        variables = f"HOME={folder}/home LD_LIBRARY_PATH={libraries} ADB_LOCAL_TRANSPORT_MAX_PORT=5553 ADB_MDNS=0"
        enter = f"nsenter --target {self._children(self.process.pid)[0]} --user --net --pid --preserve-credentials"
        _program(self.bin / "adb", f'exec {enter} env {variables} {tools}/usr/lib/android-sdk/platform-tools/adb "$@"')

    def _children(self, pid: int) -> list[int]:
        """The process ids, seen from outside, of a process's children; the one of `unshare` is inside all the namespaces."""
        deadline = time.monotonic() + BOOT_S
        while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return list(map(int, found))

    def _wait(self) -> None:
        deadline = time.monotonic() + BOOT_S
        while "connected" not in self.adb("connect", SERIAL) or f"{SERIAL}\tdevice" not in self.adb("devices"):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def adb(self, *arguments: str) -> str:
        """What the client says."""
        done = subprocess.run([self.bin / "adb", *arguments], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def write(self, path: str, text: str) -> None:
        """A file of the device."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def stub(self, name: str, script: str) -> None:
        """A program of the device, such as `am`."""
        _program(self.root / "stubs" / name, script)

    def unplug(self) -> None:
        """Ends the adbd."""
        (shell,) = self._children(self.process.pid)
        for adbd in self._children(shell):
            os.kill(adbd, signal.SIGKILL)

    def close(self) -> None:
        """Ends the device and all that runs in its namespaces, the adb server too."""
        self.process.kill()
        self.process.wait()


def _program(path: Path, script: str) -> None:
    path.write_text("#!/bin/sh\n" + textwrap.dedent(script) + "\n")
    path.chmod(0o755)
