"""How much each neuron, head, column and layer of a model matters, measured on text.

Activations `a` and the loss' gradients at them are taken from the Keras model where the neurons' readers have their input. The scores of
a place: `variance` of its activation; `gradient`, the root of the mean square of dL/da; `taylor`, the mean over windows of
|sum over time of a * dL/da|: to first order what the loss changes by when the place becomes zero (Molchanov et al. 2017). The units of a
recurrent layer are also read by the layer itself, inside its loop; Taylor adds that part as the sum of R[:, j] * dL/dR[:, j], which is
the same by the chain rule.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from edgelm.compress.steps import cross_entropy
from edgelm.compress.surgery import dimensions, hidden_dimension, units_dimension
from edgelm.model import LanguageModel
from edgelm.models import keras_model
from edgelm.models.keras_model import KerasModel
from edgelm.recipe_steps import Importance
from edgelm.spec import ModelSpec, RecurrentSpec, TransformerSpec

Tensor = Any
Array = NDArray[np.float64]

LAYERS = "layers"
"""Key of the layers' scores beside those of the dimensions."""


@dataclass(frozen=True)
class Measured:
    """What a model's activations look like on text.

    Attributes:
        scores: Dimension of `edgelm.compress.surgery` -> the score of each place; `layers` -> that of each layer.
        energy: Canonical owner of each norm on the residual stream -> mean square of every column of its input.
    """

    scores: Mapping[str, Array]
    energy: Mapping[str, Array]


def measure(model: LanguageModel, windows: Sequence[NDArray[np.int32]], kind: Importance) -> Measured:
    """Runs the model forward and backward over each window, in float32.

    Args:
        model: What to measure.
        windows: Token ids, each of at least two and, for a transformer, at most `max_positions + 1` tokens.
        kind: Of the scores.
    """
    keras = keras_model.from_language_model(model)
    sites = _recurrent_sites(model.spec, keras) if isinstance(model.spec, RecurrentSpec) else _transformer_sites(model.spec, keras)
    statistics = _run(keras, sites, windows)
    scores: dict[str, Array] = {name: np.zeros(size) for name, size in _sizes(model.spec).items()}
    for site, found in zip(sites, statistics, strict=True):
        scores[site.dimension][site.first : site.first + site.places] += found.score(kind)
    if isinstance(model.spec, TransformerSpec):
        for i in range(model.spec.layers):
            scores[f"groups.{i}"] = scores[f"heads.{i}"].reshape(model.spec.kv_heads, -1).sum(1)
    return Measured(scores, {site.norm: found.energy for site, found in zip(sites, statistics, strict=True) if site.norm})


@dataclass(frozen=True)
class _Site:
    """A tensor (batch, time, size) whose columns belong to places of a dimension.

    Attributes:
        dimension: Its name, or `layers`.
        tensor: Of the Keras model; read by what comes after.
        places: They share the columns evenly.
        first: The first of them.
        instead: What the tensor becomes when a layer is dropped; None for zeros.
        kernel: A recurrent kernel (units, gates * units) that reads the places too.
        norm: Owner of the norm that reads the tensor.
    """

    dimension: str
    tensor: Tensor
    places: int
    first: int = 0
    instead: Tensor = None
    kernel: Any = None
    norm: str = ""


class _Statistics:
    """Sums over the tokens of a site."""

    def __init__(self, site: _Site) -> None:
        size = site.tensor.shape[-1]
        self._places, self._tokens, self._windows = site.places, 0, 0
        self._sum, self._square, self._gradient_square, self._taylor = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(site.places)

    def add(self, activation: Array, gradient: Array, recurrent: Array | float) -> None:
        """Takes a window: (time, size) twice, and (places,) that Taylor adds."""
        self._tokens, self._windows = self._tokens + len(activation), self._windows + 1
        self._sum += activation.sum(0)
        self._square += np.square(activation).sum(0)
        self._gradient_square += np.square(gradient).sum(0)
        self._taylor += np.abs(self._by_place((activation * gradient).sum(0)) + recurrent)

    @property
    def energy(self) -> Array:
        """(size,) mean squares."""
        return self._square / self._tokens

    def score(self, kind: Importance) -> Array:
        """(places,)."""
        if kind == "taylor":
            return self._taylor / self._windows
        if kind == "gradient":
            return np.asarray(np.sqrt(self._by_place(self._gradient_square) / self._tokens))
        return self._by_place(self.energy - np.square(self._sum / self._tokens))

    def _by_place(self, columns: Array) -> Array:
        return np.asarray(columns.reshape(self._places, -1).sum(1))


def _run(model: KerasModel, sites: Sequence[_Site], windows: Sequence[NDArray[np.int32]]) -> list[_Statistics]:
    tensors = [site.tensor for site in sites]
    probe = tf_keras.Model(model.input, [model.output, tensors, [_or_output(site.instead, site.tensor) for site in sites]])
    kernels = [site.kernel for site in sites if site.kernel is not None]
    row = tf.TensorSpec((1, None), tf.int32)

    @tf.function(input_signature=(row, row))  # type: ignore[untyped-decorator]
    def values(ids: Tensor, targets: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        with tf.GradientTape() as tape:
            logits, activations, instead = probe(ids, training=False)
            loss = tf.reduce_sum(cross_entropy(ids, targets, logits))
        gradients = tape.gradient(loss, [*activations, *kernels])
        products = [tf.reduce_sum(k * tf.convert_to_tensor(g), 1) for k, g in zip(kernels, gradients[len(sites) :], strict=True)]
        changes = [a if site.instead is None else a - b for site, a, b in zip(sites, activations, instead, strict=True)]
        return changes, gradients[: len(sites)], products

    statistics = [_Statistics(site) for site in sites]
    for window in windows:
        activations, gradients, products = values(window[None, :-1], window[None, 1:])
        recurrent = iter(products)
        for site, found, a, g in zip(sites, statistics, activations, gradients, strict=True):
            found.add(_rows(a), _rows(g), 0.0 if site.kernel is None else next(recurrent).numpy().astype(np.float64))
    return statistics


def _or_output(tensor: Tensor, otherwise: Tensor) -> Tensor:
    return otherwise if tensor is None else tensor


def _rows(tensor: Tensor) -> Array:
    return np.asarray(tensor[0].numpy(), np.float64)  # (time, size)


def _sizes(spec: ModelSpec) -> dict[str, int]:
    return dimensions(spec) | {LAYERS: len(spec.units) if isinstance(spec, RecurrentSpec) else spec.layers}


def _recurrent_sites(spec: RecurrentSpec, model: KerasModel) -> list[_Site]:
    """Outputs of the embedding, of the recurrent layers (for their units and for themselves) and of the dense layers."""
    sites = []
    x = model.get_layer("embedding").get_output_at(0)
    if not spec.gate_embedding:
        sites.append(_Site("width", x, spec.embedding_size))
    if spec.embedding_projection:
        x = model.get_layer("embedding_projection").output
    for i, units in enumerate(spec.units):
        layer = model.get_layer(f"layers_{i}")
        sites.append(_Site(units_dimension(spec, i), layer.output, units, kernel=layer.cell.recurrent_kernel))
        sites.append(_Site(LAYERS, layer.output, 1, i, instead=x if x.shape[-1] == units else None))
        x = layer.output
    for i, dense in enumerate(spec.hidden):
        reader = model.get_layer(f"hidden_{i + 1}" if i + 1 < len(spec.hidden) else "head").input
        sites.append(_Site(hidden_dimension(spec, i), reader[0] if isinstance(reader, list) else reader, dense.size))
    return sites


def _transformer_sites(spec: TransformerSpec, model: KerasModel) -> list[_Site]:
    """Inputs of `o` (heads), of `down` (feed-forward neurons) and of the norms (width), and what blocks add to the stream (layers)."""
    norms = ["embedding_norm"] if spec.embedding_norm else []
    sites = []
    for i in range(spec.layers):
        norms += [f"layers.{i}.attention_norm", f"layers.{i}.ffn_norm"]
        o, down = model.get_layer(f"layers_{i}_o"), model.get_layer(f"layers_{i}_down")
        sites += [_Site(f"heads.{i}", o.input, spec.heads), _Site(f"ffn.{i}", down.input, spec.ffn_size)]
        sites += [_Site(LAYERS, layer.output, 1, i) for layer in (o, down)]
    norms += ["final_norm"] if spec.final_norm else []
    return sites + [_Site("width", model.get_layer(name.replace(".", "_")).input, spec.width, norm=name) for name in norms]
