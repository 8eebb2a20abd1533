"""Recognises activations by what they compute: GELU alone is written in half a dozen ways, from one node to seven."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np

from edgelm.models.activations import activate
from edgelm.spec import Activation
from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import OnnxGraph, OnnxNode
from edgelm_converters.onnx_ops import evaluate

_UNARY = {"BiasGelu", "Clip", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid", "LeakyRelu", "Neg", "QuickGelu", "Relu", "Sigmoid"}
ELEMENTWISE = _UNARY | {"Add", "Div", "Max", "Min", "Mul", "Pow", "Reciprocal", "Softplus", "Sqrt", "Sub", "Swish", "Tanh"}
_GRID = np.linspace(-8, 8, 257, dtype=np.float32)


def activation_at(graph: OnnxGraph, tensor: str) -> tuple[Activation, str] | None:
    """The activation that makes a tensor, and the tensor it is applied to.

    Nodes that work on single elements are followed back from `tensor`, as far as they come from one tensor alone; then as little of them as
    possible. What they compute of numbers from -8 to 8 is compared with the spec's activations.

    Returns:
        None when it is none of them.
    """
    whole = _region(graph, tensor)
    single = [node] if (node := graph.producer_of(tensor)) is not None and _elementwise(graph, node) else []
    for region in (whole, single):
        sources = _sources(graph, region)
        if region and len(sources) == 1:
            name = _named(graph, region, sources[0], tensor)
            if name is not None:
                return name, sources[0]
    return None


def _elementwise(graph: OnnxGraph, node: OnnxNode) -> bool:
    constants = [graph.constants[name] for name in node.inputs if name in graph.constants]
    return node.op in ELEMENTWISE and all(array.size == 1 for array in constants)


def _region(graph: OnnxGraph, tensor: str) -> list[OnnxNode]:
    """The largest set of elementwise nodes behind a tensor, in the graph's order."""
    waiting, wanted = [tensor], set[str]()
    while waiting:
        node = graph.producer_of(waiting.pop())
        if node is not None and node.name not in wanted and _elementwise(graph, node):
            wanted.add(node.name)
            waiting += [name for name in node.inputs if name and name not in graph.constants]
    return [node for node in graph.nodes if node.name in wanted]


def _sources(graph: OnnxGraph, region: list[OnnxNode]) -> list[str]:
    """The tensors that a region reads and does not make."""
    made = {name for node in region for name in node.outputs}
    return list(dict.fromkeys(_read(graph, region, made)))


def _read(graph: OnnxGraph, region: list[OnnxNode], made: set[str]) -> Iterator[str]:
    for node in region:
        yield from (name for name in node.inputs if name and name not in made and name not in graph.constants)


def _named(graph: OnnxGraph, region: list[OnnxNode], source: str, result: str) -> Activation | None:
    values = {source: _GRID}
    for node in region:
        operands = [values.get(name, graph.constants.get(name)) if name else None for name in node.inputs]
        try:
            outputs = evaluate(node, operands)
        except NotLiftable:
            return None
        values |= dict(zip(node.outputs, outputs, strict=False))
    computed = np.broadcast_to(values[result], _GRID.shape)
    names: tuple[Activation, ...] = get_args(Activation)
    close = (name for name in names if name != "linear" and np.allclose(computed, activate(name, _GRID), atol=2e-6, rtol=1e-5))
    return next(close, None)
