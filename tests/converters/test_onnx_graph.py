"""ONNX files as data: what is read, what is folded, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
from handmade_onnx import Writer, recurrent  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgelm.errors import EdgeLMError, SourceError, UnsupportedModelError  # noqa: E402
from edgelm_converters.onnx_graph import OnnxGraph, folded, read_graph  # noqa: E402


def written(text: str, folder: Path) -> Path:
    """A model in ONNX's own text form as a file."""
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path


def ops(graph: OnnxGraph) -> list[str]:
    return [node.op for node in graph.nodes]


HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def test_reads_inputs_constants_and_attributes(tmp_path: Path) -> None:
    graph = read_graph(recurrent(layers=2, states="inputs").save(tmp_path / "model.onnx"))
    assert [(given.name, given.dtype, given.shape) for given in graph.inputs] == [
        ("tokens", "int64", (None, None)),
        ("h_in", "float32", (2, None, 5)),
        ("c_in", "float32", (2, None, 5)),
    ]
    assert graph.outputs == ("scores", "h_out", "c_out")
    assert (graph.opset, graph.producer) == (17, "handmade")
    lstm = next(node for node in graph.nodes if node.op == "LSTM")
    assert lstm.attributes["hidden_size"] == 5 and lstm.opset == 17
    assert graph.constants[lstm.inputs[1]].shape == (1, 20, 6)
    assert graph.producer_of(lstm.inputs[0]) in graph.nodes and lstm in graph.consumers_of(lstm.inputs[0])


def test_folds_constants_and_what_changes_nothing(tmp_path: Path) -> None:
    path = written(
        HEAD
        + """g (int64[N, T] ids) => (float[N, T, 3] y)
        <float[4, 3] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, float two = {2.0}> {
            same = Identity(table)
            scaled = Mul(same, two)
            short = Cast<to = 6>(ids)
            x = Gather(scaled, short)
            dropped = Dropout(x)
            unused = Neg(x)
            y = Relu(dropped)
        }""",
        tmp_path,
    )
    graph = folded(read_graph(path))
    assert ops(graph) == ["Gather", "Relu"]
    table = graph.constants[graph.nodes[0].inputs[0]]
    np.testing.assert_array_equal(table, 2 * np.arange(12).reshape(4, 3))
    assert graph.nodes[0].inputs[1] == "ids" and graph.outputs == ("y",)


@pytest.mark.parametrize(("condition", "op"), [(1, "Relu"), (0, "Neg")])
def test_a_known_condition_chooses_its_branch(condition: int, op: str, tmp_path: Path) -> None:
    path = written(
        HEAD
        + f"""g (float[2] x) => (float[2] y) <bool c = {{{condition}}}> {{
            y = If (c) <then_branch = a () => (float[2] p) {{ p = Relu(x) }}, else_branch = b () => (float[2] q) {{ q = Neg(x) }}>
        }}""",
        tmp_path,
    )
    assert ops(folded(read_graph(path))) == [op]


def test_an_open_condition_keeps_both_branches(tmp_path: Path) -> None:
    path = written(
        HEAD
        + """g (float[2] x, bool c) => (float[2] y) {
            same = Identity(x)
            y = If (c) <then_branch = a () => (float[2] p) { p = Relu(same) }, else_branch = b () => (float[2] q) { q = Neg(same) }>
        }""",
        tmp_path,
    )
    (node,) = folded(read_graph(path)).nodes
    assert node.op == "If" and node.attributes["then_branch"].nodes[0].inputs == ("x",)


def test_functions_are_inlined(tmp_path: Path) -> None:
    path = written(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }""",
        tmp_path,
    )
    graph = read_graph(path)
    assert ops(graph) == ["Add"] and graph.nodes[0].inputs == ("x", "x")


def test_nodes_are_sorted(tmp_path: Path) -> None:
    model = recurrent(layers=2).model()
    nodes = list(model.graph.node)[::-1]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    onnx.save(model, str(tmp_path / "model.onnx"))
    graph = read_graph(tmp_path / "model.onnx")
    made: set[str] = {given.name for given in graph.inputs} | set(graph.constants)
    for node in graph.nodes:
        assert made.issuperset(name for name in node.inputs if name)
        made |= set(node.outputs)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_small_floats_are_single(kind: int, tmp_path: Path) -> None:
    w = Writer()
    x = w.input("x", kind, 2)
    w.weights.append(helper.make_tensor("half", kind, [2], [0.5, -2.0]))
    w.output(w.add("Add", x, "half"), "y", kind)
    constant = read_graph(w.save(tmp_path / "model.onnx")).constants["half"]
    assert constant.dtype == (np.float64 if kind == TensorProto.DOUBLE else np.float32)
    np.testing.assert_array_equal(constant, [0.5, -2.0])


def test_external_data_is_mapped(tmp_path: Path) -> None:
    model = recurrent().model()
    whole = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    onnx.save(model, str(tmp_path / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=0)
    constants = read_graph(tmp_path / "model.onnx").constants
    assert isinstance(constants["w0"], np.memmap)
    for name, array in whole.items():
        np.testing.assert_array_equal(constants[name], array)


def external(folder: Path, location: str = "model.data") -> Path:
    """A model whose weights lie in a file of their own."""
    onnx.save(recurrent().model(), str(folder / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=0)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "model.data").unlink()
    with pytest.raises(SourceError, match=r"missing: tensor 'w0' lies in model\.data"):
        read_graph(path)


def test_short_external_data_is_truncated(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "model.data").write_bytes((tmp_path / "model.data").read_bytes()[:100])
    with pytest.raises(SourceError, match="truncated"):
        read_graph(path)


@pytest.mark.parametrize("location", ["../model.data", "/etc/hostname", "a/../../b", "", "a\\b"])
def test_external_data_stays_in_the_folder(location: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="lies in"):
        read_graph(external(tmp_path, location))


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_graph(tmp_path / "none.onnx")
    for name, data in (("empty", b""), ("text", b"version https://git-lfs.github.com/spec/v1\n"), ("zip", b"PK\x03\x04" + bytes(60))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match="truncated, damaged, or no ONNX file"):
            read_graph(tmp_path / name)


def test_truncated_file(tmp_path: Path) -> None:
    path = recurrent().save(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="truncated"):
        read_graph(path)


@pytest.mark.parametrize("opset", [6, 25, 99])
def test_opsets_out_of_range(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"opset {opset}") as raised:
        read_graph(recurrent().save(tmp_path / "model.onnx", opset=opset))
    assert "7 to 24" in raised.value.allowed


def test_custom_operations_are_named(tmp_path: Path) -> None:
    w = Writer()
    w.output(w.add("FancyNorm", w.input("x", TensorProto.FLOAT, 2), domain="com.acme"), "y")
    with pytest.raises(UnsupportedModelError, match=r"com\.acme::FancyNorm"):
        read_graph(w.save(tmp_path / "model.onnx", com_acme=1))


def test_operations_of_another_opset_are_named(tmp_path: Path) -> None:
    w = Writer()
    w.output(w.add("Gelu", w.input("x", TensorProto.FLOAT, 2)), "y")
    with pytest.raises(UnsupportedModelError, match="'Gelu', which opset 17 does not have"):
        read_graph(w.save(tmp_path / "model.onnx"))


DAMAGED: dict[str, tuple[Any, str]] = {
    "unknown tensor": (lambda graph: graph.node[0].input.__setitem__(0, "nowhere"), "reads 'nowhere'"),
    "made twice": (lambda graph: graph.node[1].output.__setitem__(0, graph.node[0].output[0]), "made twice"),
    "no such output": (lambda graph: setattr(graph.output[0], "name", "nowhere"), "nothing makes its output 'nowhere'"),
    "shape": (lambda graph: graph.initializer[0].dims.__setitem__(0, 99), "tensor 'w0' of shape"),
    "negative shape": (lambda graph: graph.initializer[0].dims.__setitem__(0, -1), "tensor 'w0' has the shape"),
    "huge shape": (lambda graph: graph.initializer[0].dims.__setitem__(0, 1 << 62), "tensor 'w0'"),
    "element type": (lambda graph: setattr(graph.initializer[0], "data_type", 77), "tensor 'w0'"),
    "circle": (lambda graph: graph.node[0].input.__setitem__(0, graph.node[3].output[0]), "which nothing makes before it"),
    "no nodes": (lambda graph: graph.ClearField("node"), "nothing makes its output"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named(damage: Any, message: str, tmp_path: Path) -> None:
    model = recurrent().model()
    damage(model.graph)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match=message):
        read_graph(tmp_path / "model.onnx")


def test_sparse_weights_and_sequences_are_refused(tmp_path: Path) -> None:
    model = recurrent().model()
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [3]))
    onnx.save(model, str(tmp_path / "sparse.onnx"))
    with pytest.raises(UnsupportedModelError, match="sparse"):
        read_graph(tmp_path / "sparse.onnx")
    model = recurrent().model()
    model.graph.input.append(helper.make_tensor_sequence_value_info("texts", TensorProto.FLOAT, None))
    onnx.save(model, str(tmp_path / "sequence.onnx"))
    with pytest.raises(UnsupportedModelError, match="input 'texts'"):
        read_graph(tmp_path / "sequence.onnx")


@settings(max_examples=60, deadline=None)  # each parses a file; more are in the slow fuzz tests
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), cut=st.floats(0.3, 1))
def test_mutated_bytes_are_read_or_refused(places: list[tuple[float, int]], cut: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = bytearray(recurrent(states="zeros").model().SerializeToString())
    for place, value in places:
        data[int(place * (len(data) - 1))] = value
    path = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    path.write_bytes(bytes(data[: int(len(data) * cut)] if cut < 0.5 else data))
    try:
        folded(read_graph(path))
    except EdgeLMError as error:
        assert str(error)
