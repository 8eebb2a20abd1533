"""Fitting this machine's profile on a handful of its graphs: that it works, not how well (`make bench-latency` shows that)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgelm.device import profile_toml
from edgelm.device.cost import step_cost
from edgelm.device.fit import Observation
from edgelm.device.latency import call_ms
from edgelm.device.profile import load
from edgelm.runtime.engine import Engine
from edgelm.tflite.reader import read
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate import host_calibration, timed_calls
from edgelm.validate.host_graphs import CALL, Graph, graphs
from edgelm.validate.timed_calls import TimedFile, fill, time_files


def tanhs(count: int, rows: int) -> bytes:
    builder = ModelBuilder()
    g = builder.subgraph(CALL)
    x = g.input("x", (rows, 512))
    for _ in range(count):
        x = g.tanh(x)
    g.output("y", x)
    return builder.finish()


def test_more_work_takes_more_time():
    files = {f"{count}": TimedFile(tanhs(count, 32), vocab=10) for count in (1, 30)}
    rounds = []
    times = time_files(files, openings=2, rounds=2, slice_s=0.005, on_round=lambda done, total: rounds.append((done, total)))
    assert times["30", CALL] > 5 * times["1", CALL]  # 30 times the work; the call itself is part of the short one
    assert rounds == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_the_mean_over_openings_counts(monkeypatch):
    """Weights that just fit a cache stay there in one opening and not in the next."""
    speeds = iter((1.0, 4.0))
    monkeypatch.setattr(timed_calls, "_turn", lambda call, slice_s: [next(speeds)])
    assert time_files({"a": TimedFile(tanhs(1, 1), vocab=10)}, openings=2, rounds=1, slice_s=0.0) == {("a", CALL): pytest.approx(2.0)}


def test_inputs_are_filled_with_what_they_stand_for():
    builder = ModelBuilder()
    g = builder.subgraph(CALL)
    table = g.constant(np.ones((7, 4), np.float32))
    g.output("y", g.embedding_lookup(g.input("token", (3,), "int32"), table))
    g.output("z", g.add(g.input("mask", (1, 4)), g.input("h_0", (1, 4))))
    call = Engine(builder.finish()).call(CALL)
    fill(call, vocab=7)
    assert (call.inputs["token"] >= 0).all() and (call.inputs["token"] < 7).all()
    assert not call.inputs["mask"].any()
    assert call.inputs["h_0"].all()


def written(*starts: str) -> list[Graph]:
    """The graphs whose labels begin so; all the streams together take seconds to write."""
    return [graph for graph in graphs() if graph.label.startswith(starts)]


def test_the_graphs_cover_every_figure_of_the_model():
    kinds = ("float32", "int8", "int4-block32", "int4")
    starts = [f"{kind} products" for kind in kinds] + ["int8 stream of 0.5", "scores", "tanh", "int8 lookups"]
    files = [read(graph.write()) for graph in written(*starts, "float32 stream of 1 ", "int4-block32 stream of 0.6", "int4 stream of 0.5")]
    ops = [op for file in files for op in step_cost(file, CALL).ops]
    assert {(op.multiplied, op.rows > 1) for op in ops if op.multiplied} == {
        (kind, many) for kind in ("int8", "int4", "int4_block", "float") for many in (False, True)
    }
    assert any(op.packed_bytes for op in ops) and any(op.functions for op in ops) and any(op.own_kernel for op in ops)
    assert any(op.ragged for op in ops)


def test_streams_are_as_large_as_they_say():
    for graph in written("int8 stream of 2 ", "float32 stream of 2.2 ", "int4-block32 stream of 2 "):
        assert step_cost(read(graph.write()), CALL).weight_bytes == pytest.approx(2.1e6, rel=0.1)  # 2 or 2.2 MB, in steps of a whole matrix


@pytest.mark.slow
def test_a_profile_comes_out_of_real_calls(monkeypatch, tmp_path):
    chosen = written("small LSTM", "int8 stream of 1 ", "tanh", "scores (4, 1")
    monkeypatch.setattr(host_calibration, "graphs", lambda: iter(chosen))
    monkeypatch.setattr(host_calibration, "ROUNDS", 1)
    stages = []
    found = host_calibration.calibrate_host(on_stage=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["writing small graphs", "timing them", "fitting the figures"]
    assert len(found.observations) == len(found.after) == len(chosen)
    assert found.profile.latency.basis == "measured"
    profile_toml.write(found.profile, tmp_path / "my-host.toml")
    assert load(tmp_path / "my-host.toml").latency == found.profile.latency


def test_the_fit_explains_calls_of_a_machine_that_follows_the_model():
    shipped = load("host").latency
    truth = dataclasses.replace(shipped, functions_g_s=shipped.functions_g_s / 2, per_op_us=shipped.per_op_us * 2)
    costs = [step_cost(read(tanhs(count, rows)), CALL) for count in (1, 10, 60) for rows in (1, 40)]
    found = host_calibration.fit_host(tuple(Observation(f"{n}", cost, call_ms(cost, truth)) for n, cost in enumerate(costs)))
    for one, after in zip(found.observations, found.after, strict=True):
        assert after == pytest.approx(one.ms, rel=0.05)
    assert found.profile.latency.uncertainty == 1.2  # never less


def test_one_slow_set_does_not_make_a_level_slower_than_those_behind_it():
    shipped = load("host").latency
    costs = [step_cost(read(graph.write()), CALL) for graph in written("int8 stream of 2 ", "int8 stream of 6 ", "int8 stream of 12 ")]
    slow = (4.0, 1.0, 1.0)  # pages that collide in the second level: a set of 2 MB that streams as from DRAM
    seen = tuple(Observation(f"{n}", cost, slow[n] * call_ms(cost, shipped)) for n, cost in enumerate(costs))
    speeds = [level.gb_s for level in host_calibration.fit_host(seen).profile.latency.cache]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] >= host_calibration.fit_host(seen).profile.latency.dram_gb_s
