"""Recurrent Keras models: what is lifted computes the same, what is no causal language model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_lifts import MAX_DIFFERENCE, VOCAB, Build, difference, lifted, randomise

from edgelm.errors import UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.spec import DenseLayer, RecurrentSpec, weight_shapes
from edgelm_converters.keras_graph import KerasGraph, LayerNode
from edgelm_converters.keras_lift import lift
from edgelm_converters.lift import NotLiftable

pytestmark = pytest.mark.slow  # importing TensorFlow alone takes four seconds


@pytest.fixture(scope="session")
def frameworks() -> dict[str, Any]:
    keras2, keras3 = pytest.importorskip("tf_keras"), pytest.importorskip("keras")
    return {"tf_keras": keras2, "keras": keras3}


def sequential(*layers: Any) -> Build:
    """A model of an Embedding and layers given as functions of the Keras module's `layers`."""
    return lambda keras: keras.Sequential(
        [keras.Input((None,)), keras.layers.Embedding(VOCAB, 5), *(layer(keras.layers) for layer in layers)]
    )


def dense(nn: Any) -> Any:
    return nn.Dense(VOCAB)


def lstm(units: int = 7, **options: Any) -> Any:
    return lambda nn: nn.LSTM(units, **{"return_sequences": True, **options})


def gru(units: int = 7, **options: Any) -> Any:
    return lambda nn: nn.GRU(units, **{"return_sequences": True, **options})


def rnn(units: int = 7, **options: Any) -> Any:
    return lambda nn: nn.SimpleRNN(units, **{"return_sequences": True, **options})


def stacked_cells(nn: Any) -> Any:
    return nn.RNN([nn.LSTMCell(6), nn.LSTMCell(7)], return_sequences=True)


def one_hot_lstm(keras: Any) -> Any:
    return keras.Sequential(
        [keras.Input((None, VOCAB)), keras.layers.LSTM(7, return_sequences=True), keras.layers.Dense(VOCAB, activation="softmax")]
    )


def one_hot_dense_gru(keras: Any) -> Any:
    nn = keras.layers
    return keras.Sequential([keras.Input((None, VOCAB)), nn.Dense(4, activation="tanh"), nn.GRU(7, return_sequences=True), dense(nn)])


def functional_with_states(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    x, *_ = keras.layers.LSTM(7, return_sequences=True, return_state=True)(keras.layers.Embedding(VOCAB, 5)(ids))
    x = keras.layers.TimeDistributed(keras.layers.Dense(9, activation="relu"))(x)
    return keras.Model(ids, keras.layers.Softmax()(keras.layers.TimeDistributed(keras.layers.Dense(VOCAB))(x)))


def last_by_slice(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.GRU(7, return_sequences=True)(keras.layers.Embedding(VOCAB, 5)(ids))
    return keras.Model(ids, keras.layers.Dense(VOCAB)(x[:, -1, :]))


def one_hot_operation(keras: Any) -> Any:
    import tensorflow as tf

    ids = keras.Input((None,), dtype="int32")
    vectors = tf.one_hot(ids, VOCAB) if keras.__name__ == "tf_keras" else keras.ops.one_hot(ids, VOCAB)
    return keras.Model(ids, keras.layers.Dense(VOCAB)(keras.layers.SimpleRNN(7, return_sequences=True)(vectors)))


def tied_by_product(keras: Any) -> Any:
    """The transposed table, as a constant of a matrix product."""
    import tensorflow as tf

    ids = keras.Input((None,), dtype="int32")
    table = keras.layers.Embedding(VOCAB, 5)
    x = keras.layers.LSTM(5, return_sequences=True)(table(ids))
    randomise(table)
    matrix = np.asarray(table.embeddings).T
    return keras.Model(ids, tf.matmul(x, tf.constant(matrix)) if keras.__name__ == "tf_keras" else keras.ops.matmul(x, matrix))


def tied_reversible(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(VOCAB, 5)
    x = keras.layers.Dense(5)(keras.layers.LSTM(7, return_sequences=True)(table(ids)))
    return keras.Model(ids, table(x, reverse=True))


BOTH = {
    "lstm": sequential(lstm(), dense),
    "lstm softmax": sequential(lstm(), lambda nn: nn.Dense(VOCAB, activation="softmax")),
    "lstm deep": sequential(lstm(7), lstm(6), lstm(5), dense),
    "lstm relu sigmoid": sequential(lstm(activation="relu", recurrent_activation="sigmoid"), dense),
    "lstm hard sigmoid": sequential(lstm(recurrent_activation="hard_sigmoid"), dense),
    "lstm no bias": sequential(lstm(use_bias=False), lambda nn: nn.Dense(VOCAB, use_bias=False)),
    "lstm no forget bias, dropout": sequential(lstm(unit_forget_bias=False, dropout=0.2, recurrent_dropout=0.2), dense),
    "lstm last": sequential(lstm(), lstm(6, return_sequences=False), dense),
    "gru": sequential(gru(), dense),
    "gru reset before": sequential(gru(reset_after=False), gru(6, reset_after=False), dense),
    "gru reset before, no bias": sequential(gru(reset_after=False, use_bias=False), dense),
    "gru no bias": sequential(gru(use_bias=False), dense),
    "gru hard sigmoid": sequential(gru(recurrent_activation="hard_sigmoid"), dense),
    "gru reset before, hard sigmoid": sequential(gru(reset_after=False, recurrent_activation="hard_sigmoid"), dense),
    "rnn": sequential(rnn(), dense),
    "rnn relu deep": sequential(rnn(activation="relu"), rnn(5, activation="relu"), dense),
    "cells": sequential(lambda nn: nn.RNN(nn.GRUCell(7), return_sequences=True), dense),
    "stacked cells": sequential(stacked_cells, dense),
    "noise": sequential(
        lambda nn: nn.SpatialDropout1D(0.3),
        lstm(),
        lambda nn: nn.GaussianNoise(0.1),
        lambda nn: nn.Dropout(0.5),
        dense,
        lambda nn: nn.Softmax(),
    ),
    "hidden": sequential(gru(), lambda nn: nn.Dense(9, activation="silu"), lambda nn: nn.Dense(4), dense),
    "hidden hard sigmoid": sequential(gru(), lambda nn: nn.Dense(9, activation="hard_sigmoid"), dense),
    "hard sigmoid layers": sequential(
        *(lambda nn: nn.Activation("hard_sigmoid"), gru(), lambda nn: nn.Dense(9), lambda nn: nn.Activation("hard_sigmoid"), dense),
    ),
    "hidden gelu": sequential(gru(), lambda nn: nn.Dense(9, activation="gelu"), lambda nn: nn.Dense(8), lambda nn: nn.ReLU(), dense),
    "batch norm": sequential(
        *(lambda nn: nn.BatchNormalization(), lstm(), lambda nn: nn.BatchNormalization(), lstm(6), lambda nn: nn.BatchNormalization()),
        *(
            lambda nn: nn.Dense(8),
            lambda nn: nn.BatchNormalization(),
            lambda nn: nn.Activation("relu"),
            lambda nn: nn.BatchNormalization(),
            dense,
        ),
    ),
    "projection up": sequential(lambda nn: nn.Dense(8), lstm(), dense),
    "projection down": sequential(lambda nn: nn.Dense(3), lstm(), dense),
    "activated prefix": sequential(lambda nn: nn.Dense(8, activation="tanh"), lambda nn: nn.Dense(6), gru(), dense),
    "dense between": sequential(lstm(), lambda nn: nn.Dense(4), lambda nn: nn.Dense(3), lstm(6), dense),
    "time distributed": sequential(lstm(), lambda nn: nn.TimeDistributed(nn.Dense(VOCAB)), lambda nn: nn.Activation("softmax")),
    "one hot": one_hot_lstm,
    "one hot dense": one_hot_dense_gru,
    "one hot operation": one_hot_operation,
    "states": functional_with_states,
    "last by slice": last_by_slice,
    "tied product": tied_by_product,
}
CASES = [
    *[(name, library, "keras") for name in BOTH for library in ("tf_keras", "keras")],
    *[(name, "tf_keras", "h5") for name in ("lstm", "gru", "stacked cells", "batch norm", "last by slice", "one hot operation")],
    *[(name, "tf_keras", "saved-model") for name in ("gru reset before", "hidden")],
    ("lstm", "keras", "h5"),
]


@pytest.mark.parametrize(("name", "library", "format"), CASES)
def test_lifted_model_computes_the_same(name: str, library: str, format: str, frameworks: dict[str, Any], tmp_path: Path) -> None:
    model = BOTH[name](frameworks[library])
    if name != "tied product":
        randomise(model)
    found = lifted(model, tmp_path, format)
    assert difference(model, found) < MAX_DIFFERENCE


def test_mask_zero_is_noted_and_equal_without_the_masked_token(frameworks: dict[str, Any], tmp_path: Path) -> None:
    keras = frameworks["tf_keras"]
    model = keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(VOCAB, 5, mask_zero=True),
            keras.layers.LSTM(7, return_sequences=True),
            dense(keras.layers),
        ]
    )
    randomise(model)
    found = lifted(model, tmp_path)
    assert "masks token 0" in found.notes[0]
    assert difference(model, found, low=1) < MAX_DIFFERENCE


@pytest.mark.parametrize(
    ("build", "spec"),
    [
        (
            sequential(lstm(7), lstm(6, return_sequences=False), lambda nn: nn.Dense(4, activation="relu", use_bias=False), dense),
            RecurrentSpec(VOCAB, 5, "lstm", (7, 6), hidden=(DenseLayer(4, "relu", bias=False),)),
        ),
        (one_hot_lstm, RecurrentSpec(VOCAB, 28, "lstm", (7,), gate_embedding=True)),
        (sequential(lambda nn: nn.Dense(8), gru(reset_after=False), dense), None),
        (tied_by_product, RecurrentSpec(VOCAB, 5, "lstm", (5,), tied_head=True, head_bias=False)),
    ],
)
def test_spec(build: Build, spec: RecurrentSpec | None, frameworks: dict[str, Any], tmp_path: Path) -> None:
    found = lifted(build(frameworks["tf_keras"]), tmp_path)
    assert found.spec == (spec or RecurrentSpec(VOCAB, 5, "gru", (7,), reset_after=False, embedding_projection=8))


def test_one_hot_layer(frameworks: dict[str, Any], tmp_path: Path) -> None:
    keras = frameworks["keras"]
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.LSTM(7, return_sequences=True)(keras.layers.CategoryEncoding(VOCAB, output_mode="one_hot")(ids))
    model = keras.Model(ids, dense(keras.layers)(x))
    randomise(model)
    found = lifted(model, tmp_path)
    assert found.spec.gate_embedding
    assert difference(model, found) < MAX_DIFFERENCE


def test_tied_reversible_embedding(frameworks: dict[str, Any], tmp_path: Path) -> None:
    model = tied_reversible(frameworks["keras"])
    randomise(model)
    found = lifted(model, tmp_path)
    assert found.spec.tied_head
    assert difference(model, found) < MAX_DIFFERENCE


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_cudnn_layout_is_read_as_tf_keras_reads_it(cell: str, frameworks: dict[str, Any]) -> None:
    """`preprocess_weights_for_loading` is tf_keras' own way from a CuDNN file to an LSTM or GRU layer."""
    from tf_keras.src.saving.legacy.hdf5_format import preprocess_weights_for_loading

    keras, random, units = frameworks["tf_keras"], np.random.default_rng(0), 4
    gates = {"LSTM": 4, "GRU": 3}[cell]
    arrays = [random.normal(size=shape).astype(np.float32) for shape in ((5, gates * units), (units, gates * units), (2 * gates * units,))]
    model = sequential({"LSTM": lstm, "GRU": gru}[cell](units), dense)(keras)
    randomise(model)
    layer = model.layers[1]
    layer.set_weights(preprocess_weights_for_loading(layer, arrays, original_keras_version="2"))
    config = {"units": units, "return_sequences": True, "name": "rnn"}
    graph = KerasGraph(
        (
            LayerNode("ids", "InputLayer", {"batch_shape": [None, None]}, (), {}, {}, ()),
            LayerNode("table", "Embedding", {}, ("ids",), {}, {"embeddings": model.layers[0].get_weights()[0]}, ()),
            LayerNode(
                "rnn", f"CuDNN{cell}", config, ("table",), {}, dict(zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True)), ()
            ),
            LayerNode("head", "Dense", {}, ("rnn",), {}, dict(zip(("kernel", "bias"), model.layers[2].get_weights(), strict=True)), ()),
        ),
        ("head",),
        "2.2.4",
        "keras-h5",
    )
    assert difference(model, lift(graph)) < MAX_DIFFERENCE


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "cifg"])
def test_own_models_come_back_as_they_were(cell: Any, frameworks: dict[str, Any], tmp_path: Path) -> None:
    from edgelm.models.keras_model import from_language_model

    spec = RecurrentSpec(VOCAB, 6, cell, (8, 6), hidden=(DenseLayer(6, "linear"),), tied_head=True)
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    found = lifted(from_language_model(LanguageModel(spec, weights)), tmp_path)
    assert found.spec == spec
    assert all(np.array_equal(found.weights[name], weight) for name, weight in weights.items())


REFUSED = {
    "bidirectional": (sequential(lambda nn: nn.Bidirectional(nn.LSTM(4, return_sequences=True)), dense), "reads the tokens that are to be"),
    "backwards": (sequential(lstm(go_backwards=True), dense), "runs backwards"),
    "pooling": (sequential(lstm(), lambda nn: nn.GlobalAveragePooling1D(), dense), "pools over time"),
    "classifier": (sequential(lstm(return_sequences=False), lambda nn: nn.Dense(3, activation="softmax")), "11 tokens but has 3 outputs"),
    "yes or no": (sequential(lstm(return_sequences=False), lambda nn: nn.Dense(1, activation="sigmoid")), "a yes/no classifier"),
    "sigmoid": (sequential(lstm(), lambda nn: nn.Dense(VOCAB, activation="sigmoid")), "no distribution over a vocabulary"),
    "no head": (sequential(lstm(VOCAB)), "no dense layer that scores"),
    "series": (
        lambda keras: keras.Sequential([keras.Input((None, 1)), keras.layers.LSTM(4), keras.layers.Dense(1)]),
        "reads the model's input",
    ),
    "series of several": (
        lambda keras: keras.Sequential([keras.Input((None, 5)), keras.layers.LSTM(4), keras.layers.Dense(1)]),
        "a regression",
    ),
    "images": (
        lambda keras: keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)]),
        "reads images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_for_good(name: str, frameworks: dict[str, Any], tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        lifted(build(frameworks["tf_keras"]), tmp_path)
    assert caught.value.allowed


def initial_states(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCAB, 5)(ids)
    _, *states = keras.layers.LSTM(7, return_state=True)(x)
    return keras.Model(ids, keras.layers.Dense(VOCAB)(keras.layers.LSTM(7, return_sequences=True)(x, initial_state=states)))


def skip_connection(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.LSTM(5, return_sequences=True)(keras.layers.Embedding(VOCAB, 5)(ids))
    return keras.Model(ids, keras.layers.Dense(VOCAB)(keras.layers.Add()([x, keras.layers.LSTM(5, return_sequences=True)(x)])))


NOT_LIFTED = {
    "mixed": (sequential(lstm(), gru(), dense), "different kinds: lstm, gru"),
    "mixed activations": (sequential(rnn(activation="relu"), rnn(), dense), "different kinds"),
    "selu": (sequential(lstm(), lambda nn: nn.Dense(5, activation="selu"), dense), "'selu' is not among"),
    "layer norm": (sequential(lstm(), lambda nn: nn.LayerNormalization(), dense), "LayerNormalization"),
    "convolution": (sequential(lambda nn: nn.Conv1D(4, 3, padding="causal"), lstm(), dense), "Conv1D"),
    "activated between": (sequential(lstm(), lambda nn: nn.Dense(4, activation="tanh"), lstm(), dense), "a tanh layer between"),
    "no family": (sequential(lambda nn: nn.Conv1D(4, 3, padding="causal"), dense), "no recurrent layer and no"),
    "states given": (initial_states, "states"),
    "skip connection": (skip_connection, "reads 2 tensors"),
}


@pytest.mark.parametrize("name", NOT_LIFTED)
def test_goes_the_opaque_way(name: str, frameworks: dict[str, Any], tmp_path: Path) -> None:
    build, message = NOT_LIFTED[name]
    with pytest.raises(NotLiftable, match=message):
        lifted(build(frameworks["tf_keras"]), tmp_path)
