"""The machine: what else runs on it, and how fast it reads memory."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from peers.environments import HOME, checked

QUIET = 0.05
"""Cores that others may use; above it figures are marked."""
CLOCK = os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Processor seconds that all processes have used since the start of the machine; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, *rest = (int(word) for word in stat.read_text().split("\n")[0].split()[1:])
    stolen = rest[0] if rest else 0
    return (user + nice + system + irq + softirq + stolen) / CLOCK


@dataclass
class Others:
    """Counts the cores that other processes use while something runs.

    Example:
        >>> others = Others()
        >>> used = os.wait4(...)[2]
        >>> others.cores(used.ru_utime + used.ru_stime)
        0.02
    """

    def __init__(self) -> None:
        self._busy, self._start = busy_seconds(), time.perf_counter()

    def cores(self, own_seconds: float) -> float:
        """Mean number of cores others used since the start, `own_seconds` of the processor being our own.

        Over a second at least: the system counts in ticks of 10 ms, which are much of a shorter time.
        """
        elapsed = time.perf_counter() - self._start
        return max(0.0, busy_seconds() - self._busy - own_seconds) / max(elapsed, 1.0)


def load_now(seconds: float = 1.0) -> float:
    """Cores in use while this process sleeps."""
    others = Others()
    time.sleep(seconds)
    return others.cores(0.0)


def wait_for_quiet(patience: float) -> float:
    """Waits until the machine is quiet, at most `patience` seconds; the cores others use at the end."""
    end = time.perf_counter() + patience
    load = load_now()
    while load > QUIET and time.perf_counter() < end:
        load = load_now()
    return load


def bandwidth(size: float, threads: int, runs: int = 3) -> list[float]:
    """GB/s of reading a buffer of `size` bytes, by `bandwidth.c` compiled for this CPU.

    Raises:
        PeerUnavailableError: There is no C compiler.
    """
    source = Path(__file__).with_name("bandwidth.c")
    program = HOME / "bandwidth"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        HOME.mkdir(parents=True, exist_ok=True)
        checked(["cc", "-O3", "-march=native", "-pthread", source, "-o", program])
    done = subprocess.run([program, str(int(size)), str(threads), str(runs)], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def facts() -> dict[str, object]:
    """What the results are good for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    telling = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if flag in flags]
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "features": telling,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
