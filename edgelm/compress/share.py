"""Parts of a model become one: tied tables, shared layers, merged neurons, factorised tables; all really smaller in the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.compress import low_rank, merge, tied
from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Share
from edgelm.spec import ModelSpec, RecurrentSpec, weight_shapes


def apply(model: LanguageModel, step: Share, data: StepData | None) -> LanguageModel:
    """The model with shared parts, retrained where the step has epochs; encodings and scales of earlier steps are dropped.

    - `tie`: the head reads the embedding table. A recurrent model gets the table that serves both best (`low_rank.tie`), with a linear
      layer before the head where there is none; a transformer, whose tables both stand on the residual stream, the mean of both.
    - `layers`: runs of neighbouring layers become copies of their first (`tied.repeated`), and stay so in training (`tied.keep_tied`).
    - `neurons`: similar recurrent units, dense and feed-forward neurons are merged (`merge`).
    - `low-rank`: embedding and untied head of a recurrent model get fewer columns (`low_rank`), with words weighted by their frequency
      where there is text.

    Perplexity of the bundled models without retraining: 10 % of the feed-forward neurons merged cost the transformer 0.9 %, 30 % cost
    10.8 %; of the LSTM's units 23 % and 124 %. With 75 % of its rank the LSTM's table costs 3.5 % weighted by frequency, else 102 %.

    Args:
        model: What to share in.
        step: What, how much of it, and how to retrain.
        data: Text; None where the step does not train.

    Raises:
        RecipeError: The model has nothing of that kind to share, or training is wanted without text.
        TrainingError: From the loop.
    """
    if step.train.epochs and data is None:
        raise RecipeError("share: the model is retrained, and there is no text", fix="give a corpus with --data")
    shared = _KINDS[step.kind](model, step, data).replace(encodings={}, scales={})
    if step.kind != "layers" and shared.parameters >= model.parameters:
        raise RecipeError(
            f"share: {step.kind} makes {shared.parameters} parameters of {model.parameters}: the model grows",
            fix="leave the step out" if step.kind == "tie" else "use another amount",
        )
    return shared if data is None or not step.train.epochs else _retrained(shared, step, data)


def _retrained(model: LanguageModel, step: Share, data: StepData) -> LanguageModel:
    from edgelm.compress.fit import fit
    from edgelm.models import keras_model

    trained = keras_model.from_language_model(model)
    groups = tied.copies(trained)
    fit(trained, step.train, data, before_step=tied.keep_tied(trained))
    return model.replace(weights=tied.averaged(keras_model.get_weights(trained), groups))


def _tie(model: LanguageModel, step: Share, data: StepData | None) -> LanguageModel:
    spec = model.spec
    if spec.tied_head:
        raise RecipeError("share: tie: the head reads the embedding table already", fix="leave the step out")
    if not isinstance(spec, RecurrentSpec):
        return _tie_stream(model)
    if spec.gate_embedding:
        raise RecipeError("share: tie: the embedding holds the gates' inputs, which no head can read", fix="share low-rank before it")
    return low_rank.tie(model, spec)


def _tie_stream(model: LanguageModel) -> LanguageModel:
    """A transformer with the mean of both tables at the size of the embedding; the final norm takes the size of the head."""
    embedding, head = model.float32("embedding.weight"), model.float32("head.weight")  # (vocab, width)
    ratio = np.float32(np.linalg.norm(head) / max(float(np.linalg.norm(embedding)), 1e-12))
    weights = {name: weight for name, weight in model.weights.items() if name != "head.weight"}
    weights["embedding.weight"] = (embedding + head / ratio) / 2
    for name in ("final_norm.weight", "final_norm.bias"):
        if name in weights:
            weights[name] = model.float32(name) * ratio
    return model.replace(spec=dataclasses.replace(model.spec, tied_head=True), weights=weights)


def _share_layers(model: LanguageModel, step: Share, data: StepData | None) -> LanguageModel:
    groups = layer_groups(model.spec, step.amount)
    if not groups:
        raise RecipeError(
            f"share: layers: no two layers of equal shapes become one at amount = {step.amount:g}",
            allowed="at least two layers of equal sizes, and an amount that leaves fewer of them",
        )
    return model.replace(weights=tied.repeated(model.weights, groups))


def layer_groups(spec: ModelSpec, amount: float) -> list[list[int]]:
    """Runs of layers that become copies of one: of each kind of equal shapes, a share of `amount` stays distinct.

    The first layer of a recurrent model is no copy of any: the file keeps its input and recurrent matrices apart, those of others in one.

    Example:
        >>> layer_groups(RecurrentSpec(100, 32, "lstm", (64, 64, 64)), 0.5)
        [[1, 2]]
    """
    kinds: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    layers: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in weight_shapes(spec).items():
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            layers.setdefault(int(number), []).append((rest, shape))
    if isinstance(spec, RecurrentSpec):
        del layers[0]
    for layer, shapes in layers.items():
        kinds.setdefault(tuple(shapes), []).append(layer)
    runs = [run for kind in kinds.values() for run in np.array_split(kind, max(1, round(amount * len(kind))))]
    return [[int(number) for number in run] for run in runs if len(run) > 1]


def _merge_neurons(model: LanguageModel, step: Share, data: StepData | None) -> LanguageModel:
    sizes = {name: max(1, size - round(step.amount * size)) for name, size in merge.mergeable(model.spec).items()}
    if not sizes:
        raise RecipeError(
            "share: neurons: every unit is read by the tied head, whose columns are the embedding's",
            fix="use structure with width, or a model with a dense layer before the head",
        )
    return merge.merge(model, sizes)


def _factorise(model: LanguageModel, step: Share, data: StepData | None) -> LanguageModel:
    spec = model.spec
    if not isinstance(spec, RecurrentSpec):
        raise RecipeError(
            "share: low-rank: a transformer's spec has no place for the second factor of a table or projection",
            allowed="recurrent models",
            fix="use structure with width, heads or ffn",
        )
    importance = _frequencies(data, spec.vocab_size)
    rank = max(1, round(step.amount * min(spec.vocab_size, spec.embedding_size)))
    model = low_rank.shrink_embedding(model, spec, rank, importance)
    changed = model.spec
    if not isinstance(changed, RecurrentSpec) or changed.tied_head:
        return model
    rank = max(1, round(step.amount * min(spec.vocab_size, changed.head_inputs)))
    return low_rank.shrink_head(model, changed, rank, importance)


def _frequencies(data: StepData | None, vocab_size: int) -> NDArray[np.float64] | None:
    """(vocab,) counts of the training tokens, and one more for each; None without text."""
    if data is None:
        return None
    counts = sum((np.bincount(document, minlength=vocab_size)[:vocab_size] for document in data.train), np.zeros(vocab_size, np.int64))
    return np.asarray(counts, np.float64) + 1


_KINDS: Mapping[str, Callable[[LanguageModel, Share, StepData | None], LanguageModel]] = {
    "tie": _tie,
    "layers": _share_layers,
    "neurons": _merge_neurons,
    "low-rank": _factorise,
}
