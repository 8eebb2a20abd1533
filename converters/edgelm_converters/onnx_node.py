"""An ONNX model as plain data: nodes, constants, inputs and outputs. Nothing here depends on the onnx package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

NEWEST_OPSET = 24
"""Of onnx 1.19."""

DAMAGE = (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What Python and numpy raise on nodes of another form than ONNX says."""


@dataclass(frozen=True)
class OnnxNode:
    """One operation.

    Attributes:
        name: Unique in the graph; made from operation and position where the file has none.
        op: Operation: "MatMul", "LSTM", ...
        domain: "" for ONNX's own operations, "com.microsoft", ...
        inputs: Names of tensors; "" for an optional input that is left out.
        outputs: Names of tensors; "" for an optional output that is left out.
        attributes: Python numbers, strings, tuples of them, arrays (tensors), and `OnnxGraph` (bodies of If, Loop and Scan).
        opset: Version of the domain's operations that the model uses.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int = NEWEST_OPSET


@dataclass(frozen=True)
class OnnxInput:
    """What the caller feeds.

    Attributes:
        name: Of the tensor.
        dtype: As numpy calls it: "int64", "float32", ...
        shape: Sizes, None where free.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """A whole model, or the body of a control-flow node.

    Attributes:
        nodes: In topological order; model-local functions are inlined.
        constants: Tensor name -> array (initializers and Constant nodes). float16 and bfloat16 weights are float32 here, 4-bit
            integers int8; read-only, memory-mapped where they lie in a file of their own.
        inputs: What the caller feeds; initializers are not among them.
        outputs: Names of tensors.
        opset: Of ONNX's own operations.
        opsets: Domain -> version.
        producer: What wrote the file, such as "pytorch 2.13.0".
    """

    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    opset: int
    opsets: Mapping[str, int]
    producer: str

    @cached_property
    def _producers(self) -> Mapping[str, OnnxNode]:
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def _consumers(self) -> Mapping[str, tuple[OnnxNode, ...]]:
        readers: dict[str, list[OnnxNode]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(read_by(node)):
                readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def producer_of(self, tensor: str) -> OnnxNode | None:
        """The node that makes a tensor; None for inputs and constants."""
        return self._producers.get(tensor)

    def consumers_of(self, tensor: str) -> tuple[OnnxNode, ...]:
        """The nodes that read a tensor, in the graph's order, each once."""
        return self._consumers.get(tensor, ())

    def constant(self, tensor: str) -> Array | None:
        """The value of a tensor that is a constant."""
        return self.constants.get(tensor)

    def input(self, tensor: str) -> OnnxInput | None:
        """The model input of that name."""
        return next((given for given in self.inputs if given.name == tensor), None)

    def ancestors(self, *tensors: str) -> tuple[OnnxNode, ...]:
        """All nodes that the tensors are made by, in the graph's order."""
        waiting, wanted = list(tensors), set[str]()
        while waiting:
            node = self._producers.get(waiting.pop())
            if node is not None and node.name not in wanted:
                wanted.add(node.name)
                waiting += read_by(node)
        return tuple(node for node in self.nodes if node.name in wanted)


def read_by(node: OnnxNode) -> Iterator[str]:
    """Names of the tensors that a node reads, those of its bodies that come from outside included; a name may come twice."""
    yield from (name for name in node.inputs if name)
    for value in node.attributes.values():
        if isinstance(value, OnnxGraph):
            inner = {given.name for given in value.inputs} | set(value.constants) | {out for sub in value.nodes for out in sub.outputs}
            names = [name for sub in value.nodes for name in read_by(sub)] + list(value.outputs)
            yield from (name for name in names if name not in inner)
