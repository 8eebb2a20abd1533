"""Reads whole Keras models from `.keras` and `.h5` files without running anything that is in them, and without Keras.

The config is parsed as JSON, the arrays are taken out of HDF5 by the layout's own rules (`keras_weights`). Whatever is not a sound model
file ends in a `SourceError`, hostile files included.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelm.errors import SourceError
from edgelm_converters.keras_config import parse_json, parse_model
from edgelm_converters.keras_flatten import flatten
from edgelm_converters.keras_graph import KerasGraph
from edgelm_converters.keras_hdf5 import DAMAGE, MAX_RATIO, Arrays, Group, h5py
from edgelm_converters.keras_safety import check_safe
from edgelm_converters.keras_version1 import modernise
from edgelm_converters.keras_weights import from_groups, from_legacy

_CONFIG_LIMIT = 64 << 20  # bytes; a config of 5,000 layers takes about 10 MB
_MEMBER_SLACK = 1 << 20  # bytes: a small all-zero model deflates better than MAX_RATIO
_AGAIN = "copy or save the model again"
_WHOLE_MODEL = 'save the whole model: model.save("model.keras")'

_SIGNATURES: Mapping[bytes, str] = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"GGUF": "a GGUF model",
    b"\x1c\x00\x00\x00TFL3": "a TFLite model",
    b"\x20\x00\x00\x00TFL3": "a TFLite model",
    b"version https://git-lfs": "a Git LFS pointer: the model itself was not downloaded",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}


def looks_like(path: Path) -> str:
    """What a file is by its first bytes, such as "a PNG picture".

    Raises:
        SourceError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}", fix="check the path") from error
    if not head:
        return "an empty file"
    return next((what for signature, what in _SIGNATURES.items() if head.startswith(signature)), "of no kind edgelm knows")


def read_keras(path: Path) -> KerasGraph:
    """Reads a `.keras` file of Keras 3 or tf_keras.

    Raises:
        SourceError: No such file, damaged, oversized, or of another kind.
        UnsafeModelError: Loading it would run code that is not Keras' own.
        NotLiftable: Sound, but its wiring or weights are not expressible as a `KerasGraph`.
        MissingDependencyError: h5py is not installed.
    """
    config, metadata, weights = _unpack(path)
    raw = parse_json(config)
    version = str(parse_json(metadata).get("keras_version", "unknown"))
    try:
        check_safe(raw)
        model = parse_model(raw)
        with h5py().File(io.BytesIO(weights), "r") as file:
            held = from_groups(model, Group(file), Arrays(len(weights)))
        nodes, outputs = flatten(model, held)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    return KerasGraph(nodes, outputs, version, "keras")


def read_h5(path: Path) -> KerasGraph:
    """Reads a whole-model `.h5` file of Keras 1, 2 or 3.

    Raises:
        SourceError: No such file, damaged, weights only, or of another kind.
        UnsafeModelError: Loading it would run code that is not Keras' own.
        NotLiftable: Sound, but its wiring or weights are not expressible as a `KerasGraph`.
        MissingDependencyError: h5py is not installed.
    """
    what = looks_like(path)
    if what != "an HDF5 file":
        raise SourceError(f"{path} is no Keras .h5 model: it is {what}", fix=_WHOLE_MODEL)
    try:
        with h5py().File(path, "r") as file:
            raw, version = h5_config(file, path)
            check_safe(raw)
            model = parse_model(raw)
            weights = Group(file).child("model_weights")
            if weights is None:
                raise SourceError(f"{path} holds a config, but no weights", fix=_WHOLE_MODEL)
            held = from_legacy(model, weights, Arrays(path.stat().st_size))
        nodes, outputs = flatten(model, held)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    return KerasGraph(nodes, outputs, version, "keras-h5")


def keras_version(path: Path, file_format: str) -> str:
    """The Keras version a model was saved with; "2" for SavedModels, which Keras 3 does not write whole.

    Raises:
        SourceError: The file is damaged, or of another kind.
        MissingDependencyError: h5py is not installed.
    """
    if file_format == "saved-model":
        return "2"
    if file_format == "keras":
        return str(parse_json(_unpack(path)[1]).get("keras_version", "unknown"))
    try:
        with h5py().File(path, "r") as file:
            return h5_config(file, path)[1]
    except DAMAGE as error:
        raise _damaged(path, error) from error


def h5_config(file: Any, path: Path) -> tuple[dict[str, Any], str]:
    """The model config of an open `.h5` file, as Keras 2 or 3 writes it, and its Keras version.

    Raises:
        SourceError: It has none: weights only, or no Keras file.
    """
    text = file.attrs.get("model_config")
    if text is None:
        if {"layer_names", "layer_names0"} & set(file.attrs) or {"layers", "_layer_checkpoint_dependencies", "vars"} & set(file):
            raise SourceError(f"{path} holds weights only: which layers they belong to is not in it", fix=_WHOLE_MODEL)
        raise SourceError(f"{path} is an HDF5 file, but no Keras model: it has no model_config", fix=_WHOLE_MODEL)
    raw = parse_json(text)
    version = file.attrs.get("keras_version") or (file["model_weights"].attrs.get("keras_version") if "model_weights" in file else None)
    name = version.decode() if isinstance(version, bytes) else str(version or "1.0.0")  # Keras wrote no version before 1.2
    return (modernise(raw) if name.startswith("1.") else raw), name


def _unpack(path: Path) -> tuple[bytes, bytes, bytes]:
    """Config, metadata and weights of a `.keras` archive."""
    what = looks_like(path)
    if what != "a zip archive":
        hint = "rename it to .h5 if it is a whole model" if what == "an HDF5 file" else _WHOLE_MODEL
        raise SourceError(f"{path} is no .keras model: it is {what}", fix=hint)
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "config.json" not in names or "model.weights.h5" not in names:
                missing = "config.json" if "config.json" not in names else "model.weights.h5"
                raise SourceError(f"{path} is a zip archive, but no .keras model: {missing} is not in it", fix=_WHOLE_MODEL)
            metadata = _member(archive, "metadata.json", _CONFIG_LIMIT) if "metadata.json" in names else b"{}"
            return _member(archive, "config.json", _CONFIG_LIMIT), metadata, _member(archive, "model.weights.h5", None)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, *DAMAGE) as error:
        raise _damaged(path, error) from error


def _member(archive: zipfile.ZipFile, name: str, limit: int | None) -> bytes:
    """One file of the archive; members are read by name into memory, so their paths can point nowhere."""
    info = archive.getinfo(name)
    allowed = info.compress_size * MAX_RATIO + _MEMBER_SLACK if limit is None else limit
    if info.file_size > allowed:
        raise SourceError(f"{name} claims {info.file_size:,} bytes out of {info.compress_size:,}: refused as a decompression bomb")
    with archive.open(info) as member:
        return member.read(info.file_size + 1)


def _damaged(path: Path, error: BaseException) -> SourceError:
    detail = " ".join(str(error).split())[:200]
    return SourceError(f"{path} is damaged or incomplete ({type(error).__name__}: {detail})", fix=_AGAIN)
