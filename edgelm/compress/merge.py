"""Similar neurons become one: their outgoing weights are added up, their incoming weights averaged (Srinivas & Babu 2015).

Two neurons with equal incoming weights always have equal outputs, so one of them with the sum of their outgoing weights does the same.
For neurons that are nearly equal the error grows with the distance of their incoming weights and with their outgoing weights; pairs are
merged in the order of Ward's criterion, m_a m_b / (m_a + m_b) * |in_a - in_b|**2, with the squared outgoing weights as masses m.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.surgery import Axis, axes, dimensions, shrink
from edgelm.model import LanguageModel
from edgelm.spec import FloatArray, ModelSpec

Array = NDArray[np.float64]
Groups = list[list[int]]


def mergeable(spec: ModelSpec) -> dict[str, int]:
    """Dimension -> size, of those made of neurons: recurrent units, dense neurons and feed-forward neurons.

    Neurons that a tied head reads are left out: their outgoing weights are the embedding.
    """
    return {name: size for name, size in dimensions(spec).items() if name.split(".")[0] in ("units", "hidden", "ffn")}


def merge(model: LanguageModel, sizes: Mapping[str, int]) -> LanguageModel:
    """The model with fewer neurons; encodings and scales are dropped.

    Args:
        model: What to merge in.
        sizes: Dimension of `mergeable` -> neurons that are left.
    """
    weights: dict[str, FloatArray] = dict(model.weights)
    kept: dict[str, NDArray[np.intp]] = {}
    for dimension, size in sizes.items():
        incoming, outgoing = _sides(model.spec, weights, dimension)
        masses = np.square(outgoing).sum(1) + np.finfo(np.float64).tiny  # (neurons,)
        groups = similar(incoming, masses, size)
        mean = np.zeros((size, len(masses)))  # (neurons left, neurons)
        for row, group in enumerate(groups):
            mean[row, group] = masses[group] / masses[group].sum()
        for name, weight_axes in axes(model.spec).items():
            weights[name] = _merged(name, weights[name], weight_axes, dimension, mean)
        kept[dimension] = np.array([group[0] for group in groups], np.intp)
    return shrink(model, kept).replace(weights=weights)


def similar(incoming: Array, masses: Array, count: int) -> Groups:
    """Groups of similar neurons.

    Args:
        incoming: (neurons, inputs).
        masses: (neurons,) squared outgoing weights, above 0.
        count: Groups that are left.

    Returns:
        Ascending lists of neurons, in the order of their first.

    Example:
        >>> similar(np.array([[1.0], [5.0], [1.1]]), np.ones(3), 2)
        [[0, 2], [1]]
    """
    centres, masses = incoming.copy(), masses.copy()
    groups = {i: [i] for i in range(len(incoming))}
    costs = np.stack([_costs(centres, masses, i) for i in range(len(centres))])
    np.fill_diagonal(costs, np.inf)
    for _ in range(len(incoming) - count):
        a, b = sorted(int(i) for i in np.unravel_index(np.argmin(costs), costs.shape))
        total = masses[a] + masses[b]
        centres[a] = (masses[a] * centres[a] + masses[b] * centres[b]) / total
        masses[a] = total
        groups[a] += groups.pop(b)
        renewed = _costs(centres, masses, a)
        renewed[np.isinf(costs[a])] = np.inf  # itself and those gone
        costs[a] = costs[:, a] = renewed
        costs[b] = costs[:, b] = np.inf
    return [sorted(group) for _, group in sorted(groups.items())]


def _costs(centres: Array, masses: Array, i: int) -> Array:
    """(neurons,) costs of merging neuron i with each."""
    found: Array = masses * masses[i] / (masses + masses[i]) * np.square(centres - centres[i]).sum(1)
    return found


def _sides(spec: ModelSpec, weights: Mapping[str, FloatArray], dimension: str) -> tuple[Array, Array]:
    """Incoming (neurons, inputs) and outgoing (neurons, outputs) weights of a dimension's neurons."""
    size = dimensions(spec)[dimension]
    incoming: list[Array] = []
    outgoing: list[Array] = []
    for name, weight_axes in axes(spec).items():
        for number, axis in enumerate(weight_axes):
            if axis.dimension == dimension:
                weight = np.moveaxis(np.asarray(weights[name], np.float64), number, 0)
                by_neuron = np.moveaxis(weight.reshape(axis.copies, size, -1), 1, 0).reshape(size, -1)
                (incoming if _comes_in(name, number) else outgoing).append(by_neuron)
    return np.concatenate(incoming, axis=1), np.concatenate(outgoing, axis=1)


def _merged(name: str, weight: FloatArray, weight_axes: tuple[Axis, ...], dimension: str, mean: Array) -> FloatArray:
    """A weight with its neurons merged: `mean` (neurons left, neurons) for incoming weights, sums for outgoing ones."""
    for number, axis in enumerate(weight_axes):
        if axis.dimension != dimension:
            continue
        factor = mean if _comes_in(name, number) else (mean > 0).astype(np.float64)
        moved = np.moveaxis(np.asarray(weight, np.float64), number, 0)
        shape = (axis.copies, mean.shape[1], *moved.shape[1:])
        merged = np.moveaxis(np.tensordot(factor, moved.reshape(shape), (1, 1)), 0, 1)  # (copies, neurons left, ...)
        weight = np.moveaxis(merged.reshape(-1, *moved.shape[1:]), 0, number)
        weight = np.ascontiguousarray(weight, np.float32)
    return weight


def _comes_in(name: str, axis: int) -> bool:
    """Rows make a neuron's value, columns read it; an embedding that holds the gates' inputs is read as they are."""
    return axis == 0 or name == "embedding.weight"
