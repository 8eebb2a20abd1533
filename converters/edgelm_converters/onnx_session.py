"""Runs an ONNX model with onnxruntime: the source itself, as it is in the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import SourceError, UnsupportedModelError, optional_package
from edgelm_converters.onnx_file import load_proto
from edgelm_converters.onnx_node import Array

HALF = (10, 16)  # TensorProto.FLOAT16 and BFLOAT16
_FLOAT = 1
_SMALL = 64  # elements: any shape
_NEWEST_IR, _NEWEST_OPSET = 11, 23  # that onnxruntime 1.23 takes; what came later adds operations and types, and changes none


class CallError(Exception):
    """The runtime refused these inputs; its first line is the message."""


@dataclass(frozen=True)
class Session:
    """A model that is ready to run.

    Attributes:
        framework: Name and version.
        outputs: Names of its outputs, in order.
        runs: The runtime's session.
        half: The file computes in float16 or bfloat16; here it runs in float32, so that the proof is not blurred by rounding.
    """

    framework: str
    outputs: tuple[str, ...]
    runs: Any
    half: bool

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name.

        Raises:
            CallError: The runtime refused.
        """
        try:
            values = self.runs.run(None, dict(feeds))
        except Exception as error:  # its exceptions share no base of their own
            raise CallError(first_line(error)) from error
        return dict(zip(self.outputs, map(np.asarray, values), strict=True))


def open_session(path: Path) -> Session:
    """Loads a model with onnxruntime, on one thread, as it is in the file: its optimiser is left out.

    Raises:
        SourceError: The file was damaged since it was read.
        UnsupportedModelError: The runtime cannot load it: an operation it does not have, types that do not fit.
        MissingDependencyError: onnxruntime is not installed.
    """
    onnxruntime = optional_package("onnxruntime", "running ONNX models", "onnx")
    model = load_proto(path)
    half = _is_half(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal ones alone: what fails is raised
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if half or _small_apart(model) or model.ir_version > _NEWEST_IR or any(entry.version > _NEWEST_OPSET for entry in _own_opsets(model)):
        _adapt(path, model)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
        given: Any = _serialized(path, model)
    else:
        given = str(path)
    try:
        runs = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base of their own
        raise UnsupportedModelError(
            f"onnxruntime cannot load {path}: {first_line(error)}",
            allowed="models that onnxruntime runs on a CPU",
            fix="export the model again, with opset_version=18 for instance",
        ) from error
    outputs = tuple(output.name for output in runs.get_outputs())
    return Session(f"onnxruntime {onnxruntime.__version__}", outputs, runs, half)


def first_line(error: Exception) -> str:
    """What a runtime says, without its own decoration."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("[ONNXRuntimeError] : ")


def _tensors(model: Any) -> Iterable[Any]:
    """All weights and constants of a model."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _own_opsets(model: Any) -> list[Any]:
    """The entries that say which of ONNX's own operations are meant."""
    return [entry for owner in (model, *model.functions) for entry in owner.opset_import if entry.domain in ("", "ai.onnx")]


def _is_half(model: Any) -> bool:
    return any(tensor.data_type in HALF for tensor in _tensors(model)) and not any(
        attribute.HasField("g") for node in model.graph.node for attribute in node.attribute
    )


def _small_apart(model: Any) -> list[Any]:
    """Small tensors in external files: the runtime does not look there for the shapes and axes that it needs first."""
    from onnx import TensorProto

    return [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL and math.prod(tensor.dims) <= _SMALL]


def _adapt(path: Path, model: Any) -> None:
    """Makes half precision single and versions those that the runtime knows, and brings small tensors in."""
    from onnx import numpy_helper

    from edgelm_converters.onnx_proto import Tensors

    model.ir_version = min(model.ir_version, _NEWEST_IR)
    for entry in _own_opsets(model):
        entry.version = min(entry.version, _NEWEST_OPSET)
    for tensor in _small_apart(model):
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(Tensors(path).array(tensor)), tensor.name))
    for tensor in _tensors(model):
        if tensor.data_type in HALF:
            single = numpy_helper.from_array(np.asarray(Tensors(path).array(tensor), np.float32), tensor.name)
            tensor.CopyFrom(single)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type in HALF:
            value.type.tensor_type.elem_type = _FLOAT
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type", "softmax_precision") and attribute.i in HALF:
                attribute.i = _FLOAT


def _serialized(path: Path, model: Any) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:  # over 2 GB
        raise SourceError(
            f"{path} is too large to be run in float32: {error}", fix="export the model in float32, with external data"
        ) from error
