"""ONNX graphs that were not recognised, as a TensorFlow function of one window of tokens. Runs in the process of `graph_worker`.

onnx2tf converts graphs of fixed shapes best, so the graph is first made one: the window's length is written into its input, every other
input becomes a constant, other outputs go, float16 is widened, and onnxruntime folds what no longer depends on any input. onnx2tf moves
channels last where it thinks fit; how the axes of its scores have to be turned back is found by running both graphs on the same tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConversionError
from edgelm.model import GraphCall

_ALIKE = frozenset({"Gelu", "Inverse", "FusedConv"})
"""Operations of com.microsoft that onnx2tf has the same conversion for."""

_STAY_EMPTY = frozenset({"Cast", "Gather", "Identity", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operations that make nothing of nothing."""

AGREES = 1e-3  # of the scores' spread: float32 sums in another order stay below 1e-5, axes in a wrong order are above 1e-1


def tensorflow_call(path: Path, call: GraphCall, vocab_size: int, folder: Path) -> Callable[[Any], Any]:
    """An ONNX graph as a TensorFlow function.

    Args:
        path: The `.onnx` file.
        call: Its input, its scores, and what every other input is held at.
        vocab_size: Size of the scores' last axis.
        folder: An empty one for files in between.

    Returns:
        Token ids (1, time) int32 -> scores (1, time, vocab) float32, or (1, 1, vocab) where the graph scores one position.

    Raises:
        ConversionError: What onnx2tf made computes something else.
        Exception: Whatever onnx, onnxruntime and onnx2tf raise; `graph_failures` translates it.
    """
    import onnx

    file = folder / "window.onnx"
    window = folded(windowed(onnx.load(path), call), folder)
    check_operations(window.graph, converted_operations())
    onnx.save(window, file)
    ids = np.random.default_rng(5).integers(0, vocab_size, call.ids_shape)
    wanted = _scores_of(file, call, ids)

    import onnx2tf
    import tensorflow as tf

    model = onnx2tf.convert(
        input_onnx_file_path=str(file),  # it writes to this file, too
        output_folder_path=str(folder / "onnx2tf"),
        keep_shape_absolutely_input_names=[call.ids],
        not_use_onnxsim=True,  # onnxruntime has simplified the graph already, and knows newer opsets
        disable_model_save=True,
    )
    dtype = model.inputs[0].dtype
    order = axes_of(np.asarray(model(tf.constant(ids, dtype))), wanted)

    def scores(given: Any) -> Any:
        result = tf.transpose(model(tf.reshape(tf.cast(given, dtype), call.ids_shape)), order)
        return tf.reshape(result, (1, wanted.size // vocab_size, vocab_size))  # of one sequence, whichever axis is its time

    return scores


def converted_operations() -> frozenset[str]:
    """The operations onnx2tf has a conversion for: it looks for a module of that name. It is not imported here, which takes seconds.

    Raises:
        ModuleNotFoundError: onnx2tf is not installed.
    """
    spec = find_spec("onnx2tf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'onnx2tf'")
    return frozenset(file.stem for file in (Path(spec.submodule_search_locations[0]) / "ops").glob("*.py"))


def check_operations(graph: Any, known: frozenset[str]) -> None:
    """Refuses nodes that onnx2tf has no conversion for.

    Raises:
        ConversionError: There is one; it is named.
    """
    for node in graph.node:
        if node.op_type not in (known if node.domain in ("", "ai.onnx") else known & _ALIKE):
            operation = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise ConversionError(
                f"it has no conversion of node {node.name!r} ({operation})",
                fix="export the model from its framework without fused operations, or replace the layer that makes this node",
            )
        for body in _bodies(node):
            check_operations(body, known)


def axes_of(given: NDArray[Any], wanted: NDArray[Any]) -> tuple[int, ...]:
    """How to turn the axes of onnx2tf's scores so that they are those of the ONNX graph.

    Raises:
        ConversionError: In no order of its axes do the scores agree.

    Example:
        >>> axes_of(np.zeros((1, 60, 8)), np.zeros((1, 8, 60)))
        (0, 2, 1)
    """
    differences = []
    for order in itertools.permutations(range(given.ndim)):
        turned = given.transpose(order)
        if turned.shape == wanted.shape:
            differences.append(float(np.max(np.abs(turned - wanted))))
            if differences[-1] <= AGREES * float(np.ptp(wanted)):
                return order
    met = f"they differ by {min(differences):.3g}" if differences else f"they have the shape {given.shape} instead of {wanted.shape}"
    raise ConversionError(
        f"the graph it made gives other scores than the model: {met}",
        fix="export the model with another opset_version, or with torch.onnx.export(..., dynamo=True)",
    )


def windowed(model: Any, call: GraphCall) -> Any:
    """The model with one input, `call.ids` of shape `call.ids_shape`, and one output, `call.scores`; in float32.

    Args:
        model: An `onnx.ModelProto` with its weights; it is changed.
        call: The window.
    """
    from onnx import inliner, numpy_helper

    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    widen(graph)
    for value in list(graph.input):
        if value.name != call.ids:
            graph.input.remove(value)
    names = {tensor.name for tensor in graph.initializer}
    held = {name: np.asarray(value, np.float32) if value.dtype == np.float16 else value for name, value in call.held.items()}
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in held.items() if name not in names
    )
    del graph.value_info[:]  # says what was true of other shapes
    _set_shape(graph.input[0], call.ids_shape)
    for value in list(graph.output):
        if value.name != call.scores:
            graph.output.remove(value)
        else:
            _set_shape(value, [f"free{axis}" for axis in range(len(value.type.tensor_type.shape.dim))])
    _drop_empty_parts(graph)
    _drop_unused(graph)
    return model


def _set_shape(value: Any, sizes: Iterable[int | str]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for size in sizes:
        shape.dim.add(**({"dim_value": size} if isinstance(size, int) else {"dim_param": size}))


def _drop_unused(graph: Any) -> None:
    """Removes nodes that the scores don't need."""
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(_read_by(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _read_by(node: Any) -> Iterator[str]:
    """All tensors a node reads; those of its bodies too, whatever graph they are of."""
    yield from node.input
    for body in _bodies(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _read_by(inner)


def _bodies(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def widen(graph: Any) -> None:
    """Makes a graph of float16 or bfloat16 one of float32, with its bodies: TFLite's CPU kernels compute in float32."""
    from onnx import TensorProto

    small = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    for tensor in graph.initializer:
        _widen_tensor(tensor, small)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in small:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t, small)
            elif attribute.name in ("to", "dtype", "stash_type") and attribute.i in small:
                attribute.i = TensorProto.FLOAT
        for body in _bodies(node):
            widen(body)


def _widen_tensor(tensor: Any, small: set[int]) -> None:
    from onnx import numpy_helper

    if tensor.data_type in small:
        wide = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        tensor.CopyFrom(wide)


def folded(model: Any, folder: Path) -> Any:
    """The model with everything computed that does not depend on its input, and all shapes known: onnxruntime's basic level."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    # Gemm takes two axes: the fusion would put a Reshape before and after each matrix
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    return onnx.load(options.optimized_model_filepath)


def _drop_empty_parts(graph: Any) -> None:
    """Makes Concat nodes join no constants without values: an empty cache. TFLite has no such tensors; onnxruntime crashes folding them."""
    empty = {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
    for node in graph.node:
        if node.op_type in _STAY_EMPTY and empty & set(node.input[:1]):
            empty |= set(node.output)
        if node.op_type == "Concat" and empty & set(node.input):
            kept = [name for name in node.input if name not in empty]
            del node.input[:]
            node.input.extend(kept)
            if len(kept) == 1:
                node.op_type = "Identity"
                del node.attribute[:]


def _scores_of(file: Path, call: GraphCall, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kind = {"tensor(int32)": np.int32}.get(session.get_inputs()[0].type, np.int64)
    return np.asarray(session.run([call.scores], {call.ids: ids.astype(kind)})[0])
