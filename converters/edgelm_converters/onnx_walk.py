"""Ways through an ONNX graph: past the nodes that only arrange values, forwards from the ids and backwards from the scores."""

from __future__ import annotations

import numpy as np

from edgelm_converters.onnx_node import OnnxGraph

LAYOUT = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operations that give the values of their first operand, in the same or another arrangement."""

_ON_IDS = LAYOUT | {"Add", "Clip", "Max", "Min", "Where", "Slice", "Expand"}


def looked_up(graph: OnnxGraph, tensor: str) -> tuple[int, ...]:
    """Rows of the tables that a tensor of ids is looked up in, arrangements and shifts in between allowed."""
    rows, waiting, seen = list[int](), [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in graph.consumers_of(name):
            table = {"Gather": 0, "EmbedLayerNormalization": 2}.get(node.op)
            if table is not None and node.inputs[1 if table == 0 else 0] == name:
                array = graph.constant(node.inputs[table])
                rows += [len(array)] if array is not None and array.ndim == 2 else []
            elif node.op == "OneHot" and node.inputs[0] == name:
                depth = graph.constant(node.inputs[1])
                rows += [] if depth is None or depth.size != 1 else [int(depth.reshape(-1)[0])]
            elif node.op in _ON_IDS:
                waiting += node.outputs
    return tuple(rows)


def arranged_from(graph: OnnxGraph, tensor: str) -> str:
    """The tensor whose values `tensor` only arranges anew."""
    while True:
        node = graph.producer_of(tensor)
        if node is None or node.domain or node.op not in LAYOUT:
            return tensor
        tensor = node.inputs[0]


def is_integer(graph: OnnxGraph, tensor: str) -> bool:
    """A model input of whole numbers."""
    given = graph.input(tensor)
    return given is not None and np.dtype(given.dtype).kind in "iu"
