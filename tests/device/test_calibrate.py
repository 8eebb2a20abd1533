"""A phone's profile from reports that were made up from known figures; and reports that must not become one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from edgelm.device import profile_report
from edgelm.device.calibrate import calibrate, find_models, table
from edgelm.device.cost import step_cost
from edgelm.device.latency import call_ms, predict
from edgelm.device.profile import load
from edgelm.device.profile_report import Decode, Prefill, ProfileReport, ThermalReading
from edgelm.errors import ArtifactError, ProfileReportError
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.spec import Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.reader import read

GOLDEN = Path(__file__).parent.parent / "golden" / "profile_report.json"
LIKE = load("android-mid-a76")
SPECS: dict[str, tuple[ModelSpec, Encoding]] = {
    "keyboard": (RecurrentSpec(4000, 64, "lstm", (256,)), Encoding.INT8),
    "wide": (RecurrentSpec(6000, 256, "gru", (256,)), Encoding.FLOAT32),
    "chat": (TransformerSpec(2000, 128, 3, 4, 4, 32, 384, 256), Encoding.INT8),
}
TRUTH = dataclasses.replace(
    LIKE.latency,
    dram_gb_s=LIKE.latency.dram_gb_s / 2,
    cache=tuple(dataclasses.replace(level, gb_s=level.gb_s / 2) for level in LIKE.latency.cache),
    per_op_us=LIKE.latency.per_op_us * 1.5,
    per_product_us=LIKE.latency.per_product_us * 1.5,
    per_own_op_us=LIKE.latency.per_own_op_us * 1.5,
    per_call_us=LIKE.latency.per_call_us * 1.5,
)
"""The phone: half the memory bandwidth, one and a half times the fixed costs."""


def lowered(name: str) -> bytes:
    spec, encoding = SPECS[name]
    weights = {key: np.ones(shape, np.float32) for key, shape in weight_shapes(spec).items()}
    encodings = {key: encoding for key, weight in weights.items() if weight.ndim == 2}
    return direct.lower(LanguageModel(spec, weights, encodings=encodings)).tflite


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name in SPECS:
        (folder / f"{name}.tflite").write_bytes(lowered(name))
    return {name: folder / f"{name}.tflite" for name in SPECS}


def report_of(path: Path, factor: float = 1.0) -> ProfileReport:
    """What the phone TRUTH reports of a model; a few tokens were interrupted."""
    made, model = profile_report.read(GOLDEN), read(path.read_bytes())
    profiled = dataclasses.replace(made.model, name=path.stem, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    once = {s.name: factor * call_ms(step_cost(model, s.name), TRUTH) for s in model.signatures}
    times = {name: (ms,) * 20 + (9 * ms,) * 3 for name, ms in once.items() if not name.startswith("prefill")}
    prefill = Prefill(64, (once["prefill_64"],) * 8) if "prefill_64" in once else None
    return dataclasses.replace(made, model=profiled, decode=Decode(times, 8), prefill=prefill, thermal=())


def test_the_phone_behind_the_reports_is_found(files):
    reports, models = [report_of(files["keyboard"]), report_of(files["wide"])], find_models(list(files.values()))
    found = calibrate(reports, models, LIKE, "my-phone")
    assert found.profile.latency.dram_gb_s == pytest.approx(TRUTH.dram_gb_s, rel=0.15)  # beliefs beforehand pull a little
    for one, after in zip(found.observations, found.after, strict=True):
        assert after == pytest.approx(one.ms, rel=0.1)
    # and a model it has not seen is predicted within the interval
    unseen = step_cost(read(files["chat"].read_bytes()), "decode_128")
    estimate = predict(unseen, found.profile)
    assert estimate.low < call_ms(unseen, TRUTH) < estimate.high
    assert abs(estimate.ms_per_token / call_ms(unseen, TRUTH) - 1) < abs(predict(unseen, LIKE).ms_per_token / call_ms(unseen, TRUTH) - 1)


def test_the_profile_says_what_it_is_made_of(files):
    reports = [report_of(files[name]) for name in SPECS]
    found = calibrate(reports, find_models(list(files.values())), LIKE, "my-phone")
    profile = found.profile
    assert (profile.name, profile.latency.basis, profile.device.basis) == ("my-phone", "measured", "measured")
    assert "android-mid-a76" in profile.latency.source and "3 reports" in profile.latency.source
    assert profile.device.title == 'Example Phone "7" \\ é'
    assert profile.device.isa == "i8mm"
    assert profile.limits == LIKE.limits
    assert 1.15 <= profile.latency.uncertainty < LIKE.latency.uncertainty
    assert {one.label for one in found.observations} == {
        "keyboard, step", "wide, step", "chat, decode_128", "chat, decode_256", "chat, prefill_64",
    }  # fmt: skip


def test_two_recipes_of_one_model_are_two_models(files):
    reports = [report_of(files[name]) for name in ("keyboard", "wide")]
    reports = [dataclasses.replace(one, model=dataclasses.replace(one.model, name="same")) for one in reports]
    found = calibrate(reports, find_models(list(files.values())), LIKE, "my-phone")
    assert {one.label for one in found.observations} == {f"same {report.model.sha256[:8]}, step" for report in reports}


def test_predicted_against_measured_is_shown_before_and_after(files):
    found = calibrate([report_of(files[name]) for name in SPECS], find_models(list(files.values())), LIKE, "my-phone")
    shown = table(found)
    assert shown.columns == ("call", "measured ms", "before ms", "after ms")
    assert [row[0] for row in shown.rows] == [one.label for one in found.observations]
    assert all("%" in row[2] and "%" in row[3] for row in shown.rows)
    assert shown.note.startswith("Median error ")
    worst = table(found, worst=2)
    assert len(worst.rows) == 2 and set(worst.rows) < set(shown.rows)
    assert worst.note.startswith("The 2 of 5 calls that are missed most. Median error ")


def refused(reports: list[ProfileReport], files: dict[str, Path]) -> ProfileReportError:
    with pytest.raises(ProfileReportError) as caught:
        calibrate(reports, find_models(list(files.values())), LIKE, "my-phone")
    assert caught.value.allowed or caught.value.fix
    return caught.value


def test_one_model_is_too_few(files):
    assert "cannot tell" in refused([report_of(files["chat"])] * 2, files).what


def test_reports_of_two_phones_are_refused(files):
    other = report_of(files["wide"])
    other = dataclasses.replace(other, device=dataclasses.replace(other.device, model="Other"))
    assert "of 2 devices" in refused([report_of(files["chat"]), other], files).what


def test_several_threads_are_refused(files):
    both = [report_of(files["chat"]), report_of(files["wide"])]
    threads = [dataclasses.replace(one, runtime=dataclasses.replace(one.runtime, threads=4)) for one in both]
    assert "4 threads" in refused(threads, files).what
    assert "several runtimes" in refused([both[0], threads[1]], files).what


def test_a_hot_phone_is_refused(files):
    hot = dataclasses.replace(report_of(files["chat"]), thermal=(ThermalReading(0, 0), ThermalReading(900, 3)))
    assert "heat" in refused([hot, report_of(files["wide"])], files).what


def test_a_report_without_its_artifact_is_refused(files):
    some = {"chat": files["chat"]}
    assert "none of the artifacts given" in refused([report_of(files["chat"]), report_of(files["wide"])], some).what


def test_a_handful_of_tokens_is_refused(files):
    short = report_of(files["chat"])
    short = dataclasses.replace(short, decode=Decode({"decode_128": (1.0,) * 7}, 8))
    assert "under 8 tokens" in refused([short, report_of(files["wide"])], files).what


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_times_that_cannot_be_are_refused(factor, files):
    wild = refused([report_of(files["chat"], factor), report_of(files["wide"])], files)
    assert "chat, decode_128 took" in wild.what and "50 times" in wild.allowed


def test_reports_that_contradict_each_other_are_refused(files):
    # one model eight times slower than the same phone would run it: no three factors explain both
    contradiction = refused([report_of(files["chat"]), report_of(files["keyboard"], 8.0)], files)
    assert "contradict each other" in contradiction.what


def test_a_missing_artifact_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact at"):
        find_models([tmp_path / "none"])


def test_reports_written_as_json_are_read_back(files, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(report_of(files["keyboard"]).encode())
    assert json.loads(path.read_text())["model"]["name"] == "keyboard"
    assert profile_report.read(path) == report_of(files["keyboard"])
