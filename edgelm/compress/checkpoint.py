"""The checkpoint of a training: one .npz file that is complete or not there."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.settings import TrainingError

FILE = "checkpoint.npz"

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Everything a training needs to go on as if it had not stopped.

    Attributes:
        identity: What the training is of: the model, the settings and the data; a resume wants the same.
        progress: Plain JSON values: step, sums of the running epoch, history.
        arrays: `model`, `optimizer` and `best` -> their variables in order.
    """

    identity: Mapping[str, Any]
    progress: Mapping[str, Any]
    arrays: Mapping[str, Arrays]


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the checkpoint, replacing the one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"identity": checkpoint.identity, "progress": checkpoint.progress})
    named = {f"{group}.{i}": array for group, arrays in checkpoint.arrays.items() for i, array in enumerate(arrays)}
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".checkpoint-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, header=np.frombuffer(header.encode(), np.uint8), **named)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(folder / FILE)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Reads the checkpoint of a training; None when there is none.

    Raises:
        TrainingError: It is damaged, or of another model, other settings or other data.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        header = json.loads(content.pop("header").tobytes())
        found, progress = header["identity"], header["progress"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"checkpoint {path} is damaged: {error}", fix="delete it, or train without --resume") from error
    _require_same(path, found, json.loads(json.dumps(identity)))
    arrays: dict[str, list[NDArray[Any]]] = {}
    for name, array in content.items():
        arrays.setdefault(name.split(".")[0], []).append(array)
    return Checkpoint(found, progress, arrays)


def _require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Names the first difference."""
    for part, value in wanted.items():
        met = found.get(part)
        if met == value:
            continue
        if isinstance(value, dict) and isinstance(met, dict):
            key = next(key for key in {**value, **met} if met.get(key) != value.get(key))
            part, met, value = f"{part} {key}", met.get(key), value.get(key)
        raise TrainingError(
            f"checkpoint {path} is of another training: {part} is {met} there and {value} now",
            fix="repeat the first command with --resume, or train without --resume to start anew",
        )
