"""Starts a command, waits for it and writes what it took: `python -S -E launch.py RESULT.json [--no-amx] COMMAND ...`.

A process of its own because a child's peak memory counts what its parent held when it was started: this one holds little.
"""

import ctypes
import json
import os
import platform
import sys
import time
from pathlib import Path

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM = 158, 0x1023
"""Linux x86-64: the system call by which a process asks for large register states; AMX's tiles are the only ones."""
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
FAIL_EPERM, ALLOW = 0x00050001, 0x7FFF0000
NUMBER, FIRST_ARGUMENT = 0, 16
"""Places in the kernel's `struct seccomp_data`."""


class Instruction(ctypes.Structure):
    """The kernel's `struct sock_filter`."""

    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class Program(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))


def refuse_amx() -> None:
    """Has the kernel refuse AMX's tiles to this process and its children: libraries then take their AVX-512 or AVX2 kernels.

    Phones have no such unit, and on a shared host it runs at two speeds, as its neighbours use it or not.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return
    code = (
        (LOAD_WORD, 0, 0, NUMBER), (JUMP_EQUAL, 0, 3, ARCH_PRCTL),
        (LOAD_WORD, 0, 0, FIRST_ARGUMENT), (JUMP_EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
        (RETURN, 0, 0, FAIL_EPERM), (RETURN, 0, 0, ALLOW),
    )  # fmt: skip
    program = Program(len(code), (Instruction * len(code))(*code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter for system calls")


def main() -> None:
    result, command = sys.argv[1], sys.argv[2:]
    if command[0] == "--no-amx":
        refuse_amx()
        command = command[1:]
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    took = {
        "seconds": time.perf_counter() - start,
        "code": os.waitstatus_to_exitcode(status),
        "peak_mb": used.ru_maxrss * 1024 / 1e6,
        "cpu_seconds": used.ru_utime + used.ru_stime + time.process_time(),
    }
    Path(result).write_text(json.dumps(took))


if __name__ == "__main__":
    main()
