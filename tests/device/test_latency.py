"""The roofline, against sums done by hand."""

from __future__ import annotations

import dataclasses

import pytest

from edgelm.device.latency import OpCost, StepCost, predict
from edgelm.device.profile import CacheLevel, DeviceProfile, LatencyModel, load

FIGURES = LatencyModel(
    cache=(CacheLevel("L2", 1000, 40.0), CacheLevel("L3", 4000, 20.0)),
    dram_gb_s=8.0,
    int8_gops=100.0,
    float_gflops=10.0,
    per_op_us=2.0,
    per_call_us=50.0,
    uncertainty=1.5,
    isolated_factor=2.0,
    basis="estimated",
    source="made up",
)


def device(**changes: object) -> DeviceProfile:
    return dataclasses.replace(load("android-arm64"), latency=dataclasses.replace(FIGURES, **changes))


def product(nbytes: int, macs: int = 0, float_macs: int = 0) -> OpCost:
    return OpCost("FULLY_CONNECTED", macs, float_macs, nbytes, 0)


def test_weights_from_dram_by_hand():
    cost = StepCost("step", (product(8_000_000, macs=8_000_000),), 1, 8_000_000)
    estimate = predict(cost, device())
    # 8 MB at 8 GB/s is 1 ms; 16 Mop at 100 Gop/s are 0.16 ms and hide behind it; 0.05 ms a call, 0.002 ms for the op
    assert estimate.memory == "DRAM"
    assert estimate.ms_per_token == pytest.approx(1.052)
    assert dataclasses.astuple(estimate.breakdown) == pytest.approx((0.05, 0.002, 1.0, 0.0))
    assert estimate.breakdown.largest == "reading the weights"


def test_compute_decides_where_it_takes_longer():
    ops = (product(80_000, macs=8_000_000), product(80_000, float_macs=500_000))
    estimate = predict(StepCost("prefill_8", ops, 8, 160_000), device())
    # 16 Mop at 100 Gop/s are 0.16 ms and 1 Mflop at 10 Gflop/s 0.1 ms, against 0.002 ms of weights each
    assert estimate.breakdown.compute == pytest.approx(0.26)
    assert estimate.breakdown.weights == 0
    assert estimate.ms_per_token == pytest.approx((0.05 + 0.004 + 0.26) / 8)


@pytest.mark.parametrize(
    ("nbytes", "level", "milliseconds"),
    [(800_000, "L2", 0.02), (1_024_001, "L3", 0.0512), (4_096_000, "L3", 0.2048), (4_096_001, "DRAM", 0.512)],
)
def test_the_smallest_level_that_holds_everything_is_read_from(nbytes, level, milliseconds):
    estimate = predict(StepCost("step", (product(nbytes),), 1, nbytes), device())
    assert estimate.memory == level
    assert estimate.breakdown.weights == pytest.approx(milliseconds, rel=1e-4)


def test_the_interval_by_hand():
    cost = StepCost("step", (product(800_000),), 1, 800_000)
    estimate = predict(cost, device())
    # central: 0.052 + 0.02 from L2. cold: 0.052 + 0.1 from DRAM, times 1.5 for the figures, times 2 for the clock
    assert estimate.ms_per_token == pytest.approx(0.072)
    assert estimate.low == pytest.approx(0.072 / 1.5)
    assert estimate.high == pytest.approx(0.152 * 3)


def test_loops_pay_for_every_turn():
    once = StepCost("forward", (OpCost("TANH", 0, 64, 0, 512, 1),), 1, 0)
    often = StepCost("forward", (OpCost("TANH", 0, 64 * 20, 0, 512 * 20, 20),), 1, 0)
    fixed = predict(once, device()).breakdown.per_call
    assert predict(often, device()).ms_per_token - fixed == pytest.approx(20 * (predict(once, device()).ms_per_token - fixed))


def test_without_caches_everything_comes_from_dram():
    assert predict(StepCost("step", (product(10),), 1, 10), device(cache=())).memory == "DRAM"


def test_a_keyboard_model_is_slower_on_cheaper_phones():
    cost = StepCost("step", (product(2_300_000, macs=2_300_000),), 1, 2_300_000)
    order = ["android-flagship-x4", "android-flagship-x3", "android-mid-a78", "android-mid-a76", "android-arm64", "android-low-end"]
    times = [predict(cost, load(name)).ms_per_token for name in order]
    assert times == sorted(times)


def test_the_published_figure_for_a_keyboard_lies_in_the_interval():
    # A CIFG keyboard model of 2 million parameters, 2.2 MB: 3.1 ms at the 95th percentile on two Pixels (self-reported, in an app),
    # mid-range to flagship; the upper end is what an estimate has to say about such calls.
    cost = StepCost("step", (product(2_200_000, macs=2_200_000),) + (OpCost("MUL", 0, 600, 0, 7200),) * 20, 1, 2_200_000)
    estimate = predict(cost, load("android-mid-a76"))
    assert estimate.low < 3.1
    assert estimate.high == pytest.approx(3.1, rel=0.5)  # a published figure without its conditions: the right size is all it can show
