"""Runs the native runner on arm64 cores without a phone: under QEMU's user emulation, or directly where this machine is arm64.

QEMU executes the real arm64 LiteRT library. XNNPACK picks its kernels by the features of the core, so that each class of cores is a
run of its own: plain NEON (Cortex-A53), dot products (Cortex-A76), 8-bit matrix products (Cortex-A710 and later). Instructions are
counted by a plugin of QEMU (`native/insn_count.c`); they are never time.

`edgelm doctor --setup-arm64` (`edgelm.device.emulator_setup`) fetches and builds all of it into the folder `arm64` of the cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgelm.device import runner
from edgelm.device.cache import cache_folder
from edgelm.device.runner import NATIVE, Tensors
from edgelm.errors import EmulatorError, RuntimeFailure

FOLDER = "arm64"
MANIFEST = "manifest.json"
SCHEMA = "edgelm-arm64/1"
SETUP = "edgelm doctor --setup-arm64"
ARM64 = ("aarch64", "arm64")
RUNTIME = "ai-edge-litert"
"""The runtime that is run; tflite-runtime 2.14 crashes on some of the cores."""
RUN_DONE = 3
"""The phase the runner marks after each run of a call."""


@dataclass(frozen=True)
class Core:
    """A class of arm64 cores.

    Attributes:
        name: For the report.
        kernels: What its int8 kernels can be built on.
        cpu: QEMU's `-cpu`; empty for the machine's own.
        part: `CPU part` of /proc/cpuinfo, which XNNPACK's cpuinfo reads; without an Arm-like file it crashes.
    """

    name: str
    kernels: str
    cpu: str = ""
    part: str = ""


CORES = (
    Core("cortex-a53", "NEON", "cortex-a53", "0xd03"),
    Core("cortex-a76", "NEON with dot products", "cortex-a76", "0xd0b"),
    # QEMU 7.2 has no core with i8mm; `max` without SVE and SME, which crash XNNPACK there, has the features of a Cortex-A710 that count.
    Core("i8mm class", "NEON with dot products and 8-bit matrix products", "max,sve=off,sme=off", "0xd47"),
)
THIS_MACHINE = Core("this machine", "its own")

CPUINFO = """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 0

"""


@dataclass(frozen=True)
class Run:
    """What one signature gave on one core.

    Attributes:
        outputs: For each call, output name -> array.
        counts: For each call, instruction class -> executed instructions, as `native/insn_count.c` names them; None without a count.
    """

    outputs: Sequence[Tensors]
    counts: Sequence[Mapping[str, int]] | None


class Machine(Protocol):
    """What can run the runner on arm64 cores."""

    @property
    def title(self) -> str:
        """For the report."""

    @property
    def cores(self) -> tuple[Core, ...]:
        """The classes of cores it has."""

    def run(self, core: Core, model: Path, signature: str, calls: Sequence[Tensors], *, repeat: int, timeout: float) -> Run:
        """Runs a signature; see `Emulator.run`."""


@dataclass(frozen=True)
class Emulator:
    """A finished set-up.

    Args:
        folder: The folder `arm64` of the cache.
    """

    folder: Path

    @property
    def title(self) -> str:
        """`QEMU 7.2, ai-edge-litert 2.1.0 for arm64`."""
        made = read_manifest(self.folder)
        return f"QEMU {made['packages']['qemu-user'].partition(':')[2].partition('+')[0]}, ai-edge-litert {made['litert']} for arm64"

    @property
    def cores(self) -> tuple[Core, ...]:
        """The three classes."""
        return CORES

    def run(self, core: Core, model: Path, signature: str, calls: Sequence[Tensors], *, repeat: int, timeout: float) -> Run:
        """Runs one signature on given inputs.

        Args:
            core: One of `CORES`.
            model: A .tflite.
            signature: Name of the signature.
            calls: For each call, input name -> array.
            repeat: How often each call runs; its last run is the one that is counted, so that 2 leave out what a first run sets up.
            timeout: Seconds.

        Raises:
            EmulatorError: The emulated process crashed, took too long, or left other output than it should.
        """
        with tempfile.TemporaryDirectory(prefix="edgelm-arm64.") as folder:
            log = Path(folder) / "instructions.log"
            command = [*self.command(core, log), self.folder / "bin" / "edgelm_runner"]
            environment = {"LD_LIBRARY_PATH": libraries(self.folder / "root")}
            try:
                outputs = runner.run_calls(command, model, signature, calls, repeat=repeat, environment=environment, timeout=timeout)
            except RuntimeFailure as error:
                raise _explained(error, core, signature) from error
            return Run(outputs, _counts(log, len(calls), repeat))

    def command(self, core: Core, log: Path) -> list[str | Path]:
        """QEMU's command line, to be followed by an arm64 program; the environment needs `libraries`.

        Args:
            core: One of `CORES`.
            log: Where the plugin writes its counts.
        """
        counting: list[str | Path] = ["-plugin", f"file={self.folder / 'bin' / 'insn_count.so'}", "-d", "plugin", "-D", log]
        qemu: list[str | Path] = [self.folder / "root/usr/bin/qemu-aarch64", "-seed", "1", "-cpu", core.cpu]
        return [*qemu, "-U", "LD_LIBRARY_PATH", "-L", sysroot(self.folder, core), *counting]


@dataclass(frozen=True)
class NativeMachine:
    """An arm64 host: the runner runs as it is, nothing is counted.

    Args:
        cache: edgelm's cache folder, where the runner is built.
    """

    cache: Path

    @property
    def title(self) -> str:
        """What it is."""
        return "this arm64 machine itself"

    @property
    def cores(self) -> tuple[Core, ...]:
        """The one class it has."""
        return (THIS_MACHINE,)

    def run(self, core: Core, model: Path, signature: str, calls: Sequence[Tensors], *, repeat: int, timeout: float) -> Run:
        """Runs one signature on given inputs; see `Emulator.run`."""
        built = runner.host_runner(self.cache)
        return Run(runner.run_calls([built], model, signature, calls, timeout=timeout), None)


def find(cache: Path | None = None, machine: str | None = None) -> Machine | None:
    """What this host can run arm64 code with; None when nothing is set up.

    Args:
        cache: edgelm's cache folder; None for the usual one.
        machine: The host's machine name; None asks the system.

    Raises:
        EmulatorError: The set-up is there but damaged, or of another version of edgelm.
    """
    cache = cache or cache_folder()
    if (machine or platform.machine()) in ARM64:
        return NativeMachine(cache)
    folder = cache / FOLDER
    if not folder.exists():
        return None
    if flaw := damage_of(folder) or ("" if is_current(folder) else "its runner was built by another version of edgelm"):
        raise EmulatorError(f"the arm64 set-up in {folder} cannot be used: {flaw}", fix=SETUP)
    return Emulator(folder)


def require(cache: Path | None = None) -> Machine:
    """As `find`.

    Raises:
        EmulatorError: Nothing is set up, or it is damaged.
    """
    found = find(cache)
    if found is None:
        raise EmulatorError("arm64 cores need an emulator, which is not set up", fix=SETUP)
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a set-up says of itself.

    Raises:
        EmulatorError: It is missing or damaged.
    """
    try:
        plain = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise EmulatorError(f"{folder / MANIFEST} cannot be read: {error}", fix=SETUP) from error
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise EmulatorError(f"{folder} was set up by another version of edgelm", fix=SETUP)
    return plain


def versions(folder: Path) -> dict[str, str]:
    """Name -> version of the fetched parts that decide figures: emulator, runtime, compiler, C library.

    Raises:
        EmulatorError: The manifest is missing or damaged.
    """
    made = read_manifest(folder)
    decisive = ("qemu-user", "g++-12-aarch64-linux-gnu", "libc6-arm64-cross")
    return {RUNTIME: made["litert"], **{name: made["packages"][name] for name in decisive}}


def damage_of(folder: Path) -> str:
    """What is missing or changed in a set-up, each file compared with its hash; empty when nothing is."""
    try:
        made = read_manifest(folder)
    except EmulatorError as error:
        return error.what
    for name, expected in made["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            return f"{name} was changed since it was set up"
    return ""


def is_current(folder: Path) -> bool:
    """Whether an undamaged set-up was built from the sources of this edgelm, with the LiteRT that is installed here."""
    made = read_manifest(folder)
    return bool(made["sources"] == sources_sha256() and made["litert"] == importlib.metadata.version(RUNTIME))


def sources_sha256() -> str:
    """One hash of all files of `edgelm/native`."""
    digest = hashlib.sha256()
    for file in sorted(path for path in NATIVE.iterdir() if path.suffix in (".c", ".cpp", ".h")):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def sysroot(folder: Path, core: Core) -> Path:
    """What a program on that core sees as `/`."""
    return folder / "cores" / core.name.replace(" ", "-")


def libraries(root: Path) -> str:
    """`LD_LIBRARY_PATH` of the unpacked programs that run on this host: QEMU and the compiler."""
    return f"{root / 'usr/lib/x86_64-linux-gnu'}:{root / 'lib/x86_64-linux-gnu'}"


def _counts(log: Path, calls: int, repeat: int) -> tuple[Mapping[str, int], ...]:
    """The counts of the last run of each call."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    marks = [json.loads(line) for line in re.findall(r"^edgelm (\{.*\})$", text, re.MULTILINE)]
    runs = [{name: count for name, count in mark.items() if name != "phase"} for mark in marks if mark["phase"] == RUN_DONE]
    if len(runs) != repeat * calls:
        raise EmulatorError(f"the instruction counter saw {len(runs)} runs of {repeat * calls}", fix=SETUP)
    return tuple(runs[repeat - 1 :: repeat])


def _explained(error: RuntimeFailure, core: Core, signature: str) -> EmulatorError:
    where = f"signature {signature!r} on {core.name}"
    if signal := re.search(r"uncaught target signal \d+ \(([^)]*)\)", error.what):
        return EmulatorError(
            f"{where}: the emulated process died of {signal[1]}",
            fix="edgelm check ARTIFACT (judges it without the emulator); please report the model",
        )
    return EmulatorError(f"{where}: {error.what}", allowed=error.allowed, fix=error.fix or SETUP)
