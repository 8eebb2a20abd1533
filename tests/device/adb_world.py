"""A device behind adb without a phone: Debian's real adbd and adb in namespaces of their own.

The adbd runs in a root of its own (this machine's /usr, and /data, /sdcard, /tmp of the device), in a private network namespace, so
that nothing listens outside it. What Android has and Debian does not are shell stubs on the adbd's PATH: `getprop`, `pm`, `am`, `pidof`,
`dumpsys`. The adb client on PATH is a wrapper that enters the network namespace.
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
from edgelm.device.emulator_apt import CONFIGURATION, PrivateApt, _network_settings
from edgelm.errors import EdgeLMError

PACKAGES = (
    *("adb", "adbd", "android-libbase", "android-libboringssl", "android-libcutils", "android-liblog", "android-libziparchive"),
    *("libbrotli1", "liblz4-1", "libprotobuf32", "libsystemd0", "libusb-1.0-0", "libzstd1"),
)
SUITES = ("bookworm", "bookworm-backports")
"""adbd 34 is in Debian 12's backports only."""
SERIAL = "127.0.0.1:5599"
BOOT_S = 20.0

BOOT = """
set -e
root=$1 tools=$2 size=$3 options=$4
ip link set lo up
for folder in /usr /etc /proc /dev; do mkdir -p "$root$folder"; mount --rbind "$folder" "$root$folder"; done
for link in bin lib lib64; do [ -e "$root/$link" ] || ln -s "usr/$link" "$root/$link"; done
if [ -n "$size" ]; then mount -t tmpfs -o "size=$size,$options" tmpfs "$root/data/local/tmp"; fi
mkdir -p "$root/adbd"; mount --bind "$tools" "$root/adbd"
libraries=/adbd/usr/lib/x86_64-linux-gnu/android:/adbd/usr/lib/x86_64-linux-gnu
set +e
env ADBD_PORT=5599 "LD_LIBRARY_PATH=$libraries" PATH=/stubs:/usr/sbin:/usr/bin:/sbin:/bin \
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
def tools() -> Path:
    """Debian's adb and adbd, unpacked into edgelm's cache, 4 MB; tests that need them are skipped where they cannot be had."""
    folder = cache_folder() / "tests" / "adb-34"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(folder)
        except (EdgeLMError, subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"Debian's packages adb and adbd cannot be had: {error}")
    return folder


def _fetch(folder: Path) -> None:
    """apt-get download with a private configuration, as `PrivateApt` has it, and a second suite."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        apt, unpacked = Path(name) / "apt", Path(name) / "unpacked"
        for sub in ("state/lists/partial", "cache/archives/partial", "none", "log"):
            (apt / sub).mkdir(parents=True)
        (apt / "status").touch()
        settings = {"folder": apt, "user": "root" if os.geteuid() == 0 else "_apt", "network": _network_settings()}
        (apt / "apt.conf").write_text(CONFIGURATION.format(**settings))
        mirror = PrivateApt(apt)._mirror()
        (apt / "sources.list").write_text("".join(f"deb [arch=amd64] {mirror} {suite} main\n" for suite in SUITES))
        environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        run = functools.partial(subprocess.run, cwd=apt, env=environment, check=True, capture_output=True)
        run(["apt-get", "update"])
        run(["apt-get", "download", "-t", SUITES[1], *PACKAGES])
        for package in apt.glob("*.deb"):
            run(["dpkg-deb", "-x", package, unpacked])
        unpacked.rename(folder)


@functools.cache
def _namespaces() -> str:
    """Why there are no namespaces here; empty when there are."""
    if missing := [tool for tool in ("unshare", "nsenter", "setpriv", "ip", "chroot") if shutil.which(tool) is None]:
        return f"no {', no '.join(missing)} here"
    done = subprocess.run(["unshare", "-Urnmpf", "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    return f"no private namespaces here: {done.stderr.strip()}" if done.returncode else ""


@dataclass
class World:
    """A running device.

    Attributes:
        root: Its file system, seen from outside; `/data/local/tmp` of a device of limited size is not.
        bin: Put it on PATH: the adb client that reaches the device.
    """

    root: Path
    bin: Path
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def boot(cls, folder: Path, *, size: str = "", options: str = "mode=777") -> World:
        """Starts a device.

        Args:
            folder: Empty; for its files.
            size: Size of its /data/local/tmp, such as `1m`; empty for no limit.
            options: How that is mounted, such as `noexec`.
        """
        if reason := _namespaces():
            pytest.skip(reason)
        root, programs, log = folder / "root", folder / "bin", folder / "adbd.log"
        for sub in ("data/local/tmp", "sdcard/Android/data", "tmp", "stubs", "props", "packages", "running"):
            (root / sub).mkdir(parents=True)
        for name, script in STUBS.items():
            _program(root / "stubs" / name, script)
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "-Urnmpf", "--kill-child"]  # nothing outlives the test process
        boot = [*unshare, "sh", "-c", BOOT, "boot", str(root), str(tools()), size, options]
        process = subprocess.Popen(boot, stdout=log.open("wb"), stderr=subprocess.STDOUT)
        world = cls(root, programs, process, log)
        world._client(folder)
        world._wait()
        return world

    def _client(self, folder: Path) -> None:
        inner = f"{tools()}/usr/lib/android-sdk/platform-tools/adb"
        libraries = f"{tools()}/usr/lib/x86_64-linux-gnu/android:{tools()}/usr/lib/x86_64-linux-gnu"
        (folder / "home").mkdir()
        self.bin.mkdir()
        # the first port is past the last: the server shall not find the device as an emulator, too
        variables = f"HOME={folder}/home LD_LIBRARY_PATH={libraries} ADB_LOCAL_TRANSPORT_MAX_PORT=5553 ADB_MDNS=0"
        enter = f"nsenter --target {self._children(self.process.pid)[0]} --user --net --pid --preserve-credentials"
        _program(self.bin / "adb", f'exec {enter} env {variables} {inner} "$@"')

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
