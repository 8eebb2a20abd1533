"""Turns ONNX's protobuf messages into plain data, and checks what the rest of edgelm relies on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxInput, OnnxNode, read_by

HOW_TO_EXPORT = "export the model again, for instance with torch.onnx.export(model, (tokens,), 'model.onnx')"


_COUNTS, _MOST_HEADS = frozenset({"num_heads", "kv_num_heads", "q_num_heads", "group"}), 1 << 16
"""Attributes that onnxruntime divides by, as int32, without a look: a wrong one ends the process."""

LARGEST_INPUT = 1 << 26  # values: states of that size are 256 MB, and are fed as zeros


def plain_domain(name: str) -> str:
    """ONNX's own domain has two names."""
    return "" if name == "ai.onnx" else name


class GraphReader:
    """Turns protobuf graphs into `OnnxGraph`s.

    Args:
        path: The file, for messages and external data.
        opsets: Domain -> version.
    """

    def __init__(self, path: Path, opsets: Mapping[str, int]) -> None:
        self._path = path
        self._opsets = opsets
        self._tensors = Tensors(path)

    def graph(self, proto: Any, producer: str, outer: frozenset[str]) -> OnnxGraph:
        """A graph; `outer` are the tensors that a body sees from outside."""
        if proto.sparse_initializer:
            raise UnsupportedModelError(f"{self._path} holds sparse weights", allowed="dense weights", fix=HOW_TO_EXPORT)
        constants = {tensor.name: self._tensors.array(tensor) for tensor in proto.initializer}
        inputs = tuple(self._input(value) for value in proto.input if value.name not in constants)
        own = constants.keys() | {given.name for given in inputs}
        known = outer | own
        made = [output for node in proto.node for output in node.output if output]
        if len(set(made)) < len(made) or own & set(made):
            twice = next(name for name in made if made.count(name) > 1 or name in own)
            raise SourceError(f"{self._path} is damaged: tensor {twice!r} is made twice", fix=HOW_TO_EXPORT)
        visible = known | set(made)
        nodes = [self.node(node, number, visible) for number, node in enumerate(proto.node)]
        for node in nodes:
            if node.op == "Constant" and not node.domain:
                constants[node.outputs[0]] = self._constant(node)
        nodes = self._sorted([node for node in nodes if node.op != "Constant" or node.domain], known | constants.keys())
        outputs = tuple(value.name for value in proto.output)
        if missing := [name for name in outputs if name not in known and name not in made]:
            raise SourceError(f"{self._path} is damaged: nothing makes its output {missing[0]!r}", fix=HOW_TO_EXPORT)
        return OnnxGraph(tuple(nodes), constants, inputs, outputs, self._opsets[""], self._opsets, producer)

    def _input(self, value: Any) -> OnnxInput:
        from onnx import helper

        if not value.type.HasField("tensor_type"):
            kind = value.type.WhichOneof("value") or "of no type"
            raise UnsupportedModelError(f"input {value.name!r} of {self._path} is {kind}", allowed="tensors")
        tensor = value.type.tensor_type
        try:
            dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except KeyError as error:
            raise SourceError(f"input {value.name!r} of {self._path} has the unknown element type {tensor.elem_type}") from error
        sizes = tuple(int(size.dim_value) if size.dim_value > 0 else None for size in tensor.shape.dim)
        if math.prod(size or 1 for size in sizes) > LARGEST_INPUT:
            raise UnsupportedModelError(
                f"input {value.name!r} of {self._path} has the shape {sizes}", allowed=f"inputs of at most {LARGEST_INPUT:,} values"
            )
        return OnnxInput(value.name, dtype, sizes)

    def node(self, proto: Any, number: int, known: frozenset[str]) -> OnnxNode:
        """One node; `number` is its place, `known` the tensors that its bodies see."""
        domain = plain_domain(proto.domain)
        name = f"{proto.name or proto.op_type}#{number}"
        attributes = {attribute.name: self._attribute(attribute, name, known) for attribute in proto.attribute}
        for key in _COUNTS & attributes.keys():
            least = 0 if proto.op_type == "RotaryEmbedding" else 1  # where 0 means that the shape says it
            if not isinstance(attributes[key], int) or not least <= attributes[key] <= _MOST_HEADS:
                raise SourceError(f"node {name!r} of {self._path} has {key} = {attributes[key]}", allowed=f"{least} to {_MOST_HEADS:,}")
        opset = self._opsets.get(domain, 1)
        return OnnxNode(name, proto.op_type, domain, tuple(proto.input), tuple(proto.output), attributes, opset)

    def _attribute(self, attribute: Any, node: str, known: frozenset[str]) -> Any:
        kind = attribute.type
        kinds = type(attribute)
        simple = {kinds.FLOAT: "f", kinds.INT: "i", kinds.FLOATS: "floats", kinds.INTS: "ints"}.get(kind)
        if simple:
            value = getattr(attribute, simple)
            return value if kind in (kinds.FLOAT, kinds.INT) else tuple(value)
        if kind == kinds.STRING:
            return attribute.s.decode("utf-8", "replace")
        if kind == kinds.STRINGS:
            return tuple(text.decode("utf-8", "replace") for text in attribute.strings)
        if kind == kinds.TENSOR:
            return self._tensors.array(attribute.t)
        if kind == kinds.GRAPH:
            return self.graph(attribute.g, "", known)
        raise UnsupportedModelError(
            f"attribute {attribute.name!r} of node {node!r} of {self._path} is of a kind edgelm does not read",
            allowed="numbers, texts, dense tensors, one graph",
        )

    def _constant(self, node: OnnxNode) -> Array:
        if len(node.attributes) != 1 or len(node.outputs) != 1:
            raise SourceError(f"{self._path} is damaged: constant {node.name!r} has {len(node.attributes)} values")
        ((kind, value),) = node.attributes.items()
        dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}.get(kind)
        return np.asarray(value, dtype)

    def _sorted(self, nodes: list[OnnxNode], known: frozenset[str]) -> list[OnnxNode]:
        """The nodes, each after those it reads from; in the file's order where that is so already."""
        done, ready = set(known), list[OnnxNode]()
        lacks: dict[str, set[str]] = {}
        readers: dict[str, list[OnnxNode]] = {}
        for node in nodes:
            lacks[node.name] = {name for name in read_by(node) if name not in done}
            for name in lacks[node.name]:
                readers.setdefault(name, []).append(node)
            free = [] if lacks[node.name] else [node]
            while free:
                ready.append(free.pop())
                done |= set(ready[-1].outputs)
                for output in ready[-1].outputs:
                    for reader in readers.pop(output, ()):
                        lacks[reader.name].discard(output)
                        free += [] if lacks[reader.name] else [reader]
        stuck = next((node for node in nodes if lacks[node.name]), None)
        if stuck is not None:
            what = f"{self._path} is damaged: node {stuck.name!r} reads {min(lacks[stuck.name])!r}, which nothing makes before it"
            raise SourceError(what, fix=HOW_TO_EXPORT)
        return ready


class Tensors:
    """Reads the tensors of one file.

    Args:
        path: The `.onnx` file; external data lies in its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def array(self, tensor: Any) -> Array:
        """A tensor's value: small floats as float32, 4-bit integers as int8, everything else in its own dtype.

        Raises:
            SourceError: Damaged, or its external data is missing.
        """
        from onnx import TensorProto, helper, numpy_helper

        if any(size < 0 for size in tensor.dims):
            raise SourceError(f"{self._path} is damaged: tensor {tensor.name!r} has the shape {tuple(tensor.dims)}")
        try:
            if tensor.data_location == TensorProto.EXTERNAL:
                dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
                return _plain(self._external(tensor, dtype))
            return _plain(numpy_helper.to_array(tensor))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SourceError(f"{self._path} is damaged: tensor {tensor.name!r} of shape {tuple(tensor.dims)}: {error}") from error

    def _external(self, tensor: Any, dtype: np.dtype[Any]) -> Array:
        """Maps a tensor that lies in a file of its own."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = PurePosixPath(entries.get("location", ""))
        if not location.name or location.is_absolute() or ".." in location.parts or "\\" in str(location):
            raise SourceError(
                f"tensor {tensor.name!r} of {self._path} lies in {str(location)!r}", allowed="files in the folder of the .onnx file"
            )
        file = self._path.parent / location
        shape, offset = tuple(tensor.dims), int(entries.get("offset", 0))
        length = math.prod(shape) * dtype.itemsize
        if not file.is_file():
            raise SourceError(
                f"the weights of {self._path} are missing: tensor {tensor.name!r} lies in {location}",
                fix=f"put {location} into {self._path.parent}, or export again",
            )
        if offset < 0 or offset + length > file.stat().st_size:
            raise SourceError(
                f"{file} is truncated: tensor {tensor.name!r} takes bytes {offset} to {offset + length} of {file.stat().st_size}"
            )
        if dtype.kind not in "fiub" and dtype.itemsize == 1:
            raise SourceError(f"tensor {tensor.name!r} of {self._path} is {dtype} in external data", allowed="floats and whole numbers")
        if not length:
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype, mode="r", offset=offset, shape=shape)


def _plain(array: Array) -> Array:
    """The dtypes that numpy does not have by itself, in those that hold them."""
    if array.dtype == np.float16 or array.dtype.name in ("bfloat16", *(name for name in (array.dtype.name,) if name.startswith("float8"))):
        return array.astype(np.float32)
    return array.astype(np.int8) if array.dtype.name in ("int4", "uint4", "int2", "uint2") else array
