"""The parts of language models as every converter meets them: linear maps, norms, recurrent layers, feed-forward layers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelm.models.reference import activate
from edgelm.spec import Activation, Cell, FloatArray
from edgelm_converters.lift import NotLiftable


@dataclass(frozen=True)
class Affine:
    """activation(weight @ x + bias).

    Attributes:
        weight: (out, in).
        bias: (out,) or None.
        activation: One of the spec's, or `softmax` or `log_softmax`.
    """

    weight: FloatArray
    bias: FloatArray | None = None
    activation: str = "linear"

    def __call__(self, x: FloatArray) -> FloatArray:
        """Applies it to (..., in)."""
        y = x @ self.weight.T
        return activate(spec_activation(self.activation), y if self.bias is None else y + self.bias)

    def of_one_hot(self) -> FloatArray:
        """Its outputs for every one-hot input: (in, out)."""
        return activate(spec_activation(self.activation), self.weight.T + self.bias_or_zero())

    def bias_or_zero(self) -> FloatArray:
        """The bias, zeros where there is none: (out,)."""
        return np.zeros(self.weight.shape[0], self.weight.dtype) if self.bias is None else self.bias

    def after(self, first: Affine) -> Affine:
        """This layer with the linear layer `first` in front of it, as one layer: W (A x + t) + b = (W A) x + (W t + b)."""
        bias = self.bias if first.bias is None else self.bias_or_zero() + self.weight @ first.bias
        return dataclasses.replace(self, weight=self.weight @ first.weight, bias=bias)

    def scaled(self, scale: FloatArray, shift: FloatArray | None = None) -> Affine:
        """Returns scale * y + shift of this (linear) layer's output y; scale and shift are (out,) or ()."""
        shifted = shift is not None and bool(np.any(shift))
        bias = None if self.bias is None and not shifted else self.bias_or_zero() * scale + (0 if shift is None else shift)
        weight = self.weight * np.broadcast_to(scale, self.weight.shape[:1])[:, None]
        return dataclasses.replace(self, weight=as_float32(weight), bias=None if bias is None else as_float32(bias))


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis; weight and bias (width,)."""

    kind: Literal["layer", "rms"]
    eps: float
    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class Attention:
    """Causal self-attention; q (heads * head_dim, width), k and v (kv_heads * head_dim, width), o (width, heads * head_dim)."""

    heads: int
    kv_heads: int
    head_dim: int
    q: Affine
    k: Affine
    v: Affine
    o: Affine


@dataclass(frozen=True)
class FeedForward:
    """down(activation(up(x))), or down(activation(gate(x)) * up(x))."""

    up: Affine
    down: Affine
    gate: Affine | None
    activation: Activation


@dataclass(frozen=True)
class RecurrentCell:
    """One recurrent layer with its weights, G = gates * units.

    Attributes:
        cell: `rnn`, `gru` or `lstm`.
        activation: Of the candidate and of the cell output.
        recurrent_activation: Of the gates.
        reset_after: GRU only.
        input: (G, in) and a bias (G,).
        recurrent: (G, units).
        recurrent_bias: (G,), for a GRU with `reset_after` only.
    """

    cell: Cell
    activation: Activation
    recurrent_activation: Activation
    reset_after: bool
    input: Affine
    recurrent: FloatArray
    recurrent_bias: FloatArray | None

    @property
    def units(self) -> int:
        """Size of the state."""
        return int(self.recurrent.shape[1])

    @property
    def kind(self) -> tuple[str, str, str, bool]:
        """What all cells of a spec share."""
        return self.cell, self.activation, self.recurrent_activation, self.reset_after


def spec_activation(name: str) -> Activation:
    """`name` where the spec has that activation.

    Raises:
        NotLiftable: It has not.
    """
    if name not in get_args(Activation):
        raise NotLiftable(f"activation {name!r} is not among those edgelm rebuilds ({', '.join(get_args(Activation))})")
    return name  # type: ignore[return-value]  # checked against the literal's own values


def as_float32(array: NDArray[Any]) -> FloatArray:
    """The array as float32, itself where it is."""
    return np.asarray(array, np.float32)
