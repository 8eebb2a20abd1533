"""Rewrites Keras 1 configs (2015 to early 2017) as Keras 2 configs. The names that changed are in two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RENAMED: Mapping[str, str] = {
    "output_dim": "units",
    "init": "kernel_initializer",
    "inner_init": "recurrent_initializer",
    "inner_activation": "recurrent_activation",
    "bias": "use_bias",
    "p": "rate",
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "b_constraint": "bias_constraint",
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "subsample_length": "strides",
    "border_mode": "padding",
    "beta_init": "beta_initializer",
    "gamma_init": "gamma_initializer",
}
_DROPPED = frozenset(
    {"consume_less", "forget_bias_init", "input_dim", "dropout_W", "dropout_U", "weights", "kernel_initializer", "recurrent_initializer"}
    | {"kernel_regularizer", "recurrent_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint", "embeddings_initializer"}
    | {"beta_initializer", "gamma_initializer"}
)
"""Keys that matter for training only, or that Keras 2 does not have."""

_KINDS: Mapping[str, str] = {"Convolution1D": "Conv1D", "Convolution2D": "Conv2D"}


def modernise(entry: Any) -> Any:
    """A Keras 1 object config as Keras 2 would have written it.

    Example:
        >>> modernise({"class_name": "Dense", "config": {"name": "d", "output_dim": 5, "bias": True, "init": "normal"}})
        {'class_name': 'Dense', 'config': {'name': 'd', 'units': 5, 'use_bias': True}}
    """
    if isinstance(entry, list):
        return [modernise(item) for item in entry]
    if not isinstance(entry, dict) or "class_name" not in entry:
        return entry
    kind, config = entry["class_name"], entry.get("config")
    if kind == "TimeDistributedDense":
        return modernise({**entry, "class_name": "TimeDistributed", "config": _around_dense(entry["config"])})
    if isinstance(config, list):
        return {**entry, "config": modernise(config)}
    return {**entry, "class_name": _KINDS.get(kind, kind), "config": _modern_config(kind, config or {})}


def _around_dense(config: Mapping[str, Any]) -> dict[str, Any]:
    outer = {key: config[key] for key in ("name", "batch_input_shape", "input_dtype", "trainable") if key in config}
    return outer | {"layer": {"class_name": "Dense", "config": {**config, "name": f"{config.get('name', 'dense')}_inner"}}}


def _modern_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    modern: dict[str, Any] = {}
    for key, value in config.items():
        renamed = key if kind == "Embedding" and key == "output_dim" else _RENAMED.get(key, key)
        if renamed in _DROPPED and not (kind == "Embedding" and key == "input_dim"):
            continue
        modern[renamed] = [modernise(item) for item in value] if key == "layers" else modernise(value)
    if "input_dtype" in modern:
        modern["dtype"] = modern.pop("input_dtype") if kind == "InputLayer" else (modern.pop("input_dtype"), "float32")[1]
    return modern
