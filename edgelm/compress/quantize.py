"""Post-training quantization: decides how each weight is stored; the lowering does the rounding.

Vectors (biases, norms) and position tables stay float32: they are a small part of any model and rounding them costs quality. Dense
layers between the recurrent stack and the head count as part of the head: they are small, and their errors reach the logits directly.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from edgelm.model import LanguageModel
from edgelm.recipe import Quantize
from edgelm.spec import Encoding


def apply(model: LanguageModel, step: Quantize) -> LanguageModel:
    """The model with an encoding for each matrix.

    Example:
        With `weights = int4-block32, embedding = int8` a tied LSTM gets `embedding.weight` int8 and
        `layers.0.input.weight` int4-block32.
    """
    encodings = {name: chosen_encoding(name, step) for name, weight in model.weights.items() if weight.ndim == 2}
    return model.replace(encodings=encodings)


def chosen_encoding(name: str, step: Quantize) -> Encoding:
    """The encoding a step gives the matrix with that canonical name."""
    if name == "positions.weight" or any(fnmatchcase(name, pattern) for pattern in step.keep_float):
        return Encoding.FLOAT32
    if name.startswith(("head.", "hidden.")):
        return step.head
    return step.embedding if name == "embedding.weight" else step.weights
