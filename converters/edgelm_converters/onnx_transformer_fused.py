"""Takes fused operations apart, so that residual sums, products and attention show in the graph.

com.microsoft's are those of onnxruntime's contrib operators (docs/ContribOperators.md): what its transformer optimiser and the builder of
onnxruntime-genai write. Each becomes operations of ONNX itself, of opset 23 where it has Attention and RotaryEmbedding.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_graph import Array, OnnxGraph, OnnxNode

_ATTENTION_OPSET = 23
_REFUSED = ("softcap", "smooth_softmax", "qk_output")


def unfused(graph: OnnxGraph) -> OnnxGraph:
    """The same function without com.microsoft's residual sums, biases and attention inside other operations, and without Einsum of heads.

    Raises:
        NotLiftable: One of them has an option that the transformer family has not.
    """
    writer = _Writer(graph)
    for node in graph.nodes:
        take_apart = _FUSED.get((node.domain, node.op))
        if take_apart is None:
            writer.nodes.append(node)
        else:
            take_apart(writer, node)
    return dataclasses.replace(graph, nodes=tuple(writer.nodes), constants=writer.constants)


class _Writer:
    """Nodes and constants as they are written."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes: list[OnnxNode] = []
        self.constants: dict[str, Array] = dict(graph.constants)

    def add(
        self, owner: OnnxNode, op: str, inputs: tuple[str, ...], outputs: tuple[str, ...] | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Writes one node; returns its first output."""
        name = f"{owner.name}/{op}_{len(self.nodes)}"
        outputs = outputs or (name,)
        self.nodes.append(OnnxNode(name, op, domain, inputs, outputs, attributes, 1 if domain else _ATTENTION_OPSET))
        return outputs[0]

    def constant(self, owner: OnnxNode, value: Array) -> str:
        name = f"{owner.name}/constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def split(self, owner: OnnxNode, tensor: str, sizes: tuple[int, ...]) -> tuple[str, ...]:
        """Cuts the last axis."""
        outputs = tuple(f"{owner.name}/part_{number}_{len(self.nodes)}" for number in range(len(sizes)))
        self.add(owner, "Split", (tensor, self.constant(owner, np.array(sizes, np.int64))), outputs, axis=-1)
        return outputs


def _input(node: OnnxNode, number: int) -> str:
    return node.inputs[number] if number < len(node.inputs) else ""


def _output(node: OnnxNode, number: int) -> str:
    return node.outputs[number] if number < len(node.outputs) else ""


def _refuse(node: OnnxNode, *switches: str) -> None:
    for switch in (*switches, *_REFUSED):
        if node.attributes.get(switch):
            raise NotLiftable(f"node {node.name!r} ({node.op}) has {switch} = {node.attributes[switch]}")


def _skip_norm(writer: _Writer, node: OnnxNode) -> None:
    """Inputs: input, skip, gamma, then beta but for the simplified form, then bias; the fourth output is the sum."""
    simplified = node.op == "SkipSimplifiedLayerNormalization"
    first, second = node.inputs[:2]
    bias = _input(node, 3 if simplified else 4)
    if bias:  # it belongs to whichever of the two is a product
        products = {made.outputs[0] for made in writer.nodes if made.op in ("MatMul", "Gemm", "FusedMatMul")}
        first, second = (second, first) if second in products else (first, second)
        first = writer.add(node, "Add", (first, bias))
    total = _output(node, 3) or f"{node.name}/sum"
    writer.add(node, "Add", (first, second), (total,))
    op = "SimplifiedLayerNormalization" if simplified else "LayerNormalization"
    inputs = (total, node.inputs[2]) if simplified else (total, node.inputs[2], _input(node, 3))
    writer.add(node, op, inputs, (node.outputs[0],), epsilon=float(node.attributes.get("epsilon", 1e-12)))


def _attention(writer: _Writer, node: OnnxNode) -> None:
    """Inputs: input, weights (in, q + k + v), bias, mask index, past, attention bias."""
    _refuse(node, "do_rotary")
    weights = writer.constants.get(node.inputs[1])
    if weights is None:
        raise NotLiftable(f"the weights of node {node.name!r} (Attention) are not constant")
    heads = int(node.attributes["num_heads"])
    sizes = tuple(node.attributes.get("qkv_hidden_sizes") or (weights.shape[1] // 3,) * 3)
    packed = writer.add(node, "MatMul", (node.inputs[0], node.inputs[1]))
    packed = writer.add(node, "Add", (packed, _input(node, 2))) if _input(node, 2) else packed
    _write_attention(writer, node, writer.split(node, packed, sizes), (heads, heads), _input(node, 5), "unidirectional")


def _multi_head(writer: _Writer, node: OnnxNode) -> None:
    """Inputs: query, key, value, bias, key padding mask, attention bias, past key, past value."""
    heads = int(node.attributes["num_heads"])
    if not _input(node, 1) or not _input(node, 2):
        raise NotLiftable(f"node {node.name!r} (MultiHeadAttention) has its queries, keys and values packed")
    parts = node.inputs[:3]
    bias = writer.constants.get(_input(node, 3))
    if bias is not None:
        biases = [writer.constant(node, part) for part in np.split(bias, 3)]
        parts = tuple(writer.add(node, "Add", (part, added)) for part, added in zip(parts, biases, strict=True))
    elif _input(node, 3):
        raise NotLiftable(f"the bias of node {node.name!r} (MultiHeadAttention) is not constant")
    _write_attention(writer, node, parts, (heads, heads), _input(node, 5), "unidirectional")


def _group_query(writer: _Writer, node: OnnxNode) -> None:
    """Inputs: query, key, value, past key, past value, lengths, total length, cos, sin, position ids, attention bias; always causal."""
    if int(node.attributes.get("local_window_size", -1)) > 0:
        raise NotLiftable(f"node {node.name!r} attends to a window of {node.attributes['local_window_size']} positions")
    if any(_input(node, number) for number in range(11, len(node.inputs))):
        raise NotLiftable(f"node {node.name!r} (GroupQueryAttention) has more inputs than a plain causal attention: {node.inputs[11:]}")
    heads, kv_heads = int(node.attributes["num_heads"]), int(node.attributes["kv_num_heads"])
    parts = node.inputs[:3]
    if not _input(node, 1):
        parts = _unpacked(writer, node, heads, kv_heads)
    if node.attributes.get("do_rotary", 0):
        parts = (_rotated(writer, node, parts[0], heads), _rotated(writer, node, parts[1], kv_heads), parts[2])
    _write_attention(writer, node, parts, (heads, kv_heads), _input(node, 10), None)


def _unpacked(writer: _Writer, node: OnnxNode, heads: int, kv_heads: int) -> tuple[str, ...]:
    """Queries, keys and values of one packed tensor; its size is that of the constant it was multiplied with."""
    makers = {output: made for made in writer.nodes for output in made.outputs}
    product = makers.get(node.inputs[0])
    while product is not None and product.op in ("Add", "Cast", "Identity"):
        product = next((makers[name] for name in product.inputs if name in makers), None)
    weights = None if product is None else writer.constants.get(_input(product, 1))
    if weights is None or weights.ndim != 2:
        raise NotLiftable(f"node {node.name!r} (GroupQueryAttention) reads a packed tensor that no product with a constant makes")
    columns = max(weights.shape) if product is not None and product.op == "Gemm" else weights.shape[1]
    head_dim = columns // (heads + 2 * kv_heads)
    return writer.split(node, node.inputs[0], (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim))


def _rotated(writer: _Writer, node: OnnxNode, tensor: str, heads: int) -> str:
    """One of the tensors that GroupQueryAttention turns; without positions of its own they count from 0, since the cache is empty."""
    positions = _input(node, 9) or writer.constant(node, np.zeros(1, np.int64))
    interleaved = int(node.attributes.get("rotary_interleaved", 0))
    inputs = (tensor, positions, *node.inputs[7:9])
    return writer.add(node, "RotaryEmbedding", inputs, domain="com.microsoft", num_heads=heads, interleaved=interleaved)


def _bias_gelu(writer: _Writer, node: OnnxNode) -> None:
    """Inputs: input, bias; FastGelu is the tanh form, and may come without a bias."""
    total = writer.add(node, "Add", node.inputs[:2]) if _input(node, 1) else node.inputs[0]
    writer.add(node, "Gelu", (total,), node.outputs, approximate="tanh" if node.op == "FastGelu" else "none")


def _write_attention(
    writer: _Writer, node: OnnxNode, parts: tuple[str, ...], heads: tuple[int, int], bias: str, causal: str | None
) -> None:
    """ONNX's Attention of (batch, time, heads * head_dim) tensors; `causal` names the attribute that says so, None where it always is."""
    _refuse(node)
    is_causal = 1 if causal is None else int(node.attributes.get(causal, 0))
    attributes: dict[str, Any] = {"q_num_heads": heads[0], "kv_num_heads": heads[1], "is_causal": is_causal}
    if node.attributes.get("scale"):
        attributes["scale"] = float(node.attributes["scale"])
    writer.add(node, "Attention", (*parts, bias), (node.outputs[0],), **attributes)


def _einsum(writer: _Writer, node: OnnxNode) -> None:
    """A product of two tensors with one letter summed, as queries with keys or weights with values: becomes a MatMul."""
    found = re.fullmatch(r"(\w+),(\w+)->(\w+)", str(node.attributes["equation"]).replace(" ", ""))
    first, second = node.inputs[0], node.inputs[-1]
    left, right, out = found.groups() if found else ("", "", "")
    if out and out[-1] not in right:  # columns come from the second factor
        left, right, first, second = right, left, second, first
    summed = (set(left) & set(right)) - set(out)
    rows = set(left) - set(right)
    plain = len(summed) == 1 and rows and rows <= set(out) and out[-1] not in left and (set(left) | set(right)) - summed == set(out)
    constant = not writer.constants.keys().isdisjoint(node.inputs)
    if not plain or constant or any(len(set(term)) < len(term) for term in (left, right, out)):
        writer.nodes.append(node)
        return
    inner = summed.pop()
    # of several rows, as grouped queries have, the positions: scores have them last, weights are given as scores
    row = next(letter for letter in reversed(out if right[-1] == inner else left) if letter in rows)
    outer = [letter for letter in out if letter not in (row, out[-1])]
    a = _arranged(writer, node, first, left, [*outer, row, inner])
    b = _arranged(writer, node, second, right, [*outer, inner, out[-1]])
    made = [*outer, row, out[-1]]
    product = writer.add(node, "MatMul", (a, b))
    writer.add(node, "Transpose", (product,), node.outputs, perm=tuple(made.index(letter) for letter in out))


def _arranged(writer: _Writer, node: OnnxNode, tensor: str, letters: str, order: list[str]) -> str:
    """The axes of a tensor in another order, those it has not of size 1."""
    present = [letter for letter in order if letter in letters]
    turned = writer.add(node, "Transpose", (tensor,), perm=tuple(letters.index(letter) for letter in present))
    missing = [axis for axis, letter in enumerate(order) if letter not in letters]
    return writer.add(node, "Unsqueeze", (turned, writer.constant(node, np.array(missing, np.int64)))) if missing else turned


_FUSED: Mapping[tuple[str, str], Callable[[_Writer, OnnxNode], None]] = {
    ("", "Einsum"): _einsum,
    ("com.microsoft", "Attention"): _attention,
    ("com.microsoft", "BiasGelu"): _bias_gelu,
    ("com.microsoft", "FastGelu"): _bias_gelu,
    ("com.microsoft", "GroupQueryAttention"): _group_query,
    ("com.microsoft", "MultiHeadAttention"): _multi_head,
    ("com.microsoft", "SkipLayerNormalization"): _skip_norm,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _skip_norm,
}
"""(domain, operation) -> what takes it apart."""
