"""The parts of a recurrent language model as a converter meets them, and the lift that they make: the same for every framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.spec import DenseLayer, FloatArray, RecurrentSpec
from edgelm_converters.lift import Lift, NotLiftable, check_classes, check_head_activation, same_table
from edgelm_converters.model_parts import Affine, RecurrentCell, spec_activation


@dataclass
class Parts:
    """What has been read of the chain so far, input to output."""

    prefix: list[Affine | Callable[[FloatArray], FloatArray]] = field(default_factory=list)
    table: FloatArray | None = None  # (vocab, width); None for one-hot input
    classes: int = 0  # width of the one-hot input
    one_hot: bool = False  # the model's own input is one-hot
    cells: list[RecurrentCell] = field(default_factory=list)
    dense: list[Affine] = field(default_factory=list)
    pending: Affine | None = None  # a linear map that goes into the next layer's weights
    last_only: bool = False

    def add_cell(self, cell: RecurrentCell, name: str) -> None:
        """Adds a recurrent layer; linear layers in front of it go into its weights.

        Raises:
            NotLiftable: A layer that is not linear stands between two recurrent ones.
        """
        for layer in self.dense:
            if layer.activation != "linear":
                raise NotLiftable(f"a {layer.activation} layer between recurrent layers, in front of {name!r}")
            self.pending = layer if self.pending is None else layer.after(self.pending)
        self.dense = []
        if self.pending is not None:
            cell = dataclasses.replace(cell, input=cell.input.after(self.pending))
            self.pending = None
        self.cells.append(cell)

    def add_dense(self, layer: Affine) -> None:
        """Adds a dense layer behind the recurrent ones."""
        self.dense.append(layer if self.pending is None else layer.after(self.pending))
        self.pending = None

    def scale(self, scale: FloatArray, shift: FloatArray) -> None:
        """Takes scale * x + shift into the linear layer in front, or else into the layer behind."""
        if self.dense and self.dense[-1].activation == "linear" and self.pending is None:
            self.dense[-1] = self.dense[-1].scaled(scale, shift)
            return
        width = self.dense[-1].weight.shape[0] if self.dense else self.cells[-1].units
        first = Affine(np.eye(width, dtype=np.float32)) if self.pending is None else self.pending
        self.pending = first.scaled(scale, shift)


def assemble(parts: Parts) -> Lift:
    """The lift that complete parts make.

    Raises:
        UnsupportedModelError: It is no language model: no dense layer at the end, other classes than tokens.
        NotLiftable: No or different recurrent layers, scores that are scaled after their softmax.
    """
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


def _embedding(parts: Parts, tied: bool) -> tuple[FloatArray, Affine | None]:
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


def _lift(parts: Parts, hidden: Sequence[Affine], head: Affine, tied: bool, embedding: FloatArray, projection: Affine | None) -> Lift:
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
