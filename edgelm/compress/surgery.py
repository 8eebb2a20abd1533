"""Cuts whole rows and columns out of a model: every weight that has a place for a neuron loses that place, and the spec shrinks.

A model has dimensions, and each axis of each weight runs along one of them: `units.0` are the units of the first recurrent layer,
`hidden.0` the neurons of the first dense layer, `ffn.3` the feed-forward neurons of block 3, `heads.3` and `groups.3` its query heads
and key/value heads, `width` the columns of the embedding, which all matrices on the residual stream share. With a tied head the inputs
of the head are `width` too, be they hidden neurons or units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.model import LanguageModel
from edgelm.spec import GATES, FloatArray, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Axis:
    """How an axis of a weight runs along a dimension.

    Attributes:
        dimension: Its name; empty for an axis that is never cut.
        copies: The dimension is repeated so often, as the units are for each gate.
        block: Neighbours that belong to one place of the dimension, as the columns of a head do.
    """

    dimension: str = ""
    copies: int = 1
    block: int = 1

    def indices(self, keep: Indices, size: int) -> Indices:
        """Places on the axis that stay when `keep` of a dimension of `size` stays.

        Example:
            >>> Axis("units.0", copies=2).indices(np.array([0, 2]), 3).tolist()
            [0, 2, 3, 5]
        """
        within = (keep[:, None] * self.block + np.arange(self.block)).reshape(-1)
        starts: Indices = np.arange(self.copies)[:, None] * size * self.block
        return np.asarray((starts + within).reshape(-1), np.intp)


def dimensions(spec: ModelSpec) -> dict[str, int]:
    """Name -> size of every dimension that can be cut."""
    if isinstance(spec, TransformerSpec):
        sizes = {"width": spec.width}
        for i in range(spec.layers):
            sizes |= {f"groups.{i}": spec.kv_heads, f"heads.{i}": spec.heads, f"ffn.{i}": spec.ffn_size}
        return sizes
    sizes = {} if spec.gate_embedding else {"width": spec.embedding_size}
    sizes |= {units_dimension(spec, i): units for i, units in enumerate(spec.units)}
    return sizes | {hidden_dimension(spec, i): dense.size for i, dense in enumerate(spec.hidden)}


def axes(spec: ModelSpec) -> dict[str, tuple[Axis, ...]]:
    """Canonical weight name -> its axes."""
    return _recurrent_axes(spec) if isinstance(spec, RecurrentSpec) else _transformer_axes(spec)


def shrink(model: LanguageModel, keep: Mapping[str, Indices]) -> LanguageModel:
    """The model with only the places `keep` of each dimension that it names, ascending; encodings and scales are dropped.

    Of a transformer's blocks all `heads`, `groups` and `ffn` dimensions must keep equally many.
    """
    sizes = dimensions(model.spec)
    weights: dict[str, FloatArray] = {}
    for name, weight_axes in axes(model.spec).items():
        weight = model.weights[name]
        for number, axis in enumerate(weight_axes):
            if axis.dimension in keep:
                weight = weight.take(axis.indices(keep[axis.dimension], sizes[axis.dimension]), axis=number)
        weights[name] = weight
    spec = _shrunk_spec(model.spec, {name: len(places) for name, places in keep.items()})
    return model.replace(spec=spec, weights=weights, encodings={}, scales={})


def drop_layers(model: LanguageModel, keep: Sequence[int]) -> LanguageModel:
    """The model with only the layers `keep`, ascending and renumbered; each dropped one must have outputs of the size of its inputs."""
    spec: ModelSpec
    if isinstance(model.spec, RecurrentSpec):
        spec = dataclasses.replace(model.spec, units=tuple(model.spec.units[i] for i in keep))
    else:
        spec = dataclasses.replace(model.spec, layers=len(keep))
    return model.replace(
        spec=spec, weights={name: model.weights[_old_name(name, keep)] for name in weight_shapes(spec)}, encodings={}, scales={}
    )


def _old_name(name: str, keep: Sequence[int]) -> str:
    if not name.startswith("layers."):
        return name
    _, number, rest = name.split(".", 2)
    return f"layers.{keep[int(number)]}.{rest}"


def units_dimension(spec: RecurrentSpec, i: int) -> str:
    """The dimension of the units of recurrent layer `i`: `width` where a tied head reads them."""
    feeds_tied_head = spec.tied_head and not spec.hidden and i == len(spec.units) - 1
    return "width" if feeds_tied_head and not spec.gate_embedding else f"units.{i}"


def hidden_dimension(spec: RecurrentSpec, i: int) -> str:
    """The dimension of the neurons of dense layer `i`: `width` where a tied head reads them."""
    return "width" if spec.tied_head and i == len(spec.hidden) - 1 else f"hidden.{i}"


def _recurrent_axes(spec: RecurrentSpec) -> dict[str, tuple[Axis, ...]]:
    gates, uncut = GATES[spec.cell], Axis()
    table = Axis("units.0", copies=gates) if spec.gate_embedding else Axis("width")
    found: dict[str, tuple[Axis, ...]] = {"embedding.weight": (uncut, table), "embedding_projection.weight": (uncut, Axis("width"))}
    inputs = uncut if spec.embedding_projection else Axis("width")
    for i in range(len(spec.units)):
        rows, units = Axis(units_dimension(spec, i), copies=gates), Axis(units_dimension(spec, i))
        found[f"layers.{i}.input.weight"], found[f"layers.{i}.recurrent.weight"] = (rows, inputs), (rows, units)
        found[f"layers.{i}.input.bias"] = found[f"layers.{i}.recurrent.bias"] = (rows,)
        inputs = units
    for i in range(len(spec.hidden)):
        found[f"hidden.{i}.weight"] = Axis(hidden_dimension(spec, i)), inputs
        found[f"hidden.{i}.bias"] = (Axis(hidden_dimension(spec, i)),)
        inputs = Axis(hidden_dimension(spec, i))
    found |= {"head.weight": (uncut, inputs), "head.bias": (uncut,)}
    return {name: found[name] for name in weight_shapes(spec)}


def _transformer_axes(spec: TransformerSpec) -> dict[str, tuple[Axis, ...]]:
    uncut, width = Axis(), Axis("width")
    found: dict[str, tuple[Axis, ...]] = {"head.bias": (uncut,)}
    for i in range(spec.layers):
        at, q, kv = f"layers.{i}", Axis(f"heads.{i}", block=spec.head_dim), Axis(f"groups.{i}", block=spec.head_dim)
        ffn = Axis(f"ffn.{i}")
        for name, rows, columns in (("q", q, width), ("k", kv, width), ("v", kv, width), ("o", width, q)):
            found |= {f"{at}.{name}.weight": (rows, columns), f"{at}.{name}.bias": (rows,)}
        for name, rows, columns in (("gate", ffn, width), ("up", ffn, width), ("down", width, ffn)):
            found |= {f"{at}.{name}.weight": (rows, columns), f"{at}.{name}.bias": (rows,)}
        found |= {f"{at}.q_norm.weight": (uncut,), f"{at}.k_norm.weight": (uncut,)}
    shapes = weight_shapes(spec)  # what is left: tables (rows, width) and norms (width,)
    return {name: found.get(name, (uncut, width) if len(shape) == 2 else (width,)) for name, shape in shapes.items()}


def _shrunk_spec(spec: ModelSpec, sizes: Mapping[str, int]) -> ModelSpec:
    if isinstance(spec, TransformerSpec):
        return dataclasses.replace(
            spec,
            width=sizes.get("width", spec.width),
            heads=sizes.get("heads.0", spec.heads),
            kv_heads=sizes.get("groups.0", spec.kv_heads),
            ffn_size=sizes.get("ffn.0", spec.ffn_size),
        )
    units = tuple(sizes.get(units_dimension(spec, i), size) for i, size in enumerate(spec.units))
    hidden = tuple(dataclasses.replace(dense, size=sizes.get(hidden_dimension(spec, i), dense.size)) for i, dense in enumerate(spec.hidden))
    columns = GATES[spec.cell] * units[0] if spec.gate_embedding else sizes.get("width", spec.embedding_size)
    return dataclasses.replace(spec, units=units, hidden=hidden, embedding_size=columns)
