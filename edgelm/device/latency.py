"""How long a step will take on a device: a roofline over the ops of the graph.

    time = per_call + sum over ops(fixed cost + sqrt(compute^2 + (bytes / bandwidth)^2))

A step of a small language model reads every weight once and does two operations with each, so that the stream of weights
decides as soon as the model outgrows the caches, and fixed costs decide below that. The model is that of Williams et al. 2009
("Roofline"), with the fixed costs of an interpreter added, and without the roofline's sharp corner: where arithmetic and memory take
equally long they overlap only in part (4-bit products in a cache of the second or third level), and the root of the sum of their
squares is nearer to what `make bench-latency` measures than the larger one:

- Fixed cost: an op that XNNPACK runs, more of it for a product, or one that TFLite's own kernel runs (a lookup), where XNNPACK has to
  stop and start again.
- Compute of a product: operations over the rate of its kernel, which depends on the core (`isa`: NEON, dotprod, i8mm), on the kind of
  weights, and on the rows: one row in a step, several in a prefill, where each weight that was read is used again. A product of two
  activations (attention) first rearranges its second operand, a cache of keys or values: `attention_gb_s`.
- Compute of other ops: functions such as tanh.
- Bytes: weights and states come from the level that holds the whole working set (all weights and states a call touches); what ops
  hand to each other moves at `elementwise_gb_s`. Between the sizes of two levels the bandwidth goes from one to the other on a
  logarithmic scale, since caches neither keep all of a set that just fits nor lose all of one that just does not; DRAM is reached at
  twice the size of the last level.

The central estimate is that of a steady loop. The interval has three sources, all in the profile: the `uncertainty` of the figures, a
factor by which all of them may be off (both ends); what the caches hold when the user types the next word (low: the whole working
set; high: nothing, all of it comes from DRAM); and the clock of a core that was idle in between (`isolated_factor`, high only).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from edgelm.device.cost import OpCost, StepCost, step_cost
from edgelm.device.latency_figures import FigureBasis, LatencyModel, Throughput
from edgelm.device.profile import DeviceProfile

__all__ = ["Breakdown", "LatencyEstimate", "OpCost", "StepCost", "call_ms", "predict", "step_cost"]

KIB = 1024.0
DRAM = "DRAM"


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a call goes, ms; the four parts add up to the estimate.

    Attributes:
        per_call: Fixed cost of the invocation.
        per_op: Fixed cost of the ops together.
        weights: Ops that wait for weights and activations.
        compute: Ops that wait for arithmetic.
    """

    per_call: float
    per_op: float
    weights: float
    compute: float

    @property
    def total(self) -> float:
        """The whole call, ms."""
        return self.per_call + self.per_op + self.weights + self.compute

    @property
    def largest(self) -> str:
        """Name of the largest part, in words."""
        parts = {
            "the fixed cost of a call": self.per_call,
            "the fixed cost of the ops": self.per_op,
            "reading the weights": self.weights,
            "arithmetic": self.compute,
        }
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class LatencyEstimate:
    """The estimated time of one token.

    Attributes:
        ms_per_token: Central estimate of a steady loop, ms.
        low: Lower end of the interval, ms.
        high: Upper end of the interval, ms.
        basis: The profile's: `measured` figures still make an estimate of another model's time.
        breakdown: Of the central estimate of a call.
        memory: Which level the working set is read from, such as `L2` or `DRAM`.
    """

    ms_per_token: float
    low: float
    high: float
    basis: FigureBasis
    breakdown: Breakdown
    memory: str


def predict(cost: StepCost, profile: DeviceProfile) -> LatencyEstimate:
    """Estimates the time of a token on a device, one thread on one big core.

    Args:
        cost: Of the signature that is called once a token (or once for `cost.tokens` tokens).
        profile: The device.

    Returns:
        Milliseconds a token, with interval and breakdown.

    Example:
        A step with one op of 8,000,000 int8 weights on a core that streams 8 GB/s and does 40 Gop/s takes 1 ms for its weights and
        0.4 ms for its arithmetic: sqrt(1 + 0.16) = 1.077 ms, plus the fixed costs.
    """
    model = profile.latency
    level = next((level.name for level in model.cache if cost.working_set_bytes <= level.size_kb * KIB), DRAM)
    central = _breakdown(cost, model, cost.working_set_bytes)
    cold = _breakdown(cost, model, math.inf)
    tokens = cost.tokens
    return LatencyEstimate(
        ms_per_token=central.total / tokens,
        low=central.total / tokens / model.uncertainty,
        high=max(cold.total, central.total) / tokens * model.uncertainty * model.isolated_factor,
        basis=model.basis,
        breakdown=central,
        memory=level,
    )


def call_ms(cost: StepCost, model: LatencyModel) -> float:
    """The central estimate of a whole call, ms."""
    return _breakdown(cost, model, cost.working_set_bytes).total


def _bandwidth(nbytes: float, model: LatencyModel) -> float:
    """What a working set of `nbytes` is read with, 10^9 bytes/s."""
    points = [(level.size_kb * KIB, level.gb_s) for level in model.cache]
    if not points:
        return model.dram_gb_s
    points.append((2 * points[-1][0], model.dram_gb_s))
    if nbytes <= points[0][0]:
        return points[0][1]
    for (small, fast), (large, slow) in itertools.pairwise(points):
        if nbytes <= large:
            way = math.log(nbytes / small) / math.log(large / small) if large > small else 1.0
            return float(fast * (slow / fast) ** way)
    return model.dram_gb_s


def _int8_share(nbytes: float, model: LatencyModel) -> float:
    """The share of it that int8 kernels reach: all of it within the first level, `int8_stream` from twice its size on."""
    first = model.cache[0].size_kb * KIB if model.cache else 0.0
    if nbytes <= first:
        return 1.0
    return float(model.int8_stream ** min(math.log2(nbytes / first), 1.0)) if first else model.int8_stream


def _breakdown(cost: StepCost, model: LatencyModel, working_set: float) -> Breakdown:
    """Where the time goes when weights are read from where a working set of so many bytes lies; infinite: from DRAM."""
    weights = compute = fixed = 0.0
    gb_s = _bandwidth(working_set, model)
    int8_gb_s = gb_s * _int8_share(working_set, model)
    for op in cost.ops:
        fixed += op.repeats * _fixed_us(op, model) / 1e3
        read = op.weight_bytes / (int8_gb_s if op.multiplied == "int8" else gb_s) + op.state_bytes / gb_s
        streaming = (read + op.activation_bytes / model.elementwise_gb_s) / 1e6  # ms
        arithmetic = _arithmetic(op, model)
        if arithmetic > streaming:
            compute += math.hypot(arithmetic, streaming)
        else:
            weights += math.hypot(arithmetic, streaming)
    return Breakdown(model.per_call_us / 1e3, fixed, weights, compute)


def _fixed_us(op: OpCost, model: LatencyModel) -> float:
    """What one run of an op costs whatever its size."""
    product = model.per_product_us if op.multiplied else 0.0
    return product + (model.per_own_op_us if op.own_kernel else model.per_op_us)


def _arithmetic(op: OpCost, model: LatencyModel) -> float:
    """Time of an op whose operands are all at hand, ms."""
    if op.macs:
        rates: Throughput = model.one_row if op.rows == 1 and not op.packed_bytes else model.many_rows
        rate: float = getattr(rates, op.multiplied or "float") * (model.int8_ragged if op.ragged else 1.0)
        return 2 * op.macs / (rate * 1e6) + op.packed_bytes / (model.attention_gb_s * 1e6)
    return op.functions / (model.functions_g_s * 1e6)
