"""Quantization-aware training: weights are trained on the grid they are shipped on (Jacob et al. 2018, Esser et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgelm.compress.calibration import windows_of
from edgelm.compress.encoding_choice import chosen_encoding
from edgelm.compress.rounding import round_model
from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Qat
from edgelm.spec import Encoding

if TYPE_CHECKING:
    from edgelm.compress.grids import Grid

TRAINED = (Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32)
BLOCK_COLUMNS = 32
CALIBRATION_TOKENS = 8192
"""Training tokens that the ranges of static activations (constants in the training) and GPTQ's choice are read from."""


@dataclass(frozen=True)
class Covered:
    """What the training does for one matrix.

    Attributes:
        name: Canonical name.
        how: `QAT` (trained on its grid), `post-training` (rounded afterwards) or `float`.
        encoding: As it will be stored.
        why: One sentence; empty for QAT.
    """

    name: str
    how: Literal["QAT", "post-training", "float"]
    encoding: Encoding
    why: str = ""


def apply(model: LanguageModel, step: Qat, data: StepData) -> LanguageModel:
    """The model trained on its grid: weights, encodings and the scales that training fixed.

    Raises:
        RecipeError: An encoding that has no grid, or clusters to keep where there are none.
        TrainingError: From the loop.
    """
    from edgelm.compress import constrained
    from edgelm.compress.activations import calibrate
    from edgelm.compress.fit import fit

    rows = coverage(model, step)
    if step.activations == "static":
        model = model.replace(ranges=calibrate(model, data.calibration(CALIBRATION_TOKENS)))
    if step.start == "gptq":
        wanted = {row.name: row.encoding for row in rows if row.how == "QAT"}
        model = round_model(model, wanted, "mse", "gptq", windows_of(model, data, CALIBRATION_TOKENS))
    trained = constrained.constrain(model, _grids(model, rows, step))
    if step.train.epochs:
        fit(trained, step.train, data)
    weights, scales = constrained.release(trained, model)
    return model.replace(weights=weights, encodings={row.name: row.encoding for row in rows}, scales=scales)


def coverage(model: LanguageModel, step: Qat) -> tuple[Covered, ...]:
    """What the training will do for each matrix; shown before it starts.

    Example:
        A tied LSTM under `weights = "int4-block32", embedding = "int8"` has QAT everywhere; columns that blocks of 32 do not fit are
        trained as int8.
    """
    for name in ("weights", "embedding", "head"):
        encoding = getattr(step, name)
        if encoding not in (*TRAINED, Encoding.FLOAT16, Encoding.FLOAT32):
            raise RecipeError(f"qat: {name} = {encoding.value}", allowed=", ".join(kind.value for kind in TRAINED))
    return tuple(_covered(name, chosen_encoding(name, step), weight.shape[1]) for name, weight in model.weights.items() if weight.ndim == 2)


def _covered(name: str, encoding: Encoding, columns: int) -> Covered:
    if name == "positions.weight":
        return Covered(name, "float", Encoding.FLOAT32, "position tables are added, not multiplied")
    if encoding is Encoding.FLOAT32:
        return Covered(name, "float", encoding, "kept float by the recipe")
    if encoding is Encoding.FLOAT16:
        return Covered(name, "post-training", encoding, "16 bits lose nothing that training could win back")
    if encoding is Encoding.INT4_BLOCK32 and columns % BLOCK_COLUMNS:
        return Covered(name, "QAT", Encoding.INT8, f"{columns} columns are no multiple of {BLOCK_COLUMNS}")
    if encoding is Encoding.INT4 and columns % 2:
        return Covered(name, "QAT", Encoding.INT8, f"{columns} columns do not end on a byte")
    return Covered(name, "QAT", encoding)


def _grids(model: LanguageModel, rows: Sequence[Covered], step: Qat) -> dict[str, Grid]:
    """Canonical name -> grid: shared codes where an earlier step made some and they are to be kept, else the encoding's own.

    Raises:
        RecipeError: There are no clusters to keep.
    """
    from edgelm.compress.codebook import codebook_grids

    sparse = "sparsity" in step.preserve
    compensated = step.start == "gptq"
    frozen = step.learn == "scales"
    grids: dict[str, Grid] = {row.name: _grid(model, row, sparse, compensated, frozen) for row in rows if row.how == "QAT"}
    if "clusters" not in step.preserve:
        return grids
    shared = codebook_grids(model, [row.name for row in rows if row.encoding is Encoding.INT8], preserve_sparsity=sparse, frozen=frozen)
    if not shared:
        raise RecipeError("qat: preserve = clusters, and the model has none", fix="put a cluster step before it; its weights are int8")
    return grids | shared


def _grid(model: LanguageModel, row: Covered, sparse: bool, compensated: bool, frozen: bool) -> Grid:
    """Max-scaled at 8 bits, where clipping gains nothing; scales are learned at 4 bits, and where the codes have been chosen."""
    from edgelm.compress.grids import LARGEST, IntegerGrid, LearnedGrid

    weight = model.float32(row.name)  # (rows, columns)
    mask = (weight != 0).astype(np.float32) if sparse else None
    if row.encoding is Encoding.INT8 and not (compensated or frozen):
        return IntegerGrid(row.encoding, mask)
    return LearnedGrid(row.encoding, LARGEST[row.encoding], mask, model.scales.get(row.name) if compensated else None, frozen=frozen)
