"""The roofline, against sums done by hand."""

from __future__ import annotations

import dataclasses

import pytest

from edgelm.device.latency import OpCost, StepCost, call_ms, predict
from edgelm.device.latency_figures import CacheLevel, LatencyModel, Throughput
from edgelm.device.profile import DeviceProfile, load

FIGURES = LatencyModel(
    cache=(CacheLevel("L2", 1000, 40.0), CacheLevel("L3", 4000, 20.0)),
    dram_gb_s=8.0,
    int8_stream=1.0,
    int8_ragged=1.0,
    one_row=Throughput(int8=100.0, int4=50.0, int4_block=25.0, float=10.0),
    many_rows=Throughput(int8=400.0, int4=200.0, int4_block=100.0, float=20.0),
    attention_gb_s=4.0,
    elementwise_gb_s=16.0,
    functions_g_s=0.5,
    per_op_us=2.0,
    per_product_us=1.0,
    per_own_op_us=5.0,
    per_call_us=50.0,
    uncertainty=1.5,
    isolated_factor=2.0,
    basis="estimated",
    source="made up",
)


def device(**changes: object) -> DeviceProfile:
    return dataclasses.replace(load("android-arm64"), latency=dataclasses.replace(FIGURES, **changes))


def product(nbytes: int, macs: int = 0, kind: str = "int8", rows: int = 1) -> OpCost:
    return OpCost("FULLY_CONNECTED", macs=macs, multiplied=kind, rows=rows, weight_bytes=nbytes)


def call(*ops: OpCost, working_set: int = 0, tokens: int = 1) -> StepCost:
    return StepCost("step", ops, tokens, working_set)


def test_weights_from_dram_by_hand():
    estimate = predict(call(product(8_000_000, macs=8_000_000), working_set=8_192_000), device())
    # 8 MB at 8 GB/s is 1 ms; 16 Mop at 100 Gop/s are 0.16 ms, and overlap in part; 0.05 ms a call, 0.003 ms for the product
    streamed = (1.0 + 0.16**2) ** 0.5
    assert estimate.memory == "DRAM"
    assert estimate.ms_per_token == pytest.approx(0.053 + streamed)
    assert dataclasses.astuple(estimate.breakdown) == pytest.approx((0.05, 0.003, streamed, 0.0))
    assert estimate.breakdown.largest == "reading the weights"


def test_compute_decides_where_it_takes_longer():
    ops = (product(80_000, macs=8_000_000, rows=8), product(80_000, macs=500_000, kind="float", rows=8))
    estimate = predict(call(*ops, working_set=160_000, tokens=8), device())
    # 16 Mop at 400 Gop/s are 0.04 ms and 1 Mflop at 20 Gflop/s 0.05 ms, each with 0.002 ms of weights that overlap in part
    both = (0.04**2 + 0.002**2) ** 0.5 + (0.05**2 + 0.002**2) ** 0.5
    assert estimate.breakdown.compute == pytest.approx(both)
    assert estimate.breakdown.weights == 0
    assert estimate.ms_per_token == pytest.approx((0.05 + 0.006 + both) / 8)


@pytest.mark.parametrize(
    ("kind", "rows", "milliseconds"),
    [
        ("int8", 1, 0.02), ("int4", 1, 0.04), ("int4_block", 1, 0.08), ("float", 1, 0.2),
        ("int8", 2, 0.005), ("int4", 2, 0.01), ("int4_block", 2, 0.02), ("float", 2, 0.1),
    ],
)  # fmt: skip
def test_each_kind_of_weight_has_its_rate_for_a_step_and_for_a_prefill(kind, rows, milliseconds):
    # two operations for each of a million multiply-accumulates, at the rates above
    assert predict(call(product(8, 1_000_000, kind, rows)), device()).breakdown.compute == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    ("nbytes", "level", "milliseconds"),
    [
        (800_000, "L2", 0.02),  # 40 GB/s
        (1_024_000, "L2", 0.0256),
        (2_048_000, "L3", 2.048 / (40 * 20) ** 0.5),  # half way on a logarithmic scale between 1000 KB and 4000 KB
        (4_096_000, "L3", 0.2048),  # 20 GB/s
        (8_192_000, "DRAM", 1.024),  # twice the last level: 8 GB/s
        (80_000_000, "DRAM", 10.0),
    ],
)
def test_the_working_set_says_which_level_is_read_from(nbytes, level, milliseconds):
    estimate = predict(call(product(nbytes), working_set=nbytes), device())
    assert estimate.memory == level
    assert estimate.breakdown.weights == pytest.approx(milliseconds, rel=1e-6)


def test_bandwidth_never_grows_with_the_working_set():
    times = [call_ms(call(product(1_000_000), working_set=size), FIGURES) for size in range(100_000, 20_000_000, 100_000)]
    assert times == sorted(times)


def test_attention_rearranges_the_cache_and_then_multiplies():
    scores = OpCost("BATCH_MATMUL", macs=1_000_000, state_bytes=400_000, packed_bytes=400_000)
    estimate = predict(call(scores, working_set=400_000), device())
    # 0.4 MB at 4 GB/s is 0.1 ms, then 2 Mflop at 20 Gflop/s 0.1 ms; reading 0.4 MB from L2 takes 0.01 ms
    assert estimate.breakdown.compute == pytest.approx((0.2**2 + 0.01**2) ** 0.5)


def test_functions_lookups_and_moves_by_hand():
    tanh = OpCost("TANH", functions=10_000, activation_bytes=80_000)
    lookup = OpCost("EMBEDDING_LOOKUP", weight_bytes=400, own_kernel=True)
    move = OpCost("SLICE", activation_bytes=160_000)
    parts = predict(call(tanh, lookup, move), device()).breakdown
    assert parts.compute == pytest.approx((0.02**2 + 0.005**2) ** 0.5)  # 10,000 values at 0.5 G/s, 80 kB at 16 GB/s
    assert parts.weights == pytest.approx(0.01 + 0.00001)  # 160 kB at 16 GB/s, and 400 bytes from L2
    assert parts.per_op == pytest.approx(0.002 + 0.005 + 0.002)


def test_ragged_columns_and_int8_streams_cost_their_shares():
    slow = device(int8_ragged=0.5, int8_stream=0.5)
    ragged = dataclasses.replace(product(8, 1_000_000), ragged=True)
    assert predict(call(ragged), slow).breakdown.compute == pytest.approx(0.04)
    within, behind = (predict(call(product(800_000), working_set=size), slow).breakdown.weights for size in (800_000, 80_000_000))
    assert within == pytest.approx(0.02)  # the first level feeds them at full speed
    assert behind == pytest.approx(0.2)  # 0.8 MB at half of 8 GB/s
    for kind in ("float", "int4_block"):
        assert predict(call(product(800_000, kind=kind), working_set=80_000_000), slow).breakdown.weights == pytest.approx(0.1)


def test_the_interval_by_hand():
    estimate = predict(call(product(800_000), working_set=800_000), device())
    # central: 0.053 + 0.02 from L2. cold: 0.053 + 0.1 from DRAM, times 1.5 for the figures, times 2 for the clock
    assert estimate.ms_per_token == pytest.approx(0.073)
    assert estimate.low == pytest.approx(0.073 / 1.5)
    assert estimate.high == pytest.approx(0.153 * 3)


def test_loops_pay_for_every_turn():
    once = call(OpCost("TANH", functions=64, activation_bytes=512))
    often = call(OpCost("TANH", functions=64 * 20, activation_bytes=512 * 20, repeats=20))
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
    cost = call(product(2_200_000, macs=2_200_000), *(OpCost("MUL", activation_bytes=7200),) * 20, working_set=2_200_000)
    estimate = predict(cost, load("android-mid-a76"))
    assert estimate.low < 3.1
    assert estimate.high == pytest.approx(3.1, rel=0.5)  # a published figure without its conditions: the right size is all it can show
