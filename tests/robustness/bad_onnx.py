"""ONNX files that cannot be converted, one for each reason, and what has to be said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_models import VOCAB, WIDTH, onnx_model, recurrent_onnx


@dataclass(frozen=True)
class Bad:
    """How to make the file (the path that is converted is returned), and patterns of the error's first line and of its other lines."""

    make: Callable[[Path], Path]
    cause: str
    help: str = ""


def _saved(edit: Callable[[Any], None]) -> Callable[[Path], Path]:
    """The sound recurrent model with one thing changed."""

    def make(folder: Path) -> Path:
        import onnx

        model = recurrent_onnx()
        edit(model)
        onnx.save(model, folder / "m.onnx")
        return folder / "m.onnx"

    return make


def _content(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "m.onnx"
        path.write_bytes(change(recurrent_onnx().SerializeToString()))
        return path

    return make


def _folder(folder: Path) -> Path:
    (folder / "m.onnx").mkdir()
    return folder / "m.onnx"


def _external(change: Callable[[Path, Any], None]) -> Callable[[Path], Path]:
    """Weights in a file beside the model; `change` gets the folder and the model as it is in the file."""

    def make(folder: Path) -> Path:
        import onnx

        path = folder / "m.onnx"
        onnx.save(recurrent_onnx(), path, save_as_external_data=True, location="m.data", size_threshold=0)
        model = onnx.load(path, load_external_data=False)
        change(folder, model)
        path.write_bytes(model.SerializeToString())
        return path

    return make


def _cut(folder: Path, model: Any) -> None:
    (folder / "m.data").write_bytes((folder / "m.data").read_bytes()[:200])


def _locate(model: Any, location: str) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


def _escaped(folder: Path, model: Any) -> None:
    (folder.parent / "secret.data").write_bytes((folder / "m.data").read_bytes())
    _locate(model, "../secret.data")


def _without_weights(model: Any) -> None:
    from onnx import TensorProto, helper

    for tensor in list(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
            model.graph.initializer.remove(tensor)


def _custom_domain(model: Any) -> None:
    model.graph.node[0].domain = "my.company"
    model.opset_import.add(domain="my.company", version=1)


def _typed(kind: str) -> Callable[[Any], None]:
    """An input that is no tensor of numbers."""

    def edit(model: Any) -> None:
        from onnx import TensorProto, helper

        tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
        types = {
            "sequence": helper.make_sequence_type_proto(tensor),
            "optional": helper.make_optional_type_proto(tensor),
            "map": helper.make_map_type_proto(TensorProto.INT64, tensor),
            "string": helper.make_tensor_type_proto(TensorProto.STRING, ["batch", "time"]),
        }
        if kind == "string":
            model.graph.input[0].type.CopyFrom(types[kind])
        else:
            model.graph.input.add(name="more").type.CopyFrom(types[kind])

    return edit


def _pictures(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["pixels", "kernel"], ["y"], "conv"), helper.make_node("GlobalAveragePool", ["y"], ["z"], "pool")]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4, 1, 1])
    graph = helper.make_graph(nodes, "pictures", [pixels], [out], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "m.onnx")
    return folder / "m.onnx"


def _two_classes(folder: Path) -> Path:
    """A classifier of texts: it reads tokens and scores two labels."""
    import onnx
    from onnx import helper

    random = np.random.default_rng(0)
    weights = {"table": random.normal(size=(VOCAB, WIDTH)), "labels": random.normal(size=(WIDTH, 2))}
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"], "embed"), helper.make_node("MatMul", ["x", "labels"], ["logits"], "head")]
    model = onnx_model(nodes, {name: array.astype(np.float32) for name, array in weights.items()}, {})
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 2
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def _deep_bytes(content: bytes) -> bytes:
    """A graph in an attribute of a node of a graph in an attribute ..., 300 deep: protobuf itself stops at 100."""
    inner = b""
    for _ in range(300):
        attribute = b"\x32" + _varint(len(inner)) + inner  # AttributeProto.g
        node = b"\x2a" + _varint(len(attribute)) + attribute  # NodeProto.attribute
        inner = b"\x0a" + _varint(len(node)) + node  # GraphProto.node
    return content + b"\x3a" + _varint(len(inner)) + inner  # ModelProto.graph, merged with the one that is there


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _calls_itself(model: Any) -> None:
    """A model-local function that is made of itself."""
    from onnx import helper

    node = helper.make_node("Again", ["x"], ["y"], domain="own")
    model.functions.append(helper.make_function("own", "Again", ["x"], ["y"], [node], [helper.make_opsetid("own", 1)]))
    model.opset_import.add(domain="own", version=1)
    model.graph.node.append(helper.make_node("Again", ["logits"], ["more"], domain="own"))


def _huge_state(model: Any) -> None:
    for value in model.graph.input[1:]:
        value.type.tensor_type.shape.dim[1].dim_value = 1 << 40


def _huge_weight(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [1 << 31, 1 << 31]


def _operation(name: str) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        model.graph.node[0].op_type = name

    return edit


def _opset(version: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        model.opset_import[0].version = version

    return edit


AGAIN = r"torch\.onnx\.export|whole \.onnx file"
BAD: dict[str, Bad] = {
    "truncated": Bad(_content(lambda content: content[: len(content) * 2 // 3]), r"truncated|damaged", AGAIN),
    "empty": Bad(_content(lambda content: b""), r"truncated, damaged, or no ONNX file", AGAIN),
    "a text": Bad(_content(lambda content: b"Dear diary, the model is on the other disk.\n" * 9), r"no ONNX file", AGAIN),
    "a folder": Bad(_folder, r"m\.onnx", ""),
    "no external data": Bad(
        _external(lambda folder, model: (folder / "m.data").unlink()), r"weights of .* are missing: .* m\.data", "m.data"
    ),
    "short external data": Bad(_external(_cut), r"m\.data is truncated"),
    "external data elsewhere": Bad(_external(_escaped), r"lies in '\.\./secret\.data'", "folder of the .onnx file"),
    "external data of the system": Bad(_external(lambda folder, model: _locate(model, "/etc/passwd")), "lies in '/etc/passwd'", "folder"),
    "no weights": Bad(_saved(_without_weights), r"holds no weights", "export_params=True"),
    "opset too new": Bad(_saved(_opset(99)), "opset 99", "opset_version=18"),
    "opset too old": Bad(_saved(_opset(3)), "opset 3", "opset_version=18"),
    "custom domain": Bad(_saved(_custom_domain), r"node 'embed' .* custom operation my\.company::Gather", "custom operations"),
    "unknown operation": Bad(_saved(_operation("Gathre")), r"'Gathre', which opset 18 does not have", ""),
    "pictures": Bad(_pictures, "no language model: none of its inputs is looked up", "token ids"),
    "labels": Bad(_two_classes, f"no language model: it reads {VOCAB} tokens", "score the vocabulary"),
    "strings": Bad(_saved(_typed("string")), "language model|string", ""),
    "a sequence": Bad(_saved(_typed("sequence")), "input 'more' of .* is sequence_type", "tensors"),
    "an optional": Bad(_saved(_typed("optional")), "input 'more' of .* is optional_type", "tensors"),
    "a map": Bad(_saved(_typed("map")), "input 'more' of .* is map_type", "tensors"),
    "deep messages": Bad(_content(_deep_bytes), r"truncated, damaged, or no ONNX file", AGAIN),
    "a function of itself": Bad(_saved(_calls_itself), "cannot be inlined|calls itself|own::Again", ""),
    "a huge state": Bad(_saved(_huge_state), r"'h'", ""),
    "a huge weight": Bad(_saved(_huge_weight), r"tensor 'table' of shape \(2147483648, 2147483648\)", ""),
}
