"""Saves a tiny Keras model, reads and lifts it, and compares the lifted model with the framework's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.model import LanguageModel
from edgelm.models.reference import logits
from edgelm_converters.keras_files import read_h5, read_keras
from edgelm_converters.keras_graph import KerasGraph
from edgelm_converters.keras_lift import Lift, lift
from edgelm_converters.saved_model import read_saved_model

VOCAB, TIME = 11, 6

# float32 sums in another order: layers of a dozen units differ by about 1e-6; folded and re-expressed weights stay below 1e-5
MAX_DIFFERENCE = 1e-4

Build = Callable[[Any], Any]
"""Takes a Keras module (`tf_keras` or `keras`) and returns a model."""


def randomise(model: Any) -> None:
    """Gives every weight, biases and statistics included, a value that matters."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        values = random.normal(0, 0.5, variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in (getattr(variable, "path", None) or variable.name) else values)


def read(model: Any, folder: Path, format: str) -> KerasGraph:
    """Writes a model in one of the three formats and reads it back."""
    if format == "saved-model":
        model.save(str(folder / "model"), save_format="tf")
        graph = read_saved_model(folder / "model")
        assert graph is not None
        return graph
    path = folder / ("model.h5" if format == "h5" else "model.keras")
    model.save(str(path))
    return read_h5(path) if format == "h5" else read_keras(path)


def lifted(model: Any, folder: Path, format: str = "keras") -> Lift:
    return lift(read(model, folder, format))


def centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(-1, keepdims=True)


def difference(model: Any, found: Lift, time: int = TIME, low: int = 0) -> float:
    """Largest |difference| of centred logits between the framework and the lifted model, on two random sequences."""
    ids = np.random.default_rng(1).integers(low, VOCAB, (2, time))
    wanted = np.asarray(model(np.eye(VOCAB, dtype=np.float32)[ids] if found.one_hot else ids))
    if found.probabilities:
        wanted = np.log(wanted)
    scores = logits(LanguageModel(found.spec, found.weights), ids)
    assert wanted.shape == ((2, VOCAB) if found.last_only else (2, time, VOCAB))
    return float(np.abs(centred(wanted) - centred(scores[:, -1] if found.last_only else scores)).max())
