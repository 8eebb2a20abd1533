"""What one call of a signature costs: ops, multiply-accumulates and bytes, read off the graph of a .tflite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpCost:
    """What one op does in one call.

    Attributes:
        name: The op, such as `FULLY_CONNECTED`.
        int8_macs: Multiply-accumulates with integer weights (8 or 4 bits).
        float_macs: Multiply-accumulates with float weights or between activations; element-wise operations count as one each.
        weight_bytes: Bytes of constants it reads, scales included; of a table that is looked up only the rows.
        activation_bytes: Bytes of the other tensors it reads and writes.
        repeats: How often it runs in a call (more than once inside a loop); the other figures are totals.
    """

    name: str
    int8_macs: int
    float_macs: int
    weight_bytes: int
    activation_bytes: int
    repeats: int = 1


@dataclass(frozen=True)
class StepCost:
    """What one call of a signature costs.

    Attributes:
        signature: Its key.
        ops: Every op that runs, in order.
        tokens: Tokens one call takes.
        working_set_bytes: Distinct bytes of weights and states a call touches: what has to stay in a cache to be read from there.
    """

    signature: str
    ops: tuple[OpCost, ...]
    tokens: int
    working_set_bytes: int

    @property
    def int8_macs(self) -> int:
        """Multiply-accumulates with integer weights."""
        return sum(op.int8_macs for op in self.ops)

    @property
    def float_macs(self) -> int:
        """Multiply-accumulates in floating point."""
        return sum(op.float_macs for op in self.ops)

    @property
    def weight_bytes(self) -> int:
        """Bytes of constants the ops read together."""
        return sum(op.weight_bytes for op in self.ops)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations the ops read and write together."""
        return sum(op.activation_bytes for op in self.ops)
