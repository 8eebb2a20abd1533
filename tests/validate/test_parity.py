from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgelm.errors import RuntimeFailure
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models.reference import logits as reference_logits
from edgelm.runtime.session import open_session
from edgelm.spec import Encoding, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.quantize import quantize
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate.parity import ParityResult, checks, limits_for, parity, parity_on
from edgelm.validate.parity_limits import LIMITS

RECURRENT = RecurrentSpec(vocab_size=50, embedding_size=32, cell="lstm", units=(32,))
TRANSFORMER = TransformerSpec(vocab_size=50, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_size=64, max_positions=24)
SPECS = pytest.mark.parametrize("spec", [RECURRENT, TRANSFORMER], ids=["recurrent", "transformer"])
IDS = np.random.default_rng(2).integers(0, 50, 60)


def model_of(spec, encoding: Encoding = Encoding.FLOAT32) -> LanguageModel:
    rng = np.random.default_rng(1)
    weights = {name: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    for name in weights:
        if "norm" in name:
            weights[name] = np.ones_like(weights[name])
    return LanguageModel(spec, weights, encodings={name: encoding for name, weight in weights.items() if weight.ndim == 2})


def source_of(model: LanguageModel):
    return lambda ids: reference_logits(model, ids)


def verdict(result: ParityResult, encoding: Encoding) -> dict[str, bool | None]:
    return {check.name.split(": ")[1]: check.passed for check in checks(result, LIMITS[encoding])}


@SPECS
def test_float32_artifacts_pass_on_both_runtimes(spec):
    model = model_of(spec)
    results = parity_on(["ai-edge-litert", "tflite-runtime"], source_of(model), lower(model).tflite, IDS)
    assert [result.runtime.split()[0] for result in results.values()] == list(results) == ["ai-edge-litert", "tflite-runtime"]
    for result in results.values():
        assert result.positions == len(IDS)
        assert result.max_abs_difference < 1e-5  # logits below 4, ten times the rounding of float32 products this small
        assert result.top1_agreement == result.clear_agreement == result.top3_agreement == 1
        assert result.first_divergence is None and result.sqnr_db > 100 and result.max_kl < 1e-9
        assert (result.prefill_difference is None) == (spec is RECURRENT)
        assert all(check.passed is not False and not check.fix for check in checks(result, LIMITS[Encoding.FLOAT32]))


@SPECS
def test_int8_loses_a_little_and_passes_its_own_limits_only(spec):
    model = model_of(spec, Encoding.INT8)
    result = parity(source_of(model), open_session(lower(model).tflite), IDS)
    assert 20 < result.sqnr_db < 60  # 8 bits: some 40 dB for the weights, some less after activations
    assert verdict(result, Encoding.INT8)["mean KL"] is True
    assert verdict(result, Encoding.FLOAT32)["largest logit difference"] is False


@SPECS
@pytest.mark.parametrize("damage", ["swapped rows", "one weight"])
def test_a_perturbed_artifact_is_found_out(spec, damage):
    model = model_of(spec)
    weights = dict(model.weights)
    table = weights["embedding.weight"].copy()
    if damage == "swapped rows":
        table[[IDS[7], IDS[8]]] = table[[IDS[8], IDS[7]]]
    else:
        table[IDS[7], 3] += 0.01
    weights["embedding.weight"] = table
    result = parity(source_of(model), open_session(lower(model.replace(weights=weights)).tflite), IDS)
    failing = [check for check in checks(result, LIMITS[Encoding.FLOAT32]) if check.passed is False]
    assert "largest logit difference" in {check.name.split(": ")[1] for check in failing}
    assert all(check.cause and check.fix for check in failing)
    if damage == "swapped rows":
        assert result.first_divergence is not None and result.divergence_margin > 0
        assert f"position {result.first_divergence}" in failing[0].cause


def test_figures_equal_their_definitions():
    model = model_of(RECURRENT)
    shift, noise = np.float32(5), np.random.default_rng(9).normal(0, 0.3, (len(IDS), 50)).astype(np.float32)
    exact = reference_logits(model, IDS[None])[0]
    result = parity(lambda ids: exact[None] + noise + shift, open_session(lower(model).tflite), IDS)
    source = (exact + noise).astype(np.float64)
    source -= source.mean(-1, keepdims=True)
    artifact = exact - exact.mean(-1, keepdims=True, dtype=np.float64)
    log_p = source - np.log(np.exp(source).sum(-1, keepdims=True))
    log_q = artifact - np.log(np.exp(artifact).sum(-1, keepdims=True))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    top = np.argsort(-artifact, axis=-1)[:, :3]
    own = np.argsort(-source, axis=-1)[:, :3]
    differs = own[:, 0] != top[:, 0]
    margins = source.max(-1) - np.take_along_axis(source, top[:, :1], -1)[:, 0]
    assert result.max_abs_difference == pytest.approx(np.abs(source - artifact).max(), rel=1e-4)
    assert (result.mean_kl, result.max_kl) == pytest.approx((kl.mean(), kl.max()), rel=1e-4)
    assert result.top1_agreement == pytest.approx(1 - differs.mean())
    assert result.clear_agreement == pytest.approx((margins <= 0.1).mean())
    assert result.top3_agreement == pytest.approx(np.mean([own[i, 0] in top[i] for i in range(len(IDS))]))
    assert result.top3_overlap == pytest.approx(np.mean([len({*own[i]} & {*top[i]}) / 3 for i in range(len(IDS))]))
    assert result.sqnr_db == pytest.approx(10 * np.log10((source**2).sum() / ((source - artifact) ** 2).sum()), rel=1e-4)
    first = int(np.flatnonzero(differs)[0])
    assert result.first_divergence == first and result.divergence_margin == pytest.approx(margins[first], rel=1e-3)


def test_a_wrong_prefill_is_found_although_the_steps_are_right():
    model = model_of(TRANSFORMER)
    session = open_session(lower(model).tflite)
    right = session.prefill
    session.prefill = lambda tokens: right(tokens[::-1])  # what a prefill with wrong positions does
    result = parity(source_of(model), session, IDS[:20])
    by_name = {check.name.split(": ")[1]: check for check in checks(result, LIMITS[Encoding.FLOAT32])}
    assert by_name["largest logit difference"].passed and by_name["prefill against steps"].passed is False
    assert "prefill signature" in by_name["prefill against steps"].cause


def forward_model(last_only: bool):
    """A `forward` of four tokens: each token scored alone, or the mean of the window."""
    table = np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32)
    builder = ModelBuilder()
    g = builder.subgraph("forward")
    rows = g.embedding_lookup(g.reshape(g.input("ids", (1, 4), "int32"), (-1,)), g.weight("t", quantize(table, Encoding.FLOAT32)))
    g.output("logits", g.mean(rows, 0) if last_only else g.reshape(rows, (1, 4, 50)))
    return builder.finish(), table


@pytest.mark.parametrize("last_only", [False, True])
def test_forward_models_are_compared_window_by_window(last_only):
    model, table = forward_model(last_only)
    seen = []

    def source(ids):
        seen.append(ids.shape)
        rows = table[ids]
        return np.repeat(rows.mean(1, keepdims=True), ids.shape[1], axis=1) if last_only else rows

    result = parity(source, open_session(model), IDS[:10])
    assert seen == ([(1, 4)] * 2 if last_only else [(1, 4), (1, 4), (1, 2)])
    assert result.positions == (2 if last_only else 10)
    assert result.max_abs_difference < 1e-6 and result.prefill_difference is None
    with pytest.raises(RuntimeFailure, match="3 tokens fill no window") if last_only else pytest.raises(AssertionError):
        parity(source, open_session(model), IDS[:3])
        raise AssertionError


def test_another_vocabulary_is_refused():
    model = model_of(RECURRENT)
    with pytest.raises(RuntimeFailure, match="49 logits, the artifact 50"):
        parity(lambda ids: reference_logits(model, ids)[..., :49], open_session(lower(model).tflite), IDS)


def test_the_coarsest_encoding_sets_the_limits():
    assert limits_for([]) is LIMITS[Encoding.FLOAT32]
    assert limits_for([Encoding.FLOAT32, Encoding.INT4_BLOCK32, Encoding.INT8]) is LIMITS[Encoding.INT4_BLOCK32]
    assert set(LIMITS) == set(Encoding)


def test_nan_fails_every_limit():
    good = parity(source_of(model_of(RECURRENT)), open_session(lower(model_of(RECURRENT)).tflite), IDS[:5])
    broken = dataclasses.replace(good, mean_kl=float("nan"), max_abs_difference=float("nan"))
    assert verdict(broken, Encoding.FLOAT32)["mean KL"] is False
    assert verdict(broken, Encoding.FLOAT32)["largest logit difference"] is False
