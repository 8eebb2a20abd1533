"""What a file asks of a runtime, without running it, and that the claims made there hold on the real runtimes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgelm import recipe as recipes
from edgelm.compress import quantize
from edgelm.device.profile import DeviceProfile, load
from edgelm.errors import ArtifactError
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.report import Check
from edgelm.runtime.session import open_session
from edgelm.spec import Encoding, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite import graph as tflite_graph
from edgelm.tflite import writer as tflite_writer
from edgelm.tflite.quantize import quantize as quantize_weight
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate.preflight import PreflightResult, known_runtime, preflight, runtimes

KEYBOARD = RecurrentSpec(96, 32, "lstm", (32,), tied_head=True)
TRANSFORMER = TransformerSpec(64, 32, 1, 2, 1, 16, 64, 32)
OLD, NEW = load("android-tflite-2.14"), load("android-arm64")


def lowered(recipe: str, spec: RecurrentSpec | TransformerSpec = KEYBOARD) -> bytes:
    random = np.random.default_rng(5)
    weights = {name: random.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in weight_shapes(spec).items()}
    chosen = recipes.load(recipe)
    model = LanguageModel(spec, weights)
    for step in chosen.steps:
        model = quantize.apply(model, step)
    return direct.lower(model, form=chosen.form).tflite


@pytest.fixture
def forged(monkeypatch) -> bytes:
    """A per-row int8 model whose op versions are labelled as old as tflite-runtime 2.14 has them."""
    newest = {"FULLY_CONNECTED": 9, "EMBEDDING_LOOKUP": 3}
    for module in (tflite_graph, tflite_writer):
        if hasattr(module, "op_version"):
            true_version: Callable[..., int] = module.op_version
            monkeypatch.setattr(module, "op_version", lambda op, *a, true=true_version, **k: min(true(op, *a, **k), newest.get(op, 99)))
    return lowered("int8")


def named(result: PreflightResult) -> dict[str, Check]:
    return {check.name: check for check in result.checks}


def failing(model: bytes, profile: DeviceProfile) -> set[str]:
    return {check.name for check in preflight(model, profile).checks if check.passed is False}


def changed(data: bytes, change: Callable[[schema.ModelT], None]) -> bytes:
    """A file with something else in it; only for files whose buffers all lie inside the root table."""
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def small_dense(encoding: Encoding) -> bytes:
    builder = ModelBuilder()
    g = builder.subgraph("step")
    w = g.weight("dense.weight", quantize_weight(np.ones((4, 32), np.float32), encoding))
    g.output("y", g.fully_connected(g.input("x", (1, 32)), w))
    return builder.finish()


@pytest.mark.parametrize("recipe", ["float32", "float16", "int8", "int4", "int4-block32", "int8-tflite2.14"])
@pytest.mark.parametrize("spec", [KEYBOARD, TRANSFORMER])
def test_every_recipe_passes_for_the_new_runtime(recipe, spec):
    assert failing(lowered(recipe, spec), NEW) == set()


@pytest.mark.parametrize("recipe", ["float32", "int8-tflite2.14"])
@pytest.mark.parametrize("spec", [KEYBOARD, TRANSFORMER])
def test_the_forms_for_the_old_runtime_pass(recipe, spec):
    data = lowered(recipe, spec)
    assert failing(data, OLD) == set()
    assert preflight(data, OLD).runs
    open_session(data, runtime="tflite-runtime").step(1)


@pytest.mark.parametrize("recipe", ["float16", "int8", "int4", "int4-block32"])
@pytest.mark.parametrize("spec", [KEYBOARD, TRANSFORMER])
def test_what_preflight_refuses_for_the_old_runtime_it_refuses_too(recipe, spec):
    data = lowered(recipe, spec)
    assert not preflight(data, OLD).runs
    with pytest.raises(Exception, match=r"tflite-runtime 2\.14\.0"):
        open_session(data, runtime="tflite-runtime").step(1)


def test_rows_are_refused_with_the_reason_and_the_recipe():
    result = preflight(lowered("int8"), OLD, source="kb")
    check = named(result)["row scales"]
    assert check.passed is False
    assert "embedding.weight (EMBEDDING_LOOKUP version 4)" in check.cause
    assert "loads and silently returns zeros or garbage" in check.cause
    assert check.fix.startswith("edgelm convert kb --recipe int8-tflite2.14 --target android-tflite-2.14")
    assert "FULLY_CONNECTED version 12 (has up to 10)" in named(result)["op versions"].cause


def test_an_older_label_does_not_deceive(forged):
    checks = named(preflight(forged, OLD))
    assert checks["op versions"].passed is True  # the label lies: this is why scales are looked at
    assert checks["row scales"].passed is False
    assert "version 9" in checks["row scales"].cause or "version 3" in checks["row scales"].cause
    assert failing(forged, NEW) == set()
    notes = dict(preflight(forged, NEW).tables[1].rows)
    assert "the label is too old" in notes["op versions"]


def test_the_old_runtime_does_return_garbage_for_an_older_label(forged):
    right = open_session(forged).step(3).copy()
    wrong = open_session(forged, runtime="tflite-runtime").step(3)
    cosine = float(right @ wrong / (np.linalg.norm(right) * np.linalg.norm(wrong) + 1e-9))
    assert cosine < 0.9  # the form made for 2.14 reaches 0.9997


def test_blocks_and_4_bits_are_refused_for_the_old_runtime():
    for encoding in (Encoding.INT4, Encoding.INT4_BLOCK32):
        check = named(preflight(small_dense(encoding), OLD))["weight types"]
        assert "dense.weight is int4" in check.cause
        assert named(preflight(small_dense(encoding), NEW))["weight types"].passed


def test_flex_and_custom_ops_are_named():
    def custom(name: str) -> bytes:
        def change(model: schema.ModelT) -> None:
            code = model.operatorCodes[0]
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = name

        return changed(small_dense(Encoding.INT8), change)

    assert "FlexErf: TensorFlow ops" in named(preflight(custom("FlexErf"), NEW))["builtin ops only"].cause
    result = preflight(custom("MyOp"), NEW)
    assert "MyOp: custom ops" in named(result)["builtin ops only"].cause
    assert not result.runs
    assert result.tables[0].rows[0][3:] == ("no", "a custom op")


def test_dynamic_shapes_are_named_but_run():
    def change(model: schema.ModelT) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, 32], np.int32)

    result = preflight(changed(small_dense(Encoding.INT8), change), NEW)
    assert "only known while running" in named(result)["static shapes"].cause
    assert result.runs


@pytest.mark.parametrize(("encoding", "passes"), [(Encoding.INT8, False), (Encoding.FLOAT32, True)])
def test_sparse_integers_are_refused_everywhere(encoding, passes):
    def change(model: schema.ModelT) -> None:
        weight = next(t for t in model.subgraphs[0].tensors if t.name in (b"dense.weight", "dense.weight"))
        weight.sparsity = schema.SparsityParametersT()
        weight.sparsity.traversalOrder = np.array([0, 1], np.int32)

    data = small_dense(encoding) if encoding is Encoding.INT8 else _small_float()
    for profile in (OLD, NEW):
        assert named(preflight(changed(data, change), profile))["no sparse integer weights"].passed is passes


def _small_float() -> bytes:
    builder = ModelBuilder()
    g = builder.subgraph("step")
    w = g.weight("dense.weight", quantize_weight(np.ones((2, 8), np.float32), Encoding.FLOAT32))
    g.output("y", g.fully_connected(g.input("x", (1, 8)), w))
    return builder.finish()


def test_products_of_several_rows_crash_the_old_runtime_on_dot_products_only():
    builder = ModelBuilder()
    g = builder.subgraph("prefill_8")
    x = g.input("x", (8, 32))
    w = quantize_weight(np.ones((4, 32), np.float32), Encoding.INT8)
    g.output("y", g.fully_connected(x, g.weight("w", w)))
    data = builder.finish()
    assert "prefill_8" in named(preflight(data, OLD))["products of several rows"].cause
    neon = dataclasses.replace(OLD, device=dataclasses.replace(OLD.device, isa="neon"))
    assert named(preflight(data, neon))["products of several rows"].passed
    assert named(preflight(data, NEW))["products of several rows"].passed


def test_android_and_page_sizes_of_the_runtime():
    def on(profile: DeviceProfile, **device: int) -> set[str]:
        return failing(_small_float(), dataclasses.replace(profile, device=dataclasses.replace(profile.device, **device)))

    assert on(NEW, android_api=23) == {"Android version"}
    assert on(OLD, android_api=23) == set()
    assert on(OLD, page_kb=16) == {"memory pages"}
    assert on(NEW, page_kb=16) == set()
    assert named(preflight(_small_float(), load("raspberry-pi-5")))["Android version"].passed is None


@pytest.mark.parametrize(
    ("name", "version", "known"),
    [
        ("ai-edge-litert", "2.1.0", "ai-edge-litert 2.1.0"),
        ("ai-edge-litert", "2.10.1", "ai-edge-litert 2.1.0"),
        ("ai-edge-litert", "1.4.0", None),
        ("tflite-runtime", "2.9.1", None),
    ],
)
def test_op_versions_of_other_versions_of_a_runtime(name, version, known):
    runtime = dataclasses.replace(NEW.runtime, name=name, version=version)
    profile = dataclasses.replace(NEW, runtime=runtime)
    assert known_runtime(profile) == known
    assert named(preflight(_small_float(), profile))["op versions"].passed is (True if known else None)


def test_runtimes_for_the_proof():
    assert runtimes(lowered("int8"), NEW) == ("ai-edge-litert",)
    assert runtimes(lowered("int8-tflite2.14"), OLD) == ("tflite-runtime", "ai-edge-litert")
    assert runtimes(lowered("float32"), NEW) == ("ai-edge-litert", "tflite-runtime")


def test_external_buffers_and_signatures_are_noted():
    rows = preflight(lowered("int8", TRANSFORMER), NEW).tables[1].rows
    assert any("outside the root table" in note for _, note in rows)
    assert any("signatures: each packs the weights" in note for _, note in rows)
    assert any("16 KB pages" in note for _, note in rows)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ArtifactError):
        preflight(data, NEW)
