"""A model run by the demo app's benchmark activity on a phone behind adb: what a user of the app would measure.

An app is not a program started by adb: other cores, other priorities, Java in between; public reports have LSTMs about twice as slow
in-app. The activity is exported for this purpose only and takes its orders as extras::

    am start -S -W -n dev.edgelm.demo/dev.edgelm.demo.BenchmarkActivity    (-S: a fresh process)
        --es model PATH            the .tflite, inside the app's own external files folder
        --es report ID             the app writes reports/ID.json there (first under another name, then renamed), or reports/ID.error
                                   with one line of text when it cannot
        --ei runs 128 --ei prompt 32 --ei warmup 8 --ei threads 1
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgelm.device import profile_report
from edgelm.device.adb import PATIENCE_S, AdbDevice
from edgelm.device.adb_errors import printable
from edgelm.device.adb_runner import BenchOptions
from edgelm.device.profile_report import ProfileReport
from edgelm.errors import DeviceError

OnStage = Callable[[str, int, int], None]
PACKAGE = "dev.edgelm.demo"
ACTIVITY = "dev.edgelm.demo.BenchmarkActivity"
FILES = "/sdcard/Android/data/{package}/files"
INSTALL = "cd android_demo && ./gradlew installDebug (android_demo/README.md has the rest)"

WAIT = """
gone=0 waited=0
while [ "$waited" -lt "$3" ]; do
  [ -f "$1.json" ] && echo done && exit 0
  [ -f "$1.error" ] && echo failed && head -c 500 "$1.error" && exit 0
  if pidof "$2" >/dev/null; then gone=0; else gone=$((gone + 1)); fi
  [ "$gone" -ge 3 ] && echo gone && exit 0
  sleep 1; waited=$((waited + 1))
done
echo late
"""
"""Arguments: path of the report without its ending, package, seconds. It waits on the device, as every question by adb costs CPU there."""


def profile(
    device: AdbDevice,
    model: Path,
    *,
    name: str,
    package: str = PACKAGE,
    options: BenchOptions,
    on_stage: OnStage = lambda stage, done, total: None,
) -> ProfileReport:
    """Copies a model into the app's folder, starts its benchmark, waits for the report and fetches it.

    Args:
        device: From `adb.connect`.
        model: The .tflite.
        name: The model's name in the report.
        package: The app's id.
        options: What to run.
        on_stage: Called with a stage, what is done and the total.

    Raises:
        DeviceError: No Android, the app is not installed or has no such activity, it failed or crashed, timeout, or the device went away.
        ProfileReportError: What the app wrote is no report.
    """
    _check_installed(device, package)
    files, report_id = FILES.format(package=package), f"edgelm-{secrets.token_hex(4)}"
    remote_model, report = f"{files}/models/{report_id}.tflite", f"{files}/reports/{report_id}"
    try:
        on_stage("copying the model to the app", 0, 0)
        made = device.shell("mkdir", "-p", f"{files}/models", task="making the app's folder of models")
        if made.code:
            raise DeviceError(f"the app's folder cannot be written: {made.last_words}", fix="start the app once, then again")
        device.push(model, remote_model)
        on_stage(f"running {options.tokens} tokens in the app", 0, 0)
        _start(device, package, remote_model, report_id, options)
        _wait(device, package, report, options.timeout_s)
        found = _fetch(device, f"{report}.json")
    finally:
        _remove(device, remote_model, f"{report}.json", f"{report}.error")
    return dataclasses.replace(found, model=dataclasses.replace(found.model, name=name))


def _check_installed(device: AdbDevice, package: str) -> None:
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", package, re.ASCII):
        raise DeviceError(f"{printable(package)!r} is no app id", allowed=f"such as {PACKAGE}", fix=f"--app {PACKAGE}")
    found = device.shell("pm", "path", package, task="looking for the app")
    if found.code == 127:
        raise DeviceError("the device has no apps: it is no Android device", fix="without --app: the command-line runner")
    if not found.output.strip().startswith("package:"):
        raise DeviceError(f"the app {package} is not installed on the device", fix=INSTALL)


def _start(device: AdbDevice, package: str, model: str, report_id: str, options: BenchOptions) -> None:
    numbers = {"runs": options.tokens, "prompt": options.prompt, "warmup": options.warmup, "threads": options.threads}
    extras = [word for name, value in numbers.items() for word in ("--ei", name, str(value))]
    component = f"{package}/{ACTIVITY}"
    command = ("am", "start", "-S", "-W", "-n", component, "--es", "model", model, "--es", "report", report_id, *extras)
    started = device.shell(*command, task="starting the app's benchmark", timeout_s=2 * PATIENCE_S)
    words = started.output + started.errors
    if "does not exist" in words:
        raise DeviceError(f"the app {package} has no {ACTIVITY}", allowed="a demo app of this edgelm's version", fix=INSTALL)
    if started.code or re.search(r"^(Error|Exception|Security exception|java\.lang)", words, re.MULTILINE):
        reason = next((line for line in words.splitlines() if re.match(r"Error:|Security|java\.lang", line)), started.last_words)
        raise DeviceError(
            f"the app's benchmark did not start: {printable(reason)}", fix="unlock the device and open the app once, then again"
        )


def _wait(device: AdbDevice, package: str, report: str, timeout_s: float) -> None:
    command = ("sh", "-c", WAIT, "edgelm", report, package, str(round(timeout_s)))
    answer = device.shell(*command, task="waiting for the app's report", timeout_s=timeout_s + 2 * PATIENCE_S)
    word, _, rest = answer.output.strip().partition("\n")
    failures = {
        "failed": DeviceError(f"the app could not run the model: {printable(rest)}", fix="edgelm check ARTIFACT proves it on this host"),
        "gone": DeviceError("the app crashed or was closed while it measured", fix="adb logcat -d -b crash shows where"),
        "late": DeviceError(
            f"the app wrote no report within {timeout_s:.0f} s",
            fix="unlock the device and keep its screen on, or --timeout S, or fewer --tokens",
        ),
    }
    if word != "done":
        raise failures.get(word, DeviceError(f"waiting for the app's report failed: {answer.last_words}", fix="again"))


def _fetch(device: AdbDevice, report: str) -> ProfileReport:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        device.pull(report, path)
        return profile_report.read(path, "the app's report")


def _remove(device: AdbDevice, *paths: str) -> None:
    """Removes what was copied; when the device has gone, the error that says so is already on its way."""
    try:
        device.shell("rm", "-f", *paths, task="removing the model from the device")
    except DeviceError:
        return
