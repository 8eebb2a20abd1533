"""A `KerasGraph` seen in one vocabulary: Keras 2's `TFOpLambda` calls and Keras 3's operations under one name, no-ops skipped.

Keras writes `x + y` as an `Add` layer, as the TensorFlow function `__operators__.add` (Keras 2) or as an `Add` operation (Keras 3).
`Wiring.operation` calls all three `Add`, so that the lifters need one table only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_converters.keras_graph import KerasGraph, LayerNode
from edgelm_converters.lift import NotLiftable

Operand = str | NDArray[Any]
"""One operand of an operation: the name of the node that makes it, or a constant."""

# Training-time layers: they pass their input through when a model is used.
IDENTITIES = frozenset(
    {
        *("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity", "Masking"),
        *("SpatialDropout1D", "StopGradient", "Cast"),
    }
)

TF_FUNCTIONS: Mapping[str, str] = {
    "__operators__.add": "Add",
    "__operators__.getitem": "GetItem",
    "broadcast_to": "BroadcastTo",
    "cast": "Cast",
    "compat.v1.shape": "Shape",
    "compat.v1.transpose": "Transpose",
    "cumsum": "Cumsum",
    "expand_dims": "ExpandDims",
    "identity": "Identity",
    "linalg.band_part": "BandPart",
    "linalg.matmul": "Matmul",
    "math.add": "Add",
    "math.cumsum": "Cumsum",
    "math.divide": "Divide",
    "math.greater": "Greater",
    "math.greater_equal": "GreaterEqual",
    "math.less": "Less",
    "math.less_equal": "LessEqual",
    "math.logical_not": "LogicalNot",
    "math.multiply": "Multiply",
    "math.sigmoid": "Sigmoid",
    "math.subtract": "Subtract",
    "math.tanh": "Tanh",
    "math.truediv": "Divide",
    "nn.gelu": "Gelu",
    "nn.log_softmax": "LogSoftmax",
    "nn.relu": "Relu",
    "nn.silu": "Silu",
    "nn.softmax": "Softmax",
    "nn.swish": "Silu",
    "one_hot": "OneHot",
    "ones": "Ones",
    "ones_like": "OnesLike",
    "range": "Arange",
    "reshape": "Reshape",
    "shape": "Shape",
    "stop_gradient": "StopGradient",
    "stack": "Stack",
    "strided_slice": "StridedSlice",
    "subtract": "Subtract",
    "tile": "Tile",
    "transpose": "Transpose",
    "zeros_like": "ZerosLike",
}

SYNONYMS: Mapping[str, str] = {
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "GroupedQueryAttention": "GroupQueryAttention",
    "ReLU": "Relu",
    "TrueDivide": "Divide",
}


# Numbers of a call that are no operands.
_SWITCHES = frozenset(
    {
        *("axis", "depth", "dtype", "maxlen", "name", "num_lower", "num_upper", "out_type", "perm", "slice_spec"),
        *("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"),
    }
)


class Wiring:
    """Looks up nodes and operands of a graph.

    Args:
        graph: The model.
    """

    def __init__(self, graph: KerasGraph) -> None:
        self.graph = graph
        self._nodes = {node.name: node for node in graph.nodes}

    def node(self, name: str) -> LayerNode:
        """The node that makes the value `name`, behind layers that do nothing when the model is used."""
        node = self._nodes[name]
        while operation(node) in IDENTITIES and node.inputs:
            node = self._nodes[node.inputs[0]]
        return node

    def source(self, node: LayerNode) -> LayerNode:
        """What makes the one tensor that `node` reads.

        Raises:
            NotLiftable: It reads none, or several.
        """
        names = {self.node(operand).name for operand in self.operands(node) if isinstance(operand, str)}
        if len(names) != 1:
            raise NotLiftable(f"layer {node.name!r} ({operation(node)}) reads {len(names)} tensors where edgelm rebuilds chains only")
        return self._nodes[names.pop()]

    def operands(self, node: LayerNode) -> tuple[Operand, ...]:
        """Tensors and constants that `node` computes with, in positional order.

        Constants are arrays; switches of the call (booleans, text, None) are left out.
        """
        return tuple(_operands(node))

    def ancestors(self, name: str) -> Iterator[LayerNode]:
        """Every node that `name` depends on, itself included, each once."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            node = self._nodes[waiting.pop()]
            if node.name not in seen:
                seen.add(node.name)
                yield node
                waiting += [operand for operand in self.operands(node) if isinstance(operand, str)]

    def readers(self, name: str) -> list[LayerNode]:
        """The nodes that read `name`."""
        return [node for node in self.graph.nodes if name in self.operands(node)]


def operation(node: LayerNode) -> str:
    """What `node` does, in the vocabulary of Keras 3's class names (`Add`, `Matmul`, `LSTM`, ...)."""
    if "function" in node.config and node.kind in ("TFOpLambda", "SlicingOpLambda"):
        function = str(node.config["function"])
        return TF_FUNCTIONS.get(function, function)
    kind = node.kind.rsplit(">", 1)[-1]
    return SYNONYMS.get(kind, kind)


def weight_of(node: LayerNode, name: str) -> NDArray[np.float32]:
    """A weight of a layer as float32.

    Raises:
        NotLiftable: The layer has none of that name, as when it is quantised.
    """
    if name not in node.weights:
        raise NotLiftable(f"layer {node.name!r} ({operation(node)}) has no weight {name!r}")
    return np.asarray(node.weights[name], np.float32)


def option(node: LayerNode, name: str, default: Any = None) -> Any:
    """A switch of an operation: Keras 2 keeps it in the call, Keras 3 in the config."""
    value = node.arguments.get(name)
    return node.config.get(name, default) if value is None else value


def takes_last(node: LayerNode) -> bool:
    """The node is `x[:, -1]` or `x[:, -1, :]`."""
    if operation(node) != "GetItem":
        return False
    index = slice_index(node)
    return len(index) in (2, 3) and index[1] == -1 and all(part in (slice(None), Ellipsis) for part in (index[0], *index[2:]))


def slice_index(node: LayerNode) -> tuple[Any, ...]:
    """The index of a `GetItem` node as numpy takes it.

    Raises:
        NotLiftable: The index is computed by the model.
    """
    for value in (*node.arguments.values(), node.config.get("key")):
        if value is not None:
            parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            return tuple(_slice_part(node, part) for part in parts)
    return (None,)  # Keras 2 writes x[tf.newaxis] as slice_spec null


def _slice_part(node: LayerNode, part: Any) -> Any:
    if isinstance(part, Mapping) and "tensor" not in part:
        bounds = part.get("config", part)
        limits = [bounds.get(key) for key in ("start", "stop", "step")]
        if all(limit is None or isinstance(limit, int) for limit in limits):
            return slice(*limits)
    elif part is None or part is Ellipsis or isinstance(part, int | slice):
        return part
    raise NotLiftable(f"{node.name!r} slices by an index that the model computes")


def _operands(node: LayerNode) -> Iterator[Operand]:
    """Positional constants stand in `arguments` under their position, between the tensors of `inputs`."""
    tensors = list(node.inputs)
    constants = {int(key): value for key, value in node.arguments.items() if key.isdigit()}
    for position in range(max(constants, default=-1) + 1 + len(tensors)):
        if position in constants:
            yield from () if operation(node) == "GetItem" else _values(constants[position])
        elif tensors:
            yield tensors.pop(0)
    for name, value in node.arguments.items():
        if not name.isdigit() and name not in _SWITCHES:
            yield from _values(value)


def _values(value: Any) -> Iterator[Operand]:
    """The tensors and the constant that an argument holds."""
    tensor, constant = _tensor(value), _constant(value)
    if tensor is not None:
        yield tensor
    elif constant is not None:
        yield constant
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item)
    elif isinstance(value, Mapping):
        raise NotLiftable(f"an operand of kind {value.get('class_name')!r}")


def _tensor(value: Any) -> str | None:
    return str(value["tensor"]) if isinstance(value, Mapping) and "tensor" in value else None


def _constant(value: Any) -> NDArray[Any] | None:
    if isinstance(value, Mapping) and value.get("class_name") in ("__tensor__", "__numpy__"):
        value = value["config"]["value"]
    if value is None or isinstance(value, bool | str | Mapping):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # ragged: no constant
        return None
    return array if array.dtype.kind in "iufb" else None
