"""Size, memory and time of tiny real artifacts against limits that are set for the occasion."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from edgelm import recipe as recipes
from edgelm.compress import quantize
from edgelm.device.profile import DeviceProfile, load
from edgelm.errors import ArtifactError, RuntimeFailure
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.report import Check
from edgelm.spec import DenseLayer, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.reader import read
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate.budget import BudgetResult, budget
from edgelm.validate.measurement import measure
from edgelm.validate.weights import predictions, stored_weights

KEYBOARD = RecurrentSpec(800, 32, "lstm", (64,), hidden=(DenseLayer(32),), tied_head=True)
TRANSFORMER = TransformerSpec(64, 32, 1, 2, 1, 16, 64, 160)
SECONDS = 0.05


def model_of(spec: RecurrentSpec | TransformerSpec) -> LanguageModel:
    random = np.random.default_rng(5)
    return LanguageModel(
        spec, {name: random.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in weight_shapes(spec).items()}
    )


def lowered(spec: RecurrentSpec | TransformerSpec, recipe: str) -> bytes:
    chosen = recipes.load(recipe)
    model = model_of(spec)
    for step in chosen.steps:
        model = quantize.apply(model, step)
    return direct.lower(model, form=chosen.form).tflite


def limited(name: str = "android-arm64", **limits: float | None) -> DeviceProfile:
    profile = load(name)
    nothing = dict.fromkeys(("size_mb", "download_mb", "ms_per_token", "first_token_ms", "peak_memory_mb"))
    return dataclasses.replace(profile, limits=dataclasses.replace(profile.limits, **{**nothing, **limits}))


def named(result: BudgetResult) -> dict[str, Check]:
    return {check.name: check for check in result.checks}


@pytest.fixture(scope="module")
def float_file() -> bytes:
    return lowered(KEYBOARD, "float32")


@pytest.fixture(scope="module")
def result(float_file) -> BudgetResult:
    return budget(float_file, load("android-arm64"), source="kb", seconds=SECONDS)


def test_everything_of_a_small_model_fits(result):
    checks = named(result)
    assert all(check.passed for name, check in checks.items() if not name.endswith("machine"))
    assert checks["file size"].basis == "read"
    assert checks["time per token"].basis == "estimated"
    assert checks["peak memory"].basis == "measured"
    assert result.next_commands == ()


def test_sizes_are_those_of_the_file(result, float_file):
    assert result.figures.size_mb == len(float_file) / 1e6
    assert result.figures.download_mb == len(zlib.compress(float_file, 9)) / 1e6


def test_time_and_memory_are_measured_here(result):
    measured = result.figures.measured
    assert 0 < measured.step_ms_best <= measured.step_ms_median <= measured.step_ms_p95
    assert measured.runs >= 5
    assert 0 < measured.load_ms <= measured.first_token_ms
    # the runtime allocates at least the packed weights; 300 MB would be a process that counts more than the model (of 0.2 MB)
    assert 0 < measured.load_mb <= measured.peak_mb < 300
    assert measured.runtime == "ai-edge-litert 2.1.0"


def test_the_estimate_is_shown_with_its_interval(result):
    speed = next(table for table in result.tables if table.title == "Speed")
    (row,) = (row for row in speed.rows if row[0].endswith(", step"))
    low, high = (float(value) for value in row[2].split(" to "))
    assert low < float(row[1]) < high
    assert "central estimate" in speed.note


def test_no_estimate_is_a_bare_number(result):
    checks, token = named(result), result.figures.token.estimate
    assert checks["time per token"].interval == (round(token.low, 4), round(token.high, 4))
    low, high = checks["time to first token"].interval
    assert low < checks["time to first token"].measured < high
    assert all(check.interval is None for check in result.checks if check.basis != "estimated")
    recipes = next(table for table in result.tables if table.title == "Other recipes")
    assert all(" to " in row[2] for row in recipes.rows)


def test_weights_by_layer_add_up_to_the_file(result):
    table = next(table for table in result.tables if table.title == "Weights by layer")
    sizes = [float(row[3]) for row in table.rows]
    assert sum(sizes) == pytest.approx(result.figures.size_mb, abs=0.001 * len(sizes))  # each is rounded to 0.001 MB
    assert table.rows[0][:3] == ("embedding and head table", "1", "float32")
    assert result.plots[0].values[0] == max(result.plots[0].values)


def test_a_file_that_is_too_large_names_the_cause_and_a_recipe_that_fits(float_file):
    limit = len(float_file) / 1e6 / 2.5
    result = budget(float_file, limited(size_mb=limit), source="kb", measured=False)
    check = named(result)["file size"]
    assert check.passed is False
    assert check.cause.startswith("embedding and head table (float32) is 47%")  # 102 of 216 kB
    assert check.fix.startswith("edgelm convert kb --recipe int8 --target android-arm64: about 0.0")
    assert check.fix.endswith(", fits")
    assert result.next_commands == (check.fix,)


def test_the_recipe_must_fit_all_limits_when_one_does(float_file):
    size = len(float_file) / 1e6
    loose = budget(float_file, limited(size_mb=size * 0.6), measured=False)
    tight = budget(float_file, limited(size_mb=size * 0.6, download_mb=size * 0.2), measured=False)
    assert "--recipe float16" in named(loose)["file size"].fix
    assert "--recipe int4" in named(tight)["file size"].fix


def test_when_nothing_fits_the_smallest_recipe_is_named_with_what_it_misses_by(float_file):
    check = named(budget(float_file, limited(size_mb=0.01), measured=False))["file size"]
    assert "--recipe int4 " in check.fix
    assert "still" in check.fix and "times the limit" in check.fix


@pytest.mark.parametrize("recipe", ["float16", "int8", "int4", "int4-block32"])
@pytest.mark.parametrize("spec", [KEYBOARD, TRANSFORMER])
def test_predicted_sizes_are_those_of_the_real_files(recipe, spec):
    prediction = {p.recipe: p for p in predictions(read(lowered(spec, "float32")), _token_signature(spec), load("android-arm64"))}[recipe]
    # 3000 bytes: another recipe may split a matrix or unfold a norm, and ops and vectors (2.2 kB for the norms here) come with it
    assert prediction.size_mb * 1e6 == pytest.approx(len(lowered(spec, recipe)), rel=0.02, abs=3000)


def _token_signature(spec: RecurrentSpec | TransformerSpec) -> str:
    return "step" if isinstance(spec, RecurrentSpec) else "decode_160"


def test_only_recipes_the_runtime_can_run_are_suggested(float_file):
    found = predictions(read(float_file), "step", load("android-tflite-2.14"))
    assert {prediction.recipe for prediction in found} == {"float32", "int8-tflite2.14"}


def test_slow_devices_fail_with_what_takes_the_time(float_file):
    check = named(budget(float_file, limited("android-low-end", ms_per_token=0.001), source="kb", measured=False))["time per token"]
    assert check.passed is False
    assert "takes" in check.cause and "% of the estimate" in check.cause
    assert check.fix.startswith("edgelm convert kb --recipe ")


def test_the_host_profile_holds_what_was_measured(float_file):
    result = budget(float_file, limited("host", ms_per_token=1e-6), seconds=SECONDS)
    check = named(result)["time per token"]
    assert (check.passed, check.basis, check.interval) == (False, "measured", None)
    assert check.measured == round(result.figures.measured.step_ms_median, 4)


def test_without_measuring_memory_and_first_token_are_left_open(float_file):
    checks = named(budget(float_file, load("android-arm64"), measured=False))
    assert checks["peak memory"].passed is None
    assert checks["time to first token"].measured == "not measured"
    assert checks["time per token"].passed is True


def test_limits_on_memory_and_first_token_are_held(float_file):
    profile = limited(first_token_ms=0.001, peak_memory_mb=0.001)
    checks = named(budget(float_file, profile, seconds=SECONDS))
    assert checks["time to first token"].passed is False
    assert checks["peak memory"].passed is False
    assert "packed copy" in checks["peak memory"].cause


def test_the_longest_rung_of_a_transformer_decides():
    result = budget(lowered(TRANSFORMER, "int8"), load("raspberry-pi-5"), seconds=SECONDS)
    assert result.figures.token.cost.signature == "decode_160"
    assert [one.cost.signature for one in result.figures.signatures] == ["prefill_64", "decode_128", "decode_160"]
    assert result.figures.measured.position == 120  # three quarters of 160


def test_threads_and_runtime_of_the_profile_are_used():
    result = budget(lowered(KEYBOARD, "int8-tflite2.14"), load("android-tflite-2.14"), seconds=SECONDS, threads=2)
    assert result.figures.measured.runtime == "tflite-runtime 2.14.0"
    assert result.figures.measured.threads == 2


def test_views_of_one_buffer_count_once():
    weights = stored_weights(read(lowered(KEYBOARD, "int8-tflite2.14")))
    tables = [weight for weight in weights if weight.name == "embedding.weight"]
    assert len(tables) == 1
    assert tables[0].looked_up and tables[0].multiplied


def test_a_file_without_a_token_signature_is_refused():
    builder = ModelBuilder()
    g = builder.subgraph("serve")
    g.output("y", g.tanh(g.input("x", (1, 4))))
    with pytest.raises(ArtifactError, match=r"no signature edgelm can run .it has: serve"):
        budget(builder.finish(), load("android-arm64"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        budget(tmp_path / "model.tflite", load("android-arm64"))


def test_what_the_runtime_refuses_comes_back_from_the_other_process(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(lowered(KEYBOARD, "int8"))
    with pytest.raises(RuntimeFailure, match="EMBEDDING_LOOKUP version 4") as caught:
        measure(path, runtime="tflite-runtime", seconds=SECONDS)
    assert caught.value.fix
