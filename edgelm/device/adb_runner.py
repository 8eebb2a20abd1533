"""A model run by the command-line runner on a device behind adb: copied to a folder of its own, run, its report fetched, all removed.

`/data/local/tmp` is the one folder of a phone that adb may write to and start programs from; a board has $TMPDIR or /tmp.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelm.device import adb_binaries, adb_facts, profile_report
from edgelm.device.adb import AdbDevice, ShellResult
from edgelm.device.adb_binaries import Binaries
from edgelm.device.adb_errors import printable
from edgelm.device.adb_facts import DeviceFacts
from edgelm.device.profile_report import ProfiledModel, ProfileReport, ThermalReading
from edgelm.errors import DeviceError, ProfileReportError

OnStage = Callable[[str, int, int], None]
MODEL, RUNNER, LIBRARY, REPORT, PID = "model.tflite", "edgelm_runner", "libLiteRt.so", "report.json", "pid"

MAKE_FOLDER = """
for base in /data/local/tmp "$TMPDIR" /tmp; do
  if [ -n "$base" ] && [ -d "$base" ] && [ -w "$base" ]; then mkdir "$base/$1" && echo "$base/$1" && exit 0; fi
done
exit 1
"""
RUN = 'cd "$1" && shift && echo $$ > pid && export LD_LIBRARY_PATH=. && exec ./edgelm_runner "$@"'
REMOVE = '[ -n "$2" ] && [ -f "$1/pid" ] && kill -9 "$(cat "$1/pid")" 2>/dev/null; rm -rf "$1"'
NOT_EXECUTABLE = 126
KILLED = 128
SIGNALS = {
    4: "SIGILL, an instruction this CPU does not have",
    6: "SIGABRT",
    7: "SIGBUS",
    9: "SIGKILL, perhaps out of memory",
    11: "SIGSEGV",
}
SPARE_MB = 2.0
"""Room for the report, and for rounding of the file system, MB."""


@dataclass(frozen=True)
class BenchOptions:
    """How the runner measures.

    Attributes:
        prompt: Tokens fed before the first generated one.
        tokens: Tokens that are timed.
        warmup: Tokens before them.
        threads: Of the runtime's pool.
        timeout_s: Longest the run may take, s.
    """

    prompt: int = 32
    tokens: int = 128
    warmup: int = 8
    threads: int = 1
    timeout_s: float = 300.0


def profile(
    device: AdbDevice,
    model: Path,
    binaries: Binaries,
    facts: DeviceFacts,
    *,
    name: str,
    options: BenchOptions,
    on_stage: OnStage = lambda stage, done, total: None,
) -> ProfileReport:
    """Runs a model's benchmark on a device.

    Args:
        device: From `adb.connect`.
        model: The .tflite.
        binaries: Runner and library for the device.
        facts: From `adb_facts.ask`; they fill in what the runner cannot know, such as the maker's name.
        name: The model's name in the report.
        options: What to run.
        on_stage: Called with a stage, what is done and the total.

    Raises:
        DeviceError: Wrong ABI, no space, no permission to execute, crash, timeout, or the device went away.
        ProfileReportError: What the runner wrote is no report.

    Example:
        >>> device = connect("emulator-5554")  # doctest: +SKIP
        >>> profile(device, Path("model.tflite"), binaries, ask(device), name="m", options=BenchOptions()).statistics()  # doctest: +SKIP
    """
    adb_binaries.check(binaries, facts)
    files = {MODEL: model, RUNNER: binaries.runner, LIBRARY: binaries.library}
    with _folder(device) as folder:
        _check_space(device, folder, sum(path.stat().st_size for path in files.values()) / 1e6)
        for done, (remote, path) in enumerate(files.items()):
            on_stage("copying to the device", done, len(files))
            device.push(path, f"{folder}/{remote}")
        started, before = time.monotonic(), adb_facts.thermal_status(device)
        on_stage(f"running {options.tokens} tokens on the device", 0, 0)
        _run(device, folder, options)
        after, seconds = adb_facts.thermal_status(device), time.monotonic() - started
        report = _fetch(device, folder)
    readings = ((0.0, before), (round(seconds * 1e3, 1), after))
    thermal = tuple(ThermalReading(at_ms, status) for at_ms, status in readings if status is not None)
    data = model.read_bytes()
    ran = ProfiledModel(name, hashlib.sha256(data).hexdigest(), len(data))
    return _completed(report, facts, ran, thermal)


@contextmanager
def _folder(device: AdbDevice) -> Iterator[str]:
    """A new folder on the device, removed with everything in it; a program that still runs there is ended."""
    name = f"edgelm-{secrets.token_hex(4)}"
    made = device.shell("sh", "-c", MAKE_FOLDER, "edgelm", name, task="making a folder on the device")
    folder = made.output.strip()
    if made.code or not re.fullmatch(rf"/[^\0\n]*/{name}", folder):
        raise DeviceError(
            f"no folder on the device can be written: {made.last_words}", allowed="/data/local/tmp, $TMPDIR or /tmp", fix="--app"
        )
    finished = False
    try:
        yield folder
        finished = True
    finally:
        try:
            device.shell("sh", "-c", REMOVE, "edgelm", folder, "" if finished else "kill", task=f"removing {printable(folder)}")
        except DeviceError:
            if finished:
                raise  # otherwise what went wrong before is what the user has to know


def _check_space(device: AdbDevice, folder: str, needed_mb: float) -> None:
    """Fails before anything is copied; a device whose `df` says nothing is believed to have room."""
    answer = device.shell("df", "-P", "-k", folder, task="asking for free space").output
    rows = [line.split() for line in answer.strip().splitlines()[1:]]
    if not rows or len(rows[-1]) < 6 or not rows[-1][3].isdigit():
        return
    free_mb = int(rows[-1][3]) * 1024 / 1e6
    if free_mb < needed_mb + SPARE_MB:
        raise DeviceError(
            f"the device has {free_mb:.1f} MB free in {printable(folder.rpartition('/')[0])}, the run needs {needed_mb + SPARE_MB:.1f} MB",
            fix="free some space on the device, then again",
        )


def _run(device: AdbDevice, folder: str, options: BenchOptions) -> None:
    numbers = {"--prompt": options.prompt, "--tokens": options.tokens, "--warmup": options.warmup, "--threads": options.threads}
    arguments = [word for option, value in numbers.items() for word in (option, str(value))]
    task = "running the model on the device"
    device.shell("chmod", "755", f"{folder}/{RUNNER}", task="making the runner executable")
    result = device.shell(
        "sh", "-c", RUN, "edgelm", folder, "bench", MODEL, *arguments, "--json", REPORT, task=task, timeout_s=options.timeout_s
    )
    if result.code:
        raise _run_failed(result, folder)


def _run_failed(result: ShellResult, folder: str) -> DeviceError:
    where = printable(folder.rpartition("/")[0])
    if result.code == NOT_EXECUTABLE:
        return DeviceError(
            f"the device does not let programs start in {where}: {result.last_words}",
            allowed="/data/local/tmp of a phone, or a temp folder that is not mounted noexec",
            fix="--app runs the same benchmark inside the demo app; on a board: set TMPDIR for adbd",
        )
    if result.code > KILLED:
        signal = result.code - KILLED
        return DeviceError(
            f"the runner crashed on the device: {SIGNALS.get(signal, f'signal {signal}')}",
            fix="adb logcat -d -b crash shows where; edgelm check ARTIFACT proves the model on this host",
        )
    said = [line.removeprefix("error: ") for line in result.errors.splitlines() if line.startswith("error: ")]
    reason = printable(said[-1]) if said else result.last_words
    return DeviceError(f"the runner failed on the device: {reason}", fix="edgelm check ARTIFACT proves the model on this host")


def _fetch(device: AdbDevice, folder: str) -> ProfileReport:
    with tempfile.TemporaryDirectory() as local:
        path = Path(local) / REPORT
        device.pull(f"{folder}/{REPORT}", path)
        try:
            return profile_report.read(path, "the runner's report")
        except ProfileReportError as error:
            raise ProfileReportError(
                error.what, allowed=error.allowed, fix="use a runner built from this edgelm's edgelm/native"
            ) from error


def _completed(report: ProfileReport, facts: DeviceFacts, model: ProfiledModel, thermal: tuple[ThermalReading, ...]) -> ProfileReport:
    """The report with what the runner does not know filled in."""
    found = report.device
    device = dataclasses.replace(
        found,
        manufacturer=found.manufacturer or facts.manufacturer,
        model=found.model or facts.model,
        soc=found.soc or facts.soc,
        abi=found.abi or facts.abi,
        android_api=found.android_api or facts.android_api,
        cores=found.cores or facts.cores,
        ram_mb=found.ram_mb or facts.ram_mb,
    )
    return dataclasses.replace(report, model=model, device=device, thermal=report.thermal or thermal)
