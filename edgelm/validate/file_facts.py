"""What `edgelm.tflite.reader` leaves out and only preflight asks: dynamic shapes, sparsity, where buffers lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

_DTYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}


@dataclass(frozen=True)
class FileFacts:
    """Facts of a .tflite.

    Attributes:
        dynamic_inputs: Names of the inputs of subgraphs whose shape signature has a -1.
        sparse_tensors: (name, dtype) of the tensors that are stored sparse.
        external_buffers: Buffers that lie outside of the root table.
    """

    dynamic_inputs: tuple[str, ...]
    sparse_tensors: tuple[tuple[str, str], ...]
    external_buffers: int


def file_facts(data: bytes) -> FileFacts:
    """Reads the facts of a file that `reader.read` accepted."""
    root = schema.Model.GetRootAs(data, 0)
    graphs = [root.Subgraphs(number) for number in range(root.SubgraphsLength())]
    inputs = (graph.Tensors(graph.Inputs(i)) for graph in graphs for i in range(graph.InputsLength()))
    dynamic = (t for t in inputs if not t.ShapeSignatureIsNone() and (t.ShapeSignatureAsNumpy() < 0).any())
    tensors = (graph.Tensors(i) for graph in graphs for i in range(graph.TensorsLength()))
    sparse = ((_name(t), _DTYPES[t.Type()]) for t in tensors if t.Sparsity() is not None)
    external = sum(root.Buffers(i).Offset() > 1 for i in range(root.BuffersLength()))
    return FileFacts(tuple(_name(t) for t in dynamic), tuple(sparse), external)


def _name(tensor: Any) -> str:
    return str((tensor.Name() or b"").decode("utf-8", "replace"))
