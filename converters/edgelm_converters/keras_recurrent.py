"""Takes recurrent language models out of Keras graphs: embedding or one-hot input, recurrent layers, dense layers, head.

The model must be a chain. What sits before the first recurrent layer depends on one token only and goes into the embedding table;
batch normalisation and linear layers go into the weights of the layer behind them (or in front of them); both are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.spec import DenseLayer, FloatArray, RecurrentSpec
from edgelm_converters.keras_cells import RecurrentCell, cells_of, is_recurrent
from edgelm_converters.keras_dense import Affine, activated, activation_of, dense_of, scaling_of, spec_activation
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_head import Lift, check_classes, check_head_activation, input_features, same_table
from edgelm_converters.keras_wiring import Wiring, operation, option, takes_last, weight_of
from edgelm_converters.lift import NotLiftable


@dataclass
class _Parts:
    """What has been read of the chain so far, input to output."""

    prefix: list[Affine | Callable[[FloatArray], FloatArray]] = field(default_factory=list)
    table: FloatArray | None = None  # (vocab, width); None for one-hot input
    classes: int = 0  # width of the one-hot input
    one_hot: bool = False  # the model's own input is one-hot
    cells: list[RecurrentCell] = field(default_factory=list)
    dense: list[Affine] = field(default_factory=list)
    pending: Affine | None = None  # a linear map that goes into the next layer's weights
    last_only: bool = False


def lift_recurrent(wiring: Wiring, output: str) -> Lift:
    """Rebuilds a recurrent model.

    Args:
        wiring: The model.
        output: Name of the node that makes the logits or probabilities.

    Raises:
        UnsupportedModelError: It is not causal, or no language model.
        NotLiftable: It is no chain, mixes cell kinds or has a layer the spec has no place for.
    """
    parts = _Parts()
    for node in _chain(wiring, output):
        _read(wiring, node, parts)
    return _assemble(parts)


def _chain(wiring: Wiring, output: str) -> list[LayerNode]:
    """The nodes from the input to the output, layers without effect left out."""
    nodes = [wiring.node(output)]
    while nodes[-1].kind != "InputLayer":
        nodes.append(wiring.source(nodes[-1]))
    return nodes[::-1]


def _read(wiring: Wiring, node: LayerNode, parts: _Parts) -> None:
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


def _read_recurrent(wiring: Wiring, node: LayerNode, parts: _Parts) -> None:
    if parts.last_only:
        raise NotLiftable(f"recurrent layer {node.name!r} reads a single step")
    if parts.table is None and not parts.classes and not parts.prefix:
        parts.classes, parts.one_hot = input_features(wiring, node), True
    if parts.dense:
        _fold_dense(node, parts)
    for cell in cells_of(node, wiring.graph.keras_version):
        if parts.pending is not None:
            cell = dataclasses.replace(cell, input=cell.input.after(parts.pending))
            parts.pending = None
        parts.cells.append(cell)
    parts.last_only = not node.config.get("return_sequences", False)


def _fold_dense(node: LayerNode, parts: _Parts) -> None:
    """Dense layers between two recurrent ones: one linear map for the next layer's weights."""
    for layer in parts.dense:
        if layer.activation != "linear":
            raise NotLiftable(f"a {layer.activation} layer between recurrent layers, in front of {node.name!r}")
        parts.pending = layer if parts.pending is None else layer.after(parts.pending)
    parts.dense = []


def _read_prefix(wiring: Wiring, node: LayerNode, parts: _Parts) -> None:
    """A layer in front of the recurrent stack: it sees one token at a time, so the table takes it."""
    dense, scaling, activation = dense_of(wiring, node), scaling_of(wiring, node), activation_of(node)
    if parts.table is None and not parts.classes and not parts.prefix:
        parts.classes, parts.one_hot = input_features(wiring, node), True
    if dense is not None:
        parts.prefix.append(dense)
    elif scaling is not None:
        scale, shift = scaling
        parts.prefix.append(lambda x: x * scale + shift)
    elif activation is not None:
        parts.prefix.append(lambda x: activated(wiring, Affine(np.eye(x.shape[-1], dtype=np.float32)), activation)(x))
    else:
        raise NotLiftable(f"layer {node.name!r} ({operation(node)}) in front of the recurrent layers")


def _read_suffix(wiring: Wiring, node: LayerNode, parts: _Parts) -> None:
    """A layer behind a recurrent one: dense, activation or a scaling by feature."""
    dense, scaling, activation = dense_of(wiring, node), scaling_of(wiring, node), activation_of(node)
    if dense is not None:
        parts.dense.append(dense if parts.pending is None else dense.after(parts.pending))
        parts.pending = None
    elif scaling is not None:
        _scale(parts, *scaling)
    elif activation is not None and parts.dense and parts.dense[-1].activation == "linear" and parts.pending is None:
        parts.dense[-1] = activated(wiring, parts.dense[-1], activation)
    elif activation != "linear":
        raise NotLiftable(f"layer {node.name!r} ({operation(node)}) behind the recurrent layers")


def _scale(parts: _Parts, scale: FloatArray, shift: FloatArray) -> None:
    """Into the linear layer in front, or else into the layer behind."""
    if parts.dense and parts.dense[-1].activation == "linear" and parts.pending is None:
        parts.dense[-1] = parts.dense[-1].scaled(scale, shift)
        return
    width = parts.dense[-1].weight.shape[0] if parts.dense else parts.cells[-1].units
    first = Affine(np.eye(width, dtype=np.float32)) if parts.pending is None else parts.pending
    parts.pending = first.scaled(scale, shift)


def _assemble(parts: _Parts) -> Lift:
    if not parts.cells:
        raise NotLiftable("the output does not depend on a recurrent layer")
    if len({cell.kind for cell in parts.cells}) > 1:
        raise NotLiftable("recurrent layers of different kinds: " + ", ".join(cell.cell for cell in parts.cells))
    if not parts.dense:
        raise UnsupportedModelError(
            "the model ends in a recurrent layer: it has no dense layer that scores the vocabulary",
            allowed="a Dense layer of vocabulary size as the last layer",
        )
    if parts.pending is not None:
        raise NotLiftable("the scores are scaled after their softmax")
    *hidden, head = parts.dense
    check_head_activation(head.activation)
    vocab = parts.classes if parts.table is None else parts.table.shape[0]
    check_classes(vocab, head.weight.shape[0])
    tied = same_table(head.weight, parts.table) and not (parts.prefix and not _one_linear(parts.prefix))
    embedding, projection = _embedding(parts, tied)
    return _lift(parts, hidden, head, tied, embedding, projection)


def _one_linear(prefix: Sequence[object]) -> bool:
    return len(prefix) == 1 and isinstance(prefix[0], Affine) and prefix[0].activation == "linear"


def _embedding(parts: _Parts, tied: bool) -> tuple[FloatArray, Affine | None]:
    """The embedding table, and the linear layer behind it that is kept as one because that is smaller or the table is tied."""
    prefix, table = list(parts.prefix), parts.table
    last = prefix[-1] if prefix else None
    projection = None
    if isinstance(last, Affine) and last.activation == "linear" and (table is not None or len(prefix) > 1):
        rows, columns = last.weight.shape
        if rows > columns or tied:
            projection = last
            prefix.pop()
    if table is None:
        if not prefix:
            return parts.cells[0].input.weight.T, None  # one-hot input: the first layer's columns are the table
        first = prefix.pop(0)
        table = first.of_one_hot() if isinstance(first, Affine) else first(np.eye(parts.classes, dtype=np.float32))
    for layer in prefix:
        table = layer(table)
    return table, projection


def _lift(parts: _Parts, hidden: Sequence[Affine], head: Affine, tied: bool, embedding: FloatArray, projection: Affine | None) -> Lift:
    first, *others = parts.cells
    gate_embedding = parts.table is None and not parts.prefix
    if projection is not None and projection.bias is not None:  # the spec's projection has none: it goes into the first layer's
        bias = first.input.bias_or_zero() + first.input.weight @ projection.bias
        first = dataclasses.replace(first, input=dataclasses.replace(first.input, bias=bias))
    cells = [first, *others]
    spec = RecurrentSpec(
        vocab_size=embedding.shape[0],
        embedding_size=embedding.shape[1],
        cell=first.cell,
        units=tuple(cell.units for cell in cells),
        activation=first.activation,
        recurrent_activation=first.recurrent_activation,
        reset_after=first.reset_after,
        hidden=tuple(DenseLayer(len(layer.weight), spec_activation(layer.activation), layer.bias is not None) for layer in hidden),
        tied_head=tied,
        head_bias=head.bias is not None,
        gate_embedding=gate_embedding,
        embedding_projection=0 if projection is None else projection.weight.shape[0],
    )
    weights: dict[str, FloatArray] = {"embedding.weight": embedding}
    if projection is not None:
        weights["embedding_projection.weight"] = projection.weight
    weights |= _cell_weights(cells, gate_embedding)
    for name, layer in [(f"hidden.{i}", layer) for i, layer in enumerate(hidden)] + [("head", head)]:
        if not (name == "head" and tied):
            weights[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            weights[f"{name}.bias"] = layer.bias
    return Lift(spec, weights, head.activation == "softmax", parts.last_only, parts.one_hot)


def _cell_weights(cells: Sequence[RecurrentCell], gate_embedding: bool) -> dict[str, FloatArray]:
    weights: dict[str, FloatArray] = {}
    for i, cell in enumerate(cells):
        if i or not gate_embedding:
            weights[f"layers.{i}.input.weight"] = cell.input.weight
        weights[f"layers.{i}.recurrent.weight"] = cell.recurrent
        weights[f"layers.{i}.input.bias"] = cell.input.bias_or_zero()
        if cell.recurrent_bias is not None:
            weights[f"layers.{i}.recurrent.bias"] = cell.recurrent_bias
    return weights
