"""Ternary and binary weights with scales, trained straight-through.

Ternary: codes {-1, 0, 1} with a learned scale a row or block (Zhu et al. 2017); a weight is 0 within half a scale, so the threshold is
learned with it. Binary: codes {-1, 1} times the mean magnitude of the row or block (Rastegari et al. 2016). Embedding and head keep 8
bits by default, trained on their grid at the same time.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import LowBit
from edgelm.spec import Encoding

if TYPE_CHECKING:
    from edgelm.compress.grids import Grid

BLOCK_COLUMNS = 32


def apply(model: LanguageModel, step: LowBit, data: StepData | None) -> LanguageModel:
    """The model with ternary or binary layers; without epochs they are only rounded.

    Raises:
        RecipeError: Training without text, or an embedding or head that has no grid.
        TrainingError: From the loop.
    """
    from edgelm.compress import constrained
    from edgelm.compress.fit import fit

    grids = {name: grid for name, weight in model.weights.items() if weight.ndim == 2 and (grid := _grid(name, weight.shape[1], step))}
    trained = constrained.constrain(model, grids)
    if step.train.epochs:
        if data is None:
            raise RecipeError(f"{step.values} weights are trained, and there is no text", fix="give a corpus with --data")
        fit(trained, step.train, data)
    weights, scales = constrained.release(trained, model)
    return model.replace(weights=weights, encodings={name: grid.encoding for name, grid in grids.items()}, scales=scales)


def _grid(name: str, columns: int, step: LowBit) -> Grid | None:
    """The grid of a matrix; None for those that stay float."""
    from edgelm.compress.grids import LARGEST, BinaryGrid, IntegerGrid, LearnedGrid

    if name == "positions.weight" or any(fnmatchcase(name, pattern) for pattern in step.keep_float):
        return None
    if name == "embedding.weight" or name.startswith(("head.", "hidden.")):
        encoding = step.embedding if name == "embedding.weight" else step.head
        if encoding in (Encoding.FLOAT32, Encoding.FLOAT16):
            return None
        if encoding not in LARGEST:
            raise RecipeError(f"lowbit: {encoding.value} for {name}", allowed=", ".join(kind.value for kind in LARGEST))
        return IntegerGrid(encoding)
    stored = Encoding.INT4_BLOCK32 if step.scale == "block32" and columns % BLOCK_COLUMNS == 0 else Encoding.INT4
    return LearnedGrid(stored, largest=1) if step.values == "ternary" else BinaryGrid(stored)
