"""Recurrent layers that a model of one token spells out: torch's LSTMCell, GRUCell and RNNCell, and those people write themselves.

Between the matrices that multiply the layer's input and its state, and the state that comes out, there are only nodes on single elements.
Which cell these are, is found as for the body of a Loop (`onnx_loops`): by running cells beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgelm_converters.onnx_activations import ELEMENTWISE
from edgelm_converters.onnx_loops import LoopCell, Step, cell_of_step
from edgelm_converters.onnx_node import OnnxGraph, OnnxInput, OnnxNode
from edgelm_converters.onnx_walk import LAYOUT

_INSIDE = ELEMENTWISE | LAYOUT | {"Slice", "Split"}
_SELECTS = LAYOUT | {"Gather", "Slice"}


def has_states(graph: OnnxGraph) -> bool:
    """Whether a constant matrix multiplies a float input: the state of a recurrent layer (of an attention layer it is none)."""
    return any(_is_product(graph, node) and _is_state(graph, node.inputs[0]) for node in graph.nodes)


def single_step_cell(graph: OnnxGraph, tensor: str) -> LoopCell | None:
    """The recurrent layer whose new state is `tensor`; None when it is none."""
    region = _region(graph, tensor)
    products = [node for node in region if _is_product(graph, node)]
    read = list(dict.fromkeys(node.inputs[0] for node in products if not _is_state(graph, node.inputs[0])))
    if len(read) != 1 or len(products) < 2:
        return None
    made = {name for node in region for name in node.outputs}
    sources = dict.fromkeys(name for node in region for name in node.inputs if name and name not in made and name not in graph.constants)
    states = [name for name in sources if name != read[0]]
    states.sort(key=lambda name: all(node.inputs[0] != name for node in products))  # h is multiplied with a matrix, c is not
    outputs = [tensor, *(name for name in _exits(graph, region) if name != tensor)]
    if len(outputs) != len(states):
        return None
    used = {name: graph.constants[name] for node in region for name in node.inputs if name in graph.constants}
    inputs = tuple(OnnxInput(name, "float32", ()) for name in (read[0], *states))
    inner = OnnxGraph(tuple(region), used, inputs, tuple(outputs), graph.opset, graph.opsets, graph.producer)
    cell = cell_of_step(Step(inner, read[0], read[0], dict(zip(states, outputs, strict=True))))
    return None if cell is None else LoopCell(cell, read[0], (tensor,))


def _is_product(graph: OnnxGraph, node: OnnxNode) -> bool:
    matrix = graph.constant(node.inputs[1]) if node.op in ("MatMul", "Gemm") and len(node.inputs) > 1 else None
    return matrix is not None and matrix.ndim == 2


def _is_state(graph: OnnxGraph, tensor: str) -> bool:
    """Selected from a float input of the model."""
    while (node := graph.producer_of(tensor)) is not None:
        if node.op not in _SELECTS:
            return False
        tensor = node.inputs[0]
    given = graph.input(tensor)
    return given is not None and np.dtype(given.dtype).kind == "f"


def _region(graph: OnnxGraph, tensor: str) -> list[OnnxNode]:
    """The nodes behind a tensor up to the products with constant matrices and the states, in the graph's order."""
    waiting, wanted = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        node = graph.producer_of(name)
        if node is None or node.name in wanted or _is_state(graph, name):
            continue
        if _is_product(graph, node):
            wanted.add(node.name)
        elif node.op in _INSIDE:
            wanted.add(node.name)
            waiting += [each for each in node.inputs if each]
    return [node for node in graph.nodes if node.name in wanted]


def _exits(graph: OnnxGraph, region: Sequence[OnnxNode]) -> list[str]:
    """What a region makes for others."""
    inside = {node.name for node in region}
    made = [name for node in region for name in node.outputs]
    return [name for name in made if name in graph.outputs or any(node.name not in inside for node in graph.consumers_of(name))]
