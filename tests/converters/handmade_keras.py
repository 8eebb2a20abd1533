"""Keras files written by hand: no Keras is needed to test their reader."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VOCAB, WIDTH, UNITS = 7, 3, 4


def arrays() -> dict[str, list[np.ndarray]]:
    """Weights of Embedding -> LSTM -> Dense, in Keras' order."""
    random = np.random.default_rng(3)
    shapes = {
        "embedding": [(VOCAB, WIDTH)],
        "lstm": [(WIDTH, 4 * UNITS), (UNITS, 4 * UNITS), (4 * UNITS,)],
        "dense": [(UNITS, VOCAB), (VOCAB,)],
    }
    return {name: [random.normal(size=shape).astype(np.float32) for shape in each] for name, each in shapes.items()}


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def config(*more: dict[str, Any]) -> dict[str, Any]:
    layers = [
        layer("InputLayer", "ids", batch_shape=[None, None], dtype="int32"),
        layer("Embedding", "emb", input_dim=VOCAB, output_dim=WIDTH),
        layer("LSTM", "lstm", units=UNITS, return_sequences=True),
        *more,
        layer("Dense", "head", units=VOCAB, activation="linear"),
    ]
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "lm", "layers": layers}, "registered_name": None}


def weights_h5(root: str = "layers", dense: str = "dense") -> bytes:
    held = arrays()
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for group, name in (("embedding", "embedding"), ("lstm/cell", "lstm"), (dense, "dense")):
            for i, array in enumerate(held[name]):
                file[f"{root}/{group}/vars/{i}"] = array
    return memory.getvalue()


def write_keras(path: Path, model: Any = None, weights: bytes | None = None, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", model if isinstance(model, str | bytes) else json.dumps(model or config()))
        archive.writestr("model.weights.h5", weights_h5() if weights is None else weights)
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_h5(path: Path, model: dict[str, Any], version: str, held: dict[str, list[np.ndarray]]) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        file.attrs["keras_version"] = version
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in held]
        group.attrs["keras_version"] = version
        group.attrs["backend"] = b"tensorflow"
        for name, values in held.items():
            names = [f"{name}_{i}" for i in range(len(values))]
            group.create_group(name).attrs["weight_names"] = [each.encode() for each in names]
            for each, value in zip(names, values, strict=True):
                group[name][each] = value
    return path


def write_version1(path: Path) -> tuple[Path, dict[str, list[np.ndarray]]]:
    """A Keras 1 char model: one LSTM on one-hot rows, weights of every gate apart (i, c, f, o)."""
    random = np.random.default_rng(4)
    gates = [random.normal(size=shape).astype(np.float32) for _ in range(4) for shape in ((VOCAB, UNITS), (UNITS, UNITS), (UNITS,))]
    held = {"lstm_1": gates, "dense_1": arrays()["dense"], "activation_1": []}
    lstm = {"name": "lstm_1", "output_dim": UNITS, "init": "glorot_uniform", "inner_init": "orthogonal", "forget_bias_init": "one"}
    lstm |= {"activation": "tanh", "inner_activation": "hard_sigmoid", "return_sequences": True, "batch_input_shape": [None, 5, VOCAB]}
    lstm |= {"W_regularizer": None, "dropout_W": 0.0, "dropout_U": 0.0, "consume_less": "cpu", "input_dim": VOCAB, "stateful": False}
    dense = {"class_name": "Dense", "config": {"name": "dense_2", "output_dim": VOCAB, "init": "glorot_uniform", "bias": True}}
    entries = [
        {"class_name": "LSTM", "config": lstm},
        {"class_name": "TimeDistributed", "config": {"name": "dense_1", "layer": dense}},
        {"class_name": "Activation", "config": {"name": "activation_1", "activation": "softmax"}},
    ]
    return write_h5(path, {"class_name": "Sequential", "config": entries}, "1.2.2", held), held
