"""Graphs with int8 activations: what is int8 in the file, and that it computes what the simulation computes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import ai_edge_litert.interpreter as litert
import numpy as np
import pytest
import test_recurrent
import test_transformer
from lowered_models import RUNTIMES, TransformerRun, delegate_parts, encoded, grid_model, run_decodes, run_steps

from edgelm.errors import UnsupportedModelError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models import reference_static
from edgelm.models.static_sites import affines, sites
from edgelm.spec import Encoding, ModelSpec, RecurrentSpec, TransformerSpec
from edgelm.tflite import reader
from edgelm.tflite.versions import LITERT_2_1, required_versions, unsupported_ops

POSITIONS = test_transformer.POSITIONS
LADDER = test_transformer.LADDER
# A float sum that lies at a tie goes to the other integer, ADD rounds ties away from zero; after a few layers that is a step or two.
STEPS_OFF = 3.0
MEAN_STEPS_OFF = 0.6
SPECS: dict[str, ModelSpec] = {**test_recurrent.SPECS, **test_transformer.SPECS}


def _text(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 24, POSITIONS)


@cache
def static_model(name: str) -> LanguageModel:
    """Matrices on the int8 grid, and the exact ends of every site on some text as ranges."""
    model = grid_model(SPECS[name], Encoding.INT8)
    ends: dict[str, tuple[float, float]] = {}

    def observe(site: str, x: np.ndarray) -> None:
        low, high = ends.get(site, (0.0, 1e-3))
        ends[site] = min(low, float(x.min())), max(high, float(x.max()))

    for seed in range(4):
        reference_static.StaticSession(model, observe=observe).extend(_text(seed)[None])
    return model.replace(ranges=ends)


def computed(model: LanguageModel, ids: np.ndarray, runtime: str = "litert", tflite: bytes | None = None) -> np.ndarray:
    """Logits (time, vocab) of the file, token by token."""
    if isinstance(model.spec, RecurrentSpec):
        return run_steps(tflite or lower(model).tflite, model.spec, ids, runtime)
    return run_decodes(tflite or lower(model, ladder=LADDER, prefill=0).tflite, model.spec, ids, LADDER, runtime)


def steps_off(got: np.ndarray, model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """Differences from the simulation, in steps of the logits."""
    scale, _ = affines(model)["head:out"]
    return np.abs(got - reference_static.logits(model, ids[None])[0]) / scale


@pytest.mark.parametrize("name", SPECS)
def test_every_product_is_int8_by_int8_and_equals_the_simulation(name: str) -> None:
    model, ids = static_model(name), _text(9)
    options = {"ladder": LADDER, "prefill": 0} if isinstance(model.spec, TransformerSpec) else {}
    lowered = lower(model, **options)
    content = reader.read(lowered.tflite)
    products = [op for op in content.ops if op.name == "FULLY_CONNECTED"]
    matrices = [name for name, weight in model.weights.items() if weight.ndim == 2 and name != "positions.weight"]
    assert len(products) >= len(matrices) - 1  # the embedding of an untied model is looked up only
    for op in products:
        tensors = content.tensors[op.subgraph]
        assert [tensors[i].dtype for i in (*op.inputs, *op.outputs) if i >= 0] in (["int8"] * 3, ["int8", "int8", "int32", "int8"])
    for signature in content.signatures:
        assert {tensor.dtype for tensor in (*signature.inputs.values(), *signature.outputs.values())} <= {"float32", "int32"}
    off = steps_off(computed(model, ids, tflite=lowered.tflite), model, ids)
    assert off.max() <= STEPS_OFF
    assert off.mean() < MEAN_STEPS_OFF


@pytest.mark.parametrize("name", ["gpt2", "llama", "tutorial"])
def test_prefill_equals_steps(name: str) -> None:
    model, ids = static_model(name), _text(9)
    assert isinstance(model.spec, TransformerSpec)
    run = TransformerRun(lower(model, ladder=LADDER, prefill=test_transformer.CHUNK).tflite, model.spec, POSITIONS)
    for count in (6, 1, 6, 4):
        got = run.prefill(test_transformer.CHUNK, ids[run.position : run.position + count])
        assert steps_off(got[None], model, ids[: run.position])[-1].max() <= STEPS_OFF


@pytest.mark.parametrize("name", ["lstm-2-layers", "gru", "rnn"])
def test_both_runtimes_compute_the_same_in_the_old_form(name: str) -> None:
    """A per-row FULLY_CONNECTED that 2.14 misread would give zeros or garbage."""
    model, ids = static_model(name), _text(9)
    file = lower(model, form="tflite-2.14").tflite
    for runtime in RUNTIMES:
        assert steps_off(computed(model, ids, runtime, file), model, ids).max() <= STEPS_OFF


def test_kernels_without_xnnpack_differ_by_a_step_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = static_model("lstm"), _text(9)
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def without(model_content: bytes) -> litert.Interpreter:
        return litert.Interpreter(model_content=model_content, experimental_op_resolver_type=plain)

    monkeypatch.setitem(RUNTIMES, "plain", without)
    assert steps_off(computed(model, ids, "plain"), model, ids).max() <= STEPS_OFF


@pytest.mark.parametrize("name", ["lstm-2-layers", "gru", "cifg", "tied", "llama", "qk-norm"])
def test_xnnpack_takes_it_whole_and_the_runtime_has_the_versions(name: str) -> None:
    model = static_model(name)
    file = lower(model, **({"ladder": LADDER, "prefill": 0} if isinstance(model.spec, TransformerSpec) else {})).tflite
    assert delegate_parts(file) == 1
    assert not unsupported_ops(LITERT_2_1, required_versions(reader.read(file).op_versions))


def test_the_weights_are_the_integers_of_the_grid() -> None:
    model = static_model("lstm")
    content = reader.read(lower(model).tflite)
    for tensor in content.tensors[0]:
        if tensor.name in model.weights and tensor.dtype == "int8":
            codes, scales = reader.weight_values(content, tensor)
            np.testing.assert_allclose(codes * np.reshape(scales, (-1, 1)), model.weights[tensor.name], rtol=1e-6)


def test_what_stays_float_is_said() -> None:
    assert "cell state" in lower(static_model("lstm")).notes[-1]
    assert "residual stream" in lower(static_model("llama"), ladder=LADDER, prefill=0).notes[-1]


def test_rows_of_zeros_keep_their_biases() -> None:
    model = static_model("lstm")
    weights = dict(model.weights)
    weights["head.weight"] = weights["head.weight"].copy()
    weights["head.weight"][3] = 0
    pruned, ids = model.replace(weights=weights), _text(9)
    got = computed(pruned, ids)
    assert steps_off(got, pruned, ids).max() <= STEPS_OFF
    scale, _ = affines(model)["head:out"]
    assert np.abs(got[:, 3] - weights["head.bias"][3]).max() <= scale


def test_a_site_without_a_range_is_refused() -> None:
    model = static_model("lstm")
    known = {site: ends for site, ends in model.ranges.items() if site != "head:in"}
    with pytest.raises(UnsupportedModelError, match="head:in"):
        lower(model.replace(ranges=known))
    with pytest.raises(UnsupportedModelError, match="head:in"):
        lower(model.replace(ranges=known | {"head:in": (1.0, float("nan"))}))


def test_matrices_of_other_encodings_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="is int4"):
        lower(encoded(static_model("lstm"), Encoding.INT4))


def test_sites_are_those_that_are_observed() -> None:
    for name in SPECS:
        assert set(static_model(name).ranges) == set(sites(SPECS[name])), name


def test_a_gated_block_has_a_site_for_the_activated_gate() -> None:
    spec = test_transformer.LLAMA
    assert "layers.0.gate:act" in sites(spec)
    assert "layers.0.gate:act" not in sites(replace(spec, gated=False))


@pytest.mark.parametrize("name", ["llama", "lstm-2-layers"])
def test_layers_that_share_weights_keep_their_own_ranges(name: str) -> None:
    """Kernels pack zero points and scales of activations with the weights: those of one layer must not serve another."""
    model, ids = static_model(name), _text(9)
    spec = replace(SPECS[name], units=(12, 12)) if isinstance(SPECS[name], RecurrentSpec) else SPECS[name]
    base = grid_model(spec, Encoding.INT8)
    same = {key: base.weights[key.replace("layers.1.", "layers.0.")] for key in base.weights}
    shared = base.replace(weights=same, ranges=model.ranges)
    assert steps_off(computed(shared, ids), shared, ids).max() <= STEPS_OFF
    if isinstance(spec, TransformerSpec):
        run = TransformerRun(lower(shared, ladder=LADDER, prefill=test_transformer.CHUNK).tflite, spec, POSITIONS)
        assert steps_off(run.prefill(test_transformer.CHUNK, ids[:6])[None], shared, ids[:6])[-1].max() <= STEPS_OFF
