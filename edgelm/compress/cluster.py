"""Weight sharing: at most so many different bytes in each matrix of the file (Han et al. 2016).

`edgelm.compress.kmeans` fits a codebook of int8 codes and a scale for each row;
with training, codebook and scales are trained and weights go to the nearest code at every step (`edgelm.compress.codebook`).
The download shrinks with it, not the file: 16 codes are at most 4 bits of information in a byte.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from edgelm.compress import kmeans
from edgelm.compress.calibration import Inputs, matrix_inputs, windows_of
from edgelm.compress.gptq import spread
from edgelm.compress.kmeans import Clustered
from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Cluster
from edgelm.spec import Encoding, FloatArray

Matrices = dict[str, NDArray[np.float32]]


def apply(model: LanguageModel, step: Cluster, data: StepData | None) -> LanguageModel:
    """The model with few codes in every matrix: weights, scales (rows, 1) and the encoding int8.

    Position tables stay as they are: they are added, not multiplied, and stored as float32. Matrices that the file joins (q, k and v; gate
    and up) have one codebook.

    Args:
        model: Float, or pruned.
        step: How many clusters, and how to train them.
        data: Text; None where the step neither trains nor compensates.

    Raises:
        RecipeError: No matrix is left to cluster, or training is wanted without text.
        UnsupportedModelError: A weight is NaN or infinite.
        TrainingError: From the loop.
    """
    names = [name for name, weight in model.weights.items() if weight.ndim == 2 and not _skipped(name, step)]
    if not names:
        raise RecipeError("cluster: every matrix is skipped", fix="take a pattern out of skip")
    clustered = fitted(model, names, step, data)
    weights: dict[str, FloatArray] = {**model.weights, **{name: found.weights for name, found in clustered.items()}}
    scales = {name: found.scales for name, found in clustered.items()}
    if step.train.epochs:
        weights, scales = _trained(model, clustered, step, data)
    encodings = dict.fromkeys(names, Encoding.INT8)
    return model.replace(weights=weights, scales={**model.scales, **scales}, encodings={**model.encodings, **encodings})


def fitted(model: LanguageModel, names: list[str], step: Cluster, data: StepData | None = None) -> dict[str, Clustered]:
    """Codebook, scales and weights of each matrix, without training.

    Raises:
        RecipeError: `compensate` is wanted without text.
    """
    if step.compensate == "gptq" and data is None:
        raise RecipeError("cluster: compensate = gptq looks at text, and there is none", fix="give a corpus with --data")
    windows = windows_of(model, data, step.calibration_tokens) if step.compensate == "gptq" and data is not None else []
    inputs = matrix_inputs(model, windows) if windows else {}
    found: dict[str, Clustered] = {}
    for group in kmeans.joined(names):
        parts = [model.float32(name) for name in group]
        whole = kmeans.cluster(np.concatenate(parts), step.clusters, step.start, preserve_sparsity=step.preserve_sparsity)
        if group[0] in inputs:  # those that are joined have the same inputs
            whole = _compensated(np.concatenate(parts), whole, inputs[group[0]], keep_zeros=step.preserve_sparsity)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        for name, scales, weights in zip(group, np.split(whole.scales, ends), np.split(whole.weights, ends), strict=True):
            found[name] = Clustered(whole.codebook, scales, weights)
    return found


def _compensated(weight: NDArray[np.float32], found: Clustered, inputs: Inputs, *, keep_zeros: bool) -> Clustered:
    """The same codes and scales, chosen so that each column makes up for the errors of those before it (`edgelm.compress.gptq`)."""

    def nearest_code(column: int, left: NDArray[np.float32]) -> NDArray[np.float32]:
        codes = found.codebook[kmeans.nearest(left[:, 0] / found.scales[:, 0], found.codebook)]
        kept = np.where(weight[:, column] == 0, 0, codes) if keep_zeros else codes
        return np.asarray(kept * found.scales[:, 0], np.float32)

    return Clustered(found.codebook, found.scales, spread(weight, inputs.product, nearest_code))


def _trained(
    model: LanguageModel, clustered: dict[str, Clustered], step: Cluster, data: StepData | None
) -> tuple[dict[str, FloatArray], Matrices]:
    """All weights, and the scales of those that are clustered; training begins with the weights as they were before."""
    from edgelm.compress import constrained
    from edgelm.compress.codebook import shared_grids
    from edgelm.compress.fit import fit

    if data is None:
        raise RecipeError("cluster: the shared values are trained, and there is no text", fix="give a corpus with --data")
    codes = {name: found.codebook for name, found in clustered.items()}
    scales = {name: found.scales for name, found in clustered.items()}
    trained = constrained.constrain(model, shared_grids(model, codes, scales, preserve_sparsity=step.preserve_sparsity))
    fit(trained, step.train, data)
    weights, scales = constrained.release(trained, model)
    return {**weights}, scales


def _skipped(name: str, step: Cluster) -> bool:
    return name == "positions.weight" or any(fnmatchcase(name, pattern) for pattern in step.skip)
