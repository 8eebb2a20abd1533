"""Where the activations of a model are int8 when its ranges are fixed, and what their integers mean.

A *site* is a tensor with a range of its own; `LanguageModel.ranges` maps its name to (lowest, highest). `NAME:in` and `NAME:out` are what
the product of matrix `NAME` reads and what it gives, bias included; projections that read one tensor share a site. Sites in between:

    layers.i:gates       pre-activations of a recurrent layer: input plus recurrent product (of a GRU those of z and r)
    layers.i:candidate   the same of a GRU's candidate
    layers.i.gate:act    the activated gate of a gated feed-forward layer

What is not listed stays float: the cell state, the state of a GRU, norms, rotary positions, attention scores, the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.spec import FloatArray, ModelSpec, RecurrentSpec, TransformerSpec

LEVELS = 255
"""Steps between the lowest and the highest of 256 integers."""

SHARED_INPUTS = {"q": "attention", "k": "attention", "v": "attention", "gate": "ffn", "up": "ffn"}
"""Projection of a block -> the input it shares."""

_SMALLEST_SCALE = 2.0**-24


def input_site(name: str) -> str:
    """The site that matrix `name` (without `.weight`) reads.

    Example:
        >>> input_site("layers.0.q"), input_site("layers.0.o")
        ('layers.0.attention:in', 'layers.0.o:in')
    """
    owner, _, last = name.rpartition(".")
    return f"{owner}.{SHARED_INPUTS[last]}:in" if last in SHARED_INPUTS else f"{name}:in"


def sites(spec: ModelSpec) -> tuple[str, ...]:
    """The sites of a model, in the order of the forward pass.

    Example:
        >>> sites(RecurrentSpec(10, 4, "rnn", (8,)))
        ('layers.0.input:in', 'layers.0.input:out', 'layers.0.recurrent:in', 'layers.0.recurrent:out', 'layers.0:gates',
         'head:in', 'head:out')
    """
    inner = _recurrent_sites(spec) if isinstance(spec, RecurrentSpec) else _transformer_sites(spec)
    return tuple(dict.fromkeys((*inner, *_product_sites("head"))))


def _recurrent_sites(spec: RecurrentSpec) -> Iterator[str]:
    if spec.embedding_projection:
        yield from _product_sites("embedding_projection")
    for layer in range(len(spec.units)):
        at = f"layers.{layer}"
        if layer or not spec.gate_embedding:
            yield from _product_sites(f"{at}.input")
        yield from _product_sites(f"{at}.recurrent")
        yield f"{at}:gates"
        if spec.cell == "gru":
            if not spec.reset_after:
                yield from _product_sites(f"{at}.candidate")
            yield f"{at}:candidate"
    for layer in range(len(spec.hidden)):
        yield from _product_sites(f"hidden.{layer}")


def _transformer_sites(spec: TransformerSpec) -> Iterator[str]:
    for layer in range(spec.layers):
        names = ("q", "k", "v", "o", *(("gate", "up") if spec.gated else ("up",)), "down")
        for name in names:
            yield from _product_sites(f"layers.{layer}.{name}")
            if name == "gate":
                yield f"layers.{layer}.gate:act"


def _product_sites(name: str) -> tuple[str, str]:
    return input_site(name), f"{name}:out"


def int8_affine(low: float, high: float) -> tuple[float, int]:
    """Scale (a float32 number) and zero point of the integers -128 to 127 over a range; 0 is one of the values.

    Example:
        >>> int8_affine(-1.0, 1.55)
        (0.009999999776482582, -28)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / LEVELS, _SMALLEST_SCALE)))
    return scale, round(float(np.clip(-low / scale, 0, LEVELS))) - 128


def affines(model: LanguageModel) -> Mapping[str, tuple[float, int]]:
    """Site -> scale and zero point of a model with ranges.

    Raises:
        UnsupportedModelError: A site has no range, or one that is empty or not finite.
    """
    wanted = sites(model.spec)
    for site in wanted:
        low, high = model.ranges.get(site, (np.nan, np.nan))
        if not -np.inf < low < high < np.inf:
            raise UnsupportedModelError(
                f"activation site {site} of model {model.name!r} has no usable range: {model.ranges.get(site)}",
                allowed="(lowest, highest), finite, for each of: " + ", ".join(wanted),
                fix="calibrate the model again",
            )
    return {site: int8_affine(*model.ranges[site]) for site in wanted}


def round_to_int8(x: FloatArray, affine: tuple[float, int]) -> FloatArray:
    """X (any shape) on the grid of an affine, in x's dtype: what a DEQUANTIZE gives back."""
    scale, zero_point = affine
    rounded: FloatArray = x / x.dtype.type(scale)
    np.rint(rounded, out=rounded)
    np.clip(rounded, -128 - zero_point, 127 - zero_point, out=rounded)
    rounded *= x.dtype.type(scale)
    return rounded
