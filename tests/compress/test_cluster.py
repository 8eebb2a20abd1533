"""Clustering: few different bytes in every matrix of the file, rows that keep their size, and training that pays."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from trained_models import FAMILIES, RETRAIN, SPECS, Family, data_of, perplexity, shipped, trained

from edgelm.compress import cluster, constrained, fit, kmeans, qat
from edgelm.compress.codebook import codebook_grids
from edgelm.errors import RecipeError, UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.models import keras_model
from edgelm.recipe_steps import CentroidStart, Cluster, Qat
from edgelm.recipe_training import NO_TRAINING
from edgelm.spec import Encoding, weight_shapes

FEW = 4
"""Clusters so few that a tiny model suffers."""
INT8 = Encoding.INT8


def _normal(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    weight=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-4, 4, width=32)),
    clusters=st.integers(2, 255),
    preserve=st.booleans(),
)
def test_weights_are_few_codes_times_row_scales(weight: np.ndarray, clusters: int, preserve: bool) -> None:
    found = kmeans.cluster(weight, clusters, preserve_sparsity=preserve)
    assert len(found.codebook) <= clusters
    assert np.abs(found.codebook.astype(int)).max() <= kmeans.LARGEST_CODE
    assert (found.scales > 0).all()
    codes = np.rint(found.weights / found.scales)
    assert set(np.unique(codes)) <= {*found.codebook.astype(float), 0.0}
    assert np.array_equal((codes * found.scales).astype(np.float32), found.weights)
    if preserve:
        assert not found.weights[weight == 0].any()


@pytest.mark.parametrize("start", ["kmeans++", "density", "linear"])
def test_sixteen_clusters_of_normal_weights_reach_lloyds_optimum(start: CentroidStart) -> None:
    weight = _normal(64, 512)
    error = np.square(kmeans.cluster(weight, 16, start).weights - weight).mean()
    assert error < 0.0112  # the best 16 levels for a normal distribution leave 0.00950 (Max 1960); a local optimum a little more


def test_rows_of_other_sizes_have_the_same_codes() -> None:
    weight = _normal(8, 64)
    sizes = np.geomspace(1e-3, 10, 8, dtype=np.float32)[:, None]
    plain, scaled = kmeans.cluster(np.tile(weight[:1], (8, 1)), 16), kmeans.cluster(weight[:1] * sizes, 16)
    assert np.array_equal(np.rint(plain.weights / plain.scales), np.rint(scaled.weights / scaled.scales))


def test_few_values_are_kept_as_they_are() -> None:
    weight = np.array([[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]], np.float32)
    assert np.allclose(kmeans.cluster(weight, 16).weights, weight, atol=0.01)


def test_nan_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="NaN"):
        kmeans.cluster(np.array([[1.0, np.nan]], np.float32), 4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_the_file_has_few_different_bytes(family: Family) -> None:
    model = trained(family)
    result = cluster.apply(model, Cluster(clusters=16, train=NO_TRAINING), None)
    stored = shipped(result)
    assert stored
    assert {matrix.dtype for matrix in stored.values()} == {"int8"}
    for name, matrix in stored.items():
        assert len(np.unique(matrix.codes)) <= 16, name
        assert np.array_equal(matrix.codes, _codes(result, name)), name
    assert perplexity(result) < 1.5 * perplexity(model)


@pytest.mark.slow
def test_sixteen_clusters_compress() -> None:
    model = trained("lstm")
    clustered = shipped(cluster.apply(model, Cluster(clusters=16, train=NO_TRAINING), None))
    plain = shipped(model.replace(encodings={name: INT8 for name, weight in model.weights.items() if weight.ndim == 2}))
    sizes = [sum(len(zlib.compress(matrix.codes.tobytes(), 9)) for matrix in stored.values()) for stored in (clustered, plain)]
    assert sizes[0] < 0.65 * sizes[1]  # 4 bits of 7


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_trained_clusters_beat_clustering_at_once(family: Family) -> None:
    model = trained(family)
    at_once = cluster.apply(model, Cluster(clusters=FEW, train=NO_TRAINING), None)
    learned = cluster.apply(model, Cluster(clusters=FEW, train=RETRAIN), data_of(model))
    assert perplexity(learned) < perplexity(at_once)
    for name, matrix in shipped(learned).items():
        assert len(np.unique(matrix.codes)) <= FEW, name
        assert np.array_equal(matrix.codes, _codes(learned, name)), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_and_clusters_survive_training(family: Family) -> None:
    pruned = _half_zero(trained(family))
    step = Cluster(clusters=FEW, preserve_sparsity=True, train=RETRAIN)
    stored = shipped(cluster.apply(pruned, step, data_of(pruned)))
    for name, matrix in stored.items():
        zeros = np.concatenate([pruned.float32(part) for part in _parts(name)]) == 0
        assert not matrix.codes[zeros].any(), name
        assert len(np.unique(matrix.codes)) <= FEW, name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_clustered_model_is_trained_further_within_its_clusters(family: Family) -> None:
    model = trained(family)
    clustered = cluster.apply(model, Cluster(clusters=FEW, train=NO_TRAINING), None)
    grids = codebook_grids(clustered, list(clustered.scales))
    assert set(grids) == set(clustered.scales)
    keras = constrained.constrain(clustered, grids)
    assert np.isclose(fit.perplexity(keras, data_of(model).valid), _perplexity_of_valid(clustered), rtol=1e-4)  # it starts where it was
    fit.fit(keras, RETRAIN, data_of(model))
    weights, scales = constrained.release(keras, clustered)
    result = clustered.replace(weights=weights, scales=scales)
    assert perplexity(result) < perplexity(clustered)
    _require_few_codes(result)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compensation_loses_less_with_the_same_values(family: Family) -> None:
    model = trained(family)
    plain = Cluster(clusters=FEW, train=NO_TRAINING)
    nearest, compensated = (cluster.apply(model, dataclasses.replace(plain, compensate=how), data_of(model)) for how in ("none", "gptq"))
    assert perplexity(compensated) < perplexity(nearest)
    _require_few_codes(compensated)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_values_learn_while_every_weight_keeps_its_own(family: Family) -> None:
    model = trained(family)
    clustered = cluster.apply(model, Cluster(clusters=FEW, train=NO_TRAINING), None)
    step = Qat(INT8, INT8, INT8, preserve=("clusters",), learn="scales", train=RETRAIN)
    learned = qat.apply(clustered, step, data_of(model))
    assert perplexity(learned) < perplexity(clustered)
    for name in learned.scales:
        ranks = [np.unique(_codes(kept, name), return_inverse=True)[1] for kept in (clustered, learned)]
        assert np.array_equal(*ranks), name


def test_matrices_without_row_scales_have_no_clusters() -> None:
    model = _fresh()
    assert codebook_grids(model, list(model.weights)) == {}


def test_skipped_matrices_stay_as_they_are() -> None:
    model = _fresh()
    result = cluster.apply(model, Cluster(skip=("embedding.*",), train=NO_TRAINING), None)
    assert result.weights["embedding.weight"] is model.weights["embedding.weight"]
    assert "embedding.weight" not in result.encodings
    assert "embedding.weight" not in result.scales


def test_nothing_to_cluster_and_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(RecipeError, match="compensate = gptq looks at text"):
        cluster.apply(_fresh(), Cluster(compensate="gptq", train=NO_TRAINING), None)
    model = _fresh()
    with pytest.raises(RecipeError, match="skipped"):
        cluster.apply(model, Cluster(skip=("*",), train=NO_TRAINING), None)
    with pytest.raises(RecipeError, match="no text"):
        cluster.apply(model, Cluster(), None)


def _require_few_codes(model: LanguageModel) -> None:
    """In the file."""
    for name, matrix in shipped(model).items():
        assert len(np.unique(matrix.codes)) <= FEW, name


def _fresh() -> LanguageModel:
    shapes = weight_shapes(SPECS["lstm"])
    return LanguageModel(SPECS["lstm"], {name: np.resize(_normal(8, 64), shape) for name, shape in shapes.items()})


def _perplexity_of_valid(model: LanguageModel) -> float:
    return fit.perplexity(keras_model.from_language_model(model), data_of(model).valid)


def _parts(name: str) -> list[str]:
    """The canonical weights of a tensor of the file."""
    return name.split("+")


def _codes(model: LanguageModel, name: str) -> np.ndarray:
    """What the rows of a tensor of the file should be; the file may put the score scale of q into its row scales."""
    return np.concatenate([np.rint(model.float32(part) / model.scales[part]) for part in _parts(name)])


def _half_zero(model: LanguageModel) -> LanguageModel:
    weights = {name: np.where(np.abs(w) > np.median(np.abs(w)), w, 0) if w.ndim == 2 else w for name, w in model.weights.items()}
    return model.replace(weights=weights)
