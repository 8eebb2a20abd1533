"""A transformer's ONNX graph at one fixed size: what does not depend on the tokens has a value, the rest can be run piece by piece.

With the number of tokens fixed, shapes, masks, positions and rotary tables are plain arrays, whichever way the exporter computes them.
What remains depends on the tokens ("live"): linear maps and the functions between them, which `Trace.run` evaluates on chosen numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_calls import find_call
from edgelm_converters.onnx_graph import Array, OnnxGraph, OnnxNode
from edgelm_converters.onnx_ops import evaluate

TIME = 8
"""Tokens of a trace of a graph of free length: enough to tell causal masks from others, and rotary frequencies from each other."""

_SIZES = frozenset({"Shape", "Size"})
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm"})


class Trace:
    """A graph of batch 1 and a fixed number of tokens; caches are empty.

    Args:
        graph: With fused operations taken apart.
        time: Tokens of a call; a graph of fixed length keeps its own.
        time_first: Ids are (time, batch) instead of (batch, time).
        fixed: The graph computes nothing of another length, though its input does not say so.

    Attributes:
        ids: The input that takes the tokens.
        time: Tokens of a call.
        fixed: The graph is made for this length.
        live: Names of the tensors that depend on the values of the token ids.
    """

    def __init__(self, graph: OnnxGraph, time: int = TIME, *, time_first: bool = False, fixed: bool = False) -> None:
        call = dataclasses.replace(find_call(graph), time_first=time_first)
        if call.rows not in (None, 1) or call.one_hot:
            raise NotLiftable(f"the graph is made for a batch of {call.rows}" if call.rows != 1 else "it reads one-hot rows")
        self.graph, self.ids = graph, call.ids
        self.time, self.fixed = call.time or time, fixed or call.time is not None
        self._time_first = time_first
        self._order = {node.name: number for number, node in enumerate(graph.nodes)}
        self._values: dict[str, Array] = call.empty_states(1) | call.held(1, self.time, 0)
        self._values[self.ids.name] = call.tokens(np.zeros((1, self.time), np.int64))
        self.live = self._live()
        self._paths: dict[tuple[str, frozenset[str]], tuple[OnnxNode, ...]] = {}

    def resized(self, time: int) -> Trace:
        """The same graph for another number of tokens, where it is not fixed."""
        return self if self.fixed else Trace(self.graph, time, time_first=self._time_first)

    def value(self, tensor: str) -> Array:
        """The value of a tensor; of live ones only shape and dtype are right.

        Raises:
            NotLiftable: It depends on an operation that is not computed.
        """
        known = self.graph.constant(tensor)
        if known is not None:
            return known
        if tensor not in self._values:
            for node in self._needed(tensor, self._values):
                self._values |= self._made(node)
        if tensor not in self._values:
            raise NotLiftable(f"tensor {tensor!r} is made by nothing")
        return self._values[tensor]

    def computes(self, tensor: str) -> bool:
        """Whether a tensor can be made at this length."""
        try:
            self.value(tensor)
        except NotLiftable:
            return False
        return True

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.value(tensor).shape

    def live_inputs(self, node: OnnxNode) -> list[str]:
        """The inputs of a node that depend on the tokens."""
        return [name for name in node.inputs if name in self.live]

    def run(self, target: str, feeds: Mapping[str, Array]) -> Array:
        """Evaluates the part of the graph between some tensors and one that depends on them.

        Args:
            target: What to evaluate.
            feeds: Tensor name -> value to use for it.

        Raises:
            NotLiftable: The target depends on the tokens in other ways, too, or an operation is not computed.
        """
        if target in feeds:
            return feeds[target]
        values = dict(feeds)
        for node in self._path(target, frozenset(feeds)):
            inputs = [self._operand(name, values) for name in node.inputs]
            values |= {name: value for name, value in zip(node.outputs, evaluate(node, inputs), strict=False) if name}
        return values[target]

    def between(self, source: str, target: str) -> Sequence[OnnxNode]:
        """The live nodes from which `target` is made when `source` is given, in the graph's order."""
        return self._path(target, frozenset([source]))

    def _path(self, target: str, feeds: frozenset[str]) -> tuple[OnnxNode, ...]:
        if (target, feeds) in self._paths:
            return self._paths[target, feeds]
        nodes = self._needed(target, {**dict.fromkeys(feeds)}, live_only=True)
        if self.ids.name not in feeds and any(self.ids.name in node.inputs for node in nodes):
            raise NotLiftable(f"tensor {target!r} depends on the tokens in more than one way")
        self._paths[target, feeds] = nodes
        return nodes

    def _needed(self, tensor: str, known: Mapping[str, object], *, live_only: bool = False) -> tuple[OnnxNode, ...]:
        """The nodes that make a tensor from known ones, in the graph's order."""
        waiting, found = [tensor], dict[str, OnnxNode]()
        while waiting:
            name = waiting.pop()
            node = None if name in known else self.graph.producer_of(name)
            if node is None or node.name in found or (live_only and name not in self.live):
                continue
            found[node.name] = node
            waiting += node.inputs
        return tuple(sorted(found.values(), key=lambda node: self._order[node.name]))

    def _operand(self, name: str, values: Mapping[str, Array]) -> Array | None:
        if not name:
            return None
        return values[name] if name in values else self.value(name)

    def _made(self, node: OnnxNode) -> dict[str, Array]:
        operands = [self._operand(name, self._values) for name in node.inputs]
        live = node.outputs[0] in self.live
        made = (_empty_product(node, operands) if live and node.op in _PRODUCTS else None) or evaluate(node, operands)
        named = {name: value for name, value in zip(node.outputs, made, strict=False) if name}
        if not live:
            return named
        return {name: np.broadcast_to(np.zeros((), value.dtype), value.shape) for name, value in named.items()}

    def _live(self) -> frozenset[str]:
        live = {self.ids.name}
        for node in self.graph.nodes:
            if node.op not in _SIZES and not live.isdisjoint(node.inputs):
                live |= {name for name in node.outputs if name}
        return frozenset(live)


def _empty_product(node: OnnxNode, operands: Sequence[Array | None]) -> tuple[Array] | None:
    """A product of the right shape, not calculated since all weights would be read for it; None for vectors and what does not fit."""
    a, b = operands[0], operands[1]
    if a is None or b is None or min(a.ndim, b.ndim) < 2:
        return None
    a = a.swapaxes(-1, -2) if node.attributes.get("transA", 0) else a
    b = b.swapaxes(-1, -2) if node.attributes.get("transB", 0) else b
    lead = {a.shape[:-2], b.shape[:-2]} - {()}
    if a.shape[-1] != b.shape[-2] or len(lead) > 1:
        return None
    shape = (*(lead.pop() if lead else ()), a.shape[-2], b.shape[-1])
    return (np.broadcast_to(np.zeros((), a.dtype), shape),)


def constants_behind(trace: Trace, names: list[str]) -> Iterator[Array]:
    """The constants that some tensors are computed from, as far as they do not depend on the tokens; sizes are not followed."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if not name or name in seen or name in trace.live:
            continue
        seen.add(name)
        constant, node = trace.graph.constant(name), trace.graph.producer_of(name)
        if constant is not None:
            yield constant
        elif node is not None and node.op not in ("Shape", "Size"):
            waiting += node.inputs
