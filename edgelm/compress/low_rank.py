"""Tables as products of smaller ones: truncated singular value decompositions, and one table for two.

What multiplies a table's other factor stands next to it in a recurrent model: the embedding is read by matrices of the first layer, the
head reads the outputs of a dense layer; so a factor goes into its neighbour and costs nothing, or becomes a linear dense layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.model import LanguageModel
from edgelm.spec import DenseLayer, FloatArray, RecurrentSpec

Matrix = NDArray[np.float32]


def factors(table: FloatArray, rank: int, importance: NDArray[Any] | None = None) -> tuple[Matrix, Matrix]:
    """The two factors of least squared error (Eckart & Young 1936).

    Args:
        table: (rows, columns).
        rank: Of the product, at most the number of columns.
        importance: (rows,) weights of the rows' squared errors (Chen et al. 2018 weight words by their frequency); None for equal ones.

    Returns:
        (rows, rank), and (columns, rank) with orthonormal columns; the table is about the first times the second transposed.

    Example:
        >>> left, right = factors(np.outer([1.0, 2.0, 3.0], [3.0, 4.0]), 1)
        >>> left.shape, right.shape, np.abs(left @ right.T).max().round(3)
        ((3, 1), (2, 1), 12.0)
    """
    exact = np.asarray(table, np.float64)
    weighted = exact if importance is None else exact * importance[:, None]
    _, vectors = np.linalg.eigh(exact.T @ weighted)  # (columns, columns), ascending
    right = vectors[:, ::-1][:, :rank]
    return (exact @ right).astype(np.float32), right.astype(np.float32)


def shrink_embedding(model: LanguageModel, spec: RecurrentSpec, rank: int, importance: NDArray[Any] | None) -> LanguageModel:
    """An untied or tied embedding of `rank` columns; the other factor goes into the matrix that reads it.

    The head of a tied model reads the smaller table through the dense layer before it (`before_head`).
    """
    table, basis = factors(model.weights["embedding.weight"], rank, importance)  # (vocab, rank), (embedding_size, rank)
    weights: dict[str, FloatArray] = {**model.weights, "embedding.weight": table}
    if spec.gate_embedding:
        weights["layers.0.input.weight"] = basis
    else:
        reader = "embedding_projection.weight" if spec.embedding_projection else "layers.0.input.weight"
        weights[reader] = model.float32(reader) @ basis
    changed = dataclasses.replace(spec, embedding_size=rank, gate_embedding=False, tied_head=False, hidden=spec.hidden)
    if not spec.tied_head:
        return model.replace(spec=changed, weights=weights, encodings={}, scales={})
    return _before_head(model, changed, weights, basis.T, tied=True)


def shrink_head(model: LanguageModel, spec: RecurrentSpec, rank: int, importance: NDArray[Any] | None) -> LanguageModel:
    """An untied head of `rank` columns behind a linear layer."""
    table, basis = factors(model.weights["head.weight"], rank, importance)  # (vocab, rank), (head_inputs, rank)
    return _before_head(model, spec, {**model.weights, "head.weight": table}, basis.T, tied=False)


def tie(model: LanguageModel, spec: RecurrentSpec) -> LanguageModel:
    """One table for embedding and head: the one that both are nearest to when each may be mapped linearly.

    Both tables, divided by their norms, are put side by side; the best table of `embedding_size` columns for the pair is its truncated
    decomposition. The map to the embedding goes into the matrix that reads the embedding, the map to the head into the dense layer
    before the head.
    """
    embedding, head = model.float32("embedding.weight"), model.float32("head.weight")
    sizes = np.linalg.norm(embedding), np.linalg.norm(head)
    table, basis = factors(np.concatenate([embedding / sizes[0], head / sizes[1]], axis=1), spec.embedding_size)
    size = np.float32(sizes[0])  # the table gets the size of the embedding
    to_embedding = basis[: spec.embedding_size]  # (embedding_size, columns of the table)
    to_head = basis[spec.embedding_size :] * np.float32(sizes[1] / sizes[0])  # (head_inputs, columns of the table)
    weights: dict[str, FloatArray] = {name: weight for name, weight in model.weights.items() if name != "head.weight"}
    reader = "embedding_projection.weight" if spec.embedding_projection else "layers.0.input.weight"
    weights |= {"embedding.weight": table * size, reader: model.float32(reader) @ to_embedding}
    return _before_head(model, spec, weights, to_head.T, tied=True)


def _before_head(model: LanguageModel, spec: RecurrentSpec, weights: dict[str, FloatArray], factor: Matrix, *, tied: bool) -> LanguageModel:
    """`factor` (new head_inputs, head_inputs) before the head: inside a linear dense layer that is there, or as a new one.

    Args:
        model: What is changed.
        spec: Its new spec but for the dense layers and `tied_head`.
        weights: Its new weights but for the dense layers.
        factor: Multiplies what the head reads now.
        tied: The head reads the embedding.
    """
    last, size = len(spec.hidden) - 1, len(factor)
    hidden = list(spec.hidden)
    if hidden and hidden[last].activation == "linear":
        hidden[last] = dataclasses.replace(hidden[last], size=size)
        weights[f"hidden.{last}.weight"] = factor @ model.float32(f"hidden.{last}.weight")
        if hidden[last].bias:
            weights[f"hidden.{last}.bias"] = factor @ model.float32(f"hidden.{last}.bias")
    else:
        hidden.append(DenseLayer(size, "linear", bias=False))
        weights[f"hidden.{last + 1}.weight"] = factor
    changed = dataclasses.replace(spec, hidden=tuple(hidden), tied_head=tied)
    if tied:
        weights.pop("head.weight", None)
    return model.replace(spec=changed, weights=weights, encodings={}, scales={})
