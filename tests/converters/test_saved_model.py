"""SavedModels: those of tf_keras give the same graph as their `.keras` file, others are opaque, those with file ops are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import SourceError, UnsafeModelError
from edgelm.model import LanguageModel, OpaqueGraph
from edgelm_converters import keras as importer
from edgelm_converters.keras_files import read_keras
from edgelm_converters.saved_model import check_safe_graph, read_saved_model

VOCAB = 11


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tf_keras model as `lm.keras`, as a SavedModel of Keras ("lm") and as one of TensorFlow ("raw")."""
    tf, keras = pytest.importorskip("tensorflow"), pytest.importorskip("tf_keras")
    kl = keras.layers
    ids = kl.Input((None,), dtype="int32", name="ids")
    x = kl.Embedding(VOCAB, 6)(ids)
    x = kl.LSTM(8, return_sequences=True)(x)
    x = keras.Sequential([kl.Dense(5, activation="relu"), kl.Dense(8)], name="ffn")(x)
    model = keras.Model(ids, kl.Dense(VOCAB, activation="softmax")(x))
    random = np.random.default_rng(2)
    model.set_weights([random.normal(size=array.shape).astype(np.float32) for array in model.get_weights()])
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder / "lm.keras")
    model.save(folder / "lm", save_format="tf")
    tf.saved_model.save(model, folder / "raw")
    return folder


@pytest.mark.slow
def test_the_graph_is_that_of_the_keras_file(saved: Path) -> None:
    graph, other = read_saved_model(saved / "lm"), read_keras(saved / "lm.keras")
    assert graph is not None
    assert (graph.format, graph.keras_version, graph.outputs) == ("saved-model", "2.19.0", other.outputs)
    for node, same in zip(graph.nodes, other.nodes, strict=True):
        assert (node.name, node.kind, node.inputs, node.arguments) == (same.name, same.kind, same.inputs, same.arguments)
        assert node.weights.keys() == same.weights.keys()
        for name in node.weights:
            np.testing.assert_array_equal(node.weights[name], same.weights[name])


@pytest.mark.slow
def test_with_metadata_it_is_lifted_and_proven(saved: Path) -> None:
    model = importer.read(saved / "lm").model
    assert isinstance(model, LanguageModel)
    assert model.origin is not None
    assert model.origin.proof is not None
    assert model.origin.proof.max_abs_difference < 1e-4  # log-probabilities of size 10 in float32, sums of 8 terms


@pytest.mark.slow
def test_without_metadata_it_is_opaque(saved: Path) -> None:
    assert read_saved_model(saved / "raw") is None
    imported = importer.read(saved / "raw", name="raw")
    assert isinstance(imported.model, OpaqueGraph)
    assert (imported.model.vocab_size, imported.model.probabilities, imported.model.last_only) == (VOCAB, True, False)
    assert imported.model.origin is not None
    assert "without Keras metadata" in imported.model.origin.why
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    logits = imported.source_logits(ids)
    assert logits.shape == (2, 5, VOCAB)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, atol=1e-5)  # float32 softmax


@pytest.mark.slow
def test_a_graph_that_writes_files_is_refused(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    class Writer(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
        def __call__(self, ids: Any) -> Any:
            tf.io.write_file(str(tmp_path / "written"), "x")
            return tf.one_hot(ids, VOCAB)

    tf.saved_model.save(Writer(), tmp_path / "writer")
    with pytest.raises(UnsafeModelError, match="WriteFile"):
        check_safe_graph(tmp_path / "writer")
    with pytest.raises(UnsafeModelError, match="WriteFile"):
        importer.read(tmp_path / "writer")
    assert not (tmp_path / "written").exists()


def test_a_folder_of_something_else_is_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"saved_model\.pb"):
        importer.read(tmp_path)
