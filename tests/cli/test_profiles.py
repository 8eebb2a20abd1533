"""`edgelm profiles` and `edgelm profiles calibrate`, as a user calls them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgelm.cli.main import cli
from edgelm.device import profile_report
from edgelm.device.cost import step_cost
from edgelm.device.latency import call_ms
from edgelm.device.profile import load
from edgelm.device.profile_report import Decode
from edgelm.errors import ProfileError, ProfileReportError
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.spec import RecurrentSpec, weight_shapes
from edgelm.tflite.reader import read

GOLDEN = Path(__file__).parent.parent / "golden" / "profile_report.json"


def run(*arguments: object):
    return CliRunner().invoke(cli, ["profiles", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[list[Path], list[Path]]:
    """Reports and models of a phone that takes twice what android-mid-a76 is said to take."""
    folder, latency = tmp_path_factory.mktemp("phone"), load("android-mid-a76").latency
    reports, models = [], []
    for units in (64, 512):
        spec = RecurrentSpec(2000, 64, "lstm", (units,))
        weights = {name: np.ones(shape, np.float32) for name, shape in weight_shapes(spec).items()}
        data = direct.lower(LanguageModel(spec, weights)).tflite
        model = folder / f"lstm{units}.tflite"
        model.write_bytes(data)
        made = profile_report.read(GOLDEN)
        profiled = dataclasses.replace(made.model, name=model.stem, sha256=hashlib.sha256(data).hexdigest())
        step = (2 * call_ms(step_cost(read(data), "step"), latency),) * 20
        made = dataclasses.replace(made, model=profiled, decode=Decode({"step": step}, 8), prefill=None, thermal=())
        report = folder / f"lstm{units}.json"
        report.write_bytes(made.encode())
        reports.append(report)
        models.append(model)
    return reports, models


def test_bare_it_lists_the_profiles():
    shown = run()
    assert shown.exit_code == 0
    assert "android-mid-a76" in shown.output and "estimated" in shown.output
    assert "edgelm profiles calibrate" in shown.output


def test_a_phone_is_fitted_from_its_reports(measured, tmp_path):
    (reports, models), out = measured, tmp_path / "my-phone.toml"
    shown = run("calibrate", *reports, "--artifact", models[0], "--artifact", models[1], "-o", out)
    assert shown.exit_code == 0
    assert "Predicted against measured" in shown.output
    assert "(-50%)" in shown.output  # before: the phone takes twice the estimate
    assert load(out).latency.basis == "measured"
    assert load(out).name == "my-phone"
    assert load(out).latency.dram_gb_s < 0.75 * load("android-mid-a76").latency.dram_gb_s


def test_errors_leave_nothing_behind(measured, tmp_path):
    (reports, models), out = measured, tmp_path / "my-phone.toml"
    with pytest.raises(ProfileReportError, match="none of the artifacts given"):
        run("calibrate", *reports, "--artifact", models[0], "-o", out)
    with pytest.raises(ProfileReportError, match="cannot be read"):
        run("calibrate", tmp_path / "none.json", "-o", out)
    with pytest.raises(ProfileError, match="did you mean 'raspberry-pi-4'"):
        run("calibrate", *reports, "--artifact", models[0], "--like", "raspbery-pi-4", "-o", out)
    with pytest.raises(ProfileError, match=r"does not end in \.toml"):
        run("calibrate", *reports, "-o", tmp_path / "phone.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("report.json", "--host")])
def test_reports_and_host_exclude_each_other(arguments, tmp_path):
    shown = run("calibrate", *arguments, "-o", tmp_path / "p.toml")
    assert shown.exit_code == 2
    assert "--host for this machine" in shown.output
