"""The Keras model of a language model with its matrices held on grids by TF-MOT, and the way back.

TF-MOT's `quantize_apply` refuses language models: it has no QuantizeConfig for Embedding and recurrent layers, its layout passes put a
float quantizer on the integer ids, and its quantizers know no rows of an (in, out) kernel and no blocks. Its QuantizeWrapperV2 does the
job for every layer once it gets a QuantizeConfig that knows the layer (`LayerGrids`) and quantizers that know rows and blocks
(`edgelm.compress.grids`); so the wrappers are put around the layers one by one.
Importing this module imports TensorFlow and TF-MOT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.quantization.keras.quantize_config import QuantizeConfig
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapperV2

from edgelm.compress.grids import Grid, times
from edgelm.model import LanguageModel
from edgelm.models import keras_model
from edgelm.models.keras_model import KerasModel
from edgelm.models.keras_names import keras_weights, to_canonical
from edgelm.spec import FloatArray

Matrices = dict[str, NDArray[np.float32]]


class LayerGrids(QuantizeConfig):  # type: ignore[misc]
    """Which variables of a layer are held on which grids; activations stay float.

    Args:
        grids: Role (`kernel`, `recurrent_kernel`, `embeddings`) -> grid.
    """

    def __init__(self, grids: Mapping[str, Grid]) -> None:
        self.grids = grids

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Grid]]:
        """The variables and their grids."""
        return [(getattr(_owner(layer), role), grid) for role, grid in self.grids.items()]

    def set_quantize_weights(self, layer: Any, quantize_weights: Sequence[Any]) -> None:
        """Lets the layer compute with the values on the grids."""
        for role, value in zip(self.grids, quantize_weights, strict=True):
            setattr(_owner(layer), role, value)

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        """None."""
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: Sequence[Any]) -> None:
        """There are none."""
        return  # a body of a docstring only trips TensorFlow's AutoGraph

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """None."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Nothing: such a model lives as long as a training and is never saved as Keras."""
        return {}


def constrain(model: LanguageModel, grids: Mapping[str, Grid]) -> KerasModel:
    """The Keras model whose matrices are held on grids.

    Args:
        model: The weights to start from.
        grids: Canonical name of a matrix -> its grid; matrices that are missing stay float.

    Returns:
        ids (batch, time) int32 -> logits (batch, time, vocab); trainable, with the variables of the grids.
    """
    layers: dict[str, dict[str, Grid]] = {}
    for name, place in keras_weights(model.spec).items():
        if name in grids:
            grid = grids[name]
            grid.transpose, grid.start = place.transpose, model.float32(name)
            layers.setdefault(place.layer, {})[place.role] = grid

    def wrapped(layer: Any) -> Any:
        return QuantizeWrapperV2(layer, LayerGrids(layers[layer.name])) if layer.name in layers else layer

    return tf_keras.models.clone_model(keras_model.from_language_model(model), clone_function=wrapped)


def release(trained: KerasModel, model: LanguageModel) -> tuple[Matrices, Matrices]:
    """The weights a constrained model computes with.

    Args:
        trained: What `constrain` made, trained.
        model: What it was made from.

    Returns:
        All canonical weights, those with a grid on it; and the scales of these, (rows, blocks).
    """
    found = {getattr(layer, "layer", layer).name: layer for layer in trained.layers}
    layers: dict[str, dict[str, FloatArray]] = {}
    scales: Matrices = {}
    for name, place in keras_weights(model.spec).items():
        layer = found[place.layer]
        held = _held(layer, place.role)
        if held is None:
            inner = _owner(getattr(layer, "layer", layer))
            layers.setdefault(place.layer, {})[place.role] = getattr(inner, place.role).numpy()
            continue
        variable, grid, variables = held
        latent = variable.numpy().T if grid.transpose else variable.numpy()
        codes, scale = grid.snap(latent, variables)
        shipped = times(codes, scale).numpy()  # (rows, columns)
        layers.setdefault(place.layer, {})[place.role] = shipped.T if grid.transpose else shipped
        scales[name] = scale.numpy()
    weights = to_canonical(model.spec, layers)
    return {name: np.ascontiguousarray(weight, np.float32) for name, weight in weights.items()}, scales


def _held(layer: Any, role: str) -> tuple[Any, Grid, Mapping[str, Any]] | None:
    """Variable, grid and the grid's variables, where TF-MOT holds that role of the layer on a grid."""
    if not isinstance(layer, QuantizeWrapperV2):
        return None
    roles = list(layer.quantize_config.grids)
    return layer._weight_vars[roles.index(role)] if role in roles else None


def _owner(layer: Any) -> Any:
    """What holds a layer's variables: a recurrent layer's are its cell's."""
    return getattr(layer, "cell", layer)
