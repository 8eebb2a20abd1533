"""The figures of a device that the latency model of `edgelm.device.latency` needs: the table `[latency]` of a profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FigureBasis = Literal["estimated", "measured"]
"""`measured`: read off a machine or its data sheet; `estimated`: derived, and the source says how."""


@dataclass(frozen=True)
class CacheLevel:
    """One cache level: what one thread on one big core streams from it.

    Attributes:
        name: Such as `L2` or `system`.
        size_kb: Capacity one core can use, KB (1024 bytes).
        gb_s: Streaming read bandwidth, 10^9 bytes/s.
    """

    name: str
    size_kb: float
    gb_s: float


@dataclass(frozen=True)
class Throughput:
    """10^9 operations a second that the kernels of products reach (a multiply-accumulate is two), by what they read.

    Attributes:
        int8: Weights of one byte.
        int4: Weights of 4 bits with a scale for each row.
        int4_block: Weights of 4 bits with a scale for each block of 32.
        float: Weights of float32, and of float16, which becomes float32 when the file is loaded.
    """

    int8: float
    int4: float
    int4_block: float
    float: float


@dataclass(frozen=True)
class LatencyModel:
    """The figures of the roofline in `edgelm.device.latency`, for one thread on one big core.

    Attributes:
        cache: Levels that can hold weights between two steps, smallest first; may be empty.
        dram_gb_s: Effective streaming read bandwidth of one core from DRAM, 10^9 bytes/s.
        int8_stream: Share (0 to 1] of the bandwidth behind the first level that kernels for int8 weights reach.
        int8_ragged: Share (0 to 1] of the int8 rate that a product reaches whose columns are no multiple of 64: x86 kernels work on
            tiles of 64 bytes; 1 on arm64, where vectors have 16.
        one_row: Arithmetic of products with one row, as in a step.
        many_rows: Arithmetic of products with several rows, as in a prefill.
        attention_gb_s: 10^9 bytes of keys or values a second that a product of activations rearranges before it multiplies.
        elementwise_gb_s: 10^9 bytes of activations a second that ops read and write.
        functions_g_s: 10^9 values a second that go through tanh, exp and the like.
        per_op_us: Fixed cost of an op that XNNPACK runs, us.
        per_product_us: What a FULLY_CONNECTED costs beyond that, us: its kernel sets up, and one for integer weights rounds the rows first.
        per_own_op_us: Fixed cost of an op that TFLite's own kernel runs, with the change to it and back, us.
        per_call_us: Fixed cost of one invocation, us.
        uncertainty: Factor >= 1 by which all the figures may be off either way; widens the interval of an estimate.
        isolated_factor: Factor >= 1 by which a call after a pause is slower than one of a steady loop: the core has clocked down.
        basis: How the figures came about.
        source: Where they come from, or how they were derived.
    """

    cache: tuple[CacheLevel, ...]
    dram_gb_s: float
    int8_stream: float
    int8_ragged: float
    one_row: Throughput
    many_rows: Throughput
    attention_gb_s: float
    elementwise_gb_s: float
    functions_g_s: float
    per_op_us: float
    per_product_us: float
    per_own_op_us: float
    per_call_us: float
    uncertainty: float
    isolated_factor: float
    basis: FigureBasis
    source: str
