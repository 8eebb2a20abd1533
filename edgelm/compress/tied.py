"""Layers that are copies of one another, and how training keeps them so.

A spec has a weight for every layer, so layers that share weights (Lan et al. 2020, ALBERT) are copies; equal matrices are stored once in
the file. Before every training step the copies are set to their mean, which projects the step before onto models with shared layers:
what the optimizer did to each copy is averaged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.steps import BeforeStep
from edgelm.models.keras_model import KerasModel

_LAYER = re.compile(r"^(.*?)layers_(\d+)(.*)$")
"""Name of a Keras layer, maybe with the prefix of a TF-MOT wrapper: prefix, number, part."""


def repeated(weights: Mapping[str, NDArray[Any]], groups: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Canonical weights with the layers of each group set to the first of them.

    That is a far better beginning than their mean, or than the second of each pair: a layer reads what the one before it wrote.

    Args:
        weights: Canonical name -> array.
        groups: Numbers of layers of equal shapes.
    """
    return dict(weights) | {name: weights[names[0]] for names in _alike(weights, groups) for name in names}


def averaged(weights: Mapping[str, NDArray[Any]], groups: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Canonical weights with the layers of each group set to their mean, in float32.

    Args:
        weights: Canonical name -> array.
        groups: Numbers of layers of equal shapes.
    """
    changed = dict(weights)
    for names in _alike(weights, groups):
        changed |= dict.fromkeys(names, np.mean([np.asarray(weights[name], np.float32) for name in names], axis=0))
    return changed


def _alike(weights: Mapping[str, NDArray[Any]], groups: Sequence[Sequence[int]]) -> Iterator[list[str]]:
    """Names of the weights that become one, a list for each weight of a group's first layer."""
    for group in groups:
        first = f"layers.{group[0]}."
        for name in weights:
            if name.startswith(first):
                yield [f"layers.{number}.{name.removeprefix(first)}" for number in group]


def copies(model: KerasModel) -> list[list[int]]:
    """Numbers of the layers of a Keras model that are equal in all weights, groups of two and more.

    Args:
        model: Made by `edgelm.models.keras_model`, wrapped by TF-MOT or not.
    """
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for number, parts in sorted(_layers(model).items()):
        content = tuple(variable.numpy().tobytes() for name in sorted(parts) for variable in parts[name])
        groups.setdefault(content, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def keep_tied(model: KerasModel) -> BeforeStep | None:
    """A `before_step` that sets the copies among the layers to their mean; None where no layer is a copy of another.

    Args:
        model: With weights in it; layers that are equal now are kept equal.
    """
    import tensorflow as tf

    layers = _layers(model)
    tied = [
        variables
        for group in copies(model)
        for part in layers[group[0]]
        for variables in zip(*(layers[number][part] for number in group), strict=True)
    ]
    if not tied:
        return None

    @tf.function  # type: ignore[untyped-decorator]
    def average() -> None:
        for variables in tied:
            mean = tf.add_n([tf.convert_to_tensor(variable) for variable in variables]) / len(variables)
            for variable in variables:
                variable.assign(mean)

    def before_step(step: int) -> None:
        average()

    return before_step


def _layers(model: KerasModel) -> dict[int, dict[str, Sequence[Any]]]:
    """Number of a layer -> prefix and part of its Keras layers -> their trainable variables, in order."""
    found: dict[int, dict[str, Sequence[Any]]] = {}
    for layer in model.layers:
        if (match := _LAYER.match(layer.name)) and layer.trainable_weights:
            prefix, number, part = match.groups()
            found.setdefault(int(number), {})[f"{prefix}:{part}"] = layer.trainable_weights
    return found
