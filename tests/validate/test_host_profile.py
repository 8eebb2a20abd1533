"""Time per op and layer of real small artifacts, by the runtime's own profiler."""

from __future__ import annotations

import numpy as np
import pytest

from edgelm.errors import ArtifactError
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.report import render_json
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.reader import OpInfo, TfliteModel, read
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate import host_profile_report
from edgelm.validate.host_profile import HostProfile, SignatureProfile, profile_host
from edgelm.validate.op_layers import kernels_of_ops, layers
from edgelm.validate.op_profiler import KernelEvent

LSTM = RecurrentSpec(6000, 64, "lstm", (256, 128), hidden=(DenseLayer(64),), tied_head=True)
LLAMA = TransformerSpec(1500, 128, 2, 4, 2, 32, 384, 128)
SECONDS = 0.2


def lowered(spec: ModelSpec, encoding: Encoding = Encoding.INT8) -> bytes:
    random = np.random.default_rng(4)
    weights = {name: random.standard_normal(shape, np.float32) * np.float32(0.1) for name, shape in weight_shapes(spec).items()}
    encodings = {name: encoding for name, weight in weights.items() if weight.ndim == 2}
    return direct.lower(LanguageModel(spec, weights, encodings=encodings)).tflite


@pytest.fixture(scope="module")
def lstm(tmp_path_factory) -> HostProfile:
    path = tmp_path_factory.mktemp("models") / "keys.tflite"
    path.write_bytes(lowered(LSTM))
    return profile_host(path, seconds=SECONDS)


def ops_of(model: TfliteModel, signature: str) -> list[OpInfo]:
    return [op for op in model.ops if op.subgraph == model.signature(signature).subgraph]


def products(signature: SignatureProfile) -> list[tuple[str, str]]:
    return [(op.layer, op.kernel.split(" (")[0]) for op in signature.ops if op.name == "FULLY_CONNECTED"]


def test_every_op_of_the_file_is_there_with_its_layer(lstm):
    (step,) = lstm.signatures
    model = read(lowered(LSTM))
    assert [op.name for op in step.ops] == [op.name for op in model.ops]
    assert list(step.us_by_layer) == ["embedding", "layers.0", "layers.1", "hidden.0", "head"]
    assert {layer for layer, _ in products(step)} == {"layers.0", "layers.1", "hidden.0", "head"}
    assert all(kernel == "Fully Connected" for _, kernel in products(step))


def test_the_parts_add_up_to_the_whole(lstm):
    (step,) = lstm.signatures
    assert 0 < step.ms <= step.ms_median <= step.ms_p95
    assert sum(step.us_by_layer.values()) + step.rest_us == pytest.approx(step.ms * 1e3)
    assert step.rest_us > -0.01 * step.ms * 1e3  # rounding alone: ops lie inside the call that the profiler timed
    # the head multiplies 384,000 of 944,000 weights, hidden.0 8,192: over ten times as many even on a busy machine
    assert step.us_by_layer["head"] > 3 * step.us_by_layer["hidden.0"]


def test_what_xnnpack_does_not_run_is_named_with_the_reason(lstm):
    own = [op for op in lstm.signatures[0].ops if not op.delegated]
    assert [(op.name, op.layer) for op in own] == [("EMBEDDING_LOOKUP", "embedding")]
    assert "lookup" in own[0].reason


def test_a_transformer_is_told_apart_signature_by_signature(tmp_path):
    (tmp_path / "model.tflite").write_bytes(lowered(LLAMA))
    profile = profile_host(tmp_path, seconds=SECONDS)  # a folder
    assert [one.signature for one in profile.signatures] == ["decode_128", "prefill_64"]
    for one in profile.signatures:
        assert {layer for layer, _ in products(one)} == {"layers.0", "layers.1", "head"}
        attention = [op for op in one.ops if op.name == "BATCH_MATMUL"]
        assert all(op.kernel.startswith("Batch Matrix Multiply") for op in attention)
        assert [op.layer for op in attention] == ["layers.0"] * (len(attention) // 2) + ["layers.1"] * (len(attention) // 2)
        norms = [op.kernel for op in one.ops if op.name == "MEAN"]
        assert norms == ["Mean Squared (ND) Reduce2"] * 5  # the square before each is fused into it
    assert profile.to_dict()["signatures"][0]["rest_us"] == pytest.approx(profile.signatures[0].rest_us, abs=0.01)


def test_blocks_of_4_bits_are_timed_as_whole_calls(tmp_path):
    """LiteRT's C library, whose profiler tells ops apart, does not load them."""
    path = tmp_path / "blocks.tflite"
    path.write_bytes(lowered(LSTM, Encoding.INT4_BLOCK32))
    profile = profile_host(path, seconds=SECONDS)
    (step,) = profile.signatures
    assert 0 < step.ms <= step.ms_median and step.ops == ()
    shown = render_json(host_profile_report.report(profile)).decode()
    assert "not told apart: LiteRT's C library" in shown
    assert '"step"' in shown and "time by layer" not in shown
    assert host_profile_report.flames(profile) == ()


def test_kernels_are_paired_by_anchors_and_names():
    ops = [OpInfo(name, 1, 0, (), ()) for name in ("CAST", "FULLY_CONNECTED", "MUL", "MEAN", "SPLIT", "TANH", "FULLY_CONNECTED", "ADD")]
    events = [
        KernelEvent("CAST", 0, 1, in_xnnpack=False),
        KernelEvent("Fully Connected (NC, F32) GEMM", 0, 9, in_xnnpack=True),
        KernelEvent("Mean Squared (ND) Reduce2", 1, 1, in_xnnpack=True),
        KernelEvent("Slice (ND, X32)", 2, 1, in_xnnpack=True),
        KernelEvent("Slice (ND, X32)", 3, 1, in_xnnpack=True),
        KernelEvent("TanH (NC)", 4, 1, in_xnnpack=True),
        KernelEvent("Fully Connected (NC, F32) GEMM", 5, 9, in_xnnpack=True),
        KernelEvent("Add (ND)", 6, 1, in_xnnpack=True),
    ]
    assert kernels_of_ops(ops, events) == [[0], [1], [], [2], [3, 4], [5], [6], [7]]


def test_kernels_of_no_known_name_count_to_the_op_before_them():
    ops = [OpInfo(name, 1, 0, (), ()) for name in ("FULLY_CONNECTED", "ADD", "FULLY_CONNECTED")]
    kernels = ("Fully Connected (X)", "Something New (Y)", "Fully Connected (X)")
    assert kernels_of_ops(ops, [KernelEvent(name, n, 1, in_xnnpack=True) for n, name in enumerate(kernels)]) == [[0, 1], [], [2]]


def test_the_layers_of_a_prefill_are_those_of_its_weights():
    model = read(lowered(LLAMA))
    ops = ops_of(model, "prefill_64")
    found = dict.fromkeys(layers(ops, model))
    assert set(found) == {"inputs", "embedding", "layers.0", "layers.1", "head"}


@pytest.mark.parametrize("content", [None, b"", b"no model at all"])
def test_what_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError):
        profile_host(path)


def test_a_file_without_signatures_is_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(ModelBuilder().finish())
    with pytest.raises(ArtifactError, match="has no signature"):
        profile_host(path)
