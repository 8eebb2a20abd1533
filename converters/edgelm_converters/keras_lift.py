"""Recognises language models in a `KerasGraph` and takes their weights out.

What comes out is a claim: the caller runs source and lifted model on the same tokens and only uses a lift that agrees.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.models.keras_names import SPEC_CLASS, keras_weights, to_canonical
from edgelm.spec import FloatArray, spec_from_dict, weight_shapes
from edgelm_converters.keras_cells import is_recurrent
from edgelm_converters.keras_dense import SOFTMAX, activation_of, dense_of
from edgelm_converters.keras_graph import KerasGraph, LayerNode
from edgelm_converters.keras_hdf5 import DAMAGE
from edgelm_converters.keras_recurrent import lift_recurrent
from edgelm_converters.keras_transformer import ATTENTION, lift_transformer
from edgelm_converters.keras_wiring import Wiring, operation
from edgelm_converters.lift import Lift, NotLiftable, check_classes

__all__ = ["Lift", "lift"]

_POOLING = frozenset({"GlobalAveragePooling1D", "GlobalMaxPooling1D", "GlobalAvgPool1D", "GlobalMaxPool1D"})
_IMAGE = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D", "ConvLSTM2D"})


def lift(graph: KerasGraph) -> Lift:
    """Rebuilds a Keras language model as a spec with canonical weights.

    Args:
        graph: What a reader made of a file. Models that edgelm trained carry their spec, others are recognised by structure.

    Returns:
        The lift; prove it before using it.

    Raises:
        UnsupportedModelError: It is no causal language model: bidirectional, pooled over time, a classifier, ...
        NotLiftable: It may be one, but has layers the spec has no place for; it can go the opaque way.
    """
    try:
        return _lift(graph)
    except DAMAGE as error:  # a config or an array of another form than Keras writes
        raise NotLiftable(f"the config or the weights of a layer are damaged ({type(error).__name__}: {error})") from error


def _lift(graph: KerasGraph) -> Lift:
    own = next((node for node in graph.nodes if node.kind in (SPEC_CLASS, SPEC_CLASS.rsplit(">", 1)[-1])), None)
    if own is not None:
        return _own(graph, own)
    wiring = Wiring(graph)
    output = _output(wiring)
    used = list(wiring.ancestors(output))
    _refuse(wiring, output, used)
    attention = any(operation(node) in ATTENTION for node in used)
    recurrent = any(is_recurrent(node) for node in used)
    if attention and recurrent:
        raise NotLiftable("recurrent layers and attention in one model")
    if not (attention or recurrent):
        raise NotLiftable("no recurrent layer and no attention: no family edgelm rebuilds")
    found = lift_transformer(wiring, output) if attention else lift_recurrent(wiring, output)
    return _finished(found, used)


def _own(graph: KerasGraph, node: LayerNode) -> Lift:
    """A model that edgelm built: the spec is in the file and every layer is named after its canonical weights."""
    spec = spec_from_dict(node.config["spec"])
    held = {owner.name.rsplit("/", 1)[-1]: owner.weights for owner in graph.nodes}
    layers: dict[str, dict[str, FloatArray]] = {}
    for place in keras_weights(spec).values():
        arrays = held.get(place.layer, {})
        array = arrays.get(place.role, arrays.get(str(place.index)))  # readers number the arrays of layers that are not Keras' own
        if array is not None:
            layers.setdefault(place.layer, {})[place.role] = array
    return _finished(Lift(spec, to_canonical(spec, layers), probabilities=False, last_only=False, one_hot=False), [])


def _output(wiring: Wiring) -> str:
    """The output that holds the scores: recurrent states and features that the scores are made of are passed over."""
    outputs = list(dict.fromkeys(wiring.graph.outputs))
    inner = {node.name for name in outputs for node in wiring.ancestors(name) if node.name != name}
    scores = [name for name in outputs if name not in inner]
    if len(scores) != 1:
        raise NotLiftable(f"{len(scores)} outputs: {', '.join(scores)}")
    return scores[0]


def _refuse(wiring: Wiring, output: str, used: list[LayerNode]) -> None:
    """Raises for what no way of conversion can make a language model of."""
    for node in used:
        kind = operation(node)
        if "Bidirectional" in (kind, *node.wrapped):
            raise UnsupportedModelError(
                f"layer {node.name!r} is Bidirectional: it reads the tokens that are to be predicted, so it is not causal",
                allowed="recurrent layers that read left to right",
                fix="train the model without Bidirectional",
            )
        if kind in _POOLING:
            raise UnsupportedModelError(
                f"layer {node.name!r} ({kind}) pools over time: the model is a classifier of whole texts, not causal",
                allowed="scores from each position, or from the last one (return_sequences=False, x[:, -1])",
            )
        if kind in _IMAGE:
            raise UnsupportedModelError(
                f"layer {node.name!r} ({kind}) reads images: the model is no language model", allowed="models of token ids"
            )
    _check_head(wiring, output, used)


def _check_head(wiring: Wiring, output: str, used: list[LayerNode]) -> None:
    """Compares the vocabulary of the embedding with the classes of the last dense layer, where both are plain to see."""
    node = wiring.node(output)
    while activation_of(node) in (*SOFTMAX, "linear"):
        node = wiring.source(node)
    head = dense_of(wiring, node)
    tables = [
        layer.weights["embeddings"]
        for layer in used
        if "embeddings" in layer.weights and layer.inputs and wiring.node(layer.inputs[0]).kind == "InputLayer"
    ]
    if head is not None and len(tables) == 1:
        check_classes(tables[0].shape[0], head.weight.shape[0])


def _finished(found: Lift, used: list[LayerNode]) -> Lift:
    """The lift with contiguous float32 weights and a note on what it leaves out.

    Raises:
        NotLiftable: A weight has another shape than the spec wants: the graph is not what it looked like.
    """
    for name, shape in weight_shapes(found.spec).items():
        if name not in found.weights or found.weights[name].shape != shape:
            raise NotLiftable(f"{name} is not of shape {shape}, as the rest of the model wants it")
    weights = {name: np.ascontiguousarray(weight, np.float32) for name, weight in found.weights.items()}
    masked = [node.name for node in used if node.config.get("mask_zero")]
    note = f"layer {masked[0]!r} masks token 0 (mask_zero): the converted model reads token 0 like any other" if masked else ""
    return dataclasses.replace(found, weights=weights, notes=(*found.notes, note) if note else found.notes)
