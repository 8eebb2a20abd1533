"""Reads Keras files of every layout as a graph, without Keras; and Keras' own files against Keras' own arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade_keras import UNITS, VOCAB, arrays, config, layer, weights_h5, write_h5, write_keras, write_version1

from edgelm.errors import SourceError, UnsafeModelError, UnsupportedModelError
from edgelm_converters import keras as importer
from edgelm_converters.keras_files import read_h5, read_keras
from edgelm_converters.keras_graph import KerasGraph, LayerNode


def nodes(graph: KerasGraph) -> dict[str, LayerNode]:
    return {node.name: node for node in graph.nodes}


def functional(layers: list[dict[str, Any]], outputs: list[Any], inputs: list[Any] | None = None) -> dict[str, Any]:
    inner = {"name": "lm", "layers": layers, "input_layers": inputs or [["ids", 0, 0]], "output_layers": outputs}
    return {"class_name": "Functional", "config": inner, "module": "keras", "registered_name": None}


def test_layers_get_their_arrays_by_name(tmp_path: Path) -> None:
    graph = read_keras(write_keras(tmp_path / "lm.keras"))
    held = arrays()
    assert [(node.name, node.kind, node.inputs) for node in graph.nodes] == [
        ("ids", "InputLayer", ()),
        ("emb", "Embedding", ("ids",)),
        ("lstm", "LSTM", ("emb",)),
        ("head", "Dense", ("lstm",)),
    ]
    assert (graph.outputs, graph.keras_version, graph.format) == (("head",), "3.15.1", "keras")
    for name, array in zip(("kernel", "recurrent_kernel", "bias"), held["lstm"], strict=True):
        np.testing.assert_array_equal(nodes(graph)["lstm"].weights[name], array)
    np.testing.assert_array_equal(nodes(graph)["head"].weights["bias"], held["dense"][1])


def test_tensorflow_2_12_layout_skips_numbers(tmp_path: Path) -> None:
    weights = weights_h5("_layer_checkpoint_dependencies", "dense_2")  # the second number of a layer with weights is never written
    graph = read_keras(write_keras(tmp_path / "lm.keras", weights=weights))
    np.testing.assert_array_equal(nodes(graph)["head"].weights["kernel"], arrays()["dense"][0])


def test_a_layer_called_twice_is_two_nodes_with_the_same_arrays(tmp_path: Path) -> None:
    layers = [
        {**layer("InputLayer", "ids", batch_input_shape=[None, None]), "name": "ids", "inbound_nodes": []},
        {**layer("Embedding", "emb", input_dim=VOCAB, output_dim=VOCAB), "name": "emb", "inbound_nodes": [[["ids", 0, 0, {}]]]},
        {**layer("Dense", "twice", units=VOCAB), "name": "twice", "inbound_nodes": [[["emb", 0, 0, {}]], [["twice", 0, 0, {}]]]},
    ]
    for entry in layers:
        entry.pop("module")
    held = {"emb": [np.eye(VOCAB, dtype=np.float32)], "twice": [np.ones((VOCAB, VOCAB), np.float32), np.ones(VOCAB, np.float32)]}
    graph = read_h5(write_h5(tmp_path / "lm.h5", functional(layers, [["twice", 1, 0]]), "2.11.0", held))
    found = nodes(graph)
    assert graph.outputs == ("twice#1",)
    assert found["twice#1"].inputs == ("twice",)
    assert found["twice"].weights["kernel"] is found["twice#1"].weights["kernel"]


def test_nested_models_are_flattened_and_their_call_numbers_mended(tmp_path: Path) -> None:
    inner = {
        "class_name": "Sequential",
        "config": {"name": "ffn", "layers": [layer("Dense", "a", units=5), layer("Dense", "b", units=VOCAB)]},
    }
    layers = [
        {**layer("InputLayer", "ids", batch_shape=[None, None]), "name": "ids", "inbound_nodes": []},
        {**layer("Embedding", "emb", input_dim=VOCAB, output_dim=VOCAB), "name": "emb", "inbound_nodes": [[["ids", 0, 0, {}]]]},
        {**inner, "name": "ffn", "inbound_nodes": [[["emb", 0, 0, {}]]]},
        {**layer("Add", "add"), "name": "add", "inbound_nodes": [[["emb", 0, 0, {}], ["ffn", 1, 0, {}]]]},  # Keras 2 counts from 1 here
    ]
    random = np.random.default_rng(0)
    row = [random.normal(size=shape).astype(np.float32) for shape in ((VOCAB, 5), (5,), (5, VOCAB), (VOCAB,))]
    held = {"emb": [np.eye(VOCAB, dtype=np.float32)], "ffn": row}
    found = nodes(read_h5(write_h5(tmp_path / "lm.h5", functional(layers, [["add", 0, 0]]), "2.19.0", held)))
    assert found["add"].inputs == ("emb", "ffn/b")
    assert found["ffn/a"].inputs == ("emb",)
    np.testing.assert_array_equal(found["ffn/b"].weights["kernel"], row[2])


def test_frozen_layers_come_last_in_a_nested_model(tmp_path: Path) -> None:
    frozen, free = layer("Dense", "frozen", units=5, trainable=False), layer("Dense", "free", units=VOCAB)
    model = {"class_name": "Sequential", "config": {"name": "ffn", "layers": [frozen, free]}}
    layers = [
        {**layer("InputLayer", "ids", batch_shape=[None, VOCAB]), "name": "ids", "inbound_nodes": []},
        {**model, "name": "ffn", "inbound_nodes": [[["ids", 0, 0, {}]]]},
    ]
    row = [np.zeros(shape, np.float32) for shape in ((5, VOCAB), (VOCAB,), (VOCAB, 5), (5,))]  # trainable arrays first
    found = nodes(read_h5(write_h5(tmp_path / "lm.h5", functional(layers, [["ffn", 1, 0]]), "2.19.0", {"ffn": row})))
    assert found["ffn/frozen"].weights["kernel"].shape == (VOCAB, 5)
    assert found["ffn/free"].weights["kernel"].shape == (5, VOCAB)


def test_constants_and_keywords_of_a_call(tmp_path: Path) -> None:
    def tensor(name: str) -> dict[str, Any]:
        return {"class_name": "__keras_tensor__", "config": {"shape": [None, None], "dtype": "float32", "keras_history": [name, 0, 0]}}

    scale = {"module": "keras.src.ops.numpy", "class_name": "Multiply", "config": {"name": "scale"}, "registered_name": "Multiply"}
    call = {"args": [tensor("emb"), 1.5], "kwargs": {"mask": tensor("ids")}}
    layers = [
        {**layer("InputLayer", "ids", batch_shape=[None, None]), "name": "ids", "inbound_nodes": []},
        {**layer("Embedding", "emb", input_dim=7, output_dim=3), "name": "emb", "inbound_nodes": [{"args": [tensor("ids")], "kwargs": {}}]},
        {**scale, "name": "scale", "inbound_nodes": [call]},
    ]
    found = nodes(read_keras(write_keras(tmp_path / "lm.keras", functional(layers, ["scale", 0, 0], ["ids", 0, 0]))))
    assert found["scale"].inputs == ("emb",)
    assert found["scale"].arguments == {"1": 1.5, "mask": {"tensor": "ids"}}


def test_version_1_gates_are_merged_in_keras_2_order(tmp_path: Path) -> None:
    path, held = write_version1(tmp_path / "char.h5")
    graph = read_h5(path)
    found, gates = nodes(graph), held["lstm_1"]
    assert (graph.nodes[0].name, graph.nodes[0].kind) == ("lstm_1_input", "InputLayer")
    assert (found["lstm_1"].config["units"], found["lstm_1"].config["recurrent_activation"]) == (UNITS, "hard_sigmoid")
    assert found["dense_1"].wrapped == ("TimeDistributed",)
    stored = {"i": gates[0], "c": gates[3], "f": gates[6], "o": gates[9]}
    np.testing.assert_array_equal(found["lstm_1"].weights["kernel"], np.concatenate([stored[gate] for gate in "ifco"], axis=1))


@pytest.mark.slow
def test_version_1_model_is_proven_by_tf_keras(tmp_path: Path) -> None:
    path, _ = write_version1(tmp_path / "char.h5")
    model = importer.read(path).model
    assert model.origin is not None
    assert model.origin.way == "lifted", model.origin.why
    assert model.origin.framework.startswith("tf_keras")


@pytest.mark.slow
def test_cudnn_layers_are_proven_by_tf_keras(tmp_path: Path) -> None:
    layers = [
        {"class_name": "Embedding", "config": {"name": "emb", "input_dim": VOCAB, "output_dim": 3, "batch_input_shape": [None, 6]}},
        {"class_name": "CuDNNLSTM", "config": {"name": "cudnn", "units": UNITS, "return_sequences": True, "unit_forget_bias": True}},
        {"class_name": "Dense", "config": {"name": "head", "units": VOCAB, "activation": "softmax"}},
    ]
    held = arrays()
    kernel, recurrent, bias = held["lstm"]
    row = {"emb": held["embedding"], "cudnn": [kernel, recurrent, np.concatenate([bias, -0.5 * bias])], "head": held["dense"]}
    path = write_h5(tmp_path / "cudnn.h5", {"class_name": "Sequential", "config": {"name": "lm", "layers": layers}}, "2.2.4", row)
    model = importer.read(path).model
    assert model.origin is not None
    assert model.origin.way == "lifted", model.origin.why


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (layer("Lambda", "twice", function={"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}), "twice"),
        ({**layer("Evil", "own"), "module": "os.path"}, "own"),
        ({**layer("get_file", "fetch", origin="http://x"), "module": "keras.utils"}, "fetch"),
        ({**layer("Block", "block"), "module": None, "registered_name": "mine>Block"}, "block"),
        (layer("Dense", "d", units=3, activation={"class_name": "function", "config": "my_gelu", "module": "builtins"}), "d"),
        ({**layer("TFOpLambda", "write", function="io.write_file"), "module": None}, "write"),
        (layer("TorchModuleWrapper", "torch"), "torch"),
    ],
)
def test_whatever_would_run_code_is_refused_by_name(tmp_path: Path, entry: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsafeModelError, match=f"layer '{named}'") as caught:
        read_keras(write_keras(tmp_path / "lm.keras", config(entry)))
    assert "--trust" in caught.value.fix


def test_a_compile_config_with_a_custom_loss_does_not_matter(tmp_path: Path) -> None:
    model = {**config(), "compile_config": {"loss": {"module": "mine", "class_name": "MyLoss", "config": {}}}}
    assert read_keras(write_keras(tmp_path / "lm.keras", model)).outputs == ("head",)


def test_wrong_number_of_arrays_names_the_layer(tmp_path: Path) -> None:
    model = json.loads(json.dumps(config()))
    model["config"]["layers"][-1]["config"]["use_bias"] = False
    with pytest.raises(SourceError, match=r"layer 'head' \(Dense\) holds 2 arrays, its config wants kernel"):
        read_keras(write_keras(tmp_path / "lm.keras", model))


def test_a_classifier_is_no_language_model(tmp_path: Path) -> None:
    model = json.loads(json.dumps(config()))
    model["config"]["layers"].pop(1)
    with pytest.raises(UnsupportedModelError, match="no language model: no Embedding"):
        importer.read(write_keras(tmp_path / "lm.keras", model))


@pytest.mark.parametrize("size", [-1, 0, 1, True, 10**30])
def test_a_vocabulary_of_impossible_size_is_none(tmp_path: Path, size: int) -> None:
    model = json.loads(json.dumps(config()))
    model["config"]["layers"][1] = layer("CategoryEncoding", "one_hot", num_tokens=size)
    with pytest.raises(UnsupportedModelError, match="no language model: no Embedding"):
        importer.read(write_keras(tmp_path / "lm.keras", model))


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model with nested, wrapped, shared and stacked layers, and the folder with `lm.keras` and `lm.h5`."""
    keras = pytest.importorskip(request.param)
    kl = keras.layers
    ids = kl.Input((None,), dtype="int32", name="ids")
    x = kl.Embedding(11, 8)(ids)
    x = x + kl.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = keras.Sequential([kl.Dense(16), kl.Dense(8)], name="ffn")(kl.LayerNormalization()(x))
    x = kl.GRU(8, return_sequences=True)(kl.Bidirectional(kl.LSTM(4, return_sequences=True))(x))
    x = kl.RNN([kl.LSTMCell(8), kl.LSTMCell(8)], return_sequences=True)(x)
    model = keras.Model(ids, kl.TimeDistributed(kl.Dense(11))(x))
    random = np.random.default_rng(1)
    model.set_weights([random.normal(size=array.shape).astype(np.float32) for array in model.get_weights()])
    folder = tmp_path_factory.mktemp(request.param)
    model.save(folder / "lm.keras")
    model.save(folder / "lm.h5")
    return model, folder


@pytest.mark.slow
def test_every_array_of_a_keras_file_finds_its_layer(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    graphs = [read_keras(folder / "lm.keras")]
    if type(model).__module__.startswith("tf_keras"):  # Keras 3 cannot load its own .h5 files when they hold operations, such as x + y
        graphs.append(read_h5(folder / "lm.h5"))
    for graph in graphs:
        found = [array for node in graph.nodes for array in node.weights.values()]
        for array, other in zip(found, model.get_weights(), strict=True):  # topological order is the order of the layers here
            np.testing.assert_array_equal(array, other)
        assert [node.kind for node in graph.nodes if node.name.startswith("ffn/")] == ["Dense", "Dense"]


@pytest.mark.slow
def test_earlier_positions_that_see_later_tokens_are_refused(saved: tuple[Any, Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="Bidirectional"):
        importer.read(saved[1] / "lm.keras")
