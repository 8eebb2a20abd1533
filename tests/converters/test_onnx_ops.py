"""The numpy evaluation of ONNX operations against the ONNX project's own backend node cases."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from handmade_onnx import Writer  # noqa: E402

from edgelm_converters.lift import NotLiftable  # noqa: E402
from edgelm_converters.onnx_graph import OnnxGraph, OnnxInput, OnnxNode  # noqa: E402
from edgelm_converters.onnx_ops import OPERATIONS, computable, evaluate, trace  # noqa: E402
from edgelm_converters.onnx_proto import GraphReader  # noqa: E402

RELIED_ON: Mapping[str, int] = {
    "Attention": 62,
    "GRU": 4,
    "Gelu": 4,
    "LSTM": 4,
    "LayerNormalization": 19,
    "RMSNormalization": 19,
    "RNN": 4,
    "RotaryEmbedding": 8,
}
"""Operation of the issue -> how many cases of one node onnx 1.19 has of it: all of them run."""

REFUSED: Mapping[str, str] = {
    "_pad": "pads with mode",
    "scatter": "scatters with a reduction",
    "_empty_set": "no identity",
    "argm": "selects the last",
}
"""Part of a case's name -> what its refusal says: nothing a lift relies on."""

ELEMENT_TYPES = ("FLOAT8", "FLOAT4", "INT4", "FLOAT16", "e4m3", "e5m2", "int4", "float4", "STRING", "string")
"""Parts of the names of cases on element types that are computed in another: the reader turns such weights into float32 or int8."""


@cache
def cases() -> Mapping[str, list[Any]]:
    """Operation -> backend cases that are one node of it."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    for case in collect_testcases(None):
        if case.model is not None and len(case.model.graph.node) == 1 and not case.model.graph.node[0].domain:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def array(value: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def run(case: Any) -> None:
    """Evaluates one case and compares every output that it names."""
    proto = case.model.graph.node[0]
    node = GraphReader(Path("case"), {entry.domain: entry.version for entry in case.model.opset_import}).node(proto, 0, frozenset())
    assert computable(node)
    for inputs, outputs in case.data_sets:
        values = iter(inputs)
        made = evaluate(node, [array(next(values)) if name else None for name in node.inputs])
        named = [value for name, value in zip(node.outputs, made, strict=False) if name]
        assert len(named) == len(outputs)
        for value, wanted in zip(named, map(array, outputs), strict=True):
            assert value.shape == wanted.shape
            np.testing.assert_allclose(
                value.astype(np.float64), wanted.astype(np.float64), rtol=case.rtol, atol=max(case.atol, 1e-6), err_msg=case.name
            )


@pytest.mark.slow  # importing the generator of all cases takes some seconds
@pytest.mark.parametrize("operation", sorted(OPERATIONS - {"SimplifiedLayerNormalization"}))  # that one is onnxruntime's, see below
def test_backend_cases(operation: str) -> None:
    ran = 0
    for case in cases().get(operation, []):
        if any(part in case.name for part in ELEMENT_TYPES):
            continue
        reason = next((reason for part, reason in REFUSED.items() if part in case.name), None)
        try:
            run(case)
            ran += 1
        except NotLiftable as verdict:
            if reason is None or reason not in verdict.reason:
                raise
    assert ran >= max(1, RELIED_ON.get(operation, 1)), f"only {ran} cases ran"


def test_all_operations_of_the_issue_are_computed() -> None:
    assert RELIED_ON.keys() <= OPERATIONS


def node(op: str, *inputs: str, domain: str = "", **attributes: Any) -> OnnxNode:
    return OnnxNode("n", op, domain, inputs, ("y",), attributes)


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("ConstantOfShape", [np.array([1 << 20, 1 << 20])], {}),
        ("Expand", [np.ones(1), np.array([1 << 20, 1 << 20])], {}),
        ("Range", [np.array(0), np.array(1 << 40), np.array(1)], {}),
        ("Tile", [np.ones(2), np.array([1 << 40])], {}),
        ("OneHot", [np.zeros(2, np.int64), np.array(1 << 40), np.array([0, 1])], {}),
        ("Pad", [np.ones(2), np.array([1 << 40, 0])], {}),
        ("Gather", [np.ones((2, 1 << 14)), np.zeros((1 << 14,), np.int64)], {}),
        ("Add", [np.ones((1 << 14, 1)), np.ones((1, 1 << 14))], {}),
        ("MatMul", [np.ones((1 << 14, 1)), np.ones((1, 1 << 14))], {}),
        ("Einsum", [np.ones(1 << 14), np.ones(1 << 14)], {"equation": "i,j->ij"}),
    ],
)
def test_nothing_large_is_computed(op: str, operands: list[np.ndarray], attributes: dict[str, Any]) -> None:
    with pytest.raises(NotLiftable, match="of shape"):
        evaluate(node(op, *"abc"[: len(operands)], **attributes), operands)


def test_what_does_not_fit_is_a_verdict() -> None:
    with pytest.raises(NotLiftable, match="'n' is NonMaxSuppression, which edgelm does not compute"):
        evaluate(node("NonMaxSuppression", "a"), [np.ones(1)])
    with pytest.raises(NotLiftable, match=r"\(Add\) cannot be computed"):
        evaluate(node("Add", "a", "b"), [np.ones(2), np.ones(3)])
    with pytest.raises(NotLiftable, match="operand 1 is missing"):
        evaluate(node("Add", "a", ""), [np.ones(2), None])


def test_trace_follows_what_is_fed() -> None:
    nodes = (
        OnnxNode("a", "Shape", "", ("ids",), ("s",), {}),
        OnnxNode("b", "Gather", "", ("s", "one"), ("time",), {}),
        OnnxNode("c", "Neg", "", ("other",), ("unknown",), {}),
    )
    given = (OnnxInput("ids", "int64", (None, None)), OnnxInput("other", "float32", ()))
    graph = OnnxGraph(nodes, {"one": np.array(1)}, given, ("time",), 17, {"": 17}, "")
    values = trace(graph, {"ids": np.zeros((2, 7), np.int64)})
    assert values["time"] == 7 and "unknown" not in values
    assert "s" not in trace(graph, {"ids": np.zeros((2, 7), np.int64)}, "unknown")


R = np.random.default_rng(3)
X, BIAS = R.normal(size=(2, 5, 8)).astype(np.float32), R.normal(size=8).astype(np.float32)
QKV, PAST = R.normal(size=(8, 24)).astype(np.float32), R.normal(size=(2, 2, 3, 4)).astype(np.float32)
COS, SIN = np.cos(R.normal(size=(16, 2))).astype(np.float32), np.sin(R.normal(size=(16, 2))).astype(np.float32)
POSITIONS = np.arange(5)[None].repeat(2, 0)
QUERY, KEY = R.normal(size=(2, 5, 32)).astype(np.float32), R.normal(size=(2, 5, 16)).astype(np.float32)  # heads of 16: its kernel's unit
WIDE_COS, WIDE_SIN = np.cos(R.normal(size=(16, 8))).astype(np.float32), np.sin(R.normal(size=(16, 8))).astype(np.float32)
LENGTHS, TOTAL = np.full((2, 1), 4, np.int32), np.array(5, np.int32)

MICROSOFT: dict[str, tuple[str, list[np.ndarray | None], dict[str, Any], int]] = {
    "attention": ("Attention", [X, QKV, R.normal(size=24).astype(np.float32)], {"num_heads": 2, "unidirectional": 1}, 1),
    "attention, not causal": ("Attention", [X, QKV, np.zeros(24, np.float32)], {"num_heads": 2}, 1),
    "bias gelu": ("BiasGelu", [X, BIAS], {}, 1),
    "fast gelu": ("FastGelu", [X, BIAS], {}, 1),
    "gelu": ("Gelu", [X], {}, 1),
    "quick gelu": ("QuickGelu", [X], {"alpha": 1.702}, 1),
    "fused matmul": ("FusedMatMul", [X, X], {"transB": 1, "alpha": 0.5}, 1),
    "multi-head": ("MultiHeadAttention", [X, X[..., ::-1].copy(), X + 1], {"num_heads": 2}, 1),
    "multi-head with bias": ("MultiHeadAttention", [X, X, X, R.normal(size=24).astype(np.float32)], {"num_heads": 2}, 1),
    "multi-head with past": ("MultiHeadAttention", [X, X, X, None, None, None, PAST, PAST + 1], {"num_heads": 2}, 3),
    "grouped": (
        "GroupQueryAttention",
        [QUERY, KEY, KEY + 1, None, None, LENGTHS, TOTAL],
        {"num_heads": 2, "kv_num_heads": 1},
        3,
    ),
    "grouped, rotary": (
        "GroupQueryAttention",
        [QUERY, KEY, KEY + 1, None, None, LENGTHS, TOTAL, WIDE_COS, WIDE_SIN],
        {"num_heads": 2, "kv_num_heads": 1, "do_rotary": 1},
        3,
    ),
    "rotary": ("RotaryEmbedding", [X, POSITIONS, COS, SIN], {}, 1),
    "rotary, interleaved, from a place": ("RotaryEmbedding", [X, np.array([3]), COS, SIN], {"interleaved": 1}, 1),
    "skip layer norm": ("SkipLayerNormalization", [X, X * X, BIAS, BIAS + 1, BIAS - 1], {"epsilon": 1e-5}, 1),
    "skip rms norm": ("SkipSimplifiedLayerNormalization", [X, X * X, BIAS], {"epsilon": 1e-5}, 1),
}


@pytest.mark.parametrize(("op", "operands", "attributes", "outputs"), MICROSOFT.values(), ids=MICROSOFT.keys())
def test_operations_of_onnxruntime(op: str, operands: list[np.ndarray | None], attributes: dict[str, Any], outputs: int) -> None:
    _compare(op, "com.microsoft", operands, attributes, outputs)


def test_rms_normalization_of_onnxruntime() -> None:
    _compare("SimplifiedLayerNormalization", "", [X, BIAS], {"epsilon": 1e-5}, 1)


def _compare(op: str, domain: str, operands: list[np.ndarray | None], attributes: dict[str, Any], outputs: int) -> None:
    runtime = pytest.importorskip("onnxruntime")
    w = Writer()
    for number, operand in enumerate(operands):
        if operand is not None:
            w.input(f"x{number}", onnx.helper.np_dtype_to_tensor_dtype(operand.dtype), *operand.shape)
    names = ["" if operand is None else f"x{number}" for number, operand in enumerate(operands)]
    made = w.add(op, *names, outputs=outputs, domain=domain, **attributes)
    made = [made] if outputs == 1 else made
    for number, name in enumerate(made):
        w.output(name, f"y{number}")
    data = w.model(com_microsoft=1).SerializeToString()
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {name: operand for name, operand in zip(names, operands, strict=True) if operand is not None})
    computed = evaluate(OnnxNode(op, op, domain, tuple(names), tuple(made), attributes), operands)
    for mine, theirs in zip(computed, wanted, strict=False):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=2e-5)  # float32 sums in another order; FastGelu has a polynomial for tanh
