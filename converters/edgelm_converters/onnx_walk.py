"""Ways through an ONNX graph: past the nodes that only arrange values, forwards from the ids and backwards from the scores."""

from __future__ import annotations

import math

import numpy as np

from edgelm_converters.onnx_node import OnnxGraph, OnnxInput
from edgelm_converters.onnx_ops import trace

LAYOUT = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operations that give the values of their first operand, in the same or another arrangement."""

_PROBE = 8  # for every free size
_ON_IDS = LAYOUT | {"Add", "And", "Clip", "Expand", "GreaterOrEqual", "Less", "Max", "Min", "Mul", "Not", "Slice", "Sub", "Where"}


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
            elif node.op in _ON_IDS or (node.op == "Gather" and node.inputs[0] == name):
                waiting += node.outputs
    return tuple(rows)


def arranged_from(graph: OnnxGraph, tensor: str) -> str:
    """The tensor whose values `tensor` only arranges anew."""
    while True:
        node = graph.producer_of(tensor)
        if node is None or node.domain or node.op not in LAYOUT:
            return tensor
        tensor = node.inputs[0]


def holds_ids(graph: OnnxGraph, tensor: str, rows: int) -> bool:
    """Whether a tensor is an input of whole numbers, or equals one for ids from 0 to `rows`.

    Frameworks that count negative ids from the end of the table compute with them first.
    """
    if _integer(graph.input(arranged_from(graph, tensor))):
        return True
    read = {name for node in graph.ancestors(tensor) for name in node.inputs}
    given = [each for each in graph.inputs if each.name in read]
    if len(given) != 1 or not _integer(given[0]):
        return False
    shape = [_PROBE if size is None else size for size in given[0].shape]
    ids = np.arange(math.prod(shape)).reshape(shape) % rows
    found = trace(graph, {given[0].name: ids.astype(given[0].dtype)}, tensor).get(tensor)
    return found is not None and np.array_equal(found.reshape(-1), ids.reshape(-1))


def _integer(given: OnnxInput | None) -> bool:
    return given is not None and np.dtype(given.dtype).kind in "iu"
