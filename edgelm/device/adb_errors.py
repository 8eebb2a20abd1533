"""What adb says, in words that name the next step.

The patterns are those of adb 29 to 34; `tests/device/test_adb_device.py` provokes them on a real adbd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgelm.errors import DeviceError

OTHERWISE = "without a cable: run the demo app's benchmark and --import its report"
PLUG_IN = f"plug it in with Settings > Developer options > USB debugging on, or adb connect IP:5555, then adb devices; {OTHERWISE}"

STATE_FIXES: dict[str, str] = {
    "unauthorized": "unlock the device and accept 'Allow USB debugging'; if it does not ask: adb kill-server; adb devices",
    "authorizing": "unlock the device and accept 'Allow USB debugging'",
    "offline": "adb reconnect offline, or unplug and plug in again; over the network adb disconnect; adb connect IP:5555",
    "connecting": "wait a moment, then again; if it stays so: adb reconnect",
    "no permissions": "give this user access to the USB device: apt install android-sdk-platform-tools-common, then plug in again",
    "recovery": "restart the device: adb reboot",
    "sideload": "restart the device: adb reboot",
    "bootloader": "restart the device: fastboot reboot",
}
"""State of `adb devices` -> what helps."""

TRANSFER_FAILURES: tuple[tuple[str, str, str], ...] = (
    (r"No space left on device|ENOSPC", "the device has no space left", "adb shell df /data, free some space, then again"),
    (r"Read-only file system", "the device's folder is read-only", "remount it, or use --app"),
    (r"Permission denied", "the device denied it", "--app runs inside the demo app; on a board log in as a user who may write there"),
    (r"No such file or directory|does not exist|Is a directory", "the file or folder is not there", "again; if it stays so: --app"),
)
"""Pattern in adb's words -> what happened, and what helps."""


def printable(text: str, most: int = 300) -> str:
    """Text of a device for a message: one line, no control characters, not long.

    Example:
        >>> printable(f"a{chr(27)}[2J  b")
        'a?[2J b'
    """
    line = " ".join(text.split())
    short = line if len(line) <= most else line[: most - 3] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in short)


def no_such_state(wanted: str, listed: Mapping[str, str]) -> DeviceError:
    """Why no device can be used: none is there, another one is, or it is not ready.

    Args:
        wanted: The serial asked for; empty for any.
        listed: Serial -> state of every device adb knows.
    """
    if wanted and wanted not in listed:
        known = ", ".join(f"adb:{serial} ({state})" for serial, state in listed.items())
        return DeviceError(f"no device {printable(wanted)!r} is connected", allowed=known or "none is connected", fix=PLUG_IN)
    unready = {wanted: listed[wanted]} if wanted else dict(listed)
    if not unready:
        return DeviceError("no device is connected", fix=PLUG_IN)
    serial, state = next(iter(unready.items()))
    what = "has no USB permissions for this user" if state == "no permissions" else f"is {state}"
    return DeviceError(f"the device {printable(serial)} {what}", fix=STATE_FIXES.get(state, PLUG_IN))


def transfer_failed(message: str, task: str) -> DeviceError | None:
    """The cause of a failed push or pull; None when adb's words name none."""
    for pattern, what, fix in TRANSFER_FAILURES:
        if re.search(pattern, message):
            return DeviceError(f"{what} while {task}: {printable(message)}", fix=fix)
    return None


def broken(serial: str, state: str | None, message: str, task: str) -> DeviceError:
    """Why a command came back without its exit code.

    Args:
        serial: The device.
        state: Its state now; None when adb no longer lists it.
        message: adb's words.
        task: What was done.
    """
    if state is None:
        return DeviceError(f"the device {serial} was unplugged while {task}", fix="plug it in and run the same command again")
    if state != "device":
        return DeviceError(f"the device {serial} became {state} while {task}", fix=STATE_FIXES.get(state, PLUG_IN))
    return DeviceError(
        f"the connection to {serial} broke while {task}: {printable(message) or 'no message'}", fix="run the same command again"
    )
