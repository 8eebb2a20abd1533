"""The frame of a transformer's graph: linear maps with constant weights, residual sums, attention, and what lies between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgelm.spec import FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine
from edgelm_converters.onnx_graph import OnnxGraph, OnnxNode
from edgelm_converters.onnx_transformer_trace import Trace

PASSIVE = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", "CastLike", "Identity", "Dropout", "Expand", "Slice", "Gather"}
)
"""Operations that only move or select elements of their first operand."""


@dataclass(frozen=True)
class Linear:
    """layer(x) of the tensor `input`, written to `output`."""

    input: str
    output: str
    layer: Affine


@dataclass(frozen=True)
class Core:
    """One attention: softmax(scale * q k + mask) v.

    Attributes:
        q: Tensor (..., time, head_dim), or (batch, time, heads * head_dim) where `heads` says so.
        k: Tensor like `q`; (..., head_dim, time) in a product.
        v: Tensor like `q`.
        output: Tensor of mixed values.
        node: The softmax, or the fused operation.
        product: Tensor of the unscaled scores; "" in a fused operation.
        transposed: The scores are those of keys (rows) with queries (columns), as tf2onnx writes some einsums; then `k` is
            (..., time, head_dim) and `q` (..., head_dim, time).
    """

    q: str
    k: str
    v: str
    output: str
    node: OnnxNode
    product: str = ""
    transposed: bool = False

    @property
    def fused(self) -> bool:
        """It is ONNX's Attention."""
        return not self.product


@dataclass(frozen=True)
class ResidualSum:
    """stream + branches, each branch a linear map's output.

    Attributes:
        output: Tensor of the sum.
        stream: Tensor that is passed on; "" where the sum has none.
        branches: The output projections that are added.
    """

    output: str
    stream: str
    branches: tuple[Linear, ...]


class Frame:
    """Finds the frame in a trace.

    Args:
        trace: The trace.

    Attributes:
        linears: Output tensor -> linear map, in the graph's order.
        sums: Output tensor -> residual sum, in the graph's order.
        cores: Output tensor -> attention.
        tables: Output tensor -> embedding table (rows, width) that the token ids select from.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.graph: OnnxGraph = trace.graph
        self.linears = {linear.output: linear for node in self.graph.nodes if (linear := self._linear(node)) is not None}
        self.cores = {core.output: core for node in self.graph.nodes if (core := self._core(node)) is not None}
        self.tables = {node.outputs[0]: table for node in self.graph.nodes if (table := self._table(node)) is not None}
        self.sums = {total.output: total for total in self._sums()}

    def origins(self, tensor: str) -> frozenset[str]:
        """The nearest tensors of the frame, itself included, that a tensor is made from; other live inputs by their own name."""
        waiting, seen, found = [tensor], set[str](), set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.trace.live:
                continue
            seen.add(name)
            node = self.graph.producer_of(name)
            if name in self._frame or node is None:
                found.add(name)
            else:
                waiting += node.inputs
        return frozenset(found)

    def passed_on(self, tensor: str, *, scaled: bool = False) -> str:
        """The tensor that reaches `tensor` by being moved or selected; with `scaled` also multiplied with one number."""
        node = self.graph.producer_of(tensor)
        while tensor not in self.linears and node is not None and self._is_passive(node, scaled):
            tensor = self.trace.live_inputs(node)[0]
            node = self.graph.producer_of(tensor)
        return tensor

    @cached_property
    def _frame(self) -> frozenset[str]:
        return frozenset([*self.linears, *self.cores, *self.tables, *self.sums])

    def _is_passive(self, node: OnnxNode, scaled: bool) -> bool:
        live = self.trace.live_inputs(node)
        if node.op in PASSIVE:
            return live == [node.inputs[0]]
        if not scaled or node.op not in ("Mul", "Div"):
            return False
        others = [name for name in node.inputs if name not in live]
        return live == [node.inputs[0]] and all(self.trace.value(name).size == 1 for name in others)

    def _weight(self, tensor: str) -> FloatArray | None:
        """The matrix (in, out) that a tensor is, where it depends on no token."""
        if not tensor or tensor in self.trace.live:
            return None
        value = self.trace.value(tensor)
        matrix = value.reshape(value.shape[-2:]) if value.ndim > 2 and value.size == value.shape[-2] * value.shape[-1] else value
        return matrix if matrix.ndim == 2 and matrix.dtype.kind == "f" else None

    def _linear(self, node: OnnxNode) -> Linear | None:
        read = _PRODUCTS.get(node.op)
        if read is None or len(node.inputs) < 2 or node.inputs[0] not in self.trace.live:
            return None
        weight = self._weight(node.inputs[1])
        layer = None if weight is None else read(self, node, weight)
        return None if layer is None else self._with_bias(Linear(node.inputs[0], node.outputs[0], layer))

    def _matmul(self, node: OnnxNode, weight: FloatArray) -> Affine | None:
        if node.attributes.get("transA", 0) or node.attributes.get("transBatchA", 0) or node.attributes.get("transBatchB", 0):
            return None
        turned = weight if node.attributes.get("transB", 0) else weight.T
        alpha = float(node.attributes.get("alpha", 1.0))
        return Affine(turned if alpha == 1 else np.asarray(turned * alpha, np.float32))

    def _gemm(self, node: OnnxNode, weight: FloatArray) -> Affine | None:
        layer = self._matmul(node, weight)
        third = node.inputs[2] if len(node.inputs) > 2 else ""
        if layer is None or not third:
            return layer
        if third in self.trace.live:
            return None
        rows = layer.weight.shape[0]
        added = self.trace.value(third) * np.float32(node.attributes.get("beta", 1.0))
        return Affine(layer.weight, np.broadcast_to(added.reshape(-1), (rows,))) if added.size in (1, rows) else None

    def _einsum(self, node: OnnxNode, weight: FloatArray) -> Affine | None:
        equation = str(node.attributes["equation"]).replace(" ", "")
        if re.fullmatch(r"(\.\.\.|\w+)(\w),\2(\w)->\1\3", equation):
            return Affine(weight.T)
        return Affine(weight) if re.fullmatch(r"(\.\.\.|\w+)(\w),(\w)\2->\1\3", equation) else None

    def _with_bias(self, linear: Linear) -> Linear:
        """With the biases that are added right behind it."""
        readers, rows = self.graph.consumers_of(linear.output), len(linear.layer.weight)
        if len(readers) != 1 or readers[0].op != "Add" or linear.output in self.graph.outputs:
            return linear
        others = [name for name in readers[0].inputs if name != linear.output]
        if len(others) != 1 or others[0] in self.trace.live:
            return linear
        bias = self.trace.value(others[0])
        if bias.size != rows or bias.shape[-1:] != (rows,):
            return linear
        known = linear.layer.bias
        total = bias.reshape(-1) if known is None else known + bias.reshape(-1)
        return self._with_bias(Linear(linear.input, readers[0].outputs[0], Affine(linear.layer.weight, total)))

    def _core(self, node: OnnxNode) -> Core | None:
        if node.op == "Attention" and not node.domain and set(node.inputs[:3]) <= self.trace.live:
            return Core(node.inputs[0], node.inputs[1], node.inputs[2], node.outputs[0], node)
        if node.op != "Softmax" or node.inputs[0] not in self.trace.live:
            return None
        product, mixed = self._scores(node.inputs[0]), self._mixed(node.outputs[0])
        if product is None or mixed is None:
            return None
        axes = len(self.trace.shape(node.inputs[0]))
        transposed = int(node.attributes.get("axis", -1)) % axes == axes - 2
        q, k = reversed(product.inputs[:2]) if transposed else product.inputs[:2]
        return Core(q, k, mixed.inputs[1], mixed.outputs[0], node, product.outputs[0], transposed)

    def _scores(self, tensor: str) -> OnnxNode | None:
        """The product of queries and keys that a softmax is taken of."""
        node = self.graph.producer_of(tensor)
        while node is not None and not self._is_live_product(node):
            live = self.trace.live_inputs(node)
            if node.outputs[0] in self.linears:
                return None  # scores of a vocabulary
            if len(set(live)) > 1:
                raise NotLiftable(f"the mask of the attention at node {node.name!r} depends on the tokens")
            node = self.graph.producer_of(live[0]) if live else None
        return node

    def _mixed(self, tensor: str) -> OnnxNode | None:
        """The product of attention weights and values."""
        waiting, seen = [tensor], set[str]()
        while waiting:
            name = waiting.pop(0)
            for node in self.graph.consumers_of(name):
                if self._is_live_product(node):
                    return node if node.inputs[0] == name else None
                if node.name not in seen and name not in self.linears:
                    seen.add(node.name)
                    waiting += node.outputs
        return None

    def _is_live_product(self, node: OnnxNode) -> bool:
        return node.op in ("MatMul", "FusedMatMul") and set(node.inputs[:2]) <= self.trace.live

    def _table(self, node: OnnxNode) -> FloatArray | None:
        if node.op != "Gather" or node.attributes.get("axis", 0) != 0 or node.inputs[1] not in self.trace.live:
            return None
        return self._weight(node.inputs[0])

    def _sums(self) -> Iterator[ResidualSum]:
        """Residual sums: one operand is made by linear maps, the other does not depend on them."""
        reach = self._reach()
        number = {output: 1 << index for index, output in enumerate(self.linears)}
        terms: dict[str, tuple[str, ...]] = {}
        for node in self.graph.nodes:
            if node.op not in ("Add", "Sum") or len(node.inputs) != 2 or not set(node.inputs) <= self.trace.live:
                continue
            parts = [terms[name] if self._only_read_by(name, terms) else (name,) for name in node.inputs]
            made = [[number.get(self.passed_on(name, scaled=True), 0) for name in part] for part in parts]
            if any(all(bits) and not sum(bits) & reach[other] for bits, other in zip(made, reversed(node.inputs), strict=True)):
                terms[node.outputs[0]] = parts[0] + parts[1]
        for output, names in terms.items():
            if not (self._only_read_by(output, terms) and self._reader(output).outputs[0] in terms):
                yield self._sum(output, names)

    def _reader(self, tensor: str) -> OnnxNode:
        return self.graph.consumers_of(tensor)[0]

    def _only_read_by(self, tensor: str, terms: Mapping[str, object]) -> bool:
        """A sum that only another sum reads: a term of a parallel block."""
        return tensor in terms and len(self.graph.consumers_of(tensor)) == 1 and self._reader(tensor).op in ("Add", "Sum")

    def _sum(self, output: str, names: tuple[str, ...]) -> ResidualSum:
        ends = {name: self.passed_on(name, scaled=True) for name in names}
        branches = [name for name in names if ends[name] in self.linears]
        streams = [name for name in names if name not in branches]
        if len(streams) > 1:
            raise NotLiftable(f"the sum {output!r} adds {len(streams)} tensors that no linear map makes")
        return ResidualSum(output, "".join(streams), tuple(self._scaled(self.linears[ends[name]], name) for name in branches))

    def _scaled(self, linear: Linear, tensor: str) -> Linear:
        """A linear map together with the number its output is multiplied with on the way to `tensor`."""
        ones = np.ones(self.trace.shape(linear.output))
        factor = self.trace.run(tensor, {linear.output: ones}).reshape(-1)[0]
        layer = linear.layer if factor == 1 else linear.layer.scaled(np.asarray(factor, np.float32))
        return Linear(linear.input, linear.output, layer)

    def _reach(self) -> dict[str, int]:
        """Tensor -> the linear maps it depends on, one bit each."""
        number = {output: 1 << index for index, output in enumerate(self.linears)}
        reach: dict[str, int] = {}
        for node in self.graph.nodes:
            total = 0
            for name in node.inputs:
                total |= reach.get(name, 0)
            reach |= {name: total | number.get(name, 0) for name in node.outputs}
        return reach


_PRODUCTS = {"MatMul": Frame._matmul, "FusedMatMul": Frame._matmul, "Gemm": Frame._gemm, "Einsum": Frame._einsum}
