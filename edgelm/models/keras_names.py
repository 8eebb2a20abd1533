"""Which weight of which Keras layer is which canonical weight; no TensorFlow, so that converters can use it too.

The Keras layer of a canonical weight is named after it with dots turned to underscores: `layers.0.q.weight` is `kernel` of layer
`layers_0_q`, `layers.1.recurrent.weight` is `recurrent_kernel` of layer `layers_1`. Matrices of Dense and of recurrent layers are
(in, out) in Keras and (out, in) in a `LanguageModel`: they are transposed. A GRU with `reset_after` keeps both biases in one
(2, gates * units) variable, row 0 for the input.

The spec travels in the saved file: the layer named `SPEC_LAYER`, of the registered class `SPEC_CLASS`, does nothing and has
`{"spec": spec_to_dict(spec)}` in its config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.spec import FloatArray, ModelSpec, RecurrentSpec, weight_shapes

SPEC_LAYER = "edgelm_spec"
SPEC_CLASS = "edgelm>EdgeLMSpec"


@dataclass(frozen=True)
class KerasWeight:
    """Where a canonical weight lives in the Keras model.

    Attributes:
        layer: Name of the Keras layer.
        role: Attribute of the layer, or of its `cell`: `embeddings`, `kernel`, `recurrent_kernel`, `bias`, `gamma` or `beta`.
        index: Position in the layer's `get_weights()`, which is also the order in saved files.
        transpose: The Keras array is (in, out).
        row: The row of the Keras array that is meant (the two biases of a GRU); None for all of it.
    """

    layer: str
    role: str
    index: int
    transpose: bool = False
    row: int | None = None


def keras_weights(spec: ModelSpec) -> dict[str, KerasWeight]:
    """Canonical weight name -> its place, in the order of `weight_shapes(spec)`.

    Example:
        >>> keras_weights(RecurrentSpec(10, 4, "gru", (8,)))["layers.0.recurrent.bias"]
        KerasWeight(layer='layers_0', role='bias', index=2, transpose=False, row=1)
    """
    return {name: _place(spec, name) for name in weight_shapes(spec)}


def to_canonical(spec: ModelSpec, layers: Mapping[str, Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """Canonical weights from the arrays of Keras layers, without copying where a view will do.

    Args:
        spec: What the layers were built from.
        layers: Layer name -> role -> array as Keras keeps it.

    Returns:
        Canonical name -> array of the shape `weight_shapes(spec)` says.

    Raises:
        UnsupportedModelError: A layer or a weight is missing, or has another shape.
    """
    weights = {}
    for name, shape in weight_shapes(spec).items():
        place = _place(spec, name)
        array = layers.get(place.layer, {}).get(place.role)
        if array is None:
            raise UnsupportedModelError(
                f"the Keras model has no layer {place.layer!r} with a {place.role!r}", allowed=f"weight {name} {shape}"
            )
        if place.row is not None:
            array = array[place.row]
        array = array.T if place.transpose else array
        if tuple(array.shape) != shape:
            raise UnsupportedModelError(
                f"{place.role!r} of Keras layer {place.layer!r} gives {name} the shape {array.shape}", allowed=str(shape)
            )
        weights[name] = array
    return weights


def from_canonical(spec: ModelSpec, weights: Mapping[str, FloatArray]) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The inverse of `to_canonical`: layer name -> role -> float32 array as Keras keeps it.

    Raises:
        UnsupportedModelError: A weight is missing or has another shape than `weight_shapes(spec)` says.
    """
    layers: dict[str, dict[str, Any]] = {}
    for name, shape in weight_shapes(spec).items():
        if name not in weights or tuple(weights[name].shape) != shape:
            met = tuple(weights[name].shape) if name in weights else "no such weight"
            raise UnsupportedModelError(f"weight {name}: {met}", allowed=str(shape))
        place = _place(spec, name)
        array = np.asarray(weights[name], np.float32)
        roles = layers.setdefault(place.layer, {})
        if place.row is None:
            roles[place.role] = array.T if place.transpose else array
        else:
            roles.setdefault(place.role, np.zeros((2, *shape), np.float32))[place.row] = array
    return layers


def _place(spec: ModelSpec, name: str) -> KerasWeight:
    owner, kind = name.rsplit(".", 1)
    if isinstance(spec, RecurrentSpec) and owner.startswith("layers."):
        return _recurrent_place(spec, owner, kind)
    layer = owner.replace(".", "_")
    if owner in ("embedding", "positions"):
        return KerasWeight(layer, "embeddings", 0)
    if owner.endswith("norm"):
        return KerasWeight(layer, "gamma", 0) if kind == "weight" else KerasWeight(layer, "beta", 1)
    if kind == "weight":
        return KerasWeight(layer, "kernel", 0, transpose=True)
    return KerasWeight(layer, "bias", 0 if owner == "head" and spec.tied_head else 1)


def _recurrent_place(spec: RecurrentSpec, owner: str, kind: str) -> KerasWeight:
    _, number, part = owner.split(".")
    layer, first = f"layers_{number}", 0 if spec.gate_embedding and number == "0" else 1
    if kind == "bias":
        two_rows = spec.cell == "gru" and spec.reset_after
        return KerasWeight(layer, "bias", first + 1, row={"input": 0, "recurrent": 1}[part] if two_rows else None)
    if part == "input":
        return KerasWeight(layer, "kernel", 0, transpose=True)
    return KerasWeight(layer, "recurrent_kernel", first, transpose=True)
