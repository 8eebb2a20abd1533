"""Takes recurrent language models out of Keras graphs: embedding or one-hot input, recurrent layers, dense layers, head.

The model must be a chain. What sits before the first recurrent layer depends on one token only and goes into the embedding table;
batch normalisation and linear layers go into the weights of the layer behind them (or in front of them); both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm_converters.keras_cells import cells_of, is_recurrent
from edgelm_converters.keras_dense import activated, activation_of, dense_of, scaling_of
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_wiring import Wiring, operation, option, takes_last, weight_of
from edgelm_converters.lift import Lift, NotLiftable
from edgelm_converters.model_parts import Affine
from edgelm_converters.recurrent_parts import Parts, assemble


def lift_recurrent(wiring: Wiring, output: str) -> Lift:
    """Rebuilds a recurrent model.

    Args:
        wiring: The model.
        output: Name of the node that makes the logits or probabilities.

    Raises:
        UnsupportedModelError: It is not causal, or no language model.
        NotLiftable: It is no chain, mixes cell kinds or has a layer the spec has no place for.
    """
    parts = Parts()
    for node in _chain(wiring, output):
        _read(wiring, node, parts)
    return assemble(parts)


def _chain(wiring: Wiring, output: str) -> list[LayerNode]:
    """The nodes from the input to the output, layers without effect left out."""
    nodes = [wiring.node(output)]
    while nodes[-1].kind != "InputLayer":
        nodes.append(wiring.source(nodes[-1]))
    return nodes[::-1]


def _read(wiring: Wiring, node: LayerNode, parts: Parts) -> None:
    """Adds one node of the chain to the parts."""
    kind = operation(node)
    if kind == "InputLayer":
        return
    if kind in ("Embedding", "ReversibleEmbedding") and parts.table is None and not (parts.cells or parts.prefix):
        parts.table = weight_of(node, "embeddings")
    elif kind == "OneHot" and not (parts.cells or parts.prefix):
        parts.classes = int(option(node, "depth") or option(node, "num_classes"))
    elif kind == "CategoryEncoding" and node.config.get("output_mode") == "one_hot" and not (parts.cells or parts.prefix):
        parts.classes = int(node.config["num_tokens"])
    elif is_recurrent(node):
        _read_recurrent(wiring, node, parts)
    elif takes_last(node) and parts.cells:
        parts.last_only = True
    elif not parts.cells:
        _read_prefix(wiring, node, parts)
    else:
        _read_suffix(wiring, node, parts)


def _read_recurrent(wiring: Wiring, node: LayerNode, parts: Parts) -> None:
    if parts.last_only:
        raise NotLiftable(f"recurrent layer {node.name!r} reads a single step")
    if parts.table is None and not parts.classes and not parts.prefix:
        parts.classes, parts.one_hot = _input_features(wiring, node), True
    for cell in cells_of(node, wiring.graph.keras_version):
        parts.add_cell(cell, node.name)
    parts.last_only = not node.config.get("return_sequences", False)


def _read_prefix(wiring: Wiring, node: LayerNode, parts: Parts) -> None:
    """A layer in front of the recurrent stack: it sees one token at a time, so the table takes it."""
    dense, scaling, activation = dense_of(wiring, node), scaling_of(wiring, node), activation_of(node)
    if parts.table is None and not parts.classes and not parts.prefix:
        parts.classes, parts.one_hot = _input_features(wiring, node), True
    if dense is not None:
        parts.prefix.append(dense)
    elif scaling is not None:
        scale, shift = scaling
        parts.prefix.append(lambda x: x * scale + shift)
    elif activation is not None:
        parts.prefix.append(lambda x: activated(wiring, Affine(np.eye(x.shape[-1], dtype=np.float32)), activation)(x))
    else:
        raise NotLiftable(f"layer {node.name!r} ({operation(node)}) in front of the recurrent layers")


def _read_suffix(wiring: Wiring, node: LayerNode, parts: Parts) -> None:
    """A layer behind a recurrent one: dense, activation or a scaling by feature."""
    dense, scaling, activation = dense_of(wiring, node), scaling_of(wiring, node), activation_of(node)
    if dense is not None:
        parts.add_dense(dense)
    elif scaling is not None:
        parts.scale(*scaling)
    elif activation is not None and parts.dense and parts.dense[-1].activation == "linear" and parts.pending is None:
        parts.dense[-1] = activated(wiring, parts.dense[-1], activation)
    elif activation != "linear":
        raise NotLiftable(f"layer {node.name!r} ({operation(node)}) behind the recurrent layers")


def _input_features(wiring: Wiring, node: LayerNode) -> int:
    """Width of the one-hot vectors that `node` reads from the model's input.

    Raises:
        UnsupportedModelError: The input is numbers, not one-hot vectors.
    """
    source = wiring.source(node)
    shape: Sequence[int | None] = source.config.get("batch_shape") or source.config.get("batch_input_shape") or ()
    features = shape[-1] if len(shape) == 3 else None
    if features is None or features < 2:
        raise UnsupportedModelError(
            f"layer {node.name!r} reads the model's input {tuple(shape)} as numbers: the model has no vocabulary",
            allowed="token ids (batch, time) into an Embedding, or one-hot vectors (batch, time, vocab)",
        )
    return int(features)
