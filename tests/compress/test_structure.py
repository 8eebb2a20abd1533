"""Structured pruning: shapes in the .tflite shrink, what is cut is what matters least, and retraining pays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from trained_tiny import LLAMA, LSTM, RETRAIN, TRAIN, VOCAB, data_of, fresh, perplexity, stored, trained

from edgelm.compress import structure
from edgelm.compress.importance import measure
from edgelm.compress.surgery import axes, dimensions, drop_layers, shrink
from edgelm.errors import CorpusError, UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.models import reference
from edgelm.recipe_steps import Structure
from edgelm.recipe_training import NO_TRAINING
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

WIDE = dataclasses.replace(LLAMA, layers=2)
SPECS: dict[str, ModelSpec] = {
    "lstm": LSTM,
    "gru": RecurrentSpec(VOCAB, 16, "gru", (24, 16), head_bias=True),
    "gru-reset-before": RecurrentSpec(VOCAB, 16, "gru", (24,), reset_after=False, hidden=(DenseLayer(24, "relu"), DenseLayer(16))),
    "cifg-projected": RecurrentSpec(VOCAB, 16, "cifg", (24,), embedding_projection=8),
    "gate-embedding": RecurrentSpec(VOCAB, 96, "lstm", (24,), gate_embedding=True),
    "tied-units": RecurrentSpec(VOCAB, 16, "lstm", (24, 16), tied_head=True),
    "llama": WIDE,
    "gpt": TransformerSpec(
        VOCAB, 32, 2, 4, 4, 8, 64, 32, position="learned", norm="layer", activation="gelu", gated=False,
        qkv_bias=True, output_bias=True, ffn_bias=True, tied_head=False, head_bias=True, embedding_norm=True,
    ),
    "phi": TransformerSpec(
        VOCAB, 32, 2, 4, 4, 8, 64, 32, rotary_dim=4, norm="layer", activation="gelu_tanh", gated=False, parallel_residual=True,
        qkv_bias=True, output_bias=True, ffn_bias=True, tied_head=False, head_bias=True,
    ),
    "post-norm": TransformerSpec(VOCAB, 32, 2, 4, 2, 8, 64, 32, norm_position="post", qk_norm=True, final_norm=False),
}  # fmt: skip
MEASURE = {"calibration_tokens": 2000, "train": NO_TRAINING}


# --- in the artifact --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_smaller_lstm_is_in_the_artifact_and_retraining_pays() -> None:
    model, step = trained(LSTM), Structure(units=0.5, calibration_tokens=2000, train=RETRAIN)
    cut = structure.apply(model, dataclasses.replace(step, train=NO_TRAINING), data_of(model))
    retrained = structure.apply(model, step, data_of(model))
    shapes = {name: values.shape for name, values in stored(retrained, Encoding.INT8).items()}
    assert shapes == {
        "embedding.weight": (VOCAB, 16),
        "layers.0.input.weight": (4 * 16, 16),
        "layers.0.recurrent.weight": (4 * 16, 16),
        "hidden.0.weight": (16, 16),
    }
    assert model.weights["layers.0.recurrent.weight"].shape == (128, 32)  # the argument is not changed
    assert perplexity(retrained) < 0.8 * perplexity(cut)


@pytest.mark.slow
def test_a_smaller_transformer_is_in_the_artifact_and_retraining_pays() -> None:
    model, step = trained(LLAMA), Structure(ffn=0.5, heads=0.5, calibration_tokens=2000, train=RETRAIN)
    cut = structure.apply(model, dataclasses.replace(step, train=NO_TRAINING), data_of(model))
    retrained = structure.apply(model, step, data_of(model))
    sizes = sorted(values.shape for values in stored(retrained, Encoding.INT8).values())
    q, kv, ffn = 2 * 8, 8, 32  # heads 4 -> 2 in one group, neurons 64 -> 32
    assert sizes == sorted([(VOCAB, 32), (q + 2 * kv, 32), (32, q), (2 * ffn, 32), (32, ffn)])  # q, k, v are one matrix; gate and up too
    assert perplexity(retrained) < 0.8 * perplexity(cut)


# --- importance ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spec", [LSTM, LLAMA], ids=["lstm", "llama"])
def test_cutting_by_importance_beats_cutting_at_random(spec: ModelSpec) -> None:
    model, share = trained(spec), {"units": 0.5, "ffn": 0.5}

    def cut(kind: Any) -> LanguageModel:
        return structure.apply(model, Structure(importance=kind, **share, **MEASURE), data_of(model))  # type: ignore[arg-type]

    def cut_at_random(seed: int) -> LanguageModel:
        random = np.random.default_rng(seed)
        scores = {name: random.random(size) for name, size in dimensions(spec).items()}
        return shrink(model, structure.kept_places(spec, Structure(**share), scores))  # type: ignore[arg-type]

    randoms = sorted(perplexity(cut_at_random(seed)) for seed in range(9))
    assert perplexity(cut("taylor")) < randoms[0]  # better than the luckiest of nine
    assert perplexity(cut("gradient")) < randoms[4]
    assert perplexity(cut("variance")) < randoms[4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dimension", "readers"),
    [
        ("lstm", "units.0", ("layers.0.recurrent.weight", "hidden.0.weight")),
        ("gru", "width", ("layers.0.input.weight",)),
        ("llama", "ffn.1", ("layers.1.down.weight",)),
        ("post-norm", "heads.0", ("layers.0.o.weight",)),
        ("phi", "heads.0", ("layers.0.o.weight",)),
    ],
)
def test_taylor_is_the_slope_of_the_loss_as_a_place_fades(name: str, dimension: str, readers: tuple[str, ...]) -> None:
    """dL/dgate of a multiplier in front of all that reads the place, by central differences."""
    model = fresh(SPECS[name])
    window = TRAIN[0][:12].astype(np.int32)
    measured = measure(model, [window], "taylor")
    for place in (0, 3):
        columns = axes(model.spec)[readers[0]][1].indices(np.array([place]), dimensions(model.spec)[dimension])
        slope = (_loss(_faded(model, readers, columns, 1e-4), window) - _loss(_faded(model, readers, columns, -1e-4), window)) / 2e-4
        assert measured.scores[dimension][place] == pytest.approx(abs(slope), rel=0.02, abs=2e-4)


def _faded(model: LanguageModel, readers: tuple[str, ...], columns: np.ndarray, by: float) -> LanguageModel:
    weights = {name: model.weights[name].astype(np.float64) for name in readers}
    for weight in weights.values():
        weight[:, columns] *= 1 - by
    return model.replace(weights=model.weights | weights)


def _loss(model: LanguageModel, window: np.ndarray) -> float:
    logits = reference.logits(model, window[None, :-1], dtype=np.float64)[0]
    chosen = logits[np.arange(len(window) - 1), window[1:]]
    return float(np.sum(np.log(np.exp(logits).sum(-1)) - chosen))


# --- surgery ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_cutting_places_that_are_dead_changes_nothing(name: str) -> None:
    """Rows that make a place and columns that read it are zero: the smaller model gives the same logits."""
    spec = SPECS[name]
    keep, rng = {}, np.random.default_rng(0)
    for dimension, size in dimensions(spec).items():
        if dimension.startswith(("heads", "groups")) or (dimension == "width" and isinstance(spec, TransformerSpec)):
            continue  # a norm sees how many columns there are; heads are tested below
        keep[dimension] = np.sort(rng.permutation(size)[: size - 5])
    model = _without(fresh(spec), keep)
    small = shrink(model, keep)
    assert small.parameters < model.parameters
    ids = rng.integers(0, VOCAB, (2, 9))
    np.testing.assert_allclose(reference.logits(small, ids, dtype=np.float64), reference.logits(model, ids, dtype=np.float64), atol=1e-6)


def test_heads_are_cut_with_their_rows_and_columns() -> None:
    for spec in (WIDE, SPECS["gpt"], SPECS["post-norm"]):
        assert isinstance(spec, TransformerSpec)
        step = Structure(heads=0.5)
        scores = {name: np.arange(size, dtype=float) for name, size in dimensions(spec).items()}
        keep = structure.kept_places(spec, step, scores)
        model = _without(fresh(spec), {name: places for name, places in keep.items() if name.startswith("heads")})
        ids = np.random.default_rng(0).integers(0, VOCAB, (2, 9))
        small = reference.logits(shrink(model, keep), ids, dtype=np.float64)
        np.testing.assert_allclose(small, reference.logits(model, ids, dtype=np.float64), atol=1e-6)


def _without(model: LanguageModel, keep: dict[str, np.ndarray]) -> LanguageModel:
    """The model with zeros in every column that reads a place that is not kept."""
    sizes, weights = dimensions(model.spec), dict(model.weights)
    for name, weight_axes in axes(model.spec).items():
        if len(weight_axes) == 2 and weight_axes[1].dimension in keep and name != "positions.weight":
            axis = weight_axes[1]
            stays = np.zeros(weights[name].shape[1], bool)
            stays[axis.indices(keep[axis.dimension], sizes[axis.dimension])] = True
            weights[name] = weights[name] * stays
    if isinstance(model.spec, RecurrentSpec) and model.spec.gate_embedding:  # its columns are gates, which make a place
        weights["embedding.weight"] = model.weights["embedding.weight"]
    return model.replace(weights=weights)


@pytest.mark.parametrize("name", SPECS)
def test_every_axis_has_the_size_of_its_dimension(name: str) -> None:
    spec = SPECS[name]
    sizes = dimensions(spec)
    for weight, shape in weight_shapes(spec).items():
        for axis, size in zip(axes(spec)[weight], shape, strict=True):
            assert not axis.dimension or size == sizes[axis.dimension] * axis.copies * axis.block, weight


def test_layers_are_dropped_and_renumbered() -> None:
    spec = dataclasses.replace(LLAMA, layers=4)
    model = fresh(spec)
    small = drop_layers(model, [0, 3])
    assert small.spec == dataclasses.replace(LLAMA, layers=2)
    np.testing.assert_array_equal(small.weights["layers.1.down.weight"], model.weights["layers.3.down.weight"])


# --- how much goes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "kv_heads", "share", "kept"),
    [(6, 2, 0.3, (4, 2)), (8, 8, 0.3, (6, 6)), (4, 2, 0.5, (2, 1)), (6, 2, 0.9, (1, 1)), (9, 3, 0.33, (6, 2)), (4, 1, 0.3, (3, 1))],
)
def test_heads_stay_a_legal_number_of_groups(heads: int, kv_heads: int, share: float, kept: tuple[int, int]) -> None:
    spec = dataclasses.replace(LLAMA, heads=heads, kv_heads=kv_heads)
    scores = {name: np.random.default_rng(0).random(size) for name, size in dimensions(spec).items()}
    small = shrink(fresh(spec), structure.kept_places(spec, Structure(heads=share), scores))
    assert isinstance(small.spec, TransformerSpec)
    assert (small.spec.heads, small.spec.kv_heads) == kept


def test_of_a_recurrent_model_only_layers_as_wide_as_their_input_go() -> None:
    spec = RecurrentSpec(VOCAB, 16, "lstm", (24, 24, 16))
    assert structure.kept_layers(spec, 0.5, np.array([0.0, 2.0, 1.0])) == [0, 2]
    assert structure.kept_layers(dataclasses.replace(LLAMA, layers=3), 0.99, np.array([1.0, 3.0, 2.0])) == [1]


@pytest.mark.slow
def test_width_and_layers_of_a_transformer_go() -> None:
    model = fresh(WIDE)
    small = structure.apply(model, Structure(width=0.25, layers=0.5, **MEASURE), data_of(model))  # type: ignore[arg-type]
    assert isinstance(small.spec, TransformerSpec)
    assert (small.spec.width, small.spec.layers) == (24, 1)
    assert small.encodings == {} == small.scales


@pytest.mark.slow
def test_norms_are_scaled_by_what_the_root_mean_square_of_their_columns_becomes() -> None:
    """Columns that are always zero go: without scaling, the norms would divide by a larger root mean square than before."""
    model = fresh(LLAMA)
    weights = dict(model.weights)
    for name, weight_axes in axes(LLAMA).items():
        if name.endswith((".o.weight", ".down.weight")):  # writers of the stream
            weights[name] = weights[name] * (np.arange(32) < 24)[:, None]
        elif [axis.dimension for axis in weight_axes] == ["", "width"]:  # the table
            weights[name] = weights[name] * (np.arange(32) < 24)
    model = model.replace(weights=weights)
    small = structure.apply(model, Structure(width=0.25, **MEASURE), data_of(model))  # type: ignore[arg-type]
    ids = TRAIN[0][None, :12]
    np.testing.assert_allclose(reference.logits(small, ids), reference.logits(model, ids), rtol=1e-3, atol=1e-3)  # epsilon's share


# --- bad input ----------------------------------------------------------------------------------------------------------------------


def test_measuring_without_text_is_refused() -> None:
    with pytest.raises(CorpusError, match="no corpus"):
        structure.apply(fresh(LSTM), Structure(units=0.3), None)


def test_a_share_of_what_a_model_has_not_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"takes nothing out.*heads = 0.3"):
        structure.apply(fresh(LSTM), Structure(heads=0.3, **MEASURE), data_of(fresh(LSTM)))  # type: ignore[arg-type]


def test_sinusoidal_positions_keep_their_columns() -> None:
    spec = dataclasses.replace(LLAMA, position="sinusoidal")
    with pytest.raises(UnsupportedModelError, match="sinusoidal"):
        structure.apply(fresh(spec), Structure(width=0.3), data_of(fresh(spec)))
