"""The fit, on calls whose times were made up from known figures: it has to find them again."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgelm.device.cost import OpCost, StepCost
from edgelm.device.fit import Observation, fit
from edgelm.device.latency import call_ms
from edgelm.device.latency_figures import LatencyModel
from edgelm.device.profile import load

START = load("android-mid-a76").latency


def stream(nbytes: int, ops: int = 4) -> StepCost:
    product = OpCost("FULLY_CONNECTED", macs=nbytes // ops, multiplied="int8", weight_bytes=nbytes // ops)
    return StepCost("step", (product,) * ops, 1, nbytes)


def attention(slots: int) -> StepCost:
    nbytes = slots * 256 * 4
    op = OpCost("BATCH_MATMUL", macs=slots * 256, state_bytes=nbytes, packed_bytes=nbytes)
    return StepCost("decode", (op,) * 8, 1, 8 * nbytes)


def small(ops: int) -> StepCost:
    return StepCost("step", (OpCost("ADD", activation_bytes=256),) * ops, 1, 1000)


COSTS = [stream(60_000_000), stream(90_000_000), attention(64), attention(256), small(40), small(400)]
GROUPS = {"dram": ("dram_gb_s",), "attention": ("attention_gb_s",), "op": ("per_op_us",)}


def made_up(truth: LatencyModel, costs: list[StepCost] = COSTS, noise: float = 0.0) -> list[Observation]:
    random = np.random.default_rng(1)
    return [Observation(f"{n}", cost, call_ms(cost, truth) * math.exp(noise * random.standard_normal())) for n, cost in enumerate(costs)]


@pytest.fixture
def truth() -> LatencyModel:
    return dataclasses.replace(
        START, dram_gb_s=START.dram_gb_s / 2, attention_gb_s=START.attention_gb_s * 1.5, per_op_us=START.per_op_us * 3
    )


def test_known_figures_are_found_again(truth):
    found = fit(made_up(truth), START, GROUPS, spread=math.log(3))
    # 5 %: what was believed beforehand pulls a little
    assert found.dram_gb_s == pytest.approx(truth.dram_gb_s, rel=0.05)
    assert found.attention_gb_s == pytest.approx(truth.attention_gb_s, rel=0.05)
    assert found.per_op_us == pytest.approx(truth.per_op_us, rel=0.05)


def test_figures_that_no_call_tells_of_stay(truth):
    found = fit(made_up(truth), START, {**GROUPS, "lookup": ("per_own_op_us",), "int4": ("one_row.int4",)}, spread=math.log(3))
    assert found.per_own_op_us == pytest.approx(START.per_own_op_us)
    assert found.one_row == START.one_row


def test_figures_of_one_group_change_together(truth):
    groups = {"memory": ("dram_gb_s", "cache.0.gb_s", "cache.1.gb_s")}
    found = fit(made_up(truth, COSTS[:2]), START, groups, spread=math.log(3))
    factors = [found.dram_gb_s / START.dram_gb_s, *(new.gb_s / old.gb_s for new, old in zip(found.cache, START.cache, strict=True))]
    assert factors == pytest.approx([factors[0]] * 3)
    assert [level.size_kb for level in found.cache] == [level.size_kb for level in START.cache]


def test_one_wild_call_among_good_ones_counts_little(truth):
    calls = made_up(truth, COSTS * 3, noise=0.02)
    calls[0] = dataclasses.replace(calls[0], ms=calls[0].ms * 10)
    assert fit(calls, START, GROUPS, spread=math.log(3)).dram_gb_s == pytest.approx(truth.dram_gb_s, rel=0.1)


def test_heavier_calls_decide_where_two_disagree():
    slow, fast = (dataclasses.replace(START, dram_gb_s=START.dram_gb_s * factor) for factor in (0.5, 1.0))
    both = [dataclasses.replace(made_up(slow, COSTS[:1])[0], weight=9.0), *made_up(fast, COSTS[:1])]
    found = fit(both, START, {"dram": ("dram_gb_s",)}, spread=10.0)
    assert found.dram_gb_s < START.dram_gb_s * 0.6


def test_a_share_does_not_grow_over_one():
    slow = dataclasses.replace(START, int8_stream=0.5)
    faster = dataclasses.replace(START, dram_gb_s=START.dram_gb_s * 2)
    found = fit(made_up(faster, COSTS[:2]), slow, {"stream": ("int8_stream",)}, spread=10.0)
    assert found.int8_stream == 1.0
