"""How measurements are taken, kept and put together."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import subprocess
import sys

import bench
import job as jobs
import numpy as np
import pytest
from peers import goals, machine, plot, prepare, processes, rounds, store, table
from peers.cells import BY_NAME, CELLS, chosen
from peers.environments import HOME, PeerUnavailableError, last_words
from peers.store import Store

from edgelm.tflite.metadata import attach

Q8, OURS = BY_NAME[goals.Q8], BY_NAME[goals.M2_8]


@pytest.fixture
def quiet(monkeypatch):
    """No waiting, everything prepared, and processes that only say what they were."""
    calls = []

    def measure(cell, verb, threads):
        calls.append((cell.name, verb, threads))
        if cell is Q8 and verb == "deep":
            raise PeerUnavailableError("out of memory")
        return {"decode:100": [2.0, 3.0, 4.0], "others": 0.01}

    monkeypatch.setattr(machine, "wait_for_quiet", lambda patience: 0.0)
    monkeypatch.setattr(machine, "bandwidth", lambda size, threads: [10.0, 12.0, 11.0])
    monkeypatch.setattr(prepare, "artifact_missing", lambda cell: "")
    monkeypatch.setattr(processes, "measure", measure)
    return calls


def test_rounds_interleave_the_cells(quiet, tmp_path):
    rounds.run(rounds.Plan([OURS, Q8], 2, ["time"], [1], 0), Store(tmp_path / "run.jsonl"))
    assert [name for name, _, _ in quiet] == [OURS.name, Q8.name, OURS.name, Q8.name]


def test_only_what_is_timed_takes_several_threads(quiet, tmp_path):
    rounds.run(rounds.Plan([OURS], 1, ["time", "session"], [1, 2], 0), Store(tmp_path / "run.jsonl"))
    assert quiet == [(OURS.name, "time", 1), (OURS.name, "time", 2), (OURS.name, "session", 1)]


def test_an_interrupted_run_goes_on_and_a_failure_is_tried_again(quiet, tmp_path):
    plan = rounds.Plan([OURS, Q8], 1, ["time", "deep"], [1], 0)
    rounds.run(plan, Store(tmp_path / "run.jsonl"))
    quiet.clear()
    again = Store(tmp_path / "run.jsonl")
    rounds.run(plan, again)
    assert quiet == [(Q8.name, "deep", 1)]
    assert [sample.error for sample in again.samples if sample.error] == ["out of memory"] * 2


def test_the_bandwidth_is_measured_beside_each_round(quiet, tmp_path):
    kept = Store(tmp_path / "run.jsonl")
    rounds.run(rounds.Plan([OURS], 2, ["time"], [1, 2], 0), kept)
    figures = store.by_figure(kept.samples)
    assert figures[f"machine/{OURS.name}", "gigabytes_per_second"] == {0: 11.0, 1: 11.0}
    assert figures[OURS.name, "decode:100@2"] == {0: 3.0, 1: 3.0}


def test_ratios_are_of_the_same_round():
    assert store.ratio({0: 3.0, 1: 8.0, 5: 1.0}, {0: 2.0, 1: 4.0, 7: 9.0}) == 1.75
    assert store.ratio({0: 3.0}, {1: 2.0}) is None
    assert store.lower_quartile([5, 1, 3, 4, 2]) == 2


def test_the_title_says_how_loud_others_were():
    about = {
        "machine": {"processor": "CPU", "cores": 2, "features": ["avx2"]},
        "amx": False,
        "samples": 9,
        "loud_samples": 0,
        "others": 0.0,
    }
    assert "Others" not in bench.title(about)
    shared = bench.title(about | {"loud_samples": 4, "others": 0.05})
    assert "took more than 0.05 of a core during 4 of 9 measurements (median of all: 0.05)" in shared
    assert "do not quote" not in shared
    assert "do not quote them" in bench.title(about | {"loud_samples": 9, "others": 0.5})


def test_goals_are_met_missed_or_say_why_not():
    goal = goals.faster("decode", 1.4, "decode:100", Q8.name, OURS.name)
    times = {(OURS.name, "decode:100"): {0: 10.0, 1: 10.0}}
    assert goal.judge(times | {(Q8.name, "decode:100"): {0: 14.5, 1: 14.1}}, {}).met
    missed = goal.judge(times | {(Q8.name, "decode:100"): {0: 13.0, 1: 13.6}}, {})
    assert (missed.met, table.far(missed)) == (False, "missed by 5 %")
    assert table.missed(missed) == "missed by 5 %"
    read = {(f"machine/{cell.name}", "gigabytes_per_second"): {0: 12.0, 1: 12.0} for cell in (Q8, OURS)}
    stopped = goal.judge(times | read | {(Q8.name, "decode:100"): {0: 13.0, 1: 13.6}}, {})
    bound = OURS.weight_bytes / 12e6  # ms at 12 GB/s
    assert f"{OURS.name} at {bound / 10:.2f}, {Q8.name} at" in stopped.note
    assert goal.judge(times, {Q8.name: "needs cmake"}).note == f"{Q8.name}: needs cmake"
    near = goals.Result("file", "<= 1", 1.0011, met=False)
    assert (table.shown(near), table.far(near)) == ("1.001", "missed by 0.1 %")
    assert table.shown(goals.Result("file", "<= 1", 0.9995, met=True)) == "1.00"


def test_the_python_host_stands_in_where_the_native_one_cannot_run():
    goal = goals.faster("decode", 1.2, "decode:100", goals.Q4, goals.M2_4)
    figures = {("m2/edgelm/int4-block32", "decode:100"): {0: 10.0}, (goals.Q4, "decode:100"): {0: 13.0}}
    assert goal.judge(figures, {}).measured == pytest.approx(1.3)
    memory = goals.lighter("memory", 1.0, "peak_mb", goals.Q4, goals.M2_4)
    python = {("m2/edgelm/int4-block32", "peak_mb"): {0: 200.0}, (goals.Q4, "peak_mb"): {0: 150.0}}
    assert memory.judge(python, {}).measured is None  # Python's own memory would be counted


def test_a_conversion_beside_others_is_marked():
    figures = {(Q8.name, "decode:100"): {0: 20.0}}
    known = {"bytes": 1, "convert_s": 9.0, "convert_gb": 1.0}
    quiet, busy = (table.row(Q8, [Q8], "decode:100", figures, known | {"convert_others": others}) for others in (0.01, 1.6))
    assert (quiet[-2], busy[-2]) == ("9.0", "9.0 (busy)")


def test_runs_with_the_matrix_unit_are_kept_apart(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench.py", "run", "--amx", "m3"])
    apart = bench.parsed()
    assert (apart.name, apart.cells) == ("amx", ["m3"])
    assert apart.results != bench.RESULTS
    monkeypatch.setattr(sys, "argv", ["bench.py", "run"])
    assert (bench.parsed().name, bench.parsed().results) == ("main", bench.RESULTS)


def test_the_smallest_peer_counts():
    figures = {(OURS.name, "bytes"): {0: 90}, (Q8.name, "bytes"): {0: 100}, ("m2/onnxruntime/int8", "bytes"): {0: 80}}
    assert goals.smallest("file", OURS.name).judge(figures, {}).measured == pytest.approx(90 / 80)


def test_a_missed_conversion_says_what_it_consists_of():
    (goal,) = [goal for goal in goals.GOALS if goal.what.startswith("conversion") and goal.what.endswith("seconds")]
    known = {"convert_s": 4.0, "convert_others": 0.2, "stage: reading": 1.0, "stage: lowering": 2.5}
    result = goal.judge({(OURS.name, figure): {0: value} for figure, value in known.items()}, {})
    assert result.met is False
    assert result.note == "reading 1.0 s, lowering 2.5 s, others on the host took 0.20 of a core"


@pytest.mark.parametrize(("seconds", "kept"), [((3.0, 9.0, 2.0, 4.0, 5.0), 4.0), ((12.0,), 12.0)])
def test_a_quick_conversion_is_the_median_of_five_and_a_long_one_is_done_once(monkeypatch, tmp_path, seconds, kept):
    monkeypatch.setattr("peers.cells.HOME", tmp_path)
    left = list(seconds)

    def work(cell, verb, threads):
        assert not cell.artifact.exists()  # that of the run before
        cell.artifact.write_bytes(b"converted")
        return {"bytes": 9, "seconds": 0.0, "stages": {"reading": left[0]}}, processes.Finished(left.pop(0), 100.0, 0.0)

    monkeypatch.setattr(prepare.processes, "work", work)
    found = prepare.converted(OURS.maker)
    assert (found["convert_s"], found["stages"], left) == (kept, {"reading": kept}, [])


def test_a_missed_start_names_loading_and_the_prompt():
    (goal,) = [goal for goal in goals.GOALS if goal.what.startswith("cold start") and "4 bits" in goal.what]
    figures = {(goals.Q4, "start_ms"): {0: 200.0}, (goals.M2_4, "start_ms"): {0: 300.0}}
    assert goal.judge(figures, {}).note == ""
    figures |= {(goals.M2_4, "load_ms"): {0: 90.0}, (goals.M2_8, "load_ms"): {0: 30.0}}
    figures |= {(goals.M2_4, "prefill:128"): {0: 160.0}, (goals.M2_8, "prefill:128"): {0: 100.0}}
    note = goal.judge(figures, {}).note
    assert note.startswith("loading takes 90 ms, int8 30: LiteRT")
    assert note.endswith("half of 160 ms, int8 half of 100")


def test_a_missed_bound_says_what_the_products_alone_take(monkeypatch, tmp_path):
    (goal,) = [goal for goal in goals.GOALS if goal.what.startswith("share") and "8 bits" in goal.what]
    figures = {(OURS.name, "decode:100"): {0: 10.0}, (f"machine/{OURS.name}", "gigabytes_per_second"): {0: OURS.weight_bytes / 5e6}}
    monkeypatch.setattr(goals, "PRODUCTS", tmp_path / "products.json")
    assert goal.judge(figures, {}).note == ""
    other = {"model": "m1", "form": "int8", "products_ms": 1.0, "step_ms": 1.0, "products_gb_s": 1.0, "read_gb_s": 1.0}
    rows = [other, {"model": "m2", "form": "int8", "products_ms": 9.0, "step_ms": 10.0, "products_gb_s": 8.0, "read_gb_s": 10.0}]
    goals.PRODUCTS.write_text(json.dumps({"rows": rows}))
    assert goal.judge(figures, {}).note.startswith("the products alone take 0.90 of a step and stream weights at 0.80 of that rate")


def test_every_goal_names_cells_that_there_are():
    assert {name for goal in goals.GOALS for name in goal.cells} <= BY_NAME.keys()


def test_results_render_with_and_without_figures():
    figures = {(OURS.name, "decode:100"): {0: 10.0}, (Q8.name, "decode:100"): {0: 14.0}}
    figures[f"machine/{OURS.name}", "gigabytes_per_second"] = {0: OURS.weight_bytes / 9e6}
    results = [goal.judge(figures, {}) for goal in goals.GOALS]
    facts, errors = {OURS.name: {"bytes": 136e6}}, {"m2/ExecuTorch/8da4w": "left out"}
    text = table.markdown(figures, results, facts, errors)
    assert "| llama.cpp | Q8_0 |  | 14.00 | 14.00 | 1.40 |" in text
    assert "| edgelm, native host | int8 | 136.0 | 10.00 | 10.00 |  |  | 0.90 |" in text
    assert "- m2/ExecuTorch/8da4w: left out" in text
    assert table.markdown({}, [goal.judge({}, {}) for goal in goals.GOALS], {}, {})


def test_the_picture_has_a_bar_for_each_cell_and_a_line_at_the_bound(tmp_path):
    figures = {(OURS.name, "decode:100"): {0: 10.0}, (Q8.name, "decode:100"): {0: 14.0}}
    figures[f"machine/{OURS.name}", "gigabytes_per_second"] = {0: OURS.weight_bytes / 9e6}
    (axis,) = plot.drawn(figures).axes
    assert [bar.get_width() for bar in axis.patches] == [10.0, 14.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["edgelm, native host int8", "llama.cpp Q8_0"]
    (bound,) = axis.collections[0].get_segments()
    assert bound[:, 0] == pytest.approx([9.0, 9.0])
    plot.write(figures, tmp_path / "a.png")
    plot.write(figures, tmp_path / "b.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "b.png").read_bytes()
    plot.write({}, tmp_path / "none.png")


def test_agreement_tells_rounding_from_another_function():
    expected = np.random.default_rng(0).standard_normal((9, 1000)).astype(np.float32)
    near = expected + 0.05 * np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    assert prepare.agreement(near, expected, 8).same
    assert not prepare.agreement(near, expected, 32).same
    assert not prepare.agreement(np.roll(expected, 1, 1), expected, 4).same
    with pytest.raises(PeerUnavailableError, match="shape"):
        prepare.agreement(near[:3], expected, 8)


def test_a_process_is_measured_and_its_failure_said():
    finished = processes.run([sys.executable, "-c", "data = bytearray(200_000_000)"])
    assert 200 < finished.peak_mb < 260
    with pytest.raises(PeerUnavailableError, match="KeyError: 'weights'"):
        processes.run([sys.executable, "-c", "{}['weights']"])


def test_others_do_not_count_our_own_seconds():
    others = machine.Others()
    idle = machine.Others()
    others._busy -= 5.0  # five processor seconds were used since, ...
    assert others.cores(1e9) == 0.0  # ... all of them ours
    assert others.cores(0.0) > idle.cores(0.0)


def test_bandwidth_is_read(monkeypatch, tmp_path):
    if not shutil.which("cc"):
        pytest.skip("no C compiler: cc is missing")
    monkeypatch.setattr(machine, "HOME", tmp_path)
    rates = machine.bandwidth(4e6, threads=2, runs=2)
    assert len(rates) == 2
    assert all(0.1 < rate < 10_000 for rate in rates)


class CountingSession:
    """Says how many tokens it has taken."""

    def __init__(self) -> None:
        self.taken = 0

    def reset(self) -> None:
        self.taken = 0

    def take(self, ids):
        self.taken += len(ids)
        return np.full(3, self.taken)


def test_a_plan_is_followed_from_the_right_depth():
    job = jobs.Job("m3", "transformer", "int8", None, None, 64, 1, tuple(range(64)), 4, (), None)
    session = CountingSession()
    assert len(jobs.follow(job, session, ("decode", 10, 2, 5))) == 5
    assert session.taken == 17
    assert len(jobs.follow(job, session, ("prefill", 20, 3))) == 3
    assert session.taken == 20
    with pytest.raises(ValueError, match="wants 65 tokens"):
        jobs.follow(job, session, ("decode", 10, 5, 50))


def test_spoken_logits_are_after_the_prompt_and_each_token(tmp_path):
    job = jobs.Job("m3", "transformer", "int8", None, None, 64, 1, tuple(range(7)), 4, (), tmp_path / "logits.npy")
    jobs.spoken(job, CountingSession())
    assert np.load(job.logits)[:, 0].tolist() == [4, 5, 6, 7]


def test_the_tokenizer_inside_a_file_does_not_count(tmp_path):
    plain, packed = tmp_path / "plain.tflite", tmp_path / "packed.tflite"
    plain.write_bytes(attach(b"TFL3" * 64, {"manifest.json": b"{}"}))
    packed.write_bytes(attach(b"TFL3" * 64, {"manifest.json": b"{}", "tokenizer.json": bytes(range(256)) * 9}))
    assert packed.stat().st_size > plain.stat().st_size + 256
    assert jobs.size(plain) <= jobs.size(packed) < jobs.size(plain) + 128  # its entry in the directory stays
    packed.write_bytes(b"no archive")
    assert jobs.size(packed) == 10


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="AMX is a unit of x86-64, and the filter Linux's")
def test_processes_are_refused_the_matrix_unit(tmp_path):
    """The system call that asks for it fails with EPERM, which is no answer of a kernel's own to it."""
    asks = "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.syscall(158, 0x1023, 18); raise SystemExit(ctypes.get_errno())"
    launcher = [sys.executable, "-S", "-E", processes.WORKERS / "launch.py", tmp_path / "took.json"]
    subprocess.run([*launcher, "--no-amx", sys.executable, "-c", asks], check=True)
    assert json.loads((tmp_path / "took.json").read_text())["code"] == errno.EPERM


def test_a_job_comes_back_from_json(tmp_path):
    plain = {
        "model": "m1",
        "family": "recurrent",
        "form": "int8",
        "source": "a",
        "artifact": "b",
        "context": 8,
        "threads": 1,
        "ids": [1, 2],
        "prefill": 1,
    }
    (tmp_path / "job.json").write_text(json.dumps(plain | {"plan": [["prefill", 4, 2]], "logits": "c"}))
    assert jobs.Job.read(tmp_path / "job.json").plan == (("prefill", 4, 2),)


def test_cells_are_chosen_by_parts_of_names():
    assert {cell.peer for cell in chosen(["m2/llama"])} == {"llama.cpp"}
    assert chosen([]) == [cell for cell in CELLS if cell.main]
    with pytest.raises(SystemExit, match="no cell is named like m9"):
        chosen(["m9"])


def test_the_native_host_of_llama_gets_a_plan_it_can_read():
    assert processes.item_text(("prefill", 128, 3)) == "prefill:128x3"
    assert processes.item_text(("decode", 100, 4, 20)) == "decode:100+4+20"


def test_the_reason_of_a_failure_is_its_error():
    assert last_words("warning: old pip\nERROR: No matching distribution\nbye\n") == "ERROR: No matching distribution"
    assert last_words("") == "no message"
    assert last_words(f"cannot read {HOME}/models") == "cannot read build/peers/models"
