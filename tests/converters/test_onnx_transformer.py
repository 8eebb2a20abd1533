"""Decoder transformers in ONNX: what is lifted computes the same as onnxruntime, what the family has not is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx_decoders import HEAD_DIM, KV_HEADS, VOCAB, Form, decoder  # noqa: E402

from edgelm.errors import UnsupportedModelError  # noqa: E402
from edgelm.lower.direct import lower  # noqa: E402
from edgelm.model import LanguageModel  # noqa: E402
from edgelm.models.reference import logits  # noqa: E402
from edgelm.runtime.session import open_session  # noqa: E402
from edgelm_converters.lift import Lift, NotLiftable  # noqa: E402
from edgelm_converters.onnx import read  # noqa: E402
from edgelm_converters.onnx_graph import folded, read_graph  # noqa: E402
from edgelm_converters.onnx_transformer import lift_transformer  # noqa: E402

STEPS = 32

# float32 sums in another order: the logits are about 5, and differ by about 5e-6
MAX_DIFFERENCE = 1e-4

RMS: Mapping[str, Any] = {"norm": "RMSNormalization", "positions": False, "feed": "gated", "opset": 23}

LIFTED: dict[str, tuple[Form, dict[str, Any]]] = {
    "tiled keys": (Form(), {"kv_heads": 2, "attention_scale": 0.4, "activation": "gelu", "position": "learned", "max_positions": 48}),
    "gemm": (Form(product="gemm"), {"qkv_bias": True, "ffn_bias": True}),
    "FusedMatMul": (Form(product="fused"), {}),
    "einsum of weights": (Form(product="einsum"), {}),
    "einsum of heads": (Form(attention="einsum"), {"kv_heads": 4, "attention_scale": 0.0}),
    "parallel": (Form(parallel=True), {"parallel_residual": True}),
    "embedding norm": (Form(embedding_norm=True), {"embedding_norm": True}),
    "scaled logits": (Form(end="scaled"), {"head_bias": False}),
    "softmax": (Form(end="softmax"), {}),
    "log softmax": (Form(end="log_softmax"), {}),
    "com.microsoft Attention": (Form(attention="microsoft", skip=True, feed="fast_gelu"), {"activation": "gelu_tanh", "qkv_bias": True}),
    "MultiHeadAttention": (Form(attention="multi_head", skip=True, feed="bias_gelu"), {"activation": "gelu", "qkv_bias": True}),
    "QuickGelu": (Form(feed="quick_gelu"), {"activation": "silu", "gated": False}),
    "packed gate": (Form(feed="gated_packed"), {"activation": "silu", "gated": True}),
    "opset 23": (
        Form(norm="RMSNormalization", attention="opset_23", positions=False, opset=23),
        {"norm": "rms", "rope_theta": 1e4, "attention_scale": 0.3},
    ),
    "opset 23, flat heads": (Form(attention="opset_23_flat", positions=False, opset=23), {"kv_heads": 4, "attention_scale": 0.3}),
    "GroupQueryAttention": (Form(attention="group_query", **RMS), {"kv_heads": 2, "position": "rotary", "max_positions": 48}),
    "GroupQueryAttention, interleaved": (Form(attention="group_query_interleaved", **RMS), {"position": "rotary"}),
    "GroupQueryAttention, packed": (Form(attention="group_query_packed", **RMS), {"qkv_bias": True}),
    "SkipSimplifiedLayerNormalization": (Form(attention="group_query", skip=True, **RMS), {"norm": "rms"}),
    "SimplifiedLayerNormalization": (Form(norm="SimplifiedLayerNormalization", attention="einsum"), {"norm": "rms", "norm_eps": 1e-5}),
    "com.microsoft RotaryEmbedding": (Form(attention="rotary_apart", **RMS), {"position": "rotary"}),
    "window": (Form(mask="window", opset=20), {"max_positions": 20}),
}

CACHED = [name for name, (form, _) in LIFTED.items() if any(given.name.startswith("past") for given in decoder(form).inputs)]


def written(form: Form, folder: Path) -> Path:
    """A decoder as a file."""
    return decoder(form).save(folder / "model.onnx", opset=form.opset, ir_version=10, com_microsoft=1)


def lifted(path: Path) -> Lift:
    return lift_transformer(folded(read_graph(path)))


def scores(path: Path, ids: np.ndarray) -> np.ndarray:
    """onnxruntime's outputs (time, vocab) for ids (time,), caches empty."""
    session = onnxruntime.InferenceSession(str(path))
    every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(len(ids))}
    feeds = {
        given.name: every[given.name][None] if given.name in every else np.zeros((1, KV_HEADS, 0, HEAD_DIM), np.float32)
        for given in session.get_inputs()
    }
    return np.asarray(session.run(["logits"], feeds)[0][0])


def centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(-1, keepdims=True)


@pytest.mark.parametrize("name", LIFTED)
def test_lifted_model_gives_the_same_scores_on_litert(name: str, tmp_path: Path) -> None:
    form, expected = LIFTED[name]
    path = written(form, tmp_path)
    found = lifted(path)
    assert {key: getattr(found.spec, key) for key in expected} == expected
    assert (found.probabilities, found.last_only) == (form.end == "softmax", False)
    ids = np.random.default_rng(1).integers(0, VOCAB, min(STEPS, found.spec.max_positions))
    wanted = scores(path, ids)
    session = open_session(lower(LanguageModel(found.spec, found.weights)).tflite)
    given = np.stack([session.step(int(token)).copy() for token in ids])
    wanted = np.log(wanted) if found.probabilities else wanted
    assert np.abs(centred(given) - centred(wanted)).max() <= MAX_DIFFERENCE


def test_grouped_heads_of_opset_23_are_those_of_the_onnx_specification(tmp_path: Path) -> None:
    """Compared with onnx's reference: onnxruntime 1.23 gives query head h the key head h % kv_heads, ONNX h // group."""
    from onnx.reference import ReferenceEvaluator

    path = written(Form(norm="RMSNormalization", attention="opset_23_grouped", positions=False, opset=23), tmp_path)
    ids = np.random.default_rng(1).integers(0, VOCAB, (1, 12))
    wanted = ReferenceEvaluator(str(path)).run(["logits"], {"input_ids": ids})[0]
    found = lifted(path)
    assert found.spec.kv_heads == KV_HEADS
    assert np.abs(logits(LanguageModel(found.spec, found.weights), ids) - wanted).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("name", CACHED)
def test_caches_are_proven_token_by_token(name: str, tmp_path: Path) -> None:
    model = read(written(LIFTED[name][0], tmp_path)).model
    assert model.origin is not None
    assert model.origin.way == "lifted"
    assert "fed back token by token" in model.origin.why


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "transformer-tutorial", "gpt-last", "llama-table"])
def test_exports_of_torch_whatever_length_is_written_into_them(name: str, tmp_path: Path) -> None:
    """The older exporter writes the example's length into nn.MultiheadAttention; the weights are those of the module all the same."""
    pytest.importorskip("torch")
    from onnx_exports import legacy
    from torch_zoo import ZOO

    zoo = ZOO[name]()
    found = lifted(legacy(zoo, tmp_path / "model.onnx"))
    ids = np.random.default_rng(2).integers(0, VOCAB, (1, STEPS))
    given = logits(LanguageModel(found.spec, found.weights), ids)[0]
    assert found.last_only == zoo.last_only
    assert np.abs(centred(given) - centred(zoo.scores(ids))).max() <= MAX_DIFFERENCE


def test_window_is_told(tmp_path: Path) -> None:
    assert lifted(written(Form(mask="window"), tmp_path)).notes == (
        "Each position sees 20 positions, itself included, so its context ends there",
    )


REFUSED: dict[str, tuple[Form, str]] = {
    "linear biases": (Form(mask="alibi"), "ALiBi"),
    "a mask of tokens": (Form(mask="tokens"), "depends on the tokens"),
    "capped scores": (Form(end="softcap"), "capped"),
    "another activation": (Form(feed="leaky"), "activation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_family_has_not_is_refused_by_name(name: str, tmp_path: Path) -> None:
    form, reason = REFUSED[name]
    with pytest.raises(NotLiftable, match=reason):
        lifted(written(form, tmp_path))


def test_attention_that_sees_the_future_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="not causal"):
        lifted(written(Form(mask="full"), tmp_path))


@pytest.mark.data
def test_hybrid_of_convolutions_is_refused_by_name(data_folder: Path) -> None:
    with pytest.raises(NotLiftable, match="convolutions"):
        lifted(data_folder / "models" / "ortgenai_tiny_random_lfm2_onnx" / "decoder.onnx")
