"""Reads tf_keras SavedModels that carry Keras metadata as a `KerasGraph`; other SavedModels are opaque.

`keras_metadata.pb` holds the model's config (saved_metadata.proto of Keras 2), the checkpoint under `variables/` its arrays. The root
object of the checkpoint lists all arrays under "variables" in Keras' order (trackable_object_graph.proto of TensorFlow).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgelm.errors import SourceError, UnsafeModelError
from edgelm_converters.keras_config import parse_json, parse_model
from edgelm_converters.keras_flatten import flatten
from edgelm_converters.keras_graph import KerasGraph
from edgelm_converters.keras_hdf5 import DAMAGE
from edgelm_converters.keras_open import import_module
from edgelm_converters.keras_safety import check_safe
from edgelm_converters.keras_weights import from_row

_UNSAFE_OPS = frozenset({"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "LoadLibrary"})
_METADATA_LIMIT = 256 << 20  # bytes; a model of 5,000 layers takes about 50 MB


def is_saved_model(path: Path) -> bool:
    """Whether a folder holds a SavedModel."""
    return (path / "saved_model.pb").is_file()


def read_saved_model(path: Path) -> KerasGraph | None:
    """Reads a SavedModel folder; None when it holds no Keras metadata, or a subclassed model whose layers are code.

    Raises:
        SourceError: No SavedModel, or damaged.
        UnsafeModelError: Loading it would run code that is not Keras' own.
        NotLiftable: Sound, but its wiring or weights are not expressible as a `KerasGraph`.
        MissingDependencyError: TensorFlow is not installed.
    """
    if not is_saved_model(path):
        raise SourceError(f"{path} is no SavedModel: saved_model.pb is not in it", fix='save the model again: model.save("model.keras")')
    metadata = path / "keras_metadata.pb"
    if not metadata.is_file():
        return None
    try:
        root = _root_metadata(metadata)
        raw = {"class_name": root["class_name"], "config": root.get("config")}
        if not isinstance(raw["config"], dict) or "layers" not in raw["config"]:
            return None
        check_safe(raw)
        model = parse_model(raw)
        nodes, outputs = flatten(model, from_row(model, _variables(path)))
    except DAMAGE as error:
        detail = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{path} is damaged or incomplete ({type(error).__name__}: {detail})", fix="copy or save the model again"
        ) from error
    return KerasGraph(nodes, outputs, str(root.get("keras_version", "2")), "saved-model")


def check_safe_graph(path: Path) -> None:
    """Raises when the graph of a SavedModel holds ops that touch files or call Python.

    Raises:
        UnsafeModelError: It does; names the op.
        SourceError: saved_model.pb is damaged.
        MissingDependencyError: TensorFlow is not installed.
    """
    model = import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    damage = import_module("google.protobuf.message").DecodeError
    try:
        model.ParseFromString((path / "saved_model.pb").read_bytes())
    except (OSError, damage) as error:
        raise SourceError(f"{path / 'saved_model.pb'} is damaged ({error})", fix="copy or save the model again") from error
    for meta in model.meta_graphs:
        functions = (node for function in meta.graph_def.library.function for node in function.node_def)
        for node in (*meta.graph_def.node, *functions):
            if node.op in _UNSAFE_OPS:
                raise UnsafeModelError(
                    f"the SavedModel {path} contains the op {node.op} ({node.name}), which touches files or calls Python",
                    allowed="graphs that only compute",
                    fix="rebuild the model without it; or, if you trust whoever made the file, repeat the command with --trust",
                )


def _root_metadata(path: Path) -> Mapping[str, Any]:
    """The JSON metadata of the root object: message SavedMetadata { repeated SavedObject nodes = 1; }."""
    if path.stat().st_size > _METADATA_LIMIT:
        raise SourceError(f"{path} has {path.stat().st_size:,} bytes: no Keras metadata is that large")
    for number, node in _fields(path.read_bytes()):
        if number != 1 or not isinstance(node, bytes):
            continue
        fields = dict(_fields(node))  # SavedObject: node_path = 3, metadata = 5
        if fields.get(3) == b"root" and isinstance(fields.get(5), bytes):
            return parse_json(bytes(fields[5]))
    raise SourceError(f"{path} describes no root object", fix="save the model again")


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Fields of a protobuf message (protobuf.dev/programming-guides/encoding): number and bytes or varint."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire} in a protobuf message")
        size, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + size > len(message):
            raise ValueError("a protobuf message ends early")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a varint in a protobuf message is too long")


def _variables(path: Path) -> list[NDArray[Any]]:
    """All arrays of the model, in Keras' order."""
    tf = import_module("tensorflow")
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        graph = import_module("tensorflow.core.protobuf.trackable_object_graph_pb2").TrackableObjectGraph()
        graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        nodes = graph.nodes
        listed = {child.local_name: child.node_id for child in nodes[0].children}.get("variables")
        if listed is None:
            raise SourceError(f"the checkpoint of {path} lists no variables", fix="save the model again")
        children = sorted((int(child.local_name), child.node_id) for child in nodes[listed].children if child.local_name.isdecimal())
        keys = [
            attribute.checkpoint_key for _, node in children for attribute in nodes[node].attributes if attribute.name == "VARIABLE_VALUE"
        ]
        return [reader.get_tensor(key) for key in keys]
    except tf.errors.OpError as error:
        raise SourceError(f"the checkpoint of {path} is damaged ({error.message})", fix="copy or save the model again") from error
