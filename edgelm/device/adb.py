"""A phone or board behind adb: found, asked, given files, every failure with its cause and the next command.

The words of a command reach the device's shell quoted one by one (`adb shell` itself would join them with blanks), so that no name of
a file or package, and nothing the device answered, is ever read as shell text. The exit code of a command travels behind a mark in its
output: a connection that breaks has no mark, whereas `adb shell` returns 0 then, and old devices return 0 always.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.device.adb_errors import broken, no_such_state, printable, transfer_failed
from edgelm.errors import DeviceError, MissingDependencyError

PATIENCE_S = 30.0
"""Longest a question to the device may take, s."""
SLOWEST_MB_S = 0.5
"""Slowest transfer that is waited for, MB/s: a tenth of USB 2 with a poor cable."""
READY = "device"


@dataclass(frozen=True)
class ShellResult:
    """What a command on the device left.

    Attributes:
        code: Exit code; 128 + n when signal n ended it, as shells say it.
        output: Its stdout.
        errors: Its stderr; in its stdout on devices before Android 7.
    """

    code: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The last line of its stderr, else of its stdout, fit for a message."""
        lines = self.errors.strip().splitlines() or self.output.strip().splitlines() or [f"no message, exit code {self.code}"]
        return printable(lines[-1])


@dataclass(frozen=True)
class AdbDevice:
    """One device that answers.

    Attributes:
        adb: The adb program.
        serial: As `adb devices` lists it.
    """

    adb: Path
    serial: str

    def shell(self, *words: str, task: str, timeout_s: float = PATIENCE_S) -> ShellResult:
        """Runs a command on the device; a script is the words `sh -c SCRIPT NAME ARGUMENT...`.

        Args:
            words: The command and its arguments, quoted here.
            task: What it is for, in errors: "asking the device for its ABI".
            timeout_s: Longest it may take, s.

        Raises:
            DeviceError: The device went away, or the command took too long.
        """
        mark = f"edgelm-exit-{secrets.token_hex(8)}:"
        command = f"{shlex.join(words)}; code=$?; echo; echo {mark}$code"
        done = self._run(["shell", command], task, timeout_s)
        output, found, code = done.stdout.rpartition(f"\n{mark}")
        if not found or not code.strip().isdigit():
            raise self._failure(done.stderr or done.stdout, task)
        return ShellResult(int(code), output, done.stderr)

    def push(self, source: Path, target: str) -> None:
        """Copies a file to the device.

        Raises:
            DeviceError: No space, no permission, or the device went away.
        """
        task = f"copying {source.name} to the device"
        done = self._run(["push", str(source), target], task, PATIENCE_S + source.stat().st_size / 1e6 / SLOWEST_MB_S)
        if done.returncode:
            raise transfer_failed(done.stderr + done.stdout, task) or self._failure(done.stderr or done.stdout, task)

    def pull(self, source: str, target: Path) -> None:
        """Copies a file from the device.

        Raises:
            DeviceError: It is not there, or the device went away.
        """
        task = f"copying {printable(source)} from the device"
        done = self._run(["pull", source, str(target)], task, 4 * PATIENCE_S)
        if done.returncode or not target.is_file():
            raise transfer_failed(done.stderr + done.stdout, task) or self._failure(done.stderr or done.stdout, task)

    def _run(self, arguments: list[str], task: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return _adb(self.adb, ["-s", self.serial, *arguments], task, timeout_s)

    def _failure(self, message: str, task: str) -> DeviceError:
        """Why nothing came back: what `adb devices` says of the device now, else adb's own words."""
        return broken(self.serial, states(self.adb).get(self.serial), message, task)


def connect(serial: str = "") -> AdbDevice:
    """Finds adb and the device to use.

    Args:
        serial: As `adb devices` lists it; empty for $ANDROID_SERIAL, else the only one that is ready.

    Raises:
        MissingDependencyError: There is no adb.
        DeviceError: No device, several, or the one asked for is offline, unauthorized or not there.
    """
    adb = find_adb()
    listed = states(adb)
    wanted = serial or os.environ.get("ANDROID_SERIAL", "")
    if wanted:
        if listed.get(wanted) != READY:
            raise no_such_state(wanted, listed)
        return AdbDevice(adb, wanted)
    ready = [one for one, state in listed.items() if state == READY]
    if len(ready) > 1:
        raise DeviceError(
            f"{len(ready)} devices are connected", allowed=", ".join(f"--device adb:{one}" for one in ready), fix=f"--device adb:{ready[0]}"
        )
    if not ready:
        raise no_such_state("", listed)
    return AdbDevice(adb, ready[0])


def find_adb(environment: Mapping[str, str] = os.environ) -> Path:
    """The adb on PATH, or the one of the Android SDK.

    Raises:
        MissingDependencyError: Neither is there.
    """
    on_path = shutil.which("adb", path=environment.get("PATH"))
    if on_path:
        return Path(on_path)
    for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        inside = Path(environment.get(variable, "")) / "platform-tools" / "adb"
        if environment.get(variable) and os.access(inside, os.X_OK):
            return inside
    raise MissingDependencyError(
        "adb is not on PATH, and ANDROID_HOME names no SDK with platform-tools/adb",
        fix="apt install adb, or Android Studio > SDK Manager > Android SDK Platform-Tools; without adb: --import report.json",
    )


def states(adb: Path) -> dict[str, str]:
    """Serial -> state (`device`, `offline`, `unauthorized`, `no permissions`, ...) of every device adb knows.

    Raises:
        DeviceError: The adb server does not start.
    """
    task = "listing the devices"
    done = _adb(adb, ["devices"], task, PATIENCE_S)
    if done.returncode:
        raise DeviceError(f"adb failed while {task}: {printable(done.stderr or done.stdout)}", fix="adb kill-server; adb devices")
    rows = re.findall(r"^([^\t\n]+)\t([a-z]+(?: permissions)?)\b", done.stdout.partition("List of devices attached")[2], re.MULTILINE)
    return dict(rows)


def _adb(adb: Path, arguments: list[str], task: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(adb), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"the device did not answer within {timeout_s:.0f} s while {task}",
            fix="adb reconnect, then again; for a slow model --timeout S",
        ) from error
    except OSError as error:
        raise DeviceError(f"adb at {adb} cannot be run: {error.strerror}", fix="apt install --reinstall adb") from error
