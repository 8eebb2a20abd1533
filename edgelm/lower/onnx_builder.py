"""Writes ONNX graphs node by node: names, constants, subgraphs, and the checked bytes at the end.

Opset 21 is the first whose DequantizeLinear takes 4-bit integers and blocks; onnxruntime reads it since 1.18, TensorRT since 10.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConversionError, UnsupportedModelError, optional_package

OPSET, IR_VERSION = 21, 10

LARGEST_FILE = 1_500_000_000
"""Bytes of weights; one protobuf message holds 2 GiB, and some readers copy it."""

Shape = Sequence[int | str]
"""Sizes of the axes; a name where an axis is free."""


class OnnxGraphBuilder:
    """One graph; a subgraph (the body of a Scan) sees the values of the graph around it.

    Args:
        outer: The graph around a subgraph; names are unique across both.

    Raises:
        MissingDependencyError: The onnx package is not installed.
    """

    def __init__(self, outer: OnnxGraphBuilder | None = None) -> None:
        self._onnx = onnx_package()
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initializers: list[Any] = []
        self._nbytes = 0
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = outer._known if outer else {}
        self._names: set[str] = outer._names if outer else set()
        self._root: OnnxGraphBuilder = outer._root if outer else self

    def input(self, name: str, dtype: str, shape: Shape) -> str:
        """An input of the graph, such as `input("input_ids", "int64", ("batch", "time"))`."""
        self._inputs.append(self._value(name, dtype, shape))
        self._names.add(name)
        return name

    def output(self, name: str, value: str, dtype: str, shape: Shape) -> None:
        """Makes `value` an output of the graph by the name `name`."""
        self._node("Identity", (value,), (name,), {})
        self._outputs.append(self._value(name, dtype, shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned; an input left out is an empty name."""
        (output,) = self.ops(kind, *inputs, outputs=1, **attributes)
        return output

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """A node of several outputs."""
        names = tuple(self._fresh(kind.lower()) for _ in range(outputs))
        self._node(kind, inputs, names, attributes)
        return names

    def constant(self, values: NDArray[Any]) -> str:
        """A small constant; equal ones are one."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = self._root.initializer(self._fresh("constant"), values)
        return self._known[key]

    def ints(self, *values: int) -> str:
        """An int64 vector: shapes, axes, sizes."""
        return self.constant(np.array(values, np.int64))

    def initializer(self, name: str, values: NDArray[Any]) -> str:
        """A weight as it is, (any shape, a dtype that numpy has)."""
        return self._store(self._onnx.numpy_helper.from_array(values, name), values.nbytes)

    def packed_int4(self, name: str, shape: Sequence[int], packed: NDArray[np.uint8]) -> str:
        """A 4-bit weight: two values a byte over the whole tensor, the first in the low nibble."""
        data = packed.tobytes()
        return self._store(self._onnx.helper.make_tensor(name, self._onnx.TensorProto.INT4, shape, data, raw=True), len(data))

    def subgraph(self) -> OnnxGraphBuilder:
        """A graph for an attribute of a node, such as the body of a Scan."""
        return OnnxGraphBuilder(self)

    def graph(self, name: str) -> Any:
        """The finished `onnx.GraphProto`."""
        return self._onnx.helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)

    def finish(self, name: str, metadata: Mapping[str, str]) -> bytes:
        """The file's bytes, checked by `onnx.checker` with shape inference.

        Args:
            name: Of the graph.
            metadata: Key -> text, for `metadata_props`.

        Raises:
            ConversionError: The checker refuses what was written: a bug of edgelm's.
        """
        helper = self._onnx.helper
        model = helper.make_model(
            self.graph(name),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="edgelm",
            producer_version=importlib.metadata.version("edgelm"),
        )
        helper.set_model_props(model, dict(metadata))
        try:
            self._onnx.checker.check_model(model, full_check=True)
        except (self._onnx.checker.ValidationError, self._onnx.shape_inference.InferenceError) as error:
            message = f"onnx.checker refuses the graph: {error}"
            raise ConversionError(message, fix="please report the model, this is a bug") from error
        content: bytes = model.SerializeToString()
        return content

    def _store(self, tensor: Any, nbytes: int) -> str:
        self._root._nbytes += nbytes
        if self._root._nbytes > LARGEST_FILE:
            raise UnsupportedModelError(
                f"the weights take more than {LARGEST_FILE / 1e9:.1f} GB, which one ONNX file does not hold",
                allowed=f"up to {LARGEST_FILE / 1e9:.1f} GB of weights as they are stored",
                fix="edgelm convert MODEL --target onnx --recipe int8 (a quarter of the size)",
            )
        self._root._initializers.append(tensor)
        self._root._names.add(tensor.name)
        name: str = tensor.name
        return name

    def _node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Any]) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, name=f"{kind}:{outputs[0]}", **attributes))

    def _fresh(self, stem: str) -> str:
        name = f"{stem}_{len(self._names)}"
        self._names.add(name)
        return name

    def _value(self, name: str, dtype: str, shape: Shape) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def onnx_package() -> Any:
    """The `onnx` package.

    Raises:
        MissingDependencyError: It is not installed.
    """
    for part in ("checker", "helper", "numpy_helper", "shape_inference"):
        optional_package(f"onnx.{part}", "writing ONNX", "onnx")
    return optional_package("onnx", "writing ONNX", "onnx")
