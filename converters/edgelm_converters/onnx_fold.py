"""Folds an ONNX graph: what depends on no input becomes a constant, what changes nothing is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxNode
from edgelm_converters.onnx_ops import computable, evaluate

_INT = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})
_BOOL = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "Xor", "IsNaN", "IsInf"})
_KINDS: Mapping[int, str] = {**dict.fromkeys((2, 3, 4, 5, 6, 7, 12, 13), "i"), **dict.fromkeys((1, 10, 11, 16), "f"), 9: "b"}


def folded(graph: OnnxGraph) -> OnnxGraph:
    """The same function with fewer nodes.

    Constants are propagated with `edgelm_converters.onnx_ops.evaluate`; If nodes of a known condition are replaced by their branch;
    Identity, Dropout and casts from whole to whole or from float to float numbers are left out; so are nodes that no output needs.
    Inputs stay, outputs keep their order (their names may be those of the tensors they equal).
    """
    fold = _Fold(graph)
    for node in graph.nodes:
        fold.add(node)
    outputs = tuple(fold.alias.get(name, name) for name in graph.outputs)
    slim = dataclasses.replace(graph, nodes=tuple(fold.nodes), constants=fold.constants, outputs=outputs)
    nodes = slim.ancestors(*outputs)
    read = {name for node in nodes for name in node.inputs} | set(outputs)
    bodies = any(isinstance(value, OnnxGraph) for node in nodes for value in node.attributes.values())
    constants = {name: array for name, array in fold.constants.items() if bodies or name in read}
    return dataclasses.replace(slim, nodes=nodes, constants=constants)


class _Fold:
    """What has been folded so far."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.constants: dict[str, Array] = dict(graph.constants)
        self.alias: dict[str, str] = {}
        self.nodes: list[OnnxNode] = []
        self._kinds: dict[str, str] = {given.name: _kind(given.dtype) for given in graph.inputs}
        self._kinds |= {name: _kind(array.dtype.name) for name, array in graph.constants.items()}

    def add(self, node: OnnxNode) -> None:
        """Folds one node; those it reads from were added before."""
        node = dataclasses.replace(node, inputs=tuple(self.alias.get(name, name) for name in node.inputs))
        if any(isinstance(value, OnnxGraph) for value in node.attributes.values()):
            self._add_control_flow(node)
        elif node.inputs and self._changes_nothing(node):
            self.alias[node.outputs[0]] = node.inputs[0]
        elif not self._fold_constant(node):
            self._keep(node)

    def _keep(self, node: OnnxNode) -> None:
        self.nodes.append(node)
        kind = self._kind_of(node)
        self._kinds |= dict.fromkeys(node.outputs, kind)

    def _kind_of(self, node: OnnxNode) -> str:
        if node.op in _INT:
            return "i"
        if node.op in _BOOL:
            return "b"
        if node.op in ("Cast", "ConstantOfShape"):
            value = node.attributes.get("value")
            return _kind(value.dtype.name) if value is not None else _KINDS.get(node.attributes.get("to", 1), "?")
        candidates = node.inputs[1:] if node.op == "Where" else node.inputs
        return next((self._kinds[name] for name in candidates if name in self._kinds), "?")

    def _changes_nothing(self, node: OnnxNode) -> bool:
        if node.domain or any(node.outputs[1:]):
            return False
        if node.op == "Dropout":
            training = node.inputs[2] if len(node.inputs) > 2 else ""
            return not training or (training in self.constants and not self.constants[training].any())
        if node.op == "Cast":
            kind = _KINDS.get(node.attributes.get("to", 0))
            return kind in ("i", "f") and kind == self._kinds.get(node.inputs[0]) and node.inputs[0] not in self.constants
        return node.op == "Identity"

    def _fold_constant(self, node: OnnxNode) -> bool:
        if not all(not name or name in self.constants for name in node.inputs) or not computable(node):
            return False
        try:
            values = evaluate(node, [self.constants[name] if name else None for name in node.inputs])
        except NotLiftable:  # it stays as it is, and who needs its value says so
            return False
        made = dict(zip(node.outputs, values, strict=False))
        self.constants |= {name: value for name, value in made.items() if name}
        self._kinds |= {name: _kind(value.dtype.name) for name, value in made.items()}
        return True

    def _add_control_flow(self, node: OnnxNode) -> None:
        condition = self.constants.get(node.inputs[0]) if node.op == "If" and node.inputs else None
        if condition is None:
            self._keep(_renamed(node, self.alias))
            return
        branch = node.attributes.get("then_branch" if condition.all() else "else_branch")
        if not isinstance(branch, OnnxGraph) or len(branch.outputs) != len(node.outputs):
            self._keep(_renamed(node, self.alias))
            return
        self.constants |= branch.constants
        for inner in branch.nodes:
            self.add(inner)
        self.alias |= {out: self.alias.get(name, name) for out, name in zip(node.outputs, branch.outputs, strict=True)}


def _renamed(node: OnnxNode, alias: Mapping[str, str]) -> OnnxNode:
    """A control-flow node whose bodies read outer tensors by their new names."""
    attributes = {key: _renamed_body(value, alias) if isinstance(value, OnnxGraph) else value for key, value in node.attributes.items()}
    return dataclasses.replace(node, attributes=attributes)


def _renamed_body(body: OnnxGraph, alias: Mapping[str, str]) -> OnnxGraph:
    own = {given.name for given in body.inputs} | set(body.constants) | {out for node in body.nodes for out in node.outputs}
    outer = {name: new for name, new in alias.items() if name not in own}
    nodes = tuple(
        dataclasses.replace(_renamed(node, outer), inputs=tuple(outer.get(name, name) for name in node.inputs)) for node in body.nodes
    )
    return dataclasses.replace(body, nodes=nodes, outputs=tuple(outer.get(name, name) for name in body.outputs))


def _kind(dtype: str) -> str:
    """`i`, `f`, `b` or `?` for whole numbers, floats, truth values and anything else."""
    if dtype == "bool":
        return "b"
    return "f" if "float" in dtype else "i" if "int" in dtype else "?"
