"""Structured pruning: neurons, heads, columns and layers that matter least are taken out, and what is left is retrained.

The spec shrinks with the weights, so every runtime is faster and nothing has to know of sparsity. Counts stay multiples of 8, which
kernels like. Where the residual stream of a transformer becomes narrower, the weights of its norms are scaled so that what they give
keeps its size: the mean square of the columns that stay is not that of all.

Query heads that share keys and values (Ainslie et al. 2023) go as whole groups or in equal numbers from each group, whichever is nearer
to the share that is asked for: of 6 heads in 2 groups, 30 % is one head of each group.

Example:
    >>> apply(keyboard, Structure(units=0.3), data).spec.units  # of 512
    (360,)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.step_data import StepData
from edgelm.compress.surgery import Indices, dimensions, drop_layers, shrink, units_dimension
from edgelm.errors import CorpusError, UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Structure
from edgelm.spec import ModelSpec, RecurrentSpec, TransformerSpec

MULTIPLE = 8
"""Neurons and columns that stay are a multiple of this, where there were as many."""

Scores = Mapping[str, NDArray[np.float64]]


def apply(model: LanguageModel, step: Structure, data: StepData | None) -> LanguageModel:
    """The smaller model.

    Args:
        model: Its encodings and scales are dropped.
        step: What share of what goes, how importance is measured, and how to retrain.
        data: Text for both.

    Raises:
        CorpusError: There is no data.
        UnsupportedModelError: The model has nothing of what is to go, or what is to go cannot be taken out of it.
        TrainingError: As `fit` says.
    """
    if data is None:
        raise CorpusError("structure measures importance on text and was given no corpus", fix="give one with --data")
    from edgelm.compress.importance import LAYERS, measure

    _require_possible(model.spec, step)
    length = model.spec.max_positions if isinstance(model.spec, TransformerSpec) else 256
    measured = measure(model, data.calibration(step.calibration_tokens, min(256, length)), step.importance)
    keep, layers = kept_places(model.spec, step, measured.scores), kept_layers(model.spec, step.layers, measured.scores[LAYERS])
    small = shrink(model, keep)
    if "width" in keep:
        factors = {f"{norm}.weight": _root_mean(energy[keep["width"]]) / _root_mean(energy) for norm, energy in measured.energy.items()}
        small = small.replace(weights=dict(small.weights) | {name: small.float32(name) * np.float32(by) for name, by in factors.items()})
    small = drop_layers(small, layers)
    return _retrained(small, step, data) if step.train.epochs else small


def kept_places(spec: ModelSpec, step: Structure, scores: Scores) -> dict[str, Indices]:
    """Dimension -> its most important places, ascending, for every dimension of which some go."""
    heads = _kept_heads(spec, step.heads, scores) if isinstance(spec, TransformerSpec) and step.heads else {}
    shares = {name: _share(spec, step, name) for name in dimensions(spec)}
    return heads | {name: _top(scores[name], friendly(len(scores[name]), share)) for name, share in shares.items() if share}


def friendly(size: int, share: float) -> int:
    """How many of `size` places stay when about `share` goes: a multiple of 8, and 8 at least.

    Example:
        >>> friendly(512, 0.3), friendly(480, 0.3)
        (360, 336)
    """
    return min(size, max(MULTIPLE, MULTIPLE * round(size * (1 - share) / MULTIPLE)))


def kept_layers(spec: ModelSpec, share: float, scores: NDArray[np.float64]) -> list[int]:
    """The layers that stay, ascending, at least one. Of a recurrent model only layers as wide as their input can go."""
    removable = [i for i in range(len(scores)) if isinstance(spec, TransformerSpec) or spec.units[i] == spec.layer_inputs(i)]
    if isinstance(spec, RecurrentSpec) and spec.gate_embedding and 0 in removable:
        removable.remove(0)
    going = sorted(removable, key=lambda i: float(scores[i]))[: min(round(share * len(scores)), len(scores) - 1)]
    return [i for i in range(len(scores)) if i not in going]


def _share(spec: ModelSpec, step: Structure, dimension: str) -> float:
    """Units that a tied head reads are columns of the embedding: they go by the larger of both shares."""
    kind = dimension.split(".")[0]
    if kind == "width" and isinstance(spec, RecurrentSpec) and units_dimension(spec, len(spec.units) - 1) == "width":
        return max(step.width, step.units)
    shares = {"units": step.units, "hidden": step.ffn, "ffn": step.ffn, "width": step.width}
    return shares.get(kind, 0.0)


def _kept_heads(spec: TransformerSpec, share: float, scores: Scores) -> dict[str, Indices]:
    """`groups.i` and `heads.i` of every block."""
    size = spec.heads // spec.kv_heads
    choices = itertools.product(range(1, spec.kv_heads + 1), range(1, size + 1))
    wanted = spec.heads * (1 - share)
    groups, each = min(choices, key=lambda choice: (abs(choice[0] * choice[1] - wanted), choice[0]))
    keep: dict[str, Indices] = {}
    for i in range(spec.layers):
        heads = scores[f"heads.{i}"].reshape(spec.kv_heads, size)
        best = np.sort(np.argsort(-heads, axis=1, kind="stable")[:, :each], axis=1)  # (kv_heads, each) within the group
        keep[f"groups.{i}"] = _top(np.take_along_axis(heads, best, 1).sum(1), groups)
        keep[f"heads.{i}"] = (best + np.arange(spec.kv_heads)[:, None] * size)[keep[f"groups.{i}"]].reshape(-1)
    return keep


def _top(scores: NDArray[np.float64], count: int) -> Indices:
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def _root_mean(squares: NDArray[np.float64]) -> float:
    return float(np.sqrt(squares.mean()))


def _require_possible(spec: ModelSpec, step: Structure) -> None:
    if isinstance(spec, TransformerSpec) and spec.position == "sinusoidal" and step.width:
        raise UnsupportedModelError("structure: sinusoidal positions need the whole width", allowed="units, ffn, heads, layers")
    if isinstance(spec, RecurrentSpec) and spec.gate_embedding and spec.tied_head:
        raise UnsupportedModelError("structure: a head tied to an embedding of gate inputs cannot shrink", fix="take the step out")
    sizes = dimensions(spec)
    layers = spec.layers if isinstance(spec, TransformerSpec) else len(spec.units)
    keep = kept_places(spec, step, {name: np.zeros(size) for name, size in sizes.items()})
    if all(len(places) == sizes[name] for name, places in keep.items()) and len(kept_layers(spec, step.layers, np.zeros(layers))) == layers:
        raise UnsupportedModelError(f"structure takes nothing out of this model: {_wanted(step)}", allowed=_offers(spec))


def _retrained(model: LanguageModel, step: Structure, data: StepData) -> LanguageModel:
    from edgelm.compress.fit import fit
    from edgelm.models import keras_model

    keras = keras_model.from_language_model(model)
    fit(keras, step.train, data)
    return model.replace(weights=keras_model.get_weights(keras))


def _wanted(step: Structure) -> str:
    shares = {name: getattr(step, name) for name in ("units", "ffn", "heads", "width", "layers")}
    return ", ".join(f"{name} = {share:g}" for name, share in shares.items() if share) or "no share is given"


def _offers(spec: ModelSpec) -> str:
    sizes = ", ".join(f"{name} ({size})" for name, size in dimensions(spec).items())
    return f"shares large enough to take {MULTIPLE} of {sizes}, one head, or one layer"
