"""Writes models of the zoo, and Keras models, as ONNX files with the exporters people use."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_sizes import POSITIONS, STEPS, VOCAB
from torch_zoo import Zoo


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters print and warn a lot."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel that no exporter knows
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            logging.disable(logging.NOTSET)


def example_ids(zoo: Zoo, time: int) -> Tensor:
    """Ids to export with, (1, time) or (time, 1)."""
    time = 1 if zoo.extra.get("one_step") else time
    ids = torch.arange(time, dtype=torch.int64).reshape(1, time) % VOCAB
    return ids.T.contiguous() if zoo.time_first else ids


def names(zoo: Zoo) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs."""
    presents = [f"present_{name.removeprefix('past_')}" if name.startswith("past") else f"{name}_out" for name in zoo.state_names]
    return ["input_ids", *zoo.state_names], ["logits", *presents]


def legacy(zoo: Zoo, path: Path, *, opset: int = 17, dynamic: bool = True, time: int = 6, **options: Any) -> Path:
    """`torch.onnx.export(..., dynamo=False)`.

    Args:
        zoo: The model.
        path: The `.onnx` file to write.
        opset: Version of the operators.
        dynamic: Batch and time, and the time of caches, are free; else they are 1 and `time`.
        time: Tokens of the example.
        options: More for the exporter, such as `do_constant_folding`.
    """
    inputs, outputs = names(zoo)
    axes = _legacy_axes(zoo, inputs, outputs) if dynamic else None
    with quiet(), torch.no_grad():
        torch.onnx.export(
            zoo.module,
            (example_ids(zoo, time), *zoo.example),
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
            **options,
        )
    return path


def _legacy_axes(zoo: Zoo, inputs: list[str], outputs: list[str]) -> dict[str, dict[int, str]]:
    batch, time = (1, 0) if zoo.time_first else (0, 1)
    axes = {inputs[0]: {batch: "batch", time: "time"}}
    if zoo.extra.get("one_step"):
        axes[inputs[0]] = {batch: "batch"}
    axes[outputs[0]] = {0: "batch"} if zoo.last_only or zoo.flat else axes[inputs[0]]
    for state, out, tensor in zip(inputs[1:], outputs[1:], pytree.tree_leaves(zoo.example), strict=True):
        if tensor.ndim == 4:
            axes[state], axes[out] = {0: "batch", 2: "past"}, {0: "batch", 2: "total"}
        else:
            axes[state] = axes[out] = {tensor.ndim - 2: "batch"}
    return axes


def dynamo(zoo: Zoo, path: Path, *, opset: int | None = None, dynamic: bool = True, time: int = 6, **options: Any) -> Path:
    """`torch.onnx.export(..., dynamo=True)`; see `legacy`. Without `opset` it writes the exporter's own choice."""
    inputs, outputs = names(zoo)
    batch, length = (1, 0) if zoo.time_first else (0, 1)
    auto = torch.export.Dim.AUTO  # torch.export unrolls recurrent layers over time, which fixes it
    dynamic_time = auto if zoo.family == "recurrent" else torch.export.Dim.DYNAMIC
    ids_axes = {batch: auto} if zoo.extra.get("one_step") else {batch: auto, length: dynamic_time}

    def free(tensor: Tensor) -> dict[int, Any]:
        return {0: auto, 2: dynamic_time} if tensor.ndim == 4 else {}

    axes: Any = (ids_axes, *pytree.tree_map(free, zoo.example))
    if any(kind.kind == kind.VAR_POSITIONAL for kind in _parameters(zoo)):
        axes = (axes[0], tuple(axes[1:]))
    if opset is not None:
        options["opset_version"] = opset
    with quiet(), torch.no_grad():
        torch.onnx.export(
            zoo.module,
            (example_ids(zoo, time), *zoo.example),
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=axes if dynamic else None,
            dynamo=True,
            external_data=False,
            verbose=False,
            **options,
        )
    return path


def _parameters(zoo: Zoo) -> list[Any]:
    import inspect

    return list(inspect.signature(zoo.module.forward).parameters.values())


def fixed_time(zoo: Zoo) -> int:
    """Tokens of an export with fixed axes: the whole test where the model has no states."""
    return 1 if zoo.initial else STEPS


# Keras models, through tf2onnx


def _keras_recurrent(layer: str, *units: int, **options: Any) -> Callable[[Any], Any]:
    def build(keras: Any) -> Any:
        nn = keras.layers
        layers = [getattr(nn, layer)(size, return_sequences=True, **options) for size in units]
        return keras.Sequential([keras.Input((None,), dtype="int32"), nn.Embedding(VOCAB, 12), *layers, nn.Dense(VOCAB)])

    return build


def _keras_softmax(keras: Any) -> Any:
    nn = keras.layers
    ids = keras.Input((None,), dtype="int32")
    x = nn.LSTM(16, return_sequences=True)(nn.Embedding(VOCAB, 12)(ids))
    return keras.Model(ids, nn.Dense(VOCAB, activation="softmax")(nn.Dense(10, activation="relu")(x)))


def _keras_decoder(keras: Any) -> Any:
    import tensorflow as tf

    nn, width = keras.layers, 16
    ids = keras.Input((None,), dtype="int32")
    x = nn.Embedding(VOCAB, width)(ids) + nn.Embedding(POSITIONS, width)(tf.range(tf.shape(ids)[1]))
    for _ in range(2):
        normed = nn.LayerNormalization(epsilon=1e-5)(x)
        x = x + nn.MultiHeadAttention(2, 8)(normed, normed, use_causal_mask=True)
        normed = nn.LayerNormalization(epsilon=1e-5)(x)
        x = x + nn.Dense(width)(nn.Dense(24, activation="relu")(normed))
    return keras.Model(ids, nn.Dense(VOCAB)(nn.LayerNormalization(epsilon=1e-5)(x)))


KERAS: dict[str, Callable[[Any], Any]] = {
    "keras-lstm": _keras_recurrent("LSTM", 16),
    "keras-lstm-2": _keras_recurrent("LSTM", 16, 10),
    "keras-lstm-softmax": _keras_softmax,
    "keras-gru": _keras_recurrent("GRU", 16),
    "keras-decoder": _keras_decoder,
}
"""Name -> how to build it with tf_keras."""


def tf2onnx(model: Any, path: Path, *, opset: int) -> Path:
    """`tf2onnx.convert.from_keras` of a tf_keras model."""
    import tensorflow as tf
    from tf2onnx import convert

    with quiet():
        convert.from_keras(model, [tf.TensorSpec((None, None), tf.int32, name="ids")], opset=opset, output_path=str(path))
    return path


def newer(path: Path, opset: int) -> Path:
    """The same model in another opset, by onnx's own converter."""
    import onnx
    from onnx import version_converter

    onnx.save(version_converter.convert_version(onnx.load(path), opset), path)
    return path
