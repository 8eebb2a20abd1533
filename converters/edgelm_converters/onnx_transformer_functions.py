"""Tells which function a part of a graph computes, by evaluating it on chosen numbers: norms, activations, scaled and shifted copies.

The exporter's spelling plays no part: erf written out or Gelu, LayerNormalization or its eight operations, all give the same numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelm.models.activations import activate
from edgelm.spec import Activation, FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Norm
from edgelm_converters.onnx_transformer_trace import Trace

Rows = NDArray[np.float64]
"""(time, columns)."""

_EXACT = 2e-5  # of numbers of about 1 in float32; the two forms of gelu differ by 5e-4
_FEWEST_ROWS = 4
_QUICK_GELU = 1.702  # x * sigmoid(1.702 x) (Hendrycks & Gimpel 2016), which CLIP's and some GPT exports use


@dataclass(frozen=True)
class Copy:
    """scale * x + shift; shift (time, width)."""

    scale: float
    shift: Rows

    @property
    def plain(self) -> bool:
        """It is x itself."""
        return self.scale == 1 and not self.shift.any()


@dataclass(frozen=True)
class Mixing:
    """How a feed-forward layer makes its inner values: activation(up), or activation(gate) * up.

    Attributes:
        activation: Of the gate where there is one.
        gate: Columns of the gate among those of all maps side by side; None without a gate.
        up: Columns of the other.
        slope: x -> activation(slope * x) / slope instead of activation(x): other than 1 for x * sigmoid(1.702 x).
    """

    activation: Activation
    gate: slice | None
    up: slice
    slope: float = 1.0


def rows_of(trace: Trace, source: str, target: str, values: Rows) -> Rows:
    """`target` (time or 1, columns) for values (time, columns) of `source`."""
    shape = trace.shape(source)
    result = trace.run(target, {source: values.reshape(shape)})
    return np.asarray(result, np.float64).reshape(-1, result.shape[-1])


def copy_between(trace: Trace, source: str, target: str) -> Copy | None:
    """`target` as a scaled and shifted copy of `source` (time, width); None when it is anything else."""
    if source == target:
        return Copy(1.0, np.zeros((1, 1)))
    x = _random(trace, source)
    shift = rows_of(trace, source, target, np.zeros_like(x))
    y = rows_of(trace, source, target, x) - shift
    wanted = x[-len(y) :]
    if y.shape != wanted.shape or not np.all(np.isfinite(y)):
        return None
    scale = float(np.sum(y * wanted) / np.sum(wanted * wanted))
    if scale == 0 or not np.allclose(y, scale * wanted, atol=_EXACT * (abs(scale) + np.abs(shift).max())):
        return None
    return Copy(_rounded(scale), shift)


def norm_between(trace: Trace, source: str, target: str) -> Norm | None:
    """The norm over the last axis that makes `target` of `source`; None when it is no norm.

    Where `target` has one row only, that is the last position's.
    """
    x, large, small = _probed(trace, source, target)
    if large.shape[-1] != x.shape[-1] or not np.all(np.isfinite(large)):
        return None
    bias, y = (large + small) / 2, (large - small) / 2
    for kind in _NORMALS:
        normal = _NORMALS[kind](x)
        weight = np.sum(y * normal, axis=0) / np.sum(normal * normal, axis=0)
        size = np.abs(weight).max()
        if size and np.allclose(y, weight * normal, atol=_EXACT * size) and np.allclose(bias, bias[:1], atol=_EXACT * size):
            eps = _epsilon(trace, source, target, bias[0], kind)
            return Norm(kind, eps, _known(trace, source, target, weight), _known(trace, source, target, bias[0]))
    return None


def _probed(trace: Trace, source: str, target: str) -> tuple[Rows, Rows, Rows]:
    """Rows x of `source` with those of `target` for 1000 x and -1000 x, where no epsilon counts; more rows than one tell norms apart."""
    rows: list[tuple[Rows, Rows, Rows]] = []
    for seed in range(_FEWEST_ROWS):
        x = _random(trace, source, seed)
        large, small = (rows_of(trace, source, target, sign * 1e3 * x) for sign in (1, -1))
        rows.append((x[-len(large) :], large, small))
        if len(large) >= _FEWEST_ROWS:
            break
    x, large, small = (np.concatenate(part) for part in zip(*rows, strict=True))
    return x, large, small


def two_norms_between(trace: Trace, source: str, target: str) -> tuple[Norm, Norm] | None:
    """Two norms in a row, first and second."""
    for middle in candidates_between(trace, source, target):
        first = norm_between(trace, source, middle)
        second = norm_between(trace, middle, target) if first is not None else None
        if first is not None and second is not None:
            return first, second
    return None


def candidates_between(trace: Trace, source: str, target: str) -> Iterator[str]:
    """Tensors of the size of `source` on the way to `target`, in the graph's order, that alone decide `target`."""
    size = trace.value(source).size
    for node in trace.between(source, target)[:-1]:
        tensor = node.outputs[0]
        if trace.value(tensor).size != size or trace.shape(tensor)[-1] != trace.shape(source)[-1]:
            continue
        try:
            trace.between(tensor, target)
        except NotLiftable:  # the rest reads `source` beside it
            continue
        yield tensor


def mixing_between(trace: Trace, sources: Sequence[str], target: str) -> Mixing:
    """How `target` is made of the outputs of one or two linear maps, by element.

    Raises:
        NotLiftable: By no activation that edgelm knows.
    """
    x = [_random(trace, source, seed) * 2 for seed, source in enumerate(sources)]
    fed = {source: values.reshape(trace.shape(source)) for source, values in zip(sources, x, strict=True)}
    result = trace.run(target, fed)
    y = np.asarray(result, np.float64).reshape(-1, result.shape[-1])  # (time, ffn)
    beside = np.concatenate(x, axis=-1)[-len(y) :]  # (time, ffn or 2 ffn)
    for mixing in _mixings(beside.shape[1], y.shape[1]):
        if np.allclose(y, _mixed(mixing, beside), atol=_EXACT * max(1.0, float(np.abs(y).max()))):
            return mixing
    raise NotLiftable(f"the activation that makes {target!r} is not among those edgelm rebuilds ({', '.join(get_args(Activation))})")


def _mixings(columns: int, size: int) -> Iterator[Mixing]:
    kinds: list[tuple[Activation, float]] = [(activation, 1.0) for activation in get_args(Activation)]
    kinds.append(("silu", _QUICK_GELU))
    if columns == size:
        yield from (Mixing(activation, None, slice(0, size), slope) for activation, slope in kinds)
    elif columns == 2 * size:
        first, second, even, odd = slice(0, size), slice(size, columns), slice(0, columns, 2), slice(1, columns, 2)
        pairs = ((first, second), (second, first), (even, odd), (odd, even))
        yield from (Mixing(kind[0], gate, up, kind[1]) for kind, (gate, up) in itertools.product(kinds, pairs))


def _mixed(mixing: Mixing, beside: Rows) -> Rows:
    inner = beside[:, mixing.up if mixing.gate is None else mixing.gate]
    activated = activate(mixing.activation, mixing.slope * inner) / mixing.slope
    return np.asarray(activated if mixing.gate is None else activated * beside[:, mixing.up])


def _random(trace: Trace, tensor: str, seed: int = 0) -> Rows:
    """Numbers of about 1: (time, columns)."""
    shape = trace.shape(tensor)
    return np.random.default_rng(seed).normal(0, 1, (int(np.prod(shape[:-1])), shape[-1]))


def _rms(x: Rows) -> Rows:
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True)))


def _layer(x: Rows) -> Rows:
    return _rms(x - x.mean(-1, keepdims=True))


_NORMALS: Mapping[Literal["layer", "rms"], Callable[[Rows], Rows]] = {"layer": _layer, "rms": _rms}
"""Kind of norm -> x without its scale."""


def _epsilon(trace: Trace, source: str, target: str, bias: Rows, kind: Literal["layer", "rms"]) -> float:
    """What is added to the variance: numbers of its own size show it best, so their size follows the estimate."""
    normal = _NORMALS[kind](_random(trace, source))
    size, eps = 1e-3, 0.0
    plain = rows_of(trace, source, target, 1e6 * normal) - bias
    for _ in range(3):
        y = rows_of(trace, source, target, size * normal) - bias
        ratio = float(np.sum(y * plain) / np.sum(plain * plain))  # sqrt(size^2 / (size^2 + eps))
        eps = size * size * max(0.0, 1 / max(ratio, 1e-6) ** 2 - 1)
        size = max(np.sqrt(eps), 1e-8)
    return _rounded(eps)


def _known(trace: Trace, source: str, target: str, values: Rows) -> FloatArray:
    """The constant of the graph that equals measured values, or these."""
    names = [name for node in trace.between(source, target) for name in node.inputs if name and name not in trace.live]
    for value in (trace.value(name) for name in names):
        if value.dtype.kind == "f" and value.size == values.size and np.allclose(value.reshape(-1), values, rtol=1e-4, atol=1e-6):
            return np.asarray(value.reshape(-1), np.float32)
    return np.asarray(np.where(np.abs(values) < 1e-6, 0, values), np.float32)


def _rounded(number: float) -> float:
    """To four digits where that is what was meant."""
    short = float(f"{number:.4g}")
    return short if abs(short - number) <= 1e-5 * abs(number) else float(np.float32(number))
