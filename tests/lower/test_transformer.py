"""Every transformer option, lowered and run by decode and prefill, against the numpy reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lowered_models import RUNTIMES, TransformerRun, delegate_parts, encoded, grid_model, random_model, relative_error, run_decodes

from edgelm.errors import UnsupportedModelError
from edgelm.lower.direct import lower
from edgelm.lower.transformer import default_ladder
from edgelm.model import LanguageModel
from edgelm.models.reference import ReferenceSession, logits
from edgelm.spec import Encoding, TransformerSpec

POSITIONS = 40
LADDER = (8, 16, 40)
CHUNK = 6
FLOAT_BOUND = 1e-4  # float32 sums in another order; logits are of size 1

LLAMA = TransformerSpec(24, 16, 2, heads=4, kv_heads=2, head_dim=8, ffn_size=20, max_positions=POSITIONS)
BIASED = {"qkv_bias": True, "output_bias": True, "ffn_bias": True}
GPT2 = replace(LLAMA, kv_heads=4, head_dim=4, position="learned", norm="layer", activation="gelu_tanh", gated=False, **BIASED)
UNTIED = {"tied_head": False, "head_bias": True}
TUTORIAL = replace(GPT2, position="sinusoidal", norm_position="post", activation="relu", final_norm=False, embedding_scale=4.0, **UNTIED)
NEOX = replace(LLAMA, norm="layer", activation="gelu", gated=False, rotary_dim=4, parallel_residual=True, tied_head=False, **BIASED)
GEMMA = replace(LLAMA, kv_heads=1, activation="gelu_tanh", embedding_scale=4.0, norm_eps=1e-6)
SPECS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "tutorial": TUTORIAL,
    "llama-untied": replace(LLAMA, tied_head=False),
    "gpt2-untied": replace(GPT2, activation="gelu", **UNTIED),
    "partial-rotary": replace(LLAMA, rotary_dim=4),
    "multi-query": replace(LLAMA, kv_heads=1, qkv_bias=True),
    "multi-head-rotary": replace(LLAMA, kv_heads=4),
    "qk-norm": replace(LLAMA, qk_norm=True, rope_theta=1e6),
    "qk-norm-unturned": replace(LLAMA, qk_norm=True, position="none"),
    "embedding-norm": replace(GPT2, embedding_norm=True, norm_eps=1e-3),
    "post-rms": replace(LLAMA, norm_position="post", final_norm=True),
    "no-positions": replace(LLAMA, position="none"),
    "attention-scale": replace(LLAMA, attention_scale=0.2, ffn_bias=True),
    "gated-relu-layer-norm": replace(LLAMA, norm="layer", activation="relu"),
    "gpt-neox": NEOX,
    "phi": replace(NEOX, activation="gelu_tanh", head_bias=True),
    "parallel-gated-rms": replace(LLAMA, parallel_residual=True, qk_norm=True),
    "gemma": GEMMA,
    "opt": replace(GPT2, activation="relu", **UNTIED),
    "one-layer": replace(LLAMA, layers=1),
}


def ids_of(spec: TransformerSpec) -> np.ndarray:
    return np.random.default_rng(5).integers(0, spec.vocab_size, POSITIONS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_float32_decode_steps_of_the_ladder_equal_the_full_pass(spec: TransformerSpec) -> None:
    model, ids = random_model(spec), ids_of(spec)
    lowered = lower(model, ladder=LADDER, prefill=0)
    assert lowered.ladder == LADDER
    np.testing.assert_allclose(run_decodes(lowered.tflite, spec, ids, LADDER), logits(model, ids[None])[0], atol=FLOAT_BOUND)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_float32_prefill_then_decode_equals_the_full_pass(spec: TransformerSpec) -> None:
    model, ids = random_model(spec), ids_of(spec)
    wanted = logits(model, ids[None])[0]
    run = TransformerRun(lower(model, ladder=LADDER, prefill=CHUNK).tflite, spec, POSITIONS)
    for count in (CHUNK, 1, CHUNK, 4):  # full chunks and padded ones
        end = run.position + count
        np.testing.assert_allclose(run.prefill(CHUNK, ids[run.position : end]), wanted[end - 1], atol=FLOAT_BOUND)
    for token in ids[run.position : POSITIONS - 3]:
        np.testing.assert_allclose(run.decode(POSITIONS, token), wanted[run.position - 1], atol=FLOAT_BOUND)
    last = run.prefill(CHUNK, ids[run.position :])  # its padding lies past the last position
    np.testing.assert_allclose(last, wanted[-1], atol=FLOAT_BOUND)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qk-norm"])
def test_rungs_agree(name: str) -> None:
    model, ids = random_model(SPECS[name]), ids_of(SPECS[name])
    tflite = lower(model, ladder=LADDER, prefill=0).tflite
    small, large = (run_decodes(tflite, SPECS[name], ids[:8], (rung,)) for rung in (8, 40))
    np.testing.assert_allclose(small, large, atol=1e-5)


WIDE = {
    "llama": TransformerSpec(32, 64, 2, heads=4, kv_heads=2, head_dim=16, ffn_size=96, max_positions=POSITIONS),
    "gpt2": replace(GPT2, width=64, head_dim=16, ffn_size=96, tied_head=False),
    "tutorial": replace(TUTORIAL, width=64, head_dim=16, ffn_size=96),
    "phi": replace(SPECS["phi"], width=64, head_dim=16, ffn_size=96),
    "gemma": replace(GEMMA, width=64, head_dim=64, ffn_size=96),  # score scales of 1/8 and 1/4 leave the grids as they are
}


def bound(encoding: Encoding) -> float:
    """The weights lie on the grid, so what is left is hybrid kernels rounding activations to 8 bits a row.

    One rounding is off by peak / 127 / sqrt(12), about 0.7 % of the values' size; 2 blocks have 8 of them behind each other. A single
    row of logits scatters up to twice as much as all of them together.
    """
    return FLOAT_BOUND if encoding in (Encoding.FLOAT32, Encoding.FLOAT16) else 0.03


def assert_runs_right(tflite: bytes, model: LanguageModel, encoding: Encoding, runtime: str = "litert") -> None:
    spec, ids = model.spec, ids_of(model.spec)
    wanted = logits(model, ids[None])[0]
    decoded = run_decodes(tflite, spec, ids, LADDER, runtime)
    assert relative_error(decoded, wanted) < bound(encoding)
    prefilled = TransformerRun(tflite, spec, POSITIONS, runtime).prefill(CHUNK, ids[:CHUNK])
    assert relative_error(prefilled, wanted[CHUNK - 1]) < 2 * bound(encoding)


@pytest.mark.parametrize("encoding", [Encoding.FLOAT16, Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32])
@pytest.mark.parametrize("spec", WIDE.values(), ids=WIDE)
def test_encoded_weights_equal_the_reference_but_for_rounded_activations(spec: TransformerSpec, encoding: Encoding) -> None:
    model = grid_model(spec, encoding)
    assert_runs_right(lower(model, ladder=LADDER, prefill=CHUNK).tflite, model, encoding)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8])
@pytest.mark.parametrize("spec", WIDE.values(), ids=WIDE)
def test_the_old_form_is_right_on_both_runtimes(spec: TransformerSpec, encoding: Encoding, runtime: str) -> None:
    model = grid_model(spec, encoding)
    assert_runs_right(lower(model, form="tflite-2.14", ladder=LADDER, prefill=CHUNK).tflite, model, encoding, runtime)


def test_the_old_form_leaves_prefill_out_where_it_would_crash_on_arm64() -> None:
    lowered = lower(encoded(random_model(LLAMA), Encoding.INT8), form="tflite-2.14")
    assert lowered.prefills == {}
    assert "no prefill" in lowered.notes[-1]
    assert lower(random_model(LLAMA), form="tflite-2.14").prefills == {POSITIONS: POSITIONS}


@pytest.mark.parametrize("encoding", list(Encoding))
def test_xnnpack_takes_a_decode_step_whole(encoding: Encoding) -> None:
    for spec in [*WIDE.values(), *SPECS.values()]:
        assert delegate_parts(lower(encoded(random_model(spec), encoding), ladder=(8,), prefill=0).tflite) == 1


def test_norms_are_folded_into_int8_but_leave_the_grid_of_four_bits_alone() -> None:
    spec = WIDE["llama"]
    ids = ids_of(spec)
    for encoding in (Encoding.INT4, Encoding.INT4_BLOCK32):
        on_grid = grid_model(spec, encoding)
        norms = {name: weight for name, weight in random_model(spec, seed=2).weights.items() if name.endswith("norm.weight")}
        model = on_grid.replace(weights={**on_grid.weights, **norms})
        got = run_decodes(lower(model, ladder=LADDER, prefill=0).tflite, spec, ids, LADDER)
        assert relative_error(got, logits(model, ids[None])[0]) < bound(encoding)  # folded norms give 20 % and more


def test_projections_of_different_encodings_stay_apart() -> None:
    encodings = {"layers.0.v.weight": Encoding.FLOAT16, "layers.1.gate.weight": Encoding.FLOAT16}
    model = random_model(LLAMA).replace(encodings=encodings)
    lowered = lower(model, ladder=LADDER, prefill=0)
    assert {name: kind for name, kind in lowered.encodings.items() if kind is not Encoding.FLOAT32} == encodings
    ids = ids_of(LLAMA)
    # float16 weights are off by 2^-12 of their size
    np.testing.assert_allclose(run_decodes(lowered.tflite, LLAMA, ids, LADDER), logits(model, ids[None])[0], atol=5e-3)


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("tied", [True, False])
def test_the_file_holds_every_weight_once(encoding: Encoding, tied: bool) -> None:
    spec = TransformerSpec(4000, 256, 6, 8, 4, 32, 704, max_positions=512, tied_head=tied)
    model = encoded(random_model(spec), encoding)
    lowered = lower(model)
    assert len(lowered.ladder) == 3
    assert len(lowered.tflite) <= size_limit(model, lowered.encodings)


def size_limit(model: LanguageModel, encodings) -> float:
    """1.03 times the weights as they are stored, scales included, plus 64 KiB for the graph."""
    total = 0.0
    for name, weight in model.weights.items():
        scales = {Encoding.INT8: 4 * weight.shape[0], Encoding.INT4: 4 * weight.shape[0], Encoding.INT4_BLOCK32: weight.size / 16}
        total += weight.size * encodings[name].bits / 8 + scales.get(encodings[name], 0)
    return 1.03 * total + 65536


def test_far_positions_are_exact_enough() -> None:
    """Rotary angles are computed in float32 as position * frequency: at 8000 they are off by 5e-4 radians at most."""
    spec = replace(LLAMA, max_positions=8192)
    model = random_model(spec)
    tflite = lower(model, ladder=(8,), prefill=0).tflite
    session, run = ReferenceSession(model), TransformerRun(tflite, spec, 8)
    session.position = run.position = 8000
    outputs = run.call("decode_8", token=np.array([3], np.int32), **run._inputs(8))
    session.step(np.array([3]))
    np.testing.assert_allclose(outputs["k_0"], session.state["k_0"], atol=1e-3)


def test_the_default_ladder_doubles_up_to_the_positions() -> None:
    assert default_ladder(replace(LLAMA, max_positions=64)) == (64,)
    assert default_ladder(replace(LLAMA, max_positions=128)) == (128,)
    assert default_ladder(replace(LLAMA, max_positions=300)) == (128, 256, 300)
    assert default_ladder(replace(LLAMA, max_positions=1024)) == (128, 256, 512, 1024)


def test_long_ladders_prefill_on_their_first_and_last_rung() -> None:
    spec = replace(LLAMA, max_positions=512)
    model, ids = random_model(spec), np.random.default_rng(5).integers(0, spec.vocab_size, 64 + 20)
    lowered = lower(model)
    assert lowered.prefills == {64: 128, 32: 512}
    wanted = logits(model, ids[None])[0]
    run = TransformerRun(lowered.tflite, spec, 512)
    np.testing.assert_allclose(run.prefill(64, ids[:64], slots=128), wanted[63], atol=FLOAT_BOUND)
    np.testing.assert_allclose(run.prefill(32, ids[64:]), wanted[-1], atol=FLOAT_BOUND)


@pytest.mark.parametrize(("ladder", "prefill"), [((), 4), ((0, 8), 4), ((8, 41), 4), ((8,), 41), ((8,), -1)])
def test_sizes_beyond_the_model_are_refused(ladder: tuple[int, ...], prefill: int) -> None:
    with pytest.raises(UnsupportedModelError, match="do not fit a model of 40 positions"):
        lower(random_model(LLAMA), ladder=ladder, prefill=prefill)


def test_equal_models_give_equal_bytes() -> None:
    assert lower(random_model(GPT2)).tflite == lower(random_model(GPT2)).tflite
