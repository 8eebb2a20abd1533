"""Flattens parsed Keras models, nested ones included, into the nodes of a `KerasGraph`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgelm.errors import SourceError
from edgelm_converters.keras_config import Layer, Model, normalise
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.lift import NotLiftable

Weights = Mapping[str, Mapping[str, NDArray[Any]]]
"""Path of a layer ("ffn/dense") -> its arrays by name."""

_Reference = tuple[str, int, int]
"""(layer, which of its calls, which of its outputs)"""


def flatten(model: Model, weights: Weights) -> tuple[tuple[LayerNode, ...], tuple[str, ...]]:
    """Nodes in topological order, and the names of the output nodes.

    Raises:
        SourceError: The wiring names layers that do not exist or runs in circles.
        NotLiftable: A layer's second output is used (LSTM states), or inputs are given as a dictionary.
    """
    nodes: list[LayerNode] = []
    outputs = _Flattener(weights, nodes).run(model, "", "", None, ())
    return tuple(nodes), outputs


@dataclass(frozen=True)
class _Flattener:
    weights: Weights
    nodes: list[LayerNode]

    def run(self, model: Model, prefix: str, path: str, fed: tuple[str, ...] | None, wrapped: tuple[str, ...]) -> tuple[str, ...]:
        """Appends a model's nodes and returns its output nodes.

        Args:
            model: The model.
            prefix: Of its nodes' names; the number of the call is in it ("ffn#1/").
            path: Of its layers' weights ("ffn/").
            fed: The nodes that feed a nested model; None for the outermost.
            wrapped: Wrappers around a nested model.
        """
        if model.sequential:
            return self._sequential(model, prefix, path, fed, wrapped)
        return self._functional(model, prefix, path, fed, wrapped)

    def _sequential(self, model: Model, prefix: str, path: str, fed: tuple[str, ...] | None, wrapped: tuple[str, ...]) -> tuple[str, ...]:
        current = fed or ()
        for layer in model.layers:
            if layer.kind == "InputLayer" and fed is not None:
                continue
            if not current and layer.kind != "InputLayer":
                current = self._implied_input(layer, prefix)
            current = self._emit(layer, 0, current, {}, prefix, path, wrapped)
        return current

    def _implied_input(self, layer: Layer, prefix: str) -> tuple[str, ...]:
        """The input of a Sequential model whose first layer carries `batch_input_shape` instead of an InputLayer."""
        name = f"{prefix}{layer.name}_input"
        config = {"name": name, "batch_shape": layer.config.get("batch_shape"), "dtype": "float32"}
        self.nodes.append(LayerNode(name, "InputLayer", config, (), {}, {}, ()))
        return (name,)

    def _functional(self, model: Model, prefix: str, path: str, fed: tuple[str, ...] | None, wrapped: tuple[str, ...]) -> tuple[str, ...]:
        wiring = _Wiring(model)
        inputs = [name for name, _, _ in wiring.references(model.inputs)]
        if fed is not None and len(fed) != len(inputs):
            raise SourceError(f"the nested model {model.name!r} has {len(inputs)} inputs and is called with {len(fed)}")
        made: dict[tuple[str, int], tuple[str, ...]] = {}
        pending = [(layer, number) for layer in model.layers for number in range(len(layer.calls) or 1)]
        while pending:
            waiting = []
            for layer, number in pending:
                call = wiring.call(layer, number)
                if not all((name, which) in made for name, which, _ in call.references()):
                    waiting.append((layer, number))
                elif layer.kind == "InputLayer" and fed is not None:
                    made[layer.name, number] = (fed[inputs.index(layer.name)],)
                else:
                    arguments, sources = call.resolve(lambda reference: _node(made, reference))
                    made[layer.name, number] = self._emit(layer, number, sources, arguments, prefix, path, wrapped)
            if len(waiting) == len(pending):
                raise SourceError(f"the wiring of model {model.name!r} is damaged: nothing feeds layer {waiting[0][0].name!r}")
            pending = waiting
        references = wiring.references(model.outputs)
        if fed is None:  # states may be outputs of the whole model; they are named after their layer
            return tuple(_node(made, (name, number, 0)) for name, number, _ in references)
        return tuple(_node(made, reference) for reference in references)

    def _emit(
        self,
        layer: Layer,
        number: int,
        inputs: tuple[str, ...],
        arguments: Mapping[str, Any],
        prefix: str,
        path: str,
        wrapped: tuple[str, ...],
    ) -> tuple[str, ...]:
        name = f"{prefix}{layer.name}" + (f"#{number}" if number else "")
        around = wrapped + layer.wrapped
        if layer.model:
            return self.run(layer.model, f"{name}/", f"{path}{layer.name}/", inputs, around)
        arrays = self.weights.get(path + layer.name, {})
        self.nodes.append(LayerNode(name, layer.kind, layer.config, inputs, arguments, arrays, around))
        return (name,)


def _node(made: Mapping[tuple[str, int], tuple[str, ...]], reference: _Reference) -> str:
    layer, number, output = reference
    nodes = made.get((layer, number))
    if nodes is None:
        raise SourceError(f"the model's wiring names call {number} of layer {layer!r}, which is not in the file")
    if output >= len(nodes):
        raise NotLiftable(f"output {output} of layer {layer!r} is used (the states of a recurrent layer, as a rule)")
    return nodes[output]


class _Wiring:
    """Reads the references of one functional model, in the notations of Keras 1, 2 and 3."""

    def __init__(self, model: Model) -> None:
        self._names = {layer.name for layer in model.layers}
        self._skipped: dict[str, int] = {}
        calls = {layer.name: max(1, len(layer.calls)) for layer in model.layers}
        everything = [model.outputs, *(layer.calls for layer in model.layers)]
        for name, number, _ in [reference for value in everything for reference in self._raw(value)]:
            # Keras 2 counts the call that made a nested model, but does not write it
            self._skipped[name] = max(self._skipped.get(name, 0), number - calls[name] + 1)

    def references(self, value: object) -> tuple[_Reference, ...]:
        """All references in a serialised structure, in order."""
        return tuple((name, number - self._skipped.get(name, 0), output) for name, number, output in self._raw(value))

    def call(self, layer: Layer, number: int) -> _Call:
        """One call of a layer."""
        return _Call(layer.calls[number] if layer.calls else [], self)

    def history(self, value: object) -> _Reference | None:
        """The reference that `value` is, or None."""
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            value = value["config"]["keras_history"]
        if not isinstance(value, list | tuple) or len(value) not in (3, 4) or not isinstance(value[0], str) or value[0] not in self._names:
            return None
        if not all(type(part) is int and part >= 0 for part in value[1:3]):
            return None
        return str(value[0]), int(value[1]), int(value[2])

    def _raw(self, value: object) -> Iterator[_Reference]:
        found = self.history(value)
        if found:
            yield found
            if isinstance(value, list) and len(value) == 4:
                yield from self._raw(value[3])
        elif isinstance(value, dict):
            for item in value.values():
                yield from self._raw(item)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._raw(item)


@dataclass(frozen=True)
class _Call:
    raw: Any
    wiring: _Wiring

    def references(self) -> tuple[_Reference, ...]:
        return self.wiring.references(self.raw)

    def resolve(self, node: Callable[[_Reference], str]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The call's arguments and its positional inputs, with node names for references."""
        if isinstance(self.raw, dict) and "args" in self.raw:  # Keras 3
            return self._modern(self.raw["args"], self.raw.get("kwargs") or {}, node)
        if not isinstance(self.raw, list):
            raise NotLiftable("a layer is called with a dictionary of inputs")
        entries = [self.raw] if self.raw and isinstance(self.raw[0], str) else self.raw
        inputs: list[str] = []
        arguments: dict[str, Any] = {}
        for position, entry in enumerate(entries):  # ["emb", 0, 0, {"y": 1.5}] or ["_CONSTANT_VALUE", -1, 1.5, {"y": ["emb", 0, 0]}]
            found = self.wiring.references(entry[:3])
            if found:
                inputs.append(node(found[0]))
            else:
                arguments[str(position)] = normalise(entry[2])
            keywords = entry[3] if len(entry) > 3 and entry[3] else {}
            arguments |= {key: self._value(value, node) for key, value in keywords.items()}
        return arguments, tuple(inputs)

    def _modern(
        self, args: list[Any], keywords: Mapping[str, Any], node: Callable[[_Reference], str]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        inputs: list[str] = []
        arguments: dict[str, Any] = {}
        for position, value in enumerate(args):
            found = self.wiring.references(value)
            inputs += [node(reference) for reference in found]
            if not found:
                arguments[str(position)] = self._value(value, node)
        return arguments | {key: self._value(value, node) for key, value in keywords.items()}, tuple(inputs)

    def _value(self, value: Any, node: Callable[[_Reference], str]) -> Any:
        found = self.wiring.history(value)
        if found:
            return {"tensor": node(self.wiring.references(value)[0])}
        if isinstance(value, list):
            return [self._value(item, node) for item in value]
        return normalise(value)
