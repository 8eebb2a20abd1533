"""Parses the config of a Keras model (versions 1, 2 and 3) into layers and their calls, without Keras."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.errors import SourceError
from edgelm_converters.keras_safety import MODEL_KINDS, WRAPPER_KINDS

MAX_DEPTH = 200  # a level of model nesting takes about 6; deeper JSON would exhaust Python's stack later on
MAX_LAYERS = 5_000


@dataclass(frozen=True)
class Layer:
    """One layer of a model's config.

    Attributes:
        name: Unique within its model.
        kind: Class name of the innermost layer.
        config: Of the innermost layer, normalised by `normalise`.
        wrapped: Wrapper kinds, outermost first.
        calls: The serialised calls ("inbound_nodes"), one per use of the layer.
        model: The nested model, when the layer is one.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    wrapped: tuple[str, ...]
    calls: tuple[Any, ...]
    model: Model | None


@dataclass(frozen=True)
class Model:
    """A Sequential or Functional model's config.

    Attributes:
        sequential: Layers feed each other in order; they have no calls.
        inputs: Serialised references to the input layers (functional models).
        outputs: Serialised references to the outputs (functional models).
    """

    name: str
    layers: tuple[Layer, ...]
    sequential: bool
    inputs: Any
    outputs: Any


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Parses a config's JSON.

    Raises:
        SourceError: No JSON object, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"the model's config is not valid JSON ({error})", fix="copy or save the model again") from error
    if not isinstance(value, dict):
        raise SourceError("the model's config is no JSON object", fix="copy or save the model again")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise SourceError(f"the model's config is nested deeper than {MAX_DEPTH} levels: no Keras model is")


def _children(item: object) -> list[Any]:
    children = list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else []
    return [child for child in children if isinstance(child, dict | list)]


def normalise(value: Any) -> Any:
    """A config as plain JSON values that read alike in all Keras versions.

    Example:
        >>> normalise({"dtype": {"class_name": "DTypePolicy", "config": {"name": "float32"}}, "batch_input_shape": [None, 5]})
        {'dtype': 'float32', 'batch_shape': [None, 5]}
    """
    if isinstance(value, list):
        return [normalise(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner, kind = value.get("config"), value.get("class_name")
    if kind == "__tuple__":
        return normalise(value["items"])
    if kind in ("DTypePolicy", "Policy") and isinstance(inner, dict):
        return inner.get("name")
    if kind == "function" and isinstance(inner, str):
        return inner
    plain = {("batch_shape" if key == "batch_input_shape" else key): normalise(item) for key, item in value.items()}
    if kind in ("GRU", "GRUCell") and isinstance(plain.get("config"), dict):
        plain["config"].setdefault("reset_after", False)  # Keras before 2.1.3 knew only this form and did not write the key
    return plain


def parse_model(raw: Mapping[str, Any]) -> Model:
    """Parses `{"class_name": "Functional", "config": {...}}`; Keras 1 and early Keras 2 give a Sequential's config as a bare list.

    Raises:
        SourceError: The config is not of that form.
    """
    kind, config = raw["class_name"], raw["config"]
    if kind not in MODEL_KINDS:
        raise SourceError(f"the model is of class {kind}, which is neither Sequential nor Functional: its layers are not in the file")
    entries = config if isinstance(config, list) else config["layers"]
    if not entries or len(entries) > MAX_LAYERS:
        raise SourceError(f"the model has {len(entries)} layers", allowed=f"1 to {MAX_LAYERS}")
    layers = tuple(_layer(entry) for entry in entries)
    if len({layer.name for layer in layers}) < len(layers):
        raise SourceError("two layers of the model have the same name: the file is damaged")
    named: Mapping[str, Any] = config if isinstance(config, dict) else {}
    return Model(str(named.get("name", "model")), layers, kind == "Sequential", named.get("input_layers"), named.get("output_layers"))


def _layer(entry: Mapping[str, Any]) -> Layer:
    kind, raw = entry["class_name"], entry["config"]
    named: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    name = str(entry.get("name") or named.get("name") or kind.lower())
    wrapped: list[str] = []
    while kind in WRAPPER_KINDS:
        wrapped.append(kind)
        entry_inside = raw["layer"]
        kind, raw = entry_inside["class_name"], entry_inside["config"]
    model = parse_model({"class_name": kind, "config": raw}) if kind in MODEL_KINDS else None
    config = {} if model else normalise({"class_name": kind, "config": raw})["config"]
    if not isinstance(config, dict) or not isinstance(kind, str):
        raise SourceError(f"the config of layer {name!r} is no JSON object: the file is damaged")
    return Layer(name, kind, config, tuple(wrapped), tuple(entry.get("inbound_nodes") or ()), model)
