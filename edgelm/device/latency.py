"""How long a step will take on a device: a roofline over the ops of the graph.

    time = per_call + sum over ops(per_op + max(compute, bytes / bandwidth))

A step of a small language model reads every weight once and does two operations with each, so that the stream of weights
decides as soon as the model outgrows the caches, and fixed costs decide below that. Which bandwidth holds is read off the
working set (all weights and states a step touches): the smallest cache level that holds it whole, else DRAM. A cyclic stream
over a set that is larger than an LRU cache misses on every line, hence no mixture. The model is that of Williams et al. 2009
("Roofline"), with the fixed costs of an interpreter added.

The central estimate is that of a steady loop. The interval has three sources, all in the profile: the `uncertainty` of the figures, a
factor by which all of them may be off (both ends); what the caches hold when the user types the next word (low: the whole working
set; high: nothing, all of it comes from DRAM); and the clock of a core that was idle in between (`isolated_factor`, high only).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelm.device.cost import OpCost, StepCost, step_cost
from edgelm.device.profile import CacheLevel, DeviceProfile, FigureBasis, LatencyModel

__all__ = ["Breakdown", "LatencyEstimate", "OpCost", "StepCost", "predict", "step_cost"]

KIB = 1024.0


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
        A step with one op of 8,000,000 int8 weights on a core that streams 8 GB/s and does 1000 Gop/s takes 1 ms for its
        weights (0.016 ms of arithmetic hide behind them), plus the fixed costs.
    """
    model = profile.latency
    level = _memory_level(cost, model)
    central = _breakdown(cost, model, level.gb_s)
    cold = _breakdown(cost, model, model.dram_gb_s)
    tokens = cost.tokens
    return LatencyEstimate(
        ms_per_token=central.total / tokens,
        low=central.total / tokens / model.uncertainty,
        high=cold.total / tokens * model.uncertainty * model.isolated_factor,
        basis=model.basis,
        breakdown=central,
        memory=level.name,
    )


def _memory_level(cost: StepCost, model: LatencyModel) -> CacheLevel:
    """The smallest level that holds the working set whole."""
    for level in model.cache:
        if cost.working_set_bytes <= level.size_kb * KIB:
            return level
    return CacheLevel("DRAM", float("inf"), model.dram_gb_s)


def _breakdown(cost: StepCost, model: LatencyModel, gb_s: float) -> Breakdown:
    weights = compute = 0.0
    for op in cost.ops:
        arithmetic = 2 * op.int8_macs / (model.int8_gops * 1e6) + 2 * op.float_macs / (model.float_gflops * 1e6)  # ms
        streaming = (op.weight_bytes + op.activation_bytes) / (gb_s * 1e6)  # ms
        if arithmetic > streaming:
            compute += arithmetic
        else:
            weights += streaming
    per_op = sum(op.repeats for op in cost.ops) * model.per_op_us / 1e3
    return Breakdown(model.per_call_us / 1e3, per_op, weights, compute)
