"""Mixed precision: the encoding of every matrix, so that the model loses the least within a size budget.

How sensitive a matrix is to an encoding is measured with only this matrix rounded; the sum over all matrices is then minimised (as
HAWQ-V3 does by integer programming, Yao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.calibration import Inputs, log_softmax, matrix_inputs, side_by_side, windows_of
from edgelm.compress.clipping import LARGEST
from edgelm.compress.knapsack import Option, choose
from edgelm.compress.rounding import possible_encoding, round_matrix, round_model
from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.models.reference import ReferenceSession
from edgelm.recipe_steps import Mixed
from edgelm.spec import Encoding, FloatArray
from edgelm.tflite.quantize import BLOCK_COLUMNS


def apply(model: LanguageModel, step: Mixed, data: StepData | None) -> LanguageModel:
    """The model rounded to the best choice of encodings: weights on grids, encodings and scales.

    The budget is `size_factor` times the bytes of all matrices in `size_of`; where columns don't fit `size_of`, int8 counts instead.

    Raises:
        RecipeError: There is no text, or even the smallest choice is above the budget.
    """
    if data is None:
        raise RecipeError("recipe step mixed wants text: it measures how sensitive each matrix is", fix="add --data CORPUS")
    if not step.candidates:
        raise RecipeError("recipe step mixed: candidates is empty", allowed="two or more encodings, such as int4-block32 and int8")
    names = matrices(model)
    budget = int(step.size_factor * sum(stored_size(model, name, step.size_of) for name in names))
    sizes = {name: {encoding: stored_size(model, name, encoding) for encoding in _candidates(model, name, step)} for name in names}
    smallest = sum(min(of_name.values()) for of_name in sizes.values())
    if smallest > budget:
        needed = np.ceil(100 * smallest / budget * step.size_factor) / 100
        raise RecipeError(
            f"recipe step mixed: size_factor = {step.size_factor:g} allows {budget:,} bytes, the smallest candidates take {smallest:,}",
            allowed=f"size_factor of at least {needed:g}",
            fix="raise size_factor, add a smaller encoding to candidates, or keep fewer matrices float",
        )
    windows = windows_of(model, data, step.calibration_tokens)
    losses = sensitivities(model, {name: list(of_name) for name, of_name in sizes.items()}, step, windows)
    table = {name: [Option(encoding, size, losses[name][encoding]) for encoding, size in sizes[name].items()] for name in names}
    kept = {name: Encoding.FLOAT32 for name, weight in model.weights.items() if weight.ndim == 2}
    free = model.replace(encodings={}, scales={})  # earlier grids are chosen anew
    return round_model(free, kept | choose(table, budget), step.clip, step.compensate, windows)


def matrices(model: LanguageModel) -> list[str]:
    """Names of the matrices that a choice is made for: all but position tables, which stay float32."""
    return [name for name, weight in model.weights.items() if weight.ndim == 2 and name != "positions.weight"]


def stored_size(model: LanguageModel, name: str, wanted: Encoding) -> int:
    """Bytes of a matrix with its scales, in the encoding or in what stands in for it.

    Example: int4-block32 (2048, 512) takes 524,288 bytes of weights and 65,536 of scales.
    """
    rows, columns = model.weights[name].shape
    encoding = possible_encoding(wanted, columns)
    scales = {Encoding.INT8: 4 * rows, Encoding.INT4: 4 * rows, Encoding.INT4_BLOCK32: 2 * rows * columns // BLOCK_COLUMNS}
    return rows * columns * encoding.bits // 8 + scales.get(encoding, 0)


def sensitivities(
    model: LanguageModel, candidates: Mapping[str, Sequence[Encoding]], step: Mixed, windows: Sequence[NDArray[np.int32]]
) -> dict[str, dict[Encoding, float]]:
    """What storing one matrix in one encoding, and nothing else, costs on the text.

    It is the divergence KL(p || q) of the predictions q from those of the whole model, p: the rise of the loss on text that p predicts
    rightly. On the tokens themselves the rise that 8 bits cause drowns in its spread, even at 16,000 tokens.

    Args:
        model: Unrounded.
        candidates: Name -> encodings; a matrix with one is not measured, and costs 0.
        step: How matrices are rounded.
        windows: Token ids.

    Returns:
        Name -> encoding -> nats a token.
    """
    inputs = matrix_inputs(model, windows) if step.compensate == "gptq" else {}
    losses = {name: dict.fromkeys(encodings, 0.0) for name, encodings in candidates.items()}
    measured = [(name, encoding) for name, encodings in candidates.items() for encoding in encodings if len(encodings) > 1]
    changed = {(name, e): _stored(model.float32(name), e, step, inputs.get(name)) for name, e in measured}
    tokens = sum(len(window) for window in windows)
    for ids, real in side_by_side(windows):
        whole = _log_probabilities(model, ids, real)  # (tokens, vocab)
        likely = np.exp(whole)
        for (name, encoding), weight in changed.items():
            rounded = _log_probabilities(model.replace(weights={**model.weights, name: weight}), ids, real)
            losses[name][encoding] += float((likely * (whole - rounded)).sum(dtype=np.float64)) / tokens
    return losses


def _candidates(model: LanguageModel, name: str, step: Mixed) -> list[Encoding]:
    """Without repetition: what cannot be stored as one candidate may be stored as another already."""
    if any(fnmatchcase(name, pattern) for pattern in step.keep_float):
        return [Encoding.FLOAT32]
    return list(dict.fromkeys(possible_encoding(encoding, model.weights[name].shape[1]) for encoding in step.candidates))


def _stored(weight: NDArray[np.float32], encoding: Encoding, step: Mixed, inputs: Inputs | None) -> NDArray[np.float32]:
    """A matrix as the artifact would hold it."""
    if encoding in LARGEST:
        return round_matrix(weight, encoding, step.clip, inputs)[0]
    return weight.astype(np.float16).astype(np.float32) if encoding is Encoding.FLOAT16 else weight


def _log_probabilities(model: LanguageModel, ids: NDArray[np.int32], real: NDArray[np.bool_]) -> FloatArray:
    return log_softmax(ReferenceSession(model, len(ids)).extend(ids)[real])
