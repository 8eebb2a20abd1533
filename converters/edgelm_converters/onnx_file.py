"""Reads `.onnx` files as data: protobuf, external data, model-local functions. Nothing of the model is run.

ONNX's protobuf allows almost anything; what the rest of edgelm relies on is checked here: names that exist and are made once, no cycle,
known operations, tensors as large as their shape says, external files beside the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgelm.errors import SourceError, UnsupportedModelError, optional_package
from edgelm_converters.onnx_node import NEWEST_OPSET, OnnxGraph
from edgelm_converters.onnx_proto import HOW_TO_EXPORT, GraphReader, plain_domain

OLDEST_OPSET = 7  # what onnxruntime still runs
DOMAINS = frozenset({"", "ai.onnx.ml", "com.microsoft"})
_LIMIT = (1 << 31) - 1  # of one protobuf message
_DEEPEST_CALL, _MOST_NODES = 50, 1_000_000  # of functions: dynamo's files nest three deep, a model of 100 layers has 10,000 nodes
FUSED_IN_ONNX = frozenset({"SimplifiedLayerNormalization"})
"""Operations of onnxruntime that its optimizer writes without their domain."""


def read_graph(path: Path) -> OnnxGraph:
    """Reads an ONNX model with its weights.

    Args:
        path: The `.onnx` file; external data lies in its folder.

    Returns:
        The model as it is: nothing folded, model-local functions inlined.

    Raises:
        SourceError: Missing, truncated, damaged, external data missing or outside the model's folder.
        UnsupportedModelError: Opset too new or too old, or operations of a custom domain.
        MissingDependencyError: The onnx package is not installed.

    Example:
        >>> graph = read_graph(Path("lstm.onnx"))
        >>> [node.op for node in graph.nodes], graph.inputs
        (['Gather', 'LSTM', 'Squeeze', 'MatMul', 'Add'], (OnnxInput('ids', 'int64', (None, None)),))
    """
    model = load_proto(path)
    opsets = _opsets(path, model)
    _check_domains(path, model, opsets)
    if model.functions:
        _check_functions(path, model)
        model = _inlined(path, model)
        opsets = _opsets(path, model)
    graph = GraphReader(path, opsets).graph(model.graph, f"{model.producer_name} {model.producer_version}".strip(), frozenset())
    if not graph.nodes or not graph.outputs:
        raise SourceError(f"{path} holds no graph", fix=HOW_TO_EXPORT)
    return graph


def load_proto(path: Path) -> Any:
    """The file as an `onnx.ModelProto`, external data not loaded.

    Raises:
        SourceError: Missing, empty, too large, truncated, or no ONNX file.
        MissingDependencyError: The onnx package is not installed.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > _LIMIT:
            raise SourceError(f"{path} is over 2 GB, which no protobuf file can be", fix="export with external data")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (DecodeError, RecursionError) as error:
        raise SourceError(f"{path} is truncated, damaged, or no ONNX file: {error}", allowed="a whole .onnx file") from error
    if not model.opset_import or not model.HasField("graph"):
        raise SourceError(f"{path} is truncated, damaged, or no ONNX file: it names no opset or has no graph", allowed="a whole .onnx file")
    return model


def import_onnx() -> Any:
    """The onnx package.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return optional_package("onnx", "reading ONNX files", "onnx")


def _opsets(path: Path, model: Any) -> dict[str, int]:
    """Domain -> version; the main domain is checked."""
    opsets = {plain_domain(entry.domain): int(entry.version) for entry in model.opset_import}
    version = opsets.setdefault("", 1 if "ai.onnx.ml" in opsets else NEWEST_OPSET)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise UnsupportedModelError(
            f"{path} uses ONNX opset {version}",
            allowed=f"opsets {OLDEST_OPSET} to {NEWEST_OPSET}",
            fix="export with opset_version=18, or convert it: onnx.version_converter.convert_version(model, 18)",
        )
    return opsets


def _check_domains(path: Path, model: Any, opsets: Mapping[str, int]) -> None:
    """Raises for operations that neither ONNX nor onnxruntime nor the file itself defines."""
    from onnx import defs

    own = {(plain_domain(function.domain), function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in _all_nodes(bodies):
        domain = plain_domain(node.domain)
        if (domain, node.op_type) in own:
            continue
        where = f"node {node.name or node.op_type!r} of {path}"
        if domain not in DOMAINS:
            raise UnsupportedModelError(
                f"{where} is the custom operation {domain}::{node.op_type}",
                allowed="operations of ONNX itself and of com.microsoft",
                fix="export the model without custom operations",
            )
        if domain or node.op_type in FUSED_IN_ONNX:
            continue
        if not defs.has(node.op_type, max_inclusive_version=opsets[""], domain=""):
            raise UnsupportedModelError(
                f"{where} is {node.op_type!r}, which opset {opsets['']} does not have", allowed="operations of the model's opset"
            )
        schema = defs.get_schema(node.op_type, opsets[""], "")
        optional = defs.OpSchema.FormalParameterOption.Optional  # a Loop's first two inputs, for instance, may be left out by ""
        given = [bool(name) or formal.option == optional for formal, name in zip(schema.inputs, node.input, strict=False)]
        missing = len(node.input) < schema.min_input or not all(given[: schema.min_input])
        if missing or len(node.input) > schema.max_input or not schema.min_output <= len(node.output) <= schema.max_output:
            what = f"{where} is damaged: a {node.op_type} with {len(node.input)} inputs and {len(node.output)} outputs"
            raise SourceError(what, allowed=f"{schema.min_input} to {schema.max_input} inputs", fix=HOW_TO_EXPORT)


def _all_nodes(bodies: Iterable[Any]) -> Iterable[Any]:
    waiting = [node for body in bodies for node in body]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else []
            waiting += [inner for graph in (*graphs, *attribute.graphs) for inner in graph.node]


def _check_functions(path: Path, model: Any) -> None:
    """Raises for functions that call themselves, or that would become too many nodes: the inliner takes all of them for good."""
    own = {(plain_domain(function.domain), function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(key: tuple[str, str], callers: tuple[tuple[str, str], ...]) -> int:
        if key in callers or len(callers) > _DEEPEST_CALL:
            raise SourceError(f"function {'::'.join(key)} of {path} calls itself, or is called too deep", fix=HOW_TO_EXPORT)
        if key not in sizes:
            calls = [(plain_domain(node.domain), node.op_type) for node in _all_nodes([own[key].node])]
            sizes[key] = sum(size(call, (*callers, key)) if call in own else 1 for call in calls)
        return sizes[key]

    calls = [(plain_domain(node.domain), node.op_type) for node in _all_nodes([model.graph.node])]
    total = sum(size(call, ()) if call in own else 1 for call in [*calls, *own])
    if total > _MOST_NODES:
        raise SourceError(f"the functions of {path} stand for {total:,} nodes", allowed=f"at most {_MOST_NODES:,}", fix=HOW_TO_EXPORT)


def _inlined(path: Path, model: Any) -> Any:
    """The model with its own functions written out where they are called."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the C++ inliner raises whatever its parser does
        raise SourceError(f"{path} has functions that cannot be inlined: {error}", fix=HOW_TO_EXPORT) from error
