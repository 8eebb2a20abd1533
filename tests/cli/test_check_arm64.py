"""`check --arm64`, `doctor --setup-arm64` and the arm64 part of `convert`, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import write_model

from edgelm.device import emulator_setup
from edgelm.lower.direct import lower

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edgelm(edgelm: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """With an empty cache."""
    monkeypatch.setenv("EDGELM_CACHE", str(tmp_path / "cache"))
    return edgelm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tflite without a manifest."""
    folder = tmp_path_factory.mktemp("bare")
    path = folder / "other.tflite"
    path.write_bytes(lower(write_model(folder / "tiny", "transformer"), ladder=(16, 64), prefill=0).tflite)
    return path


def test_without_the_emulator_check_names_the_command_that_gets_it(edgelm: Command, bare: Path) -> None:
    code, _, err = edgelm("check", bare, "--arm64")
    assert code == 1
    assert "error: arm64 cores need an emulator, which is not set up" in err
    assert "next: edgelm doctor --setup-arm64" in err


@pytest.mark.slow
def test_without_the_emulator_convert_says_so_in_one_line(edgelm: Command, model: Path, tmp_path: Path) -> None:
    code, out, _ = edgelm("convert", model, "--target", "android-arm64", "-o", tmp_path / "out")
    assert code == 0
    assert out.count("arm64 proof not run; edgelm doctor --setup-arm64 fetches the emulator") == 1
    assert "arm64 proof" not in edgelm("convert", model, "--no-arm64", "-o", tmp_path / "out")[1]


@pytest.mark.slow
def test_a_damaged_set_up_stops_check_and_not_convert(edgelm: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "arm64").mkdir(parents=True)
    code, out, _ = edgelm("convert", model, "--target", "android-arm64", "-o", tmp_path / "out")
    assert code == 0
    assert "arm64 proof not run: the arm64 set-up in" in out
    code, _, err = edgelm("check", tmp_path / "out", "--arm64")
    assert code == 1
    assert "manifest.json cannot be read" in err
    code, out, _ = edgelm("doctor")
    assert code == 1
    assert "FAIL the arm64 set-up" in out


def test_doctor_names_what_is_absent_and_costs_before_it_fetches(edgelm: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, _ = edgelm("doctor")
    assert code == 0
    assert "-    no emulator of arm64 cores" in out
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(emulator_setup, "require_host", lambda: None)
    code, out, err = edgelm("doctor", "--setup-arm64")
    assert code == 1
    assert "about 100 MB are fetched" in out
    assert "error: Debian packages are needed for the emulator" in err and "this machine has no apt-get" in err


@pytest.mark.slow
def test_a_bare_file_is_proven_on_three_cores_the_same_way_twice(
    edgelm: Command, bare: Path, arm64_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELM_CACHE", str(arm64_cache))
    code, first, _ = edgelm("check", bare, "--arm64", "--json")
    assert code == 0
    assert edgelm("check", bare, "--arm64", "--json")[1] == first
    plain = json.loads(first)
    assert [check["name"] for check in plain["checks"] if check["passed"]] == [
        "arm64 proof, cortex-a53",
        "arm64 proof, cortex-a76",
        "arm64 proof, i8mm class",
    ]
    assert len(plain["tables"][1]["rows"]) == 6  # two rungs on three cores


@pytest.mark.slow
def test_with_the_emulator_convert_proves_it_on_three_cores(
    edgelm: Command, model: Path, arm64_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGELM_CACHE", str(arm64_cache))
    code, out, err = edgelm("convert", model, "--target", "android-arm64", "-o", tmp_path / "out")
    assert code == 0
    assert "proving it on arm64 cores (about" in err
    for core in ("cortex-a53", "cortex-a76", "i8mm class"):
        assert f"arm64 proof, {core}" in out
        assert f"instructions a token, {core}" in out
    names = [check["name"] for check in json.loads((tmp_path / "out" / "report.json").read_bytes())["checks"]]
    assert sum(name.startswith("arm64 proof") for name in names) == 3
