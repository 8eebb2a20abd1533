"""Keras' recurrent layers as cells in the spec's layout.

Keras keeps kernels as (in, gates * units), gates in the order i f c o (LSTM) and z r h (GRU): the spec's orders. `CuDNNLSTM` and
`CuDNNGRU` keep each gate's kernel flattened in the other order and two biases; files of them are read as tf_keras reads them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.spec import GATES, Activation, Cell
from edgelm_converters.keras_dense import KERAS3_HARD_SIGMOID, activation_name
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_wiring import operation
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, RecurrentCell, spec_activation

CELLS: Mapping[str, Cell] = {
    "GRU": "gru",
    "GRUCell": "gru",
    "LSTM": "lstm",
    "LSTMCell": "lstm",
    "SimpleRNN": "rnn",
    "SimpleRNNCell": "rnn",
}
RECURRENT = frozenset({"GRU", "LSTM", "SimpleRNN", "RNN"})

# Gates that go through the recurrent activation; the remaining one is the candidate.
_SIGMOID_GATES: Mapping[str, tuple[int, ...]] = {"rnn": (), "gru": (0, 1), "lstm": (0, 1, 3)}


def is_recurrent(node: LayerNode) -> bool:
    """The node is a recurrent layer of a known kind or an `RNN` around cells."""
    return operation(node) in RECURRENT


def cells_of(node: LayerNode, keras_version: str) -> tuple[RecurrentCell, ...]:
    """The cells of a recurrent layer, first to last (an `RNN` may stack several).

    Args:
        node: A recurrent layer.
        keras_version: Of the file: Keras 3's hard sigmoid is another one.

    Raises:
        UnsupportedModelError: It reads the future.
        NotLiftable: A cell of another kind, given initial states, an unusual switch.
    """
    if node.config.get("go_backwards"):
        raise UnsupportedModelError(
            f"layer {node.name!r} runs backwards (go_backwards): it is not causal",
            allowed="layers that read left to right",
            fix="train the model with go_backwards=False",
        )
    if len(node.inputs) != 1 or node.arguments.get("initial_state") is not None:
        raise NotLiftable(f"layer {node.name!r} is given initial states")
    if node.config.get("time_major"):
        raise NotLiftable(f"layer {node.name!r} is time major")
    return tuple(_cell(node, kind, config, weights, keras_version) for kind, config, weights in _parts(node))


def _parts(node: LayerNode) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, NDArray[Any]]]]:
    """(kind, config, weights by last name) of each cell."""
    if operation(node) != "RNN":
        yield node.kind, node.config, {name.rsplit("/", 1)[-1]: weight for name, weight in node.weights.items()}
        return
    outer = node.config.get("cell") or {}
    cells = outer.get("config", {}).get("cells", []) if outer.get("class_name") == "StackedRNNCells" else [outer]
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    for name, weight in node.weights.items():
        prefix, _, last = name.rpartition("/")
        groups.setdefault(prefix, {})[last] = weight
    if not cells or len(cells) != len(groups):
        raise NotLiftable(f"layer {node.name!r}: {len(cells)} cells, weights of {len(groups)}")
    names = [str(cell.get("config", {}).get("name")) for cell in cells]
    by_name = {prefix.rsplit("/", 1)[-1]: prefix for prefix in groups}
    ordered = [by_name[name] for name in names] if set(names) == set(by_name) else sorted(groups, key=_natural)
    for cell, prefix in zip(cells, ordered, strict=True):
        yield str(cell.get("class_name")), cell.get("config", {}), groups[prefix]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts cell_2 before cell_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _cell(node: LayerNode, kind: str, config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], keras_version: str) -> RecurrentCell:
    cell = CELLS.get(kind.rsplit(">", 1)[-1].removeprefix("CuDNN"))
    if cell is None or not {"kernel", "recurrent_kernel"} <= set(weights):
        raise NotLiftable(f"layer {node.name!r}: recurrent cell {kind!r} is not among {', '.join(sorted(CELLS))}")
    weights = {name: np.asarray(weight, np.float32) for name, weight in weights.items()}
    bias = weights.get("bias")
    if bias is not None and bias.shape == (2 * weights["kernel"].shape[1],):
        weights, bias = _from_cudnn(cell, weights)
    rows = weights["kernel"].shape[1]
    reset_after = cell == "gru" and bool(config.get("reset_after", bias is not None and bias.ndim == 2))
    biases = np.zeros((2, rows), np.float32)
    if bias is not None:
        biases[: 2 if bias.ndim == 2 else 1] = bias
    made = RecurrentCell(
        cell=cell,
        activation=spec_activation(activation_name(config.get("activation", "tanh"))),
        recurrent_activation=_recurrent_activation(cell, kind, config),
        reset_after=reset_after or cell != "gru",
        input=Affine(weights["kernel"].T, biases[0]),
        recurrent=weights["recurrent_kernel"].T,
        recurrent_bias=biases[1] if reset_after else None,
    )
    return _keras3_hard_sigmoid(node, made) if keras_version.startswith("3") else made


def _recurrent_activation(cell: Cell, kind: str, config: Mapping[str, Any]) -> Activation:
    if cell == "rnn" or "CuDNN" in kind:
        return "sigmoid"
    return spec_activation(activation_name(config.get("recurrent_activation", "hard_sigmoid")))  # the default before TensorFlow 2


def _from_cudnn(cell: Cell, weights: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """CuDNN's layout -> Keras': each gate's kernel is a transposed matrix flattened column first; two biases."""
    gates = GATES[cell]
    kernels = [kernel.T.reshape(kernel.shape, order="F") for kernel in np.split(weights["kernel"], gates, axis=1)]
    recurrent = [kernel.T for kernel in np.split(weights["recurrent_kernel"], gates, axis=1)]
    both = weights["bias"].reshape(2, -1)  # (2, gates * units): input, recurrent
    bias = both if cell == "gru" else both.sum(axis=0)
    return {"kernel": np.concatenate(kernels, axis=1), "recurrent_kernel": np.concatenate(recurrent, axis=1)}, bias


def _keras3_hard_sigmoid(node: LayerNode, made: RecurrentCell) -> RecurrentCell:
    """Scales what goes into Keras 3's hard sigmoid, clip(x / 6 + 1/2), so that the spec's, clip(x / 5 + 1/2), gives the same."""
    if made.activation == "hard_sigmoid":
        raise NotLiftable(f"layer {node.name!r}: Keras 3's hard_sigmoid as the activation of a cell")
    if made.recurrent_activation != "hard_sigmoid":
        return made
    scale = np.ones((GATES[made.cell], made.units), np.float32)
    scale[list(_SIGMOID_GATES[made.cell])] = KERAS3_HARD_SIGMOID
    rows = scale.reshape(-1)
    return dataclasses.replace(
        made,
        input=made.input.scaled(rows),
        recurrent=made.recurrent * rows[:, None],
        recurrent_bias=None if made.recurrent_bias is None else made.recurrent_bias * rows,
    )
