"""Post-training quantization: decides how each weight is stored, and how to round to it.

Vectors (biases, norms) and position tables stay float32: they are a small part of any model and rounding them costs quality.
"""

from __future__ import annotations

from edgelm.compress.bias_correction import corrected
from edgelm.compress.calibration import windows_of
from edgelm.compress.encoding_choice import chosen_encoding
from edgelm.compress.rounding import kept_scales, round_model
from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Quantize


def apply(model: LanguageModel, step: Quantize, data: StepData | None = None) -> LanguageModel:
    """The model with an encoding for each matrix.

    Plain rounding is left to the lowering, which may join matrices; clipping, compensation and bias correction fix the grids here.

    Args:
        model: The model.
        step: Encodings, and how to round.
        data: Calibration text, for `compensate` and `bias_correction`.

    Raises:
        RecipeError: The step wants text and there is none.

    Example:
        With `weights = int4-block32, embedding = int8` a tied LSTM gets `embedding.weight` int8 and
        `layers.0.input.weight` int4-block32.
    """
    encodings = {name: chosen_encoding(name, step) for name, weight in model.weights.items() if weight.ndim == 2}
    if step.clip == "max" and not step.wants_data:
        return model.replace(encodings=encodings, scales=kept_scales(model, encodings))
    if step.wants_data and data is None:
        raise RecipeError("recipe step quantize wants text: it looks at what the matrices are multiplied with", fix="add --data CORPUS")
    windows = windows_of(model, data, step.calibration_tokens) if data is not None and step.wants_data else []
    rounded = round_model(model, encodings, step.clip, step.compensate, windows)
    return corrected(model, rounded, windows) if step.bias_correction else rounded
