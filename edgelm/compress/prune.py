"""Magnitude pruning (Zhu & Gupta 2018): while training goes on, ever more of the smallest weights become zero, and stay zero.

The schedule and the choice of weights are those of TF-MOT's `prune_low_magnitude` with `PolynomialDecay`, and tests compare them with
it. Its layer wrapper is not used: it counts a step for each call of a layer, so that a tied table, which is called twice, counted 28
steps in a training of 14; it has one sparsity a layer, where global pruning wants one a matrix and `skip` may name one of the two
matrices of an LSTM; it groups 2:4 along the columns of a table, where the rows are shipped; it leaves weights unmasked between steps,
where checkpoints are made; and it multiplies every matrix by its mask in every call. Here weights are multiplied once, after each step.

Masks are no state: they follow from the weights, whose zeros rank lowest, so a resumed training has the masks it was interrupted with.

With `compensate = "gptq"` there is no schedule: the model is pruned at once by SparseGPT (`edgelm.compress.gptq`), which leaves training
much less to mend, and is trained with the zeros that it has then.

Example:
    >>> pruned = apply(model, Prune(sparsity=0.8, train=NO_TRAINING), None)
    >>> float((pruned.weights["layers.0.recurrent.weight"] == 0).mean())
    0.8
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from edgelm.compress.calibration import matrix_inputs, windows_of
from edgelm.compress.gptq import COLUMNS_A_STEP, sparsified
from edgelm.compress.settings import OnProgress, Progress
from edgelm.compress.sparsity_patterns import Pattern, keep_mask, magnitudes, parse_pattern
from edgelm.compress.step_data import StepData
from edgelm.errors import CorpusError, RecipeError
from edgelm.model import LanguageModel
from edgelm.models.keras_model import KerasModel
from edgelm.recipe_steps import Prune
from edgelm.spec import FloatArray

_UPDATES = 100
"""Masks are renewed so often along the schedule: a renewal ranks all weights."""


def apply(model: LanguageModel, step: Prune, data: StepData | None) -> LanguageModel:
    """The model with zeros where its weights were small, retrained while they became zero.

    Args:
        model: Its float weights are pruned; encodings and scales of matrices that change are dropped.
        step: How many weights, in what pattern, and how to train.
        data: The text to train on; not looked at without epochs.

    Raises:
        RecipeError: The pattern cannot be read or does not go with scope, threshold or compensation, or no matrix is left to prune.
        CorpusError: Training or compensation is wanted and there is no data.
        TrainingError: As `fit` says.
    """
    if step.train.epochs and data is None:
        raise CorpusError("prune wants to train and was given no corpus", fix="give one with --data, or set epochs = 0 in [steps.train]")
    pattern, targets = parse_pattern(step.pattern), sparsity_targets(model, step)
    weights: dict[str, FloatArray] = dict(model.weights)
    if step.compensate == "gptq":
        weights |= _compensated(model, step, targets, data)
    if step.train.epochs and data is not None:
        weights |= _trained(model.replace(weights=weights), step, targets, data)
    for name, target in targets.items():
        weights[name] = np.where(keep_mask(weights[name], pattern, target), weights[name], np.zeros(1, weights[name].dtype))
    changed = set(weights if step.train.epochs else targets)
    return model.replace(
        weights=weights,
        encodings={name: encoding for name, encoding in model.encodings.items() if name not in changed},
        scales={name: scales for name, scales in model.scales.items() if name not in changed},
    )


def sparsity_targets(model: LanguageModel, step: Prune) -> dict[str, float]:
    """Canonical name -> share of zeros in the end, of every matrix that is pruned: all but position tables and what is skipped.

    With `scope = "global"` or a threshold a matrix loses what is small by the measure |w| / rms(matrix): in a matrix of normally
    distributed weights a threshold of 0.6745 takes half of them.

    Raises:
        RecipeError: Nothing is left to prune, or N:M is to be global or by threshold.
    """
    pattern = parse_pattern(step.pattern)
    names = [name for name, weight in model.weights.items() if weight.ndim == 2 and name != "positions.weight"]
    names = [name for name in names if not any(fnmatchcase(name, skipped) for skipped in step.skip)]
    if not names:
        raise RecipeError(f"prune: skip = {list(step.skip)} leaves no matrix to prune", allowed=", ".join(model.weights))
    if pattern.group:
        if step.scope == "global" or step.threshold or step.sparsity_of:
            allowed = "scope = layer, threshold = 0, no sparsity_of"
            raise RecipeError(f"prune: pattern = {step.pattern!r} with scope, threshold or sparsity_of", allowed=allowed)
        return dict.fromkeys(names, 1 - pattern.kept / pattern.group)
    own = {name: share for name in names for match, share in step.sparsity_of.items() if fnmatchcase(name, match)}
    if step.scope == "layer" and not step.threshold:
        return dict.fromkeys(names, step.sparsity) | own
    names = [name for name in names if name not in own]
    relative = {name: _relative(model.float32(name), pattern) for name in names}
    limit = step.threshold or _quantile(np.concatenate([part.reshape(-1) for part in relative.values()]), step.sparsity)
    return own | {name: float((part < limit).mean()) for name, part in relative.items()}


def sparsity_at(step: float, begin: float, end: float, initial: float, final: float) -> float:
    """Zhu & Gupta's cubic: 0 before `begin`, `initial` there, `final` from `end` on.

    Example:
        >>> sparsity_at(50, 0, 100, 0.0, 0.8)  # 0.8 * (1 - 0.5 ** 3)
        0.7
    """
    if step >= end:
        return final
    return 0.0 if step < begin else final + (min(initial, final) - final) * (1 - (step - begin) / (end - begin)) ** 3


def _relative(weight: FloatArray, pattern: Pattern) -> FloatArray:
    rms = float(np.sqrt(np.mean(np.square(weight, dtype=np.float64))))
    return magnitudes(weight, pattern) / np.float32(max(rms, 1e-30))


def _quantile(values: FloatArray, share: float) -> float:
    """The value that `share` of the values are below."""
    return float(np.partition(values, index := min(round(share * values.size), values.size - 1))[index])


def _compensated(model: LanguageModel, step: Prune, targets: Mapping[str, float], data: StepData | None) -> dict[str, FloatArray]:
    """The matrices that take part in a product, pruned at once; an untied table, which is only looked up in, is not among them."""
    if data is None:
        raise CorpusError("prune: compensate = gptq looks at text and was given no corpus", fix="give one with --data")
    pattern = parse_pattern(step.pattern)
    width = pattern.group or pattern.columns
    if COLUMNS_A_STEP % width:
        raise RecipeError(
            f"prune: pattern = {step.pattern!r} with compensate = gptq, which works on {COLUMNS_A_STEP} columns at a time",
            allowed=f"groups and blocks whose width divides {COLUMNS_A_STEP}",
        )
    inputs = matrix_inputs(model, windows_of(model, data, step.calibration_tokens))
    products = {name: inputs[name].product for name in targets if name in inputs}
    return {name: sparsified(model.float32(name), product, pattern, targets[name]) for name, product in products.items()}


def _trained(model: LanguageModel, step: Prune, targets: Mapping[str, float], data: StepData) -> dict[str, FloatArray]:
    from edgelm.compress.fit import fit
    from edgelm.models import keras_model

    trained = keras_model.from_language_model(model)
    masks = Masks(trained, step, targets, data.on_progress)
    watched = dataclasses.replace(data, on_progress=masks.after_step)
    fit(trained, step.train, watched, before_step=masks.before_step, settled=step.rise[1])
    return dict(keras_model.get_weights(trained))


class Masks:
    """Keeps the weights of a Keras model in training as sparse as the schedule says.

    Args:
        model: Built by `keras_model.build`.
        step: Pattern and schedule.
        targets: Canonical name -> final sparsity.
        on_progress: Whom to pass progress on to.
    """

    def __init__(self, model: KerasModel, step: Prune, targets: Mapping[str, float], on_progress: OnProgress | None = None) -> None:
        from edgelm.models.keras_model import spec_of
        from edgelm.models.keras_names import keras_weights

        places = keras_weights(spec_of(model))
        self._variables = {name: _variable(model, places[name].layer, places[name].role) for name in targets}
        self._transposed = {name: places[name].transpose for name in targets}
        self._step, self._pattern, self._targets, self._on_progress = step, parse_pattern(step.pattern), targets, on_progress
        self._masks: dict[str, Any] = {}  # in Keras' orientation
        self._steps = 0

    def before_step(self, step: int) -> None:
        """Renews the masks where the schedule wants it, and after a resume."""
        begin, end = self._span()
        every = max(1, int(end - begin) // _UPDATES)
        if not self._masks or step == end or (begin <= step < end and (step - begin) % every == 0):
            for name, target in self._targets.items():
                self._renew(name, sparsity_at(step, begin, end, self._step.initial_sparsity, target))
            self._apply()

    def after_step(self, progress: Progress) -> None:
        """Sets to zero again what the optimizer moved."""
        self._steps = progress.plan.steps
        self._apply()
        if self._on_progress:
            self._on_progress(progress)

    def _span(self) -> tuple[int, int]:
        """First and last step of the schedule; the last step of the training is the latest at which masks can settle."""
        begin, end = (round(share * self._steps) for share in self._step.rise)
        return min(begin, self._steps - 1), min(end, self._steps - 1)

    def _renew(self, name: str, sparsity: float) -> None:
        import tensorflow as tf

        values = self._variables[name].numpy()
        weight = values.T if self._transposed[name] else values  # (out, in)
        mask = keep_mask(weight, self._pattern, sparsity).astype(np.float32)
        self._masks[name] = tf.constant(mask.T if self._transposed[name] else mask)

    def _apply(self) -> None:
        for name, mask in self._masks.items():
            self._variables[name].assign(self._variables[name] * mask)


def _variable(model: KerasModel, layer: str, role: str) -> Any:
    owner = model.get_layer(layer)
    return getattr(getattr(owner, "cell", owner), role)
