"""The proof on arm64 cores: its calls, its limits, its verdicts, and what holds under a real QEMU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arm64_machines import HostMachine, off_by, reversed_order
from lower.lowered_models import encoded, grid_model, random_model
from runtime.tiny_graphs import forward_bytes, weights
from tiny_models import recurrent_spec, transformer_spec

from edgelm.device import emulator, profile
from edgelm.errors import RuntimeFailure
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models import reference_static
from edgelm.spec import Encoding
from edgelm.tflite import reader
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate import arm64, arm64_calls, arm64_report
from edgelm.validate.arm64_limits import LIMITS, arithmetic_of

VOCABULARY = 48
LSTM, GPT = random_model(recurrent_spec(VOCABULARY)), random_model(transformer_spec(VOCABULARY))


def no_stage(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


def static_model(model: LanguageModel) -> LanguageModel:
    """With the ends of every site on some tokens as ranges, as quantization-aware training leaves them."""
    ends: dict[str, tuple[float, float]] = {}

    def observe(site: str, x: np.ndarray) -> None:
        low, high = ends.get(site, (0.0, 1e-3))
        ends[site] = min(low, float(x.min())), max(high, float(x.max()))

    reference_static.StaticSession(model, observe=observe).extend(np.random.default_rng(0).integers(0, VOCABULARY, (1, 32)))
    return model.replace(ranges=ends)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {
        "float": lower(LSTM).tflite,
        "dynamic": lower(encoded(LSTM, Encoding.INT8)).tflite,
        "transformer": lower(encoded(GPT, Encoding.INT8), ladder=(16, 64), prefill=16).tflite,
        "static lstm": lower(static_model(grid_model(LSTM.spec, Encoding.INT8))).tflite,
        "static transformer": lower(static_model(grid_model(GPT.spec, Encoding.INT8))).tflite,
        "blocks": lower(encoded(LSTM, Encoding.INT4_BLOCK32)).tflite,
    }


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [
        ("float", "float"),
        ("dynamic", "rounded"),
        ("transformer", "rounded"),
        ("static lstm", "integer"),
        ("static transformer", "rounded"),  # its attention and norms are float32
    ],
)
def test_the_arithmetic_is_read_from_the_graph(files: dict[str, bytes], name: str, arithmetic: str) -> None:
    assert arithmetic_of(reader.read(files[name])) == arithmetic


def test_every_signature_is_called_as_an_app_calls_it(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(files["transformer"])
    calls = arm64_calls.record(path)
    positions = {name: [int(call.inputs["position"][0]) for call in recorded] for name, recorded in calls.items()}
    assert positions == {"decode_16": [0, 7, 15], "decode_64": [16, 39, 63], "prefill_16": [16]}
    filled = {name: [int((call.inputs["mask"] == 0).sum()) for call in recorded] for name, recorded in calls.items()}
    assert filled == positions  # the caches hold what came before, and the call sees it
    for name in ("decode_16", "decode_64"):
        assert all((call.inputs["k_0"] != 0).any() for call in calls[name][1:])


def test_recorded_answers_are_those_of_the_recorded_inputs(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(files["dynamic"])
    calls = arm64_calls.record(path)["step"]
    again = HostMachine().run(emulator.CORES[0], path, "step", [call.inputs for call in calls], repeat=1, timeout=1.0)
    for call, outputs in zip(calls, again.outputs, strict=True):
        np.testing.assert_array_equal(call.outputs["logits"], outputs["logits"])
    assert len(calls) == arm64_calls.STEPS
    np.testing.assert_array_equal(calls[1].inputs["h_0"], calls[0].outputs["h_0"])  # true states, carried on


def test_a_file_without_known_signatures_is_refused() -> None:
    model = ModelBuilder()
    graph = model.subgraph("other")
    graph.output("y", graph.tanh(graph.input("x", (1, 4))))
    with pytest.raises(RuntimeFailure, match=r"no signature edgelm can run \(it has: other\)"):
        arm64.prove(model.finish(), HostMachine(), no_stage)


def test_a_graph_converted_as_it_is_is_called_with_several_windows(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(forward_bytes(weights(), 6, last_only=False, probabilities=False))
    calls = arm64_calls.record(path)["forward"]
    assert [int((call.inputs["ids"] != 0).sum()) for call in calls] == [1, 3, 6]
    assert arm64.prove(path.read_bytes(), HostMachine(), no_stage).checks[0].passed


@pytest.mark.parametrize("name", ["float", "dynamic", "transformer", "static lstm"])
def test_the_same_answers_pass_on_every_core(files: dict[str, bytes], name: str) -> None:
    proof = arm64.prove(files[name], HostMachine(), no_stage)
    verdicts = {check.name: (check.measured, check.passed) for check in proof.checks if check.basis == "measured"}
    assert verdicts == {f"arm64 proof, {core.name}": (0.0, True) for core in emulator.CORES}
    counted = [check for check in proof.checks if check.basis == "instructions"]
    assert [check.passed for check in counted] == [None] * 3
    assert {1001.0, 1003.0} & {check.measured for check in counted}  # the median of 3 or of 8 calls


@pytest.mark.parametrize(("name", "difference", "passed"), [
    ("float", 5e-6, True),
    ("float", 5e-5, False),
    ("dynamic", 0.02, True),
    ("dynamic", 0.2, False),
    ("static lstm", 1e-6, False),  # every bit has to be the same
])  # fmt: skip
def test_limits_hold(files: dict[str, bytes], name: str, difference: float, passed: bool) -> None:
    proof = arm64.prove(files[name], HostMachine(off_by(difference)), no_stage)
    check = proof.checks[0]
    assert check.passed is passed
    assert check.measured == pytest.approx(difference, rel=0.05)
    if not passed:
        assert LIMITS[arithmetic_of(reader.read(files[name]))].reason in check.cause
        assert check.fix


def test_wrong_answers_fail(files: dict[str, bytes]) -> None:
    for change in (reversed_order, lambda array: np.full_like(array, np.nan)):
        proof = arm64.prove(files["dynamic"], HostMachine(change), no_stage)
        assert [check.passed for check in proof.checks if check.basis == "measured"] == [False] * 3


def test_another_choice_fails_even_within_the_limit() -> None:
    limit = LIMITS["float"]
    here = {"logits": np.array([[1.0, 1.0001, 0.0]], np.float32)}
    assert arm64.same_choice(here, {"logits": here["logits"].copy()}, limit)
    assert not arm64.same_choice(here, {"logits": np.array([[1.0002, 1.0001, 0.0]], np.float32)}, limit)
    tie = {"logits": np.array([[1.000001, 1.0, 0.0]], np.float32)}  # as likely here within the limit
    assert arm64.same_choice(tie, {"logits": np.array([[1.0, 1.000001, 0.0]], np.float32)}, limit)


def test_a_crash_on_one_core_fails_that_core(files: dict[str, bytes]) -> None:
    proof = arm64.prove(files["float"], HostMachine(crashes="cortex-a76"), no_stage)
    verdicts = {check.name: check for check in proof.checks if check.passed is not None}
    assert [check.passed for check in verdicts.values()] == [True, False, True]
    failed = verdicts["arm64 proof, cortex-a76"]
    assert (failed.measured, failed.fix) == ("failed", "report it")
    assert "died" in failed.cause


def test_an_arm64_host_counts_nothing(files: dict[str, bytes]) -> None:
    machine = HostMachine(counted=False, cores=(emulator.THIS_MACHINE,))
    proof = arm64.prove(files["dynamic"], machine, no_stage)
    assert [check.name for check in proof.checks] == ["arm64 proof, this machine"]
    assert proof.tables[0].rows[0][2] == "not counted"


def test_a_proof_that_would_take_too_long_is_cut_and_says_so(files: dict[str, bytes]) -> None:
    stages: list[str] = []
    proof = arm64.prove(files["transformer"], HostMachine(), lambda stage, done, total: stages.append(stage), budget_s=2.0)
    assert {row[1] for row in proof.tables[1].rows} == {"decode_16"}
    assert "Left out" in proof.tables[0].note and "decode_64, prefill_16" in proof.tables[0].note
    assert any("about" in stage for stage in stages)  # it says what it costs


def test_devices_that_are_not_arm64_or_ship_another_runtime_have_no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELM_CACHE", str(tmp_path))
    assert arm64.machine_for(profile.load("host")) == (None, ())
    assert arm64.machine_for(profile.load("android-tflite-2.14")) == (None, ())
    machine, notes = arm64.machine_for(profile.load("android-arm64"))
    assert machine is None
    assert notes == ("arm64 proof not run; edgelm doctor --setup-arm64 fetches the emulator (100 MB)",)


def test_int4_blocks_are_not_run_and_said_why(files: dict[str, bytes]) -> None:
    assert reader.read(files["blocks"]).has_int4_blocks and not reader.read(files["dynamic"]).has_int4_blocks
    proof = arm64.prove(files["blocks"], HostMachine(), no_stage)
    (check,) = proof.checks
    assert (check.measured, check.passed) == ("not run", None)
    assert "CompiledModel" in proof.tables[0].rows[0][1]


def test_kernels_are_named_by_the_instructions_only_they_have() -> None:
    none = {"total": 100, "fmla": 0, "widening": 0, "dot": 0, "mmla": 0, "sve": 0}
    assert arm64_report.kernels(none | {"widening": 10}) == "NEON"
    assert arm64_report.kernels(none | {"dot": 10, "widening": 2}) == "NEON dotprod"
    assert arm64_report.kernels(none | {"mmla": 10, "dot": 3}) == "i8mm"
    assert arm64_report.kernels(none | {"fmla": 10}) == "NEON float32"
    assert arm64_report.kernels(none) == "no vector products"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_ops_that_count_as_exact_give_the_same_bits(name: str, arm64_cache: Path, tmp_path: Path) -> None:
    model, path = ModelBuilder(), tmp_path / "model.tflite"
    graph = model.subgraph("op")
    graph.output("y", getattr(graph, name)(graph.input("x", (1, 4096))))
    path.write_bytes(model.finish())
    call = {"x": np.random.default_rng(0).normal(0, 2, (1, 4096)).astype(np.float32)}
    here = HostMachine().run(emulator.CORES[0], path, "op", [call], repeat=1, timeout=60.0).outputs[0]["y"]
    machine = emulator.require(arm64_cache)
    for core in machine.cores:
        there = machine.run(core, path, "op", [call], repeat=1, timeout=60.0).outputs[0]["y"]
        np.testing.assert_array_equal(there, here, err_msg=core.name)


@pytest.mark.slow
def test_static_int8_is_bit_exact_with_the_kernels_of_each_core(files: dict[str, bytes], arm64_cache: Path) -> None:
    proof = arm64.prove(files["static lstm"], emulator.require(arm64_cache), no_stage)
    assert [(row[0], row[2], row[3]) for row in proof.tables[0].rows] == [
        ("cortex-a53", "NEON", "0.0e+00"),
        ("cortex-a76", "NEON dotprod", "0.0e+00"),
        ("i8mm class", "i8mm", "0.0e+00"),
    ]
    assert all(check.passed for check in proof.checks if check.basis == "measured")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float", "transformer"])
def test_the_report_has_the_same_figures_twice(files: dict[str, bytes], name: str, arm64_cache: Path) -> None:
    machine = emulator.require(arm64_cache)
    first, second = (arm64.prove(files[name], machine, no_stage) for _ in range(2))
    assert first == second
    assert all(check.passed for check in first.checks if check.basis == "measured")
    assert all(check.measured > 1000 for check in first.checks if check.basis == "instructions")
