"""Rounds the matrices of a model to the grids of their encodings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.calibration import Inputs, matrix_inputs
from edgelm.compress.clipping import LARGEST, Clip, Scales, find_scales, on_grid
from edgelm.compress.gptq import compensated
from edgelm.model import LanguageModel
from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS

Compensate = Literal["none", "gptq"]


def possible_encoding(wanted: Encoding, columns: int) -> Encoding:
    """What a matrix of so many columns can be stored as: what is wanted, or int8."""
    if wanted is Encoding.INT4_BLOCK32 and columns % BLOCK_COLUMNS:
        return Encoding.INT8
    return Encoding.INT8 if wanted is Encoding.INT4 and columns % 2 else wanted


def round_matrix(
    weight: NDArray[np.float32], encoding: Encoding, clip: Clip, inputs: Inputs | None = None
) -> tuple[NDArray[np.float32], Scales]:
    """A matrix on the grid of an integer encoding.

    Args:
        weight: (rows, columns).
        encoding: int8, int4 or int4-block32.
        clip: As in `find_scales`.
        inputs: What it is multiplied with, to compensate errors; None to take the nearest numbers.

    Returns:
        The weights (rows, columns), and the scales (rows, blocks).
    """
    if inputs is not None:
        return compensated(weight, inputs.product, encoding, clip)
    scales = find_scales(weight, encoding, clip)
    return on_grid(weight, scales, encoding), scales


def round_model(
    model: LanguageModel,
    encodings: Mapping[str, Encoding],
    clip: Clip,
    compensate: Compensate = "none",
    windows: Sequence[NDArray[np.int32]] = (),
) -> LanguageModel:
    """The model with weights, encodings and scales of what is stored.

    Matrices that an earlier step has put on the grid of the same encoding stay as they are; floats stay too.

    Args:
        model: The model.
        encodings: Name of every matrix -> what is wanted; what its columns don't fit becomes int8.
        clip: As in `find_scales`.
        compensate: `gptq` compensates errors in all matrices that take part in a product. A tied table is compensated for the head's
            product; that costs its lookups, but less than it gains with thousands of words (48 words: more).
        windows: Calibration text, for `gptq`.
    """
    encodings = {name: possible_encoding(wanted, model.weights[name].shape[1]) for name, wanted in encodings.items()}
    inputs = matrix_inputs(model, windows) if compensate == "gptq" else {}
    weights, scales = dict(model.weights), kept_scales(model, encodings)
    for name, encoding in encodings.items():
        if encoding in LARGEST and name not in scales:
            weights[name], scales[name] = round_matrix(model.float32(name), encoding, clip, inputs.get(name))
    return model.replace(weights=weights, encodings=encodings, scales=scales)


def kept_scales(model: LanguageModel, encodings: Mapping[str, Encoding]) -> dict[str, Scales]:
    """The scales of earlier steps that hold for these encodings too."""
    return {name: scales for name, scales in model.scales.items() if encodings.get(name) is model.encoding(name)}
