"""`edgelm profile`, from the command to the report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from device.adb_world import World
from tiny_models import write_model

from edgelm import pipeline
from edgelm.device import profile_report

GOLDEN = Path(__file__).parent.parent / "golden" / "profile_report.json"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    """A tiny recurrent model as an artifact."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "tiny")
    pipeline.convert(pipeline.Request(str(folder / "tiny"), output=folder / "out", quality_tokens=0))
    return folder / "out"


def report_of(artifact: Path, folder: Path, **changes: object) -> Path:
    """A report of a phone that ran the artifact."""
    data = (artifact / "model.tflite").read_bytes()
    golden = profile_report.read(GOLDEN)
    model = profile_report.ProfiledModel("tiny", hashlib.sha256(data).hexdigest(), len(data))
    decode = profile_report.Decode({"step": (0.1, 0.2, 0.3)}, 8)
    path = folder / "report.json"
    path.write_bytes(dataclasses.replace(golden, model=model, decode=decode, prefill=None, **changes).encode())
    return path


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A device behind adb."""
    world = World.boot(tmp_path / "phone")
    world.write("props/ro.product.model", "Phone 1\n")
    world.plug_in(monkeypatch)
    yield world
    world.close()


def test_a_report_alone_is_shown_without_a_verdict(edgelm):
    code, out, _ = edgelm("profile", "--import", GOLDEN)
    assert code == 0
    assert 'keyboard-lstm on Example Phone "7" \\ é' in out
    assert "decode_128   4        2.500       3.700   3.850   400" in out
    assert "first token" in out
    assert "PASS" not in out


def test_a_report_of_the_artifact_is_held_against_estimates_and_limits(edgelm, artifact, tmp_path):
    code, out, _ = edgelm("profile", artifact, "--import", report_of(artifact, tmp_path))
    assert code == 0
    assert "judged by    android-arm64" in out
    assert "time per token, step   0.2 ms" in out
    assert "estimated ms" in out
    assert "PASS: fits (3 checks passed, 0 failed)" in out
    assert f"edgelm profiles calibrate {tmp_path / 'report.json'}" in out


def test_the_slowest_signature_is_held_against_the_limit(edgelm):
    code, out, _ = edgelm("profile", "--import", GOLDEN, "--target", "android-arm64")
    assert code == 0
    assert "time per token, decode_256   5.281 ms" in out
    assert "none at the start, at worst light" in out


def test_a_device_that_slowed_itself_down_is_told_to_cool(edgelm, artifact, tmp_path):
    hot = tuple(profile_report.ThermalReading(at_ms, status) for at_ms, status in ((0.0, 1), (900.0, 3)))
    _, out, _ = edgelm("profile", artifact, "--import", report_of(artifact, tmp_path, thermal=hot))
    assert "light at the start, at worst severe: the device slowed itself down, let it cool" in out


def test_a_phone_without_a_runner_names_the_app_and_the_build(edgelm, artifact, phone, monkeypatch):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    phone.write("props/ro.product.cpu.abi", "arm64-v8a\n")
    phone.write("system/bin/linker64", "")
    code, _, err = edgelm("profile", artifact, "--device", "adb")
    assert code == 1
    assert "error: there is no runner for Android arm64-v8a here" in err
    assert "--app" in err
    assert "-DANDROID_ABI=arm64-v8a" in err


def test_a_missed_limit_is_exit_code_3_with_a_cause(edgelm, artifact, tmp_path):
    slow = report_of(artifact, tmp_path, first_token_ms=5000.0, load_ms=4000.0)
    code, out, _ = edgelm("profile", artifact, "--import", slow)
    assert code == 3
    assert "FAIL time to first token: loading is 80% of it" in out


def test_json_and_html_have_the_same_figures(edgelm, artifact, tmp_path):
    page = tmp_path / "report.html"
    code, out, _ = edgelm("profile", artifact, "--import", report_of(artifact, tmp_path), "--json", "--html", page)
    assert code == 0
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["time per token, step"]["measured"] == 0.2
    assert checks["time per token, step"]["basis"] == "measured"
    assert "0.2 ms" in page.read_text(encoding="utf-8")


def test_the_emulator_of_android_is_named_as_one(edgelm, artifact, tmp_path):
    device = dataclasses.replace(profile_report.read(GOLDEN).device, soc="ranchu")
    _, out, _ = edgelm("profile", artifact, "--import", report_of(artifact, tmp_path, device=device))
    assert "its times are this computer's" in out


@pytest.mark.slow
def test_without_a_device_this_host_is_profiled(edgelm, artifact, tmp_path):
    page, measurements = tmp_path / "host.html", tmp_path / "host.json"
    code, out, err = edgelm("profile", artifact, "--html", page, "-o", measurements)
    assert code == 0, err
    assert "on this machine" in out
    assert [one["signature"] for one in json.loads(measurements.read_text())["signatures"]] == ["step"]
    assert "<svg" in page.read_text(encoding="utf-8")


def test_a_target_that_is_not_known_is_said_before_the_run(edgelm, artifact, phone):
    code, _, err = edgelm("profile", artifact, "--device", "adb", "--target", "andriod-arm64")
    assert code == 1
    assert "did you mean 'android-arm64'" in err
    assert "looking for the device" not in err


def test_a_report_of_another_model_is_refused(edgelm, artifact, tmp_path):
    code, _, err = edgelm("profile", artifact, "--import", GOLDEN, "-o", tmp_path / "copy.json")
    assert code == 1
    assert "error: the report is of another file" in err
    assert not (tmp_path / "copy.json").exists()


def test_a_report_of_another_signature_is_refused(edgelm, artifact, tmp_path):
    path = report_of(artifact, tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace('"step"', '"stride"'), encoding="utf-8")
    code, _, err = edgelm("profile", artifact, "--import", path)
    assert code == 1
    assert "'stride'" in err
    assert "allowed: step" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "ARTIFACT is missing"),
        (("--app",), "put it first"),
        (("FOLDER", "--device", "usb"), "it is adb, or adb:SERIAL"),
        (("--import", "r.json", "--app"), "runs nothing"),
        (("--import", "r.json", "--device", "adb"), "runs nothing"),
        (("FOLDER", "--device", "adb", "--tokens", "0"), "not in the range"),
        (("FOLDER", "--target", "android-arm64"), "--device, --app or --import"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(edgelm, arguments, words):
    code, _, err = edgelm("profile", *arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("place", ["none/report.json", "."])
def test_a_place_that_cannot_be_written_is_said_first(edgelm, artifact, tmp_path, place):
    code, _, err = edgelm("profile", artifact, "--device", "adb", "-o", tmp_path / place)
    assert code == 1
    assert "cannot be written" in err


def test_no_adb_names_what_to_install(edgelm, artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    code, _, err = edgelm("profile", artifact, "--device", "adb", "-o", tmp_path / "r.json")
    assert code == 1
    assert "error: adb is not on PATH" in err
    assert "apt install adb" in err
    assert not (tmp_path / "r.json").exists()


def test_a_device_asked_for_by_its_serial(edgelm, artifact, phone):
    code, _, err = edgelm("profile", artifact, "--device", "adb:10.1.1.1:5555")
    assert code == 1
    assert "no device '10.1.1.1:5555' is connected" in err
    assert "127.0.0.1:5599 (device)" in err


def test_the_app_is_not_installed(edgelm, artifact, phone):
    code, _, err = edgelm("profile", artifact, "--app")
    assert code == 1
    assert "the app dev.edgelm.demo is not installed" in err


def test_a_phone_of_another_abi_is_refused_before_anything_is_copied(edgelm, artifact, phone, tmp_path):
    phone.write("props/ro.product.cpu.abi", "arm64-v8a\n")
    shell = Path(shutil.which("sh") or "/bin/sh").resolve()
    code, _, err = edgelm("profile", artifact, "--device", "adb", "--runner", shell, "--library", shell)
    assert code == 1
    assert "built for x86_64, the device runs Linux arm64-v8a" in err
    assert list((phone.root / "data/local/tmp").iterdir()) == []


@pytest.mark.slow
def test_the_native_runner_measures_on_the_device(edgelm, artifact, phone, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler for the native runner")
    report = tmp_path / "report.json"
    code, out, err = edgelm("profile", artifact, "--device", "adb", "--tokens", 20, "--prompt", 4, "-o", report)
    assert code == 0, err
    assert "tiny on Phone 1" in out
    measured = profile_report.read(report)
    assert measured.made_by == "runner"
    assert len(measured.decode.signature_ms["step"]) == 20
    assert measured.model.sha256 == hashlib.sha256((artifact / "model.tflite").read_bytes()).hexdigest()
    assert 0 < measured.load_ms <= measured.first_token_ms
    assert measured.memory.growth_mb > 0
    assert list((phone.root / "data/local/tmp").iterdir()) == []
    code, out, _ = edgelm("profile", artifact, "--import", report)
    assert code == 0
    assert "tiny on Phone 1" in out
