"""On how many devices and machines to train (tf.distribute)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from edgelm.compress.settings import StrategyName, TrainingError


def resolve(name: StrategyName, environment: Mapping[str, str], gpus: int) -> StrategyName:
    """What `auto` means here, and whether the rest can be had: `none`, `mirrored` or `multiworker`.

    Args:
        name: As in `TrainSettings.strategy`.
        environment: Where TF_CONFIG may be.
        gpus: GPUs of this machine.

    Raises:
        TrainingError: TF_CONFIG is wanted and missing, or cannot be read.

    Example:
        >>> resolve("auto", {}, gpus=2)
        'mirrored'
    """
    workers = _workers(environment.get("TF_CONFIG", ""))
    if name == "auto":
        return "multiworker" if workers > 1 else "mirrored" if gpus > 1 else "none"
    if name == "multiworker" and not workers:
        example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        raise TrainingError("strategy multiworker wants TF_CONFIG in the environment of every worker", allowed=f"TF_CONFIG='{example}'")
    return name


def strategy_of(name: StrategyName) -> Any:
    """The tf.distribute strategy of a name; build the model inside its `scope()`.

    With `multiworker`, call it before anything else of TensorFlow in the process, and let every worker see the same checkpoint folder.
    """
    import tensorflow as tf

    kind = resolve(name, os.environ, len(tf.config.list_physical_devices("GPU")))
    if kind == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def is_chief(strategy: Any) -> bool:
    """This process is the one that writes files."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" or (not has_chief and resolver.task_type == "worker" and resolver.task_id == 0))


def _workers(config: str) -> int:
    if not config:
        return 0
    try:
        cluster = json.loads(config)["cluster"]
        return sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"TF_CONFIG cannot be read: {config}", allowed="JSON with cluster and task") from error
