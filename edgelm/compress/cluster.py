"""Weight sharing: at most so many different bytes in each matrix of the file (Han et al. 2016).

`edgelm.compress.kmeans` fits a codebook of int8 codes and a scale for each row, and says what that is measured against;
with training, codebook and scales are trained and weights go to the nearest code at every step (`edgelm.compress.codebook`).
The download shrinks with it, not the file: 16 codes are at most 4 bits of information in a byte.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from edgelm.compress import kmeans
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
        data: Text; None where the step does not train.

    Raises:
        RecipeError: No matrix is left to cluster, or training is wanted without text.
        UnsupportedModelError: A weight is NaN or infinite.
        TrainingError: From the loop.
    """
    names = [name for name, weight in model.weights.items() if weight.ndim == 2 and not _skipped(name, step)]
    if not names:
        raise RecipeError("cluster: every matrix is skipped", fix="take a pattern out of skip")
    clustered = fitted(model, names, step)
    weights: dict[str, FloatArray] = {**model.weights, **{name: found.weights for name, found in clustered.items()}}
    scales = {name: found.scales for name, found in clustered.items()}
    if step.train.epochs:
        weights, scales = _trained(model, clustered, step, data)
    encodings = dict.fromkeys(names, Encoding.INT8)
    return model.replace(weights=weights, scales={**model.scales, **scales}, encodings={**model.encodings, **encodings})


def fitted(model: LanguageModel, names: list[str], step: Cluster) -> dict[str, Clustered]:
    """Codebook, scales and weights of each matrix, without training."""
    found: dict[str, Clustered] = {}
    for group in kmeans.joined(names):
        parts = [model.float32(name) for name in group]
        whole = kmeans.cluster(np.concatenate(parts), step.clusters, step.start, preserve_sparsity=step.preserve_sparsity)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        for name, scales, weights in zip(group, np.split(whole.scales, ends), np.split(whole.weights, ends), strict=True):
            found[name] = Clustered(whole.codebook, scales, weights)
    return found


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
