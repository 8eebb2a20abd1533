"""The runner on a real adbd: what is copied, run, fetched and removed, and what is said when a step fails."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from device.adb_world import SERIAL, World

from edgelm.device import adb, adb_facts, adb_runner, profile_report
from edgelm.device.adb_binaries import Binaries
from edgelm.device.adb_runner import BenchOptions
from edgelm.errors import DeviceError, ProfileReportError

GOLDEN = Path(__file__).parent.parent / "golden" / "profile_report.json"
SOURCE = Path(__file__).parent / "stand_in_runner.c"
OPTIONS = BenchOptions(prompt=3, tokens=5, warmup=2, timeout_s=20)


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """A device that stays for the module."""
    world = World.boot(tmp_path_factory.mktemp("phone"))
    world.write("props/ro.product.manufacturer", "Pretend\n")
    world.write("props/ro.product.model", "Phone 1\n")
    world.write("props/ro.product.cpu.abi", "x86_64\n")
    world.write("props/ro.build.version.sdk", "34\n")
    yield world
    world.close()


@pytest.fixture
def device(phone, monkeypatch):
    phone.plug_in(monkeypatch)
    return adb.connect()


@pytest.fixture
def own_phone(tmp_path, monkeypatch):
    """Boots a device that the test may break."""
    worlds = []

    def boot(**settings: str) -> World:
        world = World.boot(tmp_path / "own", **settings)
        worlds.append(world)
        world.plug_in(monkeypatch)
        return world

    yield boot
    for world in worlds:
        world.close()


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """Builds a runner that behaves as asked."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("stand-in")
    library = folder / "libLiteRt.so"
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", library], check=True)

    def build(behaviour: int = 0, report: str = "") -> Binaries:
        runner = folder / f"runner-{behaviour}-{hashlib.sha256(report.encode()).hexdigest()[:8]}"
        defined = [f"-DREPORT={json.dumps(report)}"] if report else []
        subprocess.run(["cc", SOURCE, f"-DBEHAVIOUR={behaviour}", *defined, "-o", runner], check=True)
        return Binaries(runner, library)

    return build


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"not a model, but its bytes are copied" * 1000)
    return path


def anonymous_report() -> str:
    """The golden as a runner writes it, which knows nothing of the maker's name."""
    report = json.loads(GOLDEN.read_text(encoding="utf-8"))
    report["device"] |= {"manufacturer": "", "model": "", "soc": "", "android_api": 0, "cores": 0}
    report["model"] = {"name": "model", "sha256": "", "bytes": 0}
    report["thermal"] = []
    return json.dumps(report, ensure_ascii=True)


def run(device, model, binaries, options=OPTIONS):
    return adb_runner.profile(device, model, binaries, adb_facts.ask(device), name="keyboard", options=options)


def left_over(world: World) -> list[str]:
    return [path.name for path in (world.root / "data/local/tmp").iterdir()]


def still_running(world: World) -> list[str]:
    """Programs whose folder is, or was, one of the device."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            folder = str((process / "cwd").readlink())
            found += [folder] if folder.startswith(str(world.root / "data/local/tmp")) else []
    return found


def test_the_device_says_what_it_is(device):
    facts = adb_facts.ask(device)
    assert device.serial == SERIAL
    assert (facts.manufacturer, facts.model, facts.abi, facts.is_android, facts.android_api) == ("Pretend", "Phone 1", "x86_64", False, 34)
    assert facts.cores >= 1
    assert facts.ram_mb > 100


def test_exit_codes_and_both_outputs_come_back(device):
    result = device.shell("sh", "-c", "echo out; echo bad >&2; exit 7", task="asking")
    assert (result.code, result.output, result.errors) == (7, "out\n", "bad\n")
    assert device.shell("no-such-program", task="asking").code == 127


def test_a_run_gives_the_report_completed_and_removes_its_folder(phone, device, model, stand_in):
    stages = []
    facts = adb_facts.ask(device)
    report = adb_runner.profile(
        device,
        model,
        stand_in(0, anonymous_report()),
        facts,
        name="keyboard",
        options=OPTIONS,
        on_stage=lambda *stage: stages.append(stage),
    )
    assert report.device.title == "Pretend Phone 1"
    assert (report.device.android_api, report.device.cores) == (34, facts.cores)
    assert report.device.abi == "arm64-v8a"  # what the runner says of itself is kept
    assert (report.model.name, report.model.bytes) == ("keyboard", model.stat().st_size)
    assert report.model.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert report.decode == profile_report.read(GOLDEN).decode
    assert report.thermal == ()
    assert [stage for stage, *_ in stages] == ["copying to the device"] * 3 + ["running 5 tokens on the device"]
    assert left_over(phone) == []


def test_the_thermal_status_is_read_before_and_after(phone, device, model, stand_in):
    phone.write("thermal", "Thermal Status: 1\n")
    try:
        readings = run(device, model, stand_in(0, anonymous_report())).thermal
    finally:
        (phone.root / "thermal").unlink()
    assert [reading.status for reading in readings] == [1, 1]
    assert readings[0].at_ms == 0 < readings[1].at_ms


@pytest.mark.parametrize(
    ("behaviour", "what"),
    [
        (1, "the runner failed on the device: the model has no signature to run"),
        (2, "the runner crashed on the device: SIGSEGV"),
        (4, "the file or folder is not there while copying .*report.json"),
    ],
)
def test_a_runner_that_fails(phone, device, model, stand_in, behaviour, what):
    with pytest.raises(DeviceError, match=what) as caught:
        run(device, model, stand_in(behaviour))
    assert caught.value.fix
    assert left_over(phone) == []


def test_a_report_of_another_version_names_the_runner(phone, device, model, stand_in):
    with pytest.raises(ProfileReportError, match="the runner's report lacks the key 'made_by'") as caught:
        run(device, model, stand_in(0))
    assert "edgelm/native" in caught.value.fix
    assert left_over(phone) == []


def test_a_run_that_takes_too_long_is_ended_on_the_device(phone, device, model, stand_in):
    with pytest.raises(DeviceError, match="within 2 s while running the model") as caught:
        run(device, model, stand_in(3), dataclasses.replace(OPTIONS, timeout_s=2))
    assert "--timeout" in caught.value.fix
    assert left_over(phone) == []
    assert still_running(phone) == []


def test_the_device_is_unplugged_while_the_model_runs(own_phone, model, stand_in):
    world, binaries = own_phone(), stand_in(3)
    device = adb.connect()
    started = threading.Event()

    def unplug():
        started.wait(30)
        time.sleep(0.5)
        world.unplug()

    thread = threading.Thread(target=unplug)
    thread.start()

    def on_stage(stage: str, done: int, total: int) -> None:
        if stage.startswith("running"):
            started.set()

    with pytest.raises(DeviceError, match=r"(was unplugged|became offline|broke) while running the model on the device") as caught:
        adb_runner.profile(device, model, binaries, adb_facts.ask(device), name="k", options=OPTIONS, on_stage=on_stage)
    thread.join()
    assert caught.value.fix
    with pytest.raises(DeviceError, match=r"is offline|no device"):
        adb.connect()


def test_too_little_space_is_said_before_anything_is_copied(own_phone, model, stand_in):
    own_phone(size="1m")
    device = adb.connect()
    with pytest.raises(DeviceError, match=r"the device has 1.0 MB free in /data/local/tmp, the run needs \d"):
        run(device, model, stand_in(0))
    assert device.shell("ls", "/data/local/tmp", task="asking").output == ""


def test_space_that_runs_out_while_copying(own_phone, tmp_path, stand_in):
    world = own_phone(size="1m")
    world.stub("df", "echo 'df: not permitted' >&2; exit 1")
    large = tmp_path / "large.tflite"
    large.write_bytes(bytes(3_000_000))
    device = adb.connect()
    with pytest.raises(DeviceError, match=r"no space left while copying large.tflite") as caught:
        run(device, large, stand_in(0))
    assert "free some space" in caught.value.fix
    assert device.shell("ls", "/data/local/tmp", task="asking").output == ""


def test_a_folder_that_starts_no_programs(own_phone, model, stand_in):
    own_phone(size="20m", options="noexec,mode=777")
    device = adb.connect()
    with pytest.raises(DeviceError, match="does not let programs start in /data/local/tmp") as caught:
        run(device, model, stand_in(0))
    assert "--app" in caught.value.fix
    assert device.shell("ls", "/data/local/tmp", task="asking").output == ""


def test_no_folder_can_be_written(device, model, stand_in, monkeypatch):
    monkeypatch.setattr(
        adb_runner,
        "MAKE_FOLDER",
        adb_runner.MAKE_FOLDER.replace("/data/local/tmp", "/proc").replace("/tmp;", "/sys;").replace("$TMPDIR", ""),
    )
    with pytest.raises(DeviceError, match="no folder on the device can be written"):
        run(device, model, stand_in(0))


def test_a_binary_of_another_cpu_never_reaches_the_device(phone, device, model, stand_in):
    phone.write("props/ro.product.cpu.abi", "arm64-v8a\n")
    try:
        with pytest.raises(DeviceError, match="built for x86_64, the device runs Linux arm64-v8a"):
            run(device, model, stand_in(0))
    finally:
        phone.write("props/ro.product.cpu.abi", "x86_64\n")
    assert left_over(phone) == []
