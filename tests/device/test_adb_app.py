"""The demo app's benchmark, driven on a real adbd with `am`, `pm` and `pidof` as stubs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from device.adb_world import World

from edgelm.device import adb, adb_app, profile_report
from edgelm.device.adb_runner import BenchOptions
from edgelm.errors import DeviceError, ProfileReportError

GOLDEN = Path(__file__).parent.parent / "golden" / "profile_report.json"
OPTIONS = BenchOptions(prompt=3, tokens=5, warmup=2, threads=2, timeout_s=3)
FILES = "sdcard/Android/data/dev.edgelm.demo/files"

PARSE = """
echo "$@" > /am.log
while [ $# -gt 0 ]; do
  case "$1 $2" in "--es model") model=$3 ;; "--es report") report=$3 ;; esac
  shift
done
[ -f "$model" ] || { echo "no model $model"; exit 1; }
reports=/sdcard/Android/data/dev.edgelm.demo/files/reports
mkdir -p $reports
touch /running/dev.edgelm.demo
echo "Status: ok"
"""
"""What `am` does first; each test says how the app goes on."""


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    world = World.boot(tmp_path_factory.mktemp("phone"))
    world.write("packages/dev.edgelm.demo", "")
    world.write("golden.json", GOLDEN.read_text(encoding="utf-8"))
    yield world
    world.close()


@pytest.fixture
def device(phone, monkeypatch):
    phone.plug_in(monkeypatch)
    (phone.root / "running/dev.edgelm.demo").unlink(missing_ok=True)
    return adb.connect()


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"weights")
    return path


def run(device, model, package=adb_app.PACKAGE, options=OPTIONS):
    return adb_app.profile(device, model, name="keyboard", package=package, options=options)


def left_over(phone: World) -> list[str]:
    return [str(path.name) for folder in ("models", "reports") for path in (phone.root / FILES / folder).glob("*")]


def test_the_app_measures_and_its_report_is_fetched(phone, device, model):
    phone.stub("am", PARSE + "( sleep 1; cp /golden.json $reports/part; mv $reports/part $reports/$report.json ) >/dev/null 2>&1 &")
    report = run(device, model)
    golden = profile_report.read(GOLDEN)
    assert report == dataclasses.replace(golden, model=dataclasses.replace(golden.model, name="keyboard"))
    assert left_over(phone) == []
    asked = (phone.root / "am.log").read_text().split()
    assert asked[:5] == ["start", "-S", "-W", "-n", "dev.edgelm.demo/dev.edgelm.demo.BenchmarkActivity"]
    extras = dict(zip(asked[6::3], asked[7::3], strict=True))
    assert extras.pop("report").startswith("edgelm-")
    assert extras.pop("model").startswith("/sdcard/Android/data/dev.edgelm.demo/files/models/edgelm-")
    assert extras == {"runs": "5", "prompt": "3", "warmup": "2", "threads": "2"}


def test_an_app_that_is_not_installed_says_how_to_install_it(device, model):
    with pytest.raises(DeviceError, match=r"the app dev.edgelm.other is not installed") as caught:
        run(device, model, "dev.edgelm.other")
    assert "installDebug" in caught.value.fix


@pytest.mark.parametrize("package", ["", "demo", "a b.c", "x.y; rm -rf /", "x.$(id)", "../x.y", "x.y\n"])
def test_a_package_that_is_no_app_id(device, model, package):
    with pytest.raises(DeviceError, match="is no app id"):
        run(device, model, package)


def test_a_board_has_no_apps(phone, device, model):
    (phone.root / "stubs/pm").rename(phone.root / "pm")
    try:
        with pytest.raises(DeviceError, match="it is no Android device"):
            run(device, model)
    finally:
        (phone.root / "pm").rename(phone.root / "stubs/pm")


@pytest.mark.parametrize(
    ("then", "what"),
    [
        (
            'echo "Error type 3"; echo "Error: Activity class {dev.edgelm.demo/dev.edgelm.demo.BenchmarkActivity} does not exist."',
            "has no dev.edgelm.demo.Bench",
        ),
        ('echo "Error: Activity not started, unable to resolve Intent" >&2', "did not start: Error: Activity not started"),
        ("exit 1", "did not start: "),
        ('echo "the model is damaged" > $reports/$report.error', "could not run the model: the model is damaged"),
        ("rm /running/dev.edgelm.demo", "crashed or was closed"),
        ("true", "wrote no report within 3 s"),
    ],
)
def test_an_app_that_fails(phone, device, model, then, what):
    phone.stub("am", PARSE + then)
    with pytest.raises(DeviceError, match=what) as caught:
        run(device, model)
    assert caught.value.fix
    assert left_over(phone) == []


def test_a_report_of_another_version_is_refused(phone, device, model):
    phone.write("other.json", json.dumps({"schema": "edgelm-profile/9"}))
    phone.stub("am", PARSE + "cp /other.json $reports/$report.json")
    with pytest.raises(ProfileReportError, match="the app's report has the schema 'edgelm-profile/9'"):
        run(device, model)
    assert left_over(phone) == []


def test_the_phone_is_unplugged_while_the_app_measures(tmp_path, monkeypatch, model):
    world = World.boot(tmp_path / "own")
    try:
        world.plug_in(monkeypatch)
        world.write("packages/dev.edgelm.demo", "")
        world.stub("am", PARSE)
        device = adb.connect()
        monkeypatch.setattr(adb_app, "_wait", unplugged(world, adb_app._wait))
        with pytest.raises(DeviceError, match=r"(was unplugged|became offline|broke) while waiting for the app's report"):
            adb_app.profile(device, model, name="k", options=OPTIONS)
    finally:
        world.close()


def unplugged(world: World, wait):
    """The same function; the adbd ends before it."""

    def then(*arguments):
        world.unplug()
        return wait(*arguments)

    return then
