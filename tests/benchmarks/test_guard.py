"""The regression guard: a step of the benchmarked models costs what it cost when `benchmarks/results/guard.json` was committed."""

from __future__ import annotations

import json
from pathlib import Path

import guard
import pytest

from edgelm.device import emulator

COMMITTED = json.loads(guard.COMMITTED.read_text())["models"]
HOW = "python benchmarks/guard.py --write commits a change that is meant"
DRIFT = 0.02
"""What may move without a change of the graph: another set-up's libc, and data-dependent branches."""


@pytest.fixture(scope="module", params=guard.GUARDED)
def model(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    return request.param, guard.lowered(request.param)


@pytest.mark.slow
def test_signatures_and_ops_are_the_committed_ones(model: tuple[str, bytes]) -> None:
    name, tflite = model
    found = guard.graph_figures(tflite)
    assert found["ops"] == COMMITTED[name]["ops"], HOW
    assert found["bytes"] <= COMMITTED[name]["bytes"] * 1.001, HOW


@pytest.mark.slow
def test_a_token_takes_the_committed_instructions(model: tuple[str, bytes], arm64_cache: Path) -> None:
    name, tflite = model
    machine = emulator.find(arm64_cache)
    assert machine is not None
    found = guard.instructions(tflite, machine)
    assert found == pytest.approx(COMMITTED[name]["instructions"], rel=DRIFT), HOW
