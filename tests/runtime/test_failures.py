from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
import tiny_graphs as tiny
from ai_edge_litert import schema_py_generated as schema

from edgelm.errors import RuntimeFailure
from edgelm.runtime.engine import RUNTIMES
from edgelm.runtime.failures import translated
from edgelm.runtime.session import open_session
from edgelm.spec import Encoding
from edgelm.tflite.quantize import quantize
from edgelm.tflite.writer import ModelBuilder

runtimes = pytest.mark.parametrize("runtime", list(RUNTIMES))


@pytest.fixture(scope="module")
def model() -> bytes:
    return tiny.recurrent_bytes(tiny.weights())


def edited(model: bytes, edit) -> bytes:
    """The model with each FULLY_CONNECTED op code edited."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    for code in tree.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED:
            edit(code)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@runtimes
def test_unknown_op_version_names_op_version_and_runtime(model, runtime):
    def newer(code):
        code.version = 99

    with pytest.raises(RuntimeFailure, match=rf"{runtime} \d.* has no FULLY_CONNECTED version 99") as caught:
        open_session(edited(model, newer), runtime=runtime)
    assert "--recipe int8-tflite2.14" in caught.value.fix


@runtimes
@pytest.mark.parametrize(("custom", "said"), [(b"FlexMatMul", r"Flex delegate"), (b"Mine", "custom op Mine")])
def test_flex_and_custom_ops_are_named(model, runtime, custom, said):
    def replace(code):
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = custom

    with pytest.raises(RuntimeFailure, match=said) as caught:
        open_session(edited(model, replace), runtime=runtime)
    assert caught.value.allowed == "builtin TFLite ops"


@pytest.fixture(scope="module")
def external() -> bytes:
    """A model large enough that its weights lie behind the root table."""
    rng = np.random.default_rng(0)
    builder = ModelBuilder()
    g = builder.subgraph("step")
    token, h = g.input("token", (1,), "int32"), g.input("h_0", (1, 64))
    table, head = (g.weight(name, quantize(rng.normal(size=(200, 64)).astype(np.float32), Encoding.FLOAT32)) for name in ("t", "h"))
    new = g.add(h, g.embedding_lookup(token, table))
    g.output("logits", g.fully_connected(new, head))
    g.output("h_0", new)
    return builder.finish()


@runtimes
@pytest.mark.parametrize("share", [0.0, 0.002, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("as_file", [False, True])
def test_truncated_models_are_refused_and_do_not_end_the_process(external, runtime, share, as_file, tmp_path):
    cut = external[: int(share * len(external))]
    path = tmp_path / "cut.tflite"
    path.write_bytes(cut)
    with pytest.raises(RuntimeFailure, match="damaged or cut short"):
        open_session(path if as_file else cut, runtime=runtime)


@runtimes
def test_other_files_are_refused(runtime, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)
    with pytest.raises(RuntimeFailure, match="no \\.tflite file"):
        open_session(path, runtime=runtime)
    with pytest.raises(RuntimeFailure, match="cannot be opened"):
        open_session(tmp_path, runtime=runtime)


def test_models_without_a_known_signature_name_those_they_have(model):
    builder = ModelBuilder()
    g = builder.subgraph("serving_default")
    g.output("y", g.tanh(g.input("x", (1, 4))))
    with pytest.raises(RuntimeFailure, match="it has: serving_default") as caught:
        open_session(builder.finish())
    assert "step, decode_C" in caught.value.allowed


def test_unknown_messages_are_passed_on():
    error = translated("Something\n odd", "running", "ai-edge-litert 2.1.0")
    assert error.what == "running: ai-edge-litert 2.1.0 says: Something odd"


def test_prepare_failures_name_the_node():
    said = "transpose.cc:40 op_context->perm != 4\nNode number 7 (TRANSPOSE) failed to prepare."
    assert "cannot prepare node 7 (TRANSPOSE)" in translated(said, "preparing", "tflite-runtime 2.14.0").what
