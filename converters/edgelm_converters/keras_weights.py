"""Which arrays belong to which Keras layer: names from a literal table, places from the three layouts Keras has used.

- `.keras` (Keras 3 and tf_keras): HDF5 groups named after the layers' classes, `layers/lstm_1/cell/vars/0`; TF 2.12 wrote
  `_layer_checkpoint_dependencies/` instead of `layers/`.
- whole-model `.h5`: one group per top-level layer whose attribute `weight_names` lists its arrays; of a nested model all in a row.
- SavedModel: all arrays of the model in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import SourceError
from edgelm_converters.keras_config import Layer, Model
from edgelm_converters.keras_hdf5 import Arrays, Group
from edgelm_converters.lift import NotLiftable

Array = NDArray[Any]

_CELL = ("kernel", "recurrent_kernel", "bias")
_DENSE = ("kernel", "bias")
_ATTENTION_PARTS = ("query", "key", "value", "attention_output")
_TABLE: Mapping[str, tuple[str, ...]] = {
    "Embedding": ("embeddings",),
    "ReversibleEmbedding": ("embeddings", "reverse_embeddings"),
    "Dense": _DENSE,
    "EinsumDense": _DENSE,
    "Conv1D": _DENSE,
    "Conv2D": _DENSE,
    "SeparableConv1D": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "DepthwiseConv1D": ("kernel", "bias"),
    **{kind + suffix: _CELL for kind in ("LSTM", "GRU", "SimpleRNN") for suffix in ("", "Cell")},
    "CuDNNLSTM": _CELL,
    "CuDNNGRU": _CELL,
    "LayerNormalization": ("gamma", "beta"),
    "RMSNormalization": ("scale",),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "MultiHeadAttention": tuple(f"{part}/{name}" for part in _ATTENTION_PARTS for name in _DENSE),
    "GroupedQueryAttention": tuple(f"{part}/{name}" for part in _ATTENTION_PARTS for name in _DENSE),
    "GroupQueryAttention": tuple(f"{part}/{name}" for part in _ATTENTION_PARTS for name in _DENSE),
    "PReLU": ("alpha",),
}
"""Kind -> names of its arrays in Keras' order, with everything switched on."""

# fmt: off
_WEIGHTLESS = frozenset({
    "InputLayer", "Activation", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Masking", "Flatten",
    "Reshape", "Permute", "RepeatVector", "ActivityRegularization", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum",
    "Concatenate", "Dot", "Softmax", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Rescaling", "MaxPooling1D", "AveragePooling1D",
    "GlobalMaxPooling1D", "GlobalAveragePooling1D", "ZeroPadding1D", "Cropping1D", "UpSampling1D", "CategoryEncoding", "Identity",
    "TFOpLambda", "SlicingOpLambda", "GetItem", "MatMul", "Transpose", "Cast", "Arange", "ExpandDims", "Take", "OneHot", "Merge",
    "UnitNormalization", "Squeeze",
})
# fmt: on

_SWITCHES: Mapping[str, tuple[str, bool]] = {
    "bias": ("use_bias", True),
    "gamma": ("scale", True),
    "beta": ("center", True),
    "reverse_embeddings": ("tie_weights", True),
}
"""Array -> the config key that switches it, and its default; `tie_weights` switches the other way round."""

_CLASSES: Mapping[str, str] = {"GroupQueryAttention": "GroupedQueryAttention"}
"""Kind -> its class, where Keras exports it under another name: configs hold the one, groups of arrays are named after the other."""

_STATISTICS = frozenset({"moving_mean", "moving_variance"})


def weight_names(kind: str, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of a layer's arrays in Keras' order; None for a kind that is in no table.

    Example:
        >>> weight_names("LSTM", {"use_bias": False})
        ('kernel', 'recurrent_kernel')
    """
    if kind == "RNN":
        return _cell_names(config["cell"])
    if kind in _WEIGHTLESS:
        return ()
    names = _TABLE.get(kind)
    return None if names is None else tuple(name for name in names if _present(kind, name.rsplit("/")[-1], config))


def _present(kind: str, name: str, config: Mapping[str, Any]) -> bool:
    if name == "bias" and kind == "EinsumDense":
        return config.get("bias_axes") is not None
    if name == "bias" and kind.startswith("CuDNN"):
        return True
    if name not in _SWITCHES:
        return True
    key, default = _SWITCHES[name]
    return bool(config.get(key, default)) != (key == "tie_weights")


def _cell_names(cell: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of a cell's arrays; those of stacked cells as "0/kernel", "1/kernel"."""
    cells = cell["config"].get("cells") if cell["class_name"] == "StackedRNNCells" else None
    if cells is None:
        return weight_names(cell["class_name"], cell["config"])
    names = [weight_names(each["class_name"], each["config"]) for each in cells]
    return None if None in names else tuple(f"{i}/{name}" for i, each in enumerate(names) for name in each or ())


def layer_names(layer: Layer) -> tuple[str, ...] | None:
    """Like `weight_names`, for a layer with its wrappers; Bidirectional doubles: "forward/kernel", "backward/kernel"."""
    names = weight_names(layer.kind, layer.config)
    if names is None or "Bidirectional" not in layer.wrapped:
        return names
    return tuple(f"{way}/{name}" for way in ("forward", "backward") for name in names)


def from_groups(model: Model, group: Group, arrays: Arrays) -> dict[str, dict[str, Array]]:
    """Arrays of a `.keras` file by the path of their layer.

    Groups are named after classes and numbered; TF 2.12 skips numbers, so a layer's place is its rank among the layers of its class.

    Raises:
        SourceError: A group is missing, or holds another number of arrays than the layer's config says.
    """
    found: dict[str, dict[str, Array]] = {}
    inside = group.child("layers") or group.child("_layer_checkpoint_dependencies")
    if inside is None:
        raise SourceError("model.weights.h5 has no group 'layers': the file is damaged, or its model is no Sequential or Functional one")
    seen: dict[str, int] = {}
    for layer in model.layers:
        stem = _snake_case(_outer_kind(layer))
        place = inside.numbered(stem, seen.setdefault(stem, 0))
        seen[stem] += 1
        if layer.model:
            place = _required(place, layer)
            place = _required(place.child("layer"), layer) if layer.wrapped else place
            nested = from_groups(layer.model, place, arrays)
            found |= {f"{layer.name}/{name}": value for name, value in nested.items()}
        elif layer_names(layer) != () and (place or layer_names(layer)):
            held = [arrays.read(each) for part in _parts(_required(place, layer), layer) for each in part.variables()]
            found[layer.name] = _named(layer, held)
    return found


def _required(group: Group | None, layer: Layer) -> Group:
    if group is None:
        raise SourceError(f"the weights of layer {layer.name!r} ({layer.kind}) are not in the file", fix="copy or save the model again")
    return group


def _outer_kind(layer: Layer) -> str:
    if layer.wrapped:
        return layer.wrapped[0]
    if layer.model:
        return "Sequential" if layer.model.sequential else "Functional"
    return _CLASSES.get(layer.kind, layer.kind.rsplit(">", 1)[-1])


def _snake_case(kind: str) -> str:
    """Keras' own naming of groups: "MultiHeadAttention" -> "multi_head_attention", "LSTM" -> "lstm"."""
    kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()


def _parts(group: Group, layer: Layer) -> list[Group]:
    """The groups whose variables are the layer's, in Keras' order."""
    for wrapper in layer.wrapped:
        if wrapper == "Bidirectional":
            ways = [_required(group.child(f"{way}_layer"), layer) for way in ("forward", "backward")]
            return [part for way in ways for part in _inner_parts(way, layer)]
        group = _required(group.child("layer"), layer)
    return _inner_parts(group, layer)


def _inner_parts(group: Group, layer: Layer) -> list[Group]:
    if layer.kind.endswith("Attention") and layer.kind in _TABLE:
        sublayers = ("query_dense", "key_dense", "value_dense", "output_dense")
        return [_required(group.child(name) or group.child(f"_{name}"), layer) for name in sublayers]
    cell = group.child("cell")
    if cell is None:
        return [group]
    stacked = cell.child("cells")
    return [cell] if stacked is None else stacked.children_in_order(_cell_stems(layer))


def _cell_stems(layer: Layer) -> list[str]:
    return [_snake_case(cell["class_name"]) for cell in layer.config["cell"]["config"]["cells"]]


def from_legacy(model: Model, group: Group, arrays: Arrays) -> dict[str, dict[str, Array]]:
    """Arrays of a whole-model `.h5` file by the path of their layer; `group` is "model_weights".

    Raises:
        SourceError: A layer's arrays are missing or of another number than its config says.
    """
    found: dict[str, dict[str, Array]] = {}
    for layer in model.layers:
        place = group.child(layer.name)
        names = place.text_list("weight_names") if place else []
        held = [arrays.read(place.dataset(name)) for name in names] if place else []
        if layer.model:
            found |= {f"{layer.name}/{name}": value for name, value in from_row(layer.model, held).items()}
        elif held or layer_names(layer) != ():
            found[layer.name] = _named(layer, held)
    return found


def from_row(model: Model, row: Sequence[Array]) -> dict[str, dict[str, Array]]:
    """Distributes all arrays of a model, listed in Keras' order: trainable ones first, then frozen ones and statistics.

    Raises:
        NotLiftable: How many arrays a layer takes is not known.
        SourceError: Too few or too many arrays.
    """
    leaves = list(_leaves(model, "", True))
    wanted: list[tuple[str, str, bool]] = []
    for path, layer, trainable in leaves:
        names = layer_names(layer)
        if names is None:
            raise NotLiftable(f"the weights of layer {path!r} ({layer.kind}) are not known to edgelm")
        wanted += [(path, name, trainable and name not in _STATISTICS) for name in names]
    wanted.sort(key=lambda each: not each[2])
    if len(wanted) != len(row):
        raise SourceError(
            f"model {model.name!r} holds {len(row)} arrays, its layers want {len(wanted)}", fix="copy or save the model again"
        )
    found: dict[str, dict[str, Array]] = {}
    for (path, name, _), array in zip(wanted, row, strict=True):
        found.setdefault(path, {})[name] = array
    for path, layer, _ in leaves:
        _check_shapes(layer, found.get(path, {}))
    return found


def _leaves(model: Model, prefix: str, trainable: bool) -> Iterable[tuple[str, Layer, bool]]:
    for layer in model.layers:
        if layer.model:
            yield from _leaves(layer.model, f"{prefix}{layer.name}/", trainable)
        else:
            yield prefix + layer.name, layer, trainable and layer.config.get("trainable", True) is not False


def _named(layer: Layer, held: Sequence[Array]) -> dict[str, Array]:
    """Names a layer's arrays; those of a kind in no table are "0", "1", ..."""
    names = layer_names(layer)
    if names is None or "quantization" in str(layer.config.get("dtype")).lower() or layer.config.get("quantization_config"):
        return {str(i): array for i, array in enumerate(held)}
    merged = _KERAS1_CELLS[layer.kind](held) if layer.kind in _KERAS1_CELLS else held
    if len(merged) != len(names):
        wanted = ", ".join(names) or "none"
        raise SourceError(
            f"layer {layer.name!r} ({layer.kind}) holds {len(held)} arrays, its config wants {wanted}", fix="copy or save the model again"
        )
    named = dict(zip(names, merged, strict=True))
    _check_shapes(layer, named)
    return named


def _merge_gates(held: Sequence[Array], order: Sequence[int]) -> Sequence[Array]:
    """Keras 1 kept W, U and b of every gate apart; Keras 2 has them side by side in `order` (position of each gate's W)."""
    if len(held) != 3 * len(order):
        return held
    return [np.concatenate([held[gate + part] for gate in order], axis=-1) for part in range(3)]


_KERAS1_CELLS = {
    "LSTM": lambda held: _merge_gates(held, (0, 6, 3, 9)),  # stored i, c, f, o; wanted i, f, c, o
    "GRU": lambda held: _merge_gates(held, (0, 3, 6)),
}

_GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1, "CuDNNLSTM": 4, "CuDNNGRU": 3}


def _check_shapes(layer: Layer, named: Mapping[str, Array]) -> None:
    """Config and arrays of the kinds lifts are made of must agree, or one of them is damaged."""
    config = layer.config
    wanted: dict[str, tuple[Any, ...]] = {}
    if layer.kind == "Embedding":
        wanted = {"embeddings": (config["input_dim"], config["output_dim"])}
    elif layer.kind == "Dense":
        wanted = {"kernel": (..., config["units"]), "bias": (config["units"],)}
    elif layer.kind in _GATES:
        wanted = {"recurrent_kernel": (config["units"], _GATES[layer.kind] * config["units"])}
    for name, array in named.items():
        shape = wanted.get(name.rsplit("/", 1)[-1])
        if shape and not (array.shape == shape or (shape[0] is ... and array.ndim == 2 and array.shape[1] == shape[1])):
            text = " x ".join("any" if size is ... else str(size) for size in shape)
            raise SourceError(
                f"{name} of layer {layer.name!r} is {array.shape}, its config wants {text}", fix="copy or save the model again"
            )
