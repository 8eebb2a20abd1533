"""Opens a Keras model in its own framework: keras 3, or tf_keras for everything older; SavedModels in TensorFlow.

Models with a fixed batch or time, or with states kept between calls, are rebuilt by their framework from the same config with these
freed, if the rebuilt model gives the same outputs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import MissingDependencyError, SourceError
from edgelm.native_output import silenced
from edgelm_converters.keras_config import parse_json
from edgelm_converters.keras_version1 import modernise

_PROBE_TIME = 8
_TOLERANCE = 1e-4  # of the outputs' largest magnitude: float32 sums in another order differ by about 1e-6


def framework_errors() -> tuple[type[Exception], ...]:
    """What Keras and TensorFlow raise on models they cannot load or run."""
    tf = import_module("tensorflow")
    wrong = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
    return (*wrong, OSError, RuntimeError, ImportError, MemoryError, tf.errors.OpError)


def open_model(path: Path, keras_version: str, *, trust: bool = False) -> tuple[Any, str]:
    """A `.keras` or `.h5` model as the object of its framework (keras 3, or tf_keras for all older ones), and that framework's version.

    Batch and time are freed and states between calls switched off where that does not change the outputs.

    Raises:
        SourceError: The framework cannot load it.
        MissingDependencyError: The framework is not installed.
    """
    keras, name = _framework(keras_version)
    try:
        model = _load_version1(keras, path) if keras_version.startswith("1.") else _load_keras(keras, path, trust)
        return _freed(model), f"{name} {keras.__version__}"
    except framework_errors() as error:
        raise SourceError(
            f"{name} {keras.__version__} cannot load {path}: {first_line(error)}",
            fix="load it where it was made and save it as .keras again",
        ) from error


def open_signature(path: Path) -> Any:
    """The `serving_default` signature of a SavedModel; the model it belongs to hangs on it as `edgelm_owner`, to be kept alive.

    Raises:
        SourceError: TensorFlow cannot load it, or it has no such signature.
        MissingDependencyError: TensorFlow is not installed.
    """
    tf = import_module("tensorflow")
    try:
        model = tf.saved_model.load(str(path))
        signature = model.signatures["serving_default"]
    except framework_errors() as error:
        raise SourceError(
            f"TensorFlow cannot load {path}: {first_line(error)}", fix="save the model again, with its serving signature"
        ) from error
    signature.edgelm_owner = model
    return signature


def first_line(error: Exception) -> str:
    """The beginning of a framework's message, on one line."""
    return " ".join(str(error).split())[:300]


def import_module(module: str) -> Any:
    """A framework's module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with contextlib.nullcontext() if "tensorflow" in sys.modules else silenced():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"reading the model needs {module}", fix="pip install 'edgelm[keras]' keras") from error


def _framework(keras_version: str) -> tuple[Any, str]:
    name = "keras" if keras_version.startswith("3.") else "tf_keras"
    return import_module(name), name


def _load_keras(keras: Any, path: Path, trust: bool) -> Any:
    if keras.__name__ != "tf_keras":
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    from edgelm.models import keras_layers  # noqa: F401 - registers edgelm's own layers

    # tf_keras converts CuDNN arrays when they are loaded into LSTM and GRU
    cudnn = {"CuDNNLSTM": keras.layers.LSTM, "CuDNNGRU": keras.layers.GRU}
    return keras.models.load_model(path, compile=False, safe_mode=not trust, custom_objects=cudnn)


def _load_version1(keras: Any, path: Path) -> Any:
    """tf_keras reads Keras 1 arrays, but not its configs: they are renamed, everything else is tf_keras' own work."""
    import h5py
    from tf_keras.src.saving.legacy.hdf5_format import load_weights_from_hdf5_group

    with h5py.File(path, "r") as file:
        raw = modernise(parse_json(file.attrs["model_config"]))
        kind = keras.Sequential if raw["class_name"] == "Sequential" else keras.Model
        model = kind.from_config(raw["config"] if isinstance(raw["config"], dict) else {"name": "model", "layers": raw["config"]})
        with h5py.File("version1", "w", driver="core", backing_store=False) as memory:
            file.copy("model_weights", memory)
            memory["model_weights"].attrs["keras_version"] = "1"  # tf_keras converts the arrays for this very text only
            load_weights_from_hdf5_group(memory["model_weights"], model)
    return model


def arrays(result: Any) -> list[NDArray[Any]]:
    """What a model returned, as a list of arrays."""
    values = list(result.values()) if isinstance(result, dict) else list(result) if isinstance(result, list | tuple) else [result]
    return [np.asarray(value) for value in values]


def _freed(model: Any) -> Any:
    """The model with free batch and time and without states between calls, or itself when that changes its outputs."""
    shape = tuple(model.inputs[0].shape)
    stateful = stateful_layers(model)
    if len(model.inputs) != 1 or len(shape) < 2 or (shape[0] is None and shape[1] is None and not stateful):
        return model
    try:
        freed = type(model).from_config(_free(model.get_config(), shape[1]))
        freed(np.zeros((1, shape[1] or _PROBE_TIME, *shape[2:]), np.float32))  # builds Sequential models
        freed.set_weights(model.get_weights())
        random = np.random.default_rng(0)
        probe = random.integers(0, 2, (shape[0] or 1, shape[1] or _PROBE_TIME, *shape[2:])).astype(np.float32)
        if all(_close(a, b) for a, b in zip(arrays(model(probe)), arrays(freed(probe)), strict=True)):
            freed(np.zeros((1, 2, *shape[2:]), np.float32))
            return freed
    except framework_errors():
        return model  # it cannot be freed: Flatten, Reshape, position tables of a fixed length
    finally:
        reset_states(stateful_layers(model))
    return model


def stateful_layers(model: Any) -> list[Any]:
    """The layers that keep their states from call to call."""
    return [layer for layer in model.layers if getattr(layer, "stateful", False)]


def reset_states(layers: list[Any]) -> None:
    """Forgets the states of stateful layers; Keras 3 renamed the method."""
    for layer in layers:
        (getattr(layer, "reset_state", None) or layer.reset_states)()


def _free(value: Any, time: int | None) -> Any:
    """A config with free batch and time."""
    if isinstance(value, list | tuple):
        return type(value)(_free(item, time) for item in value)
    if not isinstance(value, dict):
        return value
    freed = {key: _free(item, time) for key, item in value.items() if key not in ("build_config", "build_input_shape", "input_length")}
    for key in ("batch_shape", "batch_input_shape"):
        shape = freed.get(key)
        if isinstance(shape, list | tuple) and len(shape) > 1:
            freed[key] = (None, None if shape[1] == time else shape[1], *shape[2:])
    if "stateful" in freed:
        freed["stateful"] = False
    return freed


def _close(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.max(np.abs(a - b), initial=0.0) <= _TOLERANCE * max(1e-6, float(np.max(np.abs(a), initial=0.0))))
