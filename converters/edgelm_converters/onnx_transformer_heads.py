"""Reads the heads of an attention: which features of a linear map become which column of queries, keys and values, and how they are turned.

Queries, keys and values are functions of a linear map's output. Features are numbered in binary and sent through, +1 for a set bit and
-1 for an unset one: whichever way heads are split, turned round, repeated and joined, the signs say which feature arrives where, and a
root mean square is 1 for every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_transformer_maps import Core, Frame, Linear

Index = NDArray[np.int64]
Values = NDArray[np.float64]
Part = Literal["q", "k", "v"]

CLOSE = 1e-4
"""Relative difference of numbers that are taken for the same."""


@dataclass(frozen=True)
class Rotary:
    """How heads are turned.

    Attributes:
        size: Leading columns that are turned.
        theta: Base of the frequencies.
        interleaved: Neighbouring columns form pairs, instead of columns of the two halves.
    """

    size: int
    theta: float
    interleaved: bool

    def halves(self, head_dim: int) -> Index:
        """The order of a head's columns in which this is a rotation of two halves."""
        order = np.arange(head_dim)
        if self.interleaved:
            order[: self.size] = np.concatenate([order[0 : self.size : 2], order[1 : self.size : 2]])
        return order


@dataclass(frozen=True)
class Heads:
    """Queries, keys or values as a function of a linear map's output.

    Attributes:
        linear: The map.
        rows: (heads, head_dim) row of the map that each column comes from.
        scale: What each column is multiplied with, (heads, head_dim); with `normed` that includes the norm's weight.
        normed: There is a root-mean-square norm over each head.
        rotary: How the heads are turned; None when they are not.
    """

    linear: Linear
    rows: Index
    scale: Values
    normed: bool
    rotary: Rotary | None


class HeadReader:
    """Sends numbers from linear maps to the queries, keys and values of one attention."""

    def __init__(self, frame: Frame, core: Core) -> None:
        self.frame, self.core, self.trace = frame, core, frame.trace

    def heads(self, part: Part) -> Heads:
        """Reads queries (`q`), keys or values."""
        tensor = {"q": self.core.q, "k": self.core.k, "v": self.core.v}[part]
        origins = self.frame.origins(tensor)
        linear = self.frame.linears.get(next(iter(origins))) if len(origins) == 1 else None
        if linear is None:
            raise NotLiftable(f"{_NAMES[part]} of attention {self.core.node.name!r} come from no single linear map")
        count = len(linear.layer.weight)
        ones = self.send(part, linear, np.ones(count))  # (heads, time, head_dim)
        rows, scale = self._rows(part, linear, ones[:, 0])
        double = self.send(part, linear, np.full(count, 2.0))[:, 0] / scale
        normed = bool(np.allclose(double, 1, rtol=1e-2))
        if not normed and not np.allclose(double, 2, rtol=CLOSE):
            raise NotLiftable(f"{_NAMES[part]} of attention {self.core.node.name!r} are no linear function, nor normalised by head")
        if normed:
            scale = self.send(part, linear, np.full(count, 1e3))[:, 0]  # no epsilon counts
            self._check_norm(part, linear, rows, scale)
        return Heads(linear, rows, scale, normed, self._rotary(part, linear, rows, ones))

    def send(self, part: Part, linear: Linear, features: Values) -> Values:
        """What arrives as queries, keys or values (heads, time, head_dim) when each position has these features."""
        tensor = {"q": self.core.q, "k": self.core.k, "v": self.core.v}[part]
        fed = np.broadcast_to(features, self.trace.shape(linear.output))
        return self._by_head(part, self.trace.run(tensor, {linear.output: fed}))

    def _by_head(self, part: Part, array: FloatArray) -> Values:
        array = np.asarray(array, np.float64)
        if self.core.fused:
            if array.ndim == 3:
                count = int(self.core.node.attributes["q_num_heads" if part == "q" else "kv_num_heads"])
                array = array.reshape(*array.shape[:2], count, -1).swapaxes(1, 2)
            group = self._fused_heads() // array.shape[1]
            array = np.repeat(array, group, axis=1)
        else:
            second = "q" if self.core.transposed else "k"  # operand of the product of scores: its columns are positions
            array = array.swapaxes(-1, -2) if part == second and not self._second_has_rows() else array
            lead = self.trace.shape(self.core.product)[:-2]
            array = np.broadcast_to(array, (*lead, *array.shape[-2:]))
        return array.reshape(-1, *array.shape[-2:])

    def _second_has_rows(self) -> bool:
        product = self.frame.graph.producer_of(self.core.product)
        return product is not None and bool(product.attributes.get("transB", 0))

    def _fused_heads(self) -> int:
        shape = self.trace.shape(self.core.q)
        return int(self.core.node.attributes["q_num_heads"]) if len(shape) == 3 else shape[1]

    def _rows(self, part: Part, linear: Linear, scale: Values) -> tuple[Index, Values]:
        """(rows, scale) of `Heads`, from the first position, where rotary positions turn nothing."""
        count = len(linear.layer.weight)
        rows = np.zeros(scale.shape, np.int64)
        for bit in range(max(1, (count - 1).bit_length())):
            signs = np.where(np.arange(count) >> bit & 1, 1.0, -1.0)
            arrived = self.send(part, linear, signs)[:, 0] / scale
            if not np.allclose(np.abs(arrived), 1, rtol=1e-3):
                raise NotLiftable(f"{_NAMES[part]} of attention {self.core.node.name!r} mix the features of a linear map")
            rows |= (arrived > 0).astype(np.int64) << bit
        return rows, scale

    def _check_norm(self, part: Part, linear: Linear, rows: Index, scale: Values) -> None:
        """The norm is over each head by itself, and a root mean square."""
        features = np.random.default_rng(3).normal(0, 1, len(linear.layer.weight))
        values = features[rows]
        wanted = values / np.sqrt(np.mean(values * values, axis=-1, keepdims=True)) * scale
        if not np.allclose(self.send(part, linear, features)[:, 0], wanted, rtol=1e-2, atol=1e-2 * np.abs(scale).max()):
            raise NotLiftable(f"the norm of {_NAMES[part]} of attention {self.core.node.name!r} is no root mean square over each head")

    def _rotary(self, part: Part, linear: Linear, rows: Index, ones: Values) -> Rotary | None:
        """How positions turn the heads: what `ones` (heads, time, head_dim) became of vectors of ones shows which columns change."""
        change = np.abs(ones - ones[:, :1]) > 3e-7 * np.abs(ones[:, :1])
        size = int(np.flatnonzero(change.any((0, 1)))[-1]) + 1 if change.any() else 0
        if not size:
            return None
        if size % 2 or ones.shape[1] < 2:
            raise NotLiftable(f"{_NAMES[part]} of attention {self.core.node.name!r} change with their position, but are not turned")
        for interleaved in (False, True):
            frequencies = self._frequencies(part, linear, rows, size, interleaved)
            if frequencies is not None:
                return Rotary(size, _theta(frequencies), interleaved)
        raise NotLiftable(f"{_NAMES[part]} of attention {self.core.node.name!r} are turned in pairs edgelm does not know")

    def _frequencies(self, part: Part, linear: Linear, rows: Index, size: int, interleaved: bool) -> Values | None:
        """Angles a position (size / 2,), where these are the pairs; None where they are not."""
        first, second = (np.arange(0, size, 2), np.arange(1, size, 2)) if interleaved else np.split(np.arange(size), 2)
        features = np.zeros(len(linear.layer.weight))
        features[rows[:, first]] = 1.0
        features[rows[:, size:]] = 0.5
        turned = self.send(part, linear, features)  # (heads, time, head_dim)
        cos, sin = turned[..., first] / turned[:, :1, first], turned[..., second] / turned[:, :1, first]
        frequencies = np.arctan2(sin[0, 1], cos[0, 1])
        angles = np.arange(turned.shape[1])[:, None] * frequencies
        fits = np.allclose(cos, np.cos(angles), atol=CLOSE) and np.allclose(sin, np.sin(angles), atol=CLOSE)
        return np.asarray(frequencies) if fits else None

    def columns(self, output: Linear) -> Index:
        """The column of the output projection that reads each mixed value: (heads, head_dim)."""
        shape = self.trace.shape(self.core.output)
        plain = np.arange(1, int(np.prod(shape)) + 1, dtype=np.float64).reshape(shape)
        ordered = plain
        if self.core.fused and len(shape) == 3:
            ordered = plain.reshape(*shape[:2], self._fused_heads(), -1).swapaxes(1, 2)
        ordered = ordered.reshape(-1, *ordered.shape[-2:])[:, -1]  # (heads, head_dim) of the last position
        arrived = self.trace.run(output.input, {self.core.output: plain})
        last = np.asarray(arrived, np.float64).reshape(-1, arrived.shape[-1])[-1]
        found: Mapping[int, int] = {round(float(value)): column for column, value in enumerate(last)}
        if any(int(value) not in found for value in ordered.reshape(-1)) or len(last) != ordered.size:
            raise NotLiftable(f"the output projection of attention {self.core.node.name!r} does not read the mixed values as they are")
        return np.array([[found[int(value)] for value in head] for head in ordered])


def _theta(frequencies: Values) -> float:
    """The base of rotary frequencies theta ** (-2 i / size).

    Raises:
        NotLiftable: They are no such row.
    """
    count = len(frequencies)
    theta = float(frequencies[-1] ** (-count / (count - 1))) if count > 1 else 10_000.0
    if not np.isfinite(theta) or not np.allclose(frequencies, theta ** (-np.arange(count) / count), rtol=1e-4):
        raise NotLiftable("the rotary frequencies are no powers of one base: they are scaled (rope_scaling)")
    short = float(f"{theta:.3g}")  # the frequencies are float32 numbers
    return short if abs(short - theta) <= 1e-4 * theta else theta


_NAMES = {"q": "the queries", "k": "the keys", "v": "the values"}
