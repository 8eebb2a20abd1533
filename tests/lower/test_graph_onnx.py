"""ONNX models that are not recognised: converted by onnx2tf in a process of its own, equal to onnxruntime, or refused by node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_graphs import CALLS, TIME, VOCAB, WIDTH, export, handmade, onnx_scores, opaque

from edgelm.errors import ConversionError, MissingDependencyError
from edgelm.lower import graph as lowering
from edgelm.lower import graph_onnx
from edgelm.lower.graph import convert_opaque
from edgelm.lower.graph_failures import explain, failed_node
from edgelm.lower.graph_onnx import axes_of, check_operations, folded, windowed
from edgelm.model import GraphCall
from edgelm.runtime.session import open_session
from edgelm.spec import Encoding
from edgelm.validate.parity import parity

onnx = pytest.importorskip("onnx")


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, outputs, f"the_{kind.lower()}_{outputs[0]}", **attributes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "encoding", "limit"),
    [
        ("convolution", Encoding.INT8, 0.03),  # a step of int8 is 1/127 of a row's largest weight, and three layers add up
        ("alibi", Encoding.FLOAT32, 1e-5),  # float32 sums in another order
        ("recurrent", Encoding.FLOAT16, 2e-3),  # float16 has 11 bits
    ],
)
def test_the_file_equals_onnxruntime(tmp_path: Path, kind: str, encoding: Encoding, limit: float) -> None:
    path, call = tmp_path / f"{kind}.onnx", CALLS[kind]
    export(pytest.importorskip("torch"), kind, path)
    before = path.read_bytes()
    content = convert_opaque(opaque(path, call), encoding)
    assert path.read_bytes() == before  # onnx2tf writes to the file it is given
    session = open_session(content)
    assert (session.max_positions, session.vocab_size) == (TIME, VOCAB)
    tokens = np.random.default_rng(8).integers(0, VOCAB, 2 * TIME)
    result = parity(onnx_scores(path, call), session, tokens)
    assert result.positions == len(tokens)
    assert result.max_abs_difference < limit * result.scale
    assert encoding is Encoding.FLOAT32 or result.max_abs_difference > 1e-6  # it was rounded


@pytest.mark.parametrize("kind", list(CALLS))
def test_a_window_is_a_graph_of_one_input_that_computes_the_same(tmp_path: Path, kind: str) -> None:
    path, call = tmp_path / f"{kind}.onnx", CALLS[kind]
    export(pytest.importorskip("torch"), kind, path)
    window = folded(windowed(onnx.load(path), call), tmp_path)
    onnx.checker.check_model(window)
    ((given,), (scores,)) = window.graph.input, window.graph.output
    assert [size.dim_value for size in given.type.tensor_type.shape.dim] == list(call.ids_shape)
    assert all(size.dim_value for size in scores.type.tensor_type.shape.dim)
    made = {name for inner in window.graph.node for name in inner.output}
    assert not made & {f"new_{name}" for name in call.held}  # states are not computed for nothing
    onnx.save(window, tmp_path / "window.onnx")
    ids = np.random.default_rng(8).integers(0, VOCAB, (1, TIME))
    ours = onnx_scores(tmp_path / "window.onnx", GraphCall(call.ids, call.ids_shape, call.scores))(ids)
    assert np.abs(ours - onnx_scores(path, call)(ids)).max() < 1e-5


def test_float16_is_widened_wherever_it_is(tmp_path: Path) -> None:
    half = onnx.TensorProto.FLOAT16
    body = onnx.helper.make_graph(
        [node("Tanh", ["small"], ["p"])], "then", [], [onnx.helper.make_tensor_value_info("p", half, ["batch", "time", WIDTH])]
    )
    other = onnx.helper.make_graph(
        [node("Add", ["small", "one"], ["q"])], "else", [], [onnx.helper.make_tensor_value_info("q", half, ["batch", "time", WIDTH])]
    )
    model = handmade(
        node("Cast", ["x"], ["small"], to=half),
        node("ReduceSum", ["ids"], ["sum"], keepdims=0),
        node("Greater", ["sum", "limit"], ["large"]),
        node("If", ["large"], ["chosen"], then_branch=body, else_branch=other),
        node("Cast", ["chosen"], ["y"], to=onnx.TensorProto.FLOAT),
        constants={"one": np.ones(1, np.float16), "limit": np.int64(100)},
    )
    onnx.save(model, tmp_path / "half.onnx")
    call = GraphCall("ids", (1, TIME), "logits")
    window = folded(windowed(model, call), tmp_path)
    kinds = {tensor.data_type for tensor in window.graph.initializer}
    assert half not in kinds
    assert not any(attribute.i == half for inner in window.graph.node for attribute in inner.attribute if attribute.name == "to")
    onnx.save(window, tmp_path / "window.onnx")
    for ids in (np.zeros((1, TIME), np.int64), np.full((1, TIME), VOCAB - 1)):  # both branches
        wide, small = (onnx_scores(tmp_path / f"{name}.onnx", call)(ids) for name in ("window", "half"))
        assert np.abs(wide - small).max() < 2e-3 * np.ptp(small)  # float16 has 11 bits


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0)])
def test_the_layout_of_scores_is_found_by_their_values(order: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(1).normal(size=(1, 6, 6)).astype(np.float32)
    given = wanted.transpose(np.argsort(order))
    assert np.array_equal(given.transpose(axes_of(given, wanted)), wanted)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (np.zeros((1, 6, 7), np.float32), "differ by"),
        (np.full((1, 6, 7), np.nan, np.float32), "differ by nan"),
        (np.zeros((1, 7), np.float32), r"have the shape \(1, 7\) instead of \(1, 6, 7\)"),
    ],
)
def test_other_scores_are_refused(given: np.ndarray, cause: str) -> None:
    wanted = np.random.default_rng(1).normal(size=(1, 6, 7)).astype(np.float32)
    with pytest.raises(ConversionError, match=cause) as caught:
        axes_of(given, wanted)
    assert "opset_version" in caught.value.fix


def test_operations_onnx2tf_does_not_have_are_named() -> None:
    known = graph_onnx.converted_operations()
    check_operations(handmade(node("Gelu", ["x"], ["y"], domain="com.microsoft")).graph, known)
    fused = handmade(node("QuickGelu", ["x"], ["y"], domain="com.microsoft"))
    with pytest.raises(ConversionError, match=r"node 'the_quickgelu_y' \(com\.microsoft::QuickGelu\)"):
        check_operations(fused.graph, known)
    body = onnx.helper.make_graph([node("Swish", ["x"], ["p"])], "then", [], [])
    with pytest.raises(ConversionError, match=r"node 'the_swish_p' \(Swish\)"):
        check_operations(handmade(node("If", ["large"], ["y"], then_branch=body)).graph, known)


def test_microsofts_attention_is_not_taken_for_onnxs() -> None:
    known = graph_onnx.converted_operations()
    assert "Attention" in known
    with pytest.raises(ConversionError, match=r"com\.microsoft::Attention"):
        check_operations(handmade(node("Attention", ["x"], ["y"], domain="com.microsoft")).graph, known)


@pytest.mark.slow
def test_an_operation_without_conversion_ends_in_an_error_that_names_the_node(tmp_path: Path) -> None:
    onnx.save(handmade(node("QuickGelu", ["x"], ["y"], domain="com.microsoft"), domains=("com.microsoft",)), tmp_path / "fused.onnx")
    with pytest.raises(
        ConversionError, match=r"onnx2tf failed on 'fused': .* node 'the_quickgelu_y' \(com\.microsoft::QuickGelu\)"
    ) as caught:
        convert_opaque(opaque(tmp_path / "fused.onnx"), Encoding.FLOAT32)
    assert "without fused operations" in caught.value.fix


@pytest.mark.slow
def test_a_node_onnx2tf_fails_on_is_named(tmp_path: Path) -> None:
    branches = {}
    for kind in ("Tanh", "Relu"):
        result = onnx.helper.make_tensor_value_info(kind, onnx.TensorProto.FLOAT, ["batch", "time", WIDTH])
        branches[kind] = onnx.helper.make_graph([node(kind, ["x"], [kind])], kind, [], [result])
    nodes = [
        node("ReduceSum", ["ids"], ["sum"], keepdims=0),
        node("Greater", ["sum", "limit"], ["large"]),
        node("If", ["large"], ["y"], then_branch=branches["Tanh"], else_branch=branches["Relu"]),
    ]
    onnx.save(handmade(*nodes, constants={"limit": np.int64(50)}), tmp_path / "branch.onnx")
    with pytest.raises(ConversionError, match=r"onnx2tf failed on 'branch': it cannot convert node 'the_if_y' \(If\)") as caught:
        convert_opaque(opaque(tmp_path / "branch.onnx"), Encoding.FLOAT32)
    assert "without branches" in caught.value.fix


def test_a_graph_that_cannot_run_for_the_window_is_explained(tmp_path: Path) -> None:
    model = handmade(node("Add", ["x", "positions"], ["y"]), constants={"positions": np.ones((5, WIDTH), np.float32)})
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        folded(windowed(model, GraphCall("ids", (1, TIME), "logits")), tmp_path)
    cause, fix = explain(str(caught.value), "onnx")
    assert cause.startswith("onnxruntime cannot prepare it for one window of tokens")
    assert "dynamic_axes={'ids': {0: 'batch', 1: 'time'}}" in fix


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    run = subprocess.run

    def other(command: list[str], **options: Any) -> Any:
        return run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(lowering.subprocess, "run", other)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "onnx2tf failed on 'm': it crashed"),
        ("import time; time.sleep(60)", "onnx2tf did not finish 'm' within 2 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGFPE)", "onnx2tf failed on 'm': it crashed"),
    ],
)
def test_whatever_happens_to_onnx2tf_is_explained(monkeypatch: pytest.MonkeyPatch, code: str, cause: str) -> None:
    instead(monkeypatch, code)
    with pytest.raises(ConversionError, match=cause) as caught:
        convert_opaque(opaque(Path("m.onnx")), Encoding.FLOAT32, timeout=2)
    assert caught.value.fix


def test_without_onnx2tf_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "raise ModuleNotFoundError(\"No module named 'onnx2tf'\")")
    with pytest.raises(MissingDependencyError, match="onnx2tf, which is not installed") as caught:
        convert_opaque(opaque(Path("m.onnx")), Encoding.FLOAT32)
    assert "edgelm[onnx]" in caught.value.fix
    monkeypatch.setattr(graph_onnx, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'onnx2tf'"):
        graph_onnx.converted_operations()


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "edgelm.errors.ConversionError: it has no conversion of node 'a' (Foo)\n  next: replace the layer",
            "it has no conversion of node 'a' (Foo)",
        ),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for RMSNorm(23) node with name '/norm'",
            "onnxruntime has no RMSNorm of opset 23 (node '/norm')",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:Fatal error: mine:Op(-1) is not a registered function/op",
            "onnxruntime does not know the operation mine:Op",
        ),
        ("ValueError: Message onnx.ModelProto exceeds maximum protobuf size of 2GB: 2600000000", "weights take over 2 GB"),
        ("error: 'tf.UniqueWithCountsV2' op is neither a custom op nor a flex op", "onnx2tf makes the TensorFlow op UniqueWithCountsV2"),
        ("MemoryError", "not enough memory"),
        ("Traceback\nOddError: it is odd", "OddError: it is odd"),
    ],
)
def test_known_messages_are_translated(message: str, cause: str) -> None:
    explained, fix = explain(message, "onnx")
    assert cause in explained
    assert fix
    assert "Input(" not in fix  # which is Keras


def test_the_last_node_before_a_traceback_is_the_one_that_failed() -> None:
    log = (
        "\x1b[32mINFO:\x1b[0m \x1b[35monnx_op_type\x1b[0m: Gather\x1b[35m onnx_op_name\x1b[0m: /embed\n"
        "\x1b[32mINFO:\x1b[0m \x1b[35monnx_op_type\x1b[0m: Trilu\x1b[35m onnx_op_name\x1b[0m: /mask/Trilu\n"
        "\x1b[31mERROR:\x1b[0m The trace log is below.\nTraceback (most recent call last):\n  File x\nValueError: bad rank\n\n"
        "ERROR: onnx_op_name: t\n"
    )
    cause, fix = failed_node(log) or ("", "")
    assert cause == "it cannot convert node '/mask/Trilu' (Trilu): ValueError: bad rank"
    assert "register_buffer" in fix
    assert failed_node(log.split("ERROR")[0]) is None
