"""A spec as a functional tf_keras model, and its weights in and out, bit for bit.

Every weight sits in a layer named after it (`edgelm.models.keras_names`), and the spec travels in the saved file, so that a model that
edgelm trained is recognised and rebuilt exactly. TensorFlow is imported when a function is called, not before.

Example:
    >>> model = build(RecurrentSpec(1000, 64, "lstm", (128,)))
    >>> model(np.zeros((1, 5), np.int32)).shape
    TensorShape([1, 5, 1000])
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.models.keras_names import SPEC_LAYER, from_canonical, keras_weights, to_canonical
from edgelm.spec import FloatArray, ModelSpec, RecurrentSpec, TransformerSpec

KerasModel = Any


def build(spec: ModelSpec, *, sequence_length: int | None = None, name: str = "model") -> KerasModel:
    """Builds the model of a spec with fresh weights (seed them with `tf_keras.utils.set_random_seed`).

    Args:
        spec: Of either family.
        sequence_length: A fixed length of the time axis; None for any.
        name: Of the model.

    Returns:
        A functional tf_keras model: ids (batch, time) int32 -> logits (batch, time, vocab) float32.

    Raises:
        UnsupportedModelError: `sequence_length` is beyond the transformer's `max_positions`.
    """
    import tf_keras

    from edgelm.models.keras_layers import EdgeLMSpec

    if isinstance(spec, TransformerSpec) and (sequence_length or 0) > spec.max_positions:
        raise UnsupportedModelError(f"sequence length {sequence_length}", allowed=f"up to max_positions = {spec.max_positions}")
    inputs = tf_keras.Input((sequence_length,), dtype="int32", name="ids")
    ids = EdgeLMSpec(spec, name=SPEC_LAYER)(inputs)  # (batch, time)
    if isinstance(spec, RecurrentSpec):
        from edgelm.models.keras_recurrent import recurrent_logits

        return tf_keras.Model(inputs, recurrent_logits(spec, ids), name=name)
    from edgelm.models.keras_transformer import transformer_logits

    return tf_keras.Model(inputs, transformer_logits(spec, ids), name=name)


def from_language_model(model: LanguageModel) -> KerasModel:
    """The Keras model of a language model, with its weights (as float32); encodings are not represented.

    Activations of a model with ranges are rounded as its int8 graph rounds them (`edgelm.models.keras_static`).

    Raises:
        UnsupportedModelError: The model has ranges, but not of every site.
    """
    keras_model = build(model.spec, name=_keras_name(model.name))
    if model.ranges:
        from edgelm.models.keras_static import with_ranges

        keras_model = with_ranges(keras_model, model)
    set_weights(keras_model, model.weights)
    return keras_model


def spec_of(model: KerasModel) -> ModelSpec:
    """The spec a model was built from.

    Raises:
        UnsupportedModelError: It was not built by `build`.
    """
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)  # inside a TF-MOT wrapper
        if type(inner).__name__ == "EdgeLMSpec":
            spec: ModelSpec = inner.spec
            return spec
    raise UnsupportedModelError(f"Keras model {model.name!r} was not built by edgelm: it has no EdgeLMSpec layer")


def set_weights(model: KerasModel, weights: Mapping[str, FloatArray]) -> None:
    """Puts canonical weights into a model made by `build`.

    Raises:
        UnsupportedModelError: A weight is missing or has another shape.
    """
    for layer, roles in from_canonical(spec_of(model), weights).items():
        for role, array in roles.items():
            _variable(model, layer, role).assign(array)


def get_weights(model: KerasModel) -> dict[str, NDArray[np.float32]]:
    """The canonical weights of a model made by `build`: name -> float32 array, as `weight_shapes(spec_of(model))` says."""
    spec = spec_of(model)
    layers: dict[str, dict[str, FloatArray]] = {}
    for place in keras_weights(spec).values():
        roles = layers.setdefault(place.layer, {})
        if place.role not in roles:
            roles[place.role] = _variable(model, place.layer, place.role).numpy()
    return {name: np.ascontiguousarray(array, np.float32) for name, array in to_canonical(spec, layers).items()}


def save(model: KerasModel, path: Path) -> None:
    """Writes a `.keras` or `.h5` file atomically: the file is complete or not there.

    Raises:
        SourceError: Another file ending.
    """
    if path.suffix not in (".keras", ".h5"):
        raise SourceError(f"a Keras model cannot be saved as {path.name}", allowed="a name ending in .keras or .h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        temporary = Path(folder) / path.name
        model.save(temporary)
        temporary.replace(path)


def load(path: Path) -> KerasModel:
    """Reads a model that `save` wrote.

    Raises:
        SourceError: Missing, truncated or not readable by tf_keras.
        UnsupportedModelError: Not built by `build`.
    """
    import tf_keras

    from edgelm.models import keras_cell  # noqa: F401  (importing it registers all layers)

    try:
        model = tf_keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SourceError(f"{path} cannot be read as a Keras model: {error}") from error
    spec_of(model)
    return model


def _variable(model: KerasModel, layer: str, role: str) -> Any:
    owner = model.get_layer(layer)
    return getattr(getattr(owner, "cell", owner), role)


def _keras_name(name: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name) or "model"
