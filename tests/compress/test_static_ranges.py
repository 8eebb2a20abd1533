"""Ranges of activations: found by calibration, kept by training, the same in Keras as in numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained_models import FAMILIES, RETRAIN, SPECS, Family, data_of, perplexity, trained

from edgelm.compress import qat
from edgelm.compress.activations import LOGIT_MARGIN, SATURATED, calibrate
from edgelm.errors import UnsupportedModelError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models import keras_model, reference, reference_static
from edgelm.models.static_sites import int8_affine, round_to_int8, sites
from edgelm.recipe_steps import Qat
from edgelm.recipe_training import NO_TRAINING, Training
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite import reader

CALIBRATION_TOKENS = 2000
END = st.floats(-1e4, 1e4, width=32)

PHI = TransformerSpec(
    48, 16, 2, 4, 4, 4, 32, 64, rotary_dim=2, norm="layer", activation="gelu_tanh", gated=False, parallel_residual=True,
    qkv_bias=True, output_bias=True, ffn_bias=True, tied_head=False, head_bias=True,
)  # fmt: skip
VARIANTS: dict[str, ModelSpec] = {
    **SPECS,
    **{cell: RecurrentSpec(48, 8, cell, (12, 8), hidden=(DenseLayer(8, "silu"),)) for cell in ("rnn", "cifg", "gru")},
    "gru-reset-before": RecurrentSpec(48, 8, "gru", (12,), reset_after=False),
    "gate-embedding": RecurrentSpec(48, 48, "lstm", (12,), gate_embedding=True),
    "post-norm": TransformerSpec(
        48, 16, 2, 4, 4, 4, 32, 64, position="learned", norm="layer", norm_position="post", gated=False, activation="gelu", final_norm=False
    ),
    "phi": PHI,
    "gelu-tanh-untied": TransformerSpec(48, 16, 1, 4, 2, 4, 32, 64, gated=False, activation="gelu_tanh", tied_head=False, ffn_bias=True),
}


def random_model(name: str) -> LanguageModel:
    rng = np.random.default_rng(3)
    spec = VARIANTS[name]
    return LanguageModel(spec, {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in weight_shapes(spec).items()})


def static(model: LanguageModel, train: Training) -> LanguageModel:
    """Calibrated, and trained with its ranges."""
    data = data_of(model)
    calibrated = model.replace(ranges=calibrate(model, data.calibration(CALIBRATION_TOKENS)))
    return qat.apply(calibrated, Qat(Encoding.INT8, Encoding.INT8, Encoding.INT8, train=train), data)


@given(END, END)
def test_zero_is_on_every_grid_and_rounding_is_off_by_half_a_step(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 1e-3)
    scale, zero_point = int8_affine(low, high)
    assert -128 <= zero_point <= 127
    assert round_to_int8(np.zeros(1, np.float32), (scale, zero_point))[0] == 0
    x = np.linspace(low, high, 999, dtype=np.float32)
    # The zero point is a whole number: the grid lies up to half a step beside the range, and an end is clipped by that much more.
    assert np.abs(round_to_int8(x, (scale, zero_point)) - x).max() <= scale * (1 + 1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_calibration_covers_all_sites_and_leaves_the_best_words_alone(name: str) -> None:
    model = random_model(name)
    windows = data_of(model).calibration(CALIBRATION_TOKENS)
    ranges = calibrate(model, windows)
    assert set(ranges) == set(sites(model.spec))
    assert all(low <= 0 < high for low, high in ranges.values())
    best = max(float(reference.logits(model, window[None]).max()) for window in windows)
    assert ranges["head:out"][1] == pytest.approx(best * LOGIT_MARGIN, rel=1e-4)


def test_gates_are_cut_where_their_outputs_saturate() -> None:
    model = random_model("lstm")
    weights = dict(model.weights)
    weights["layers.0.input.bias"] = weights["layers.0.input.bias"] + 40
    ranges = calibrate(model.replace(weights=weights), data_of(model).calibration(200))
    assert ranges["layers.0:gates"][1] == SATURATED
    assert ranges["layers.0.input:out"][1] > SATURATED


def test_activations_that_are_not_finite_are_refused() -> None:
    model = random_model("lstm")
    weights = dict(model.weights) | {"layers.0.input.bias": np.full_like(model.weights["layers.0.input.bias"], np.nan)}
    with pytest.raises(UnsupportedModelError, match="NaN"):
        calibrate(model.replace(weights=weights), data_of(model).calibration(200))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_keras_rounds_what_numpy_rounds(name: str) -> None:
    model, ids = random_model(name), np.random.default_rng(4).integers(0, 48, (2, 24))
    model = model.replace(ranges=calibrate(model, list(ids)))
    difference = np.abs(keras_model.from_language_model(model)(ids).numpy() - reference_static.logits(model, ids))
    scale, _ = int8_affine(*model.ranges["head:out"])
    # Float sums at a tie round apart; such a step echoes in the state and passes through the layers above.
    assert difference.max() <= 6 * scale
    assert difference.mean() < 0.2 * scale


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_with_ranges_beats_calibration_alone(family: Family) -> None:
    model = trained(family)
    calibrated, learned = static(model, NO_TRAINING), static(model, RETRAIN)
    assert perplexity(learned) < perplexity(calibrated)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_holds_the_trained_grid(family: Family) -> None:
    model = static(random_model(family), dataclasses.replace(RETRAIN, epochs=0.2))
    content = reader.read(lower(model).tflite)
    found = {tensor.name: tensor for tensors in content.tensors for tensor in tensors if tensor.dtype == "int8" and tensor.nbytes}
    matrices = {name for name, weight in model.weights.items() if weight.ndim == 2}
    assert matrices <= set(found)
    for name in matrices:
        codes, scales = reader.weight_values(content, found[name])
        assert np.array_equal(codes * np.reshape(scales, (-1, 1)), model.weights[name]), name
    for op in content.ops:
        if op.name == "FULLY_CONNECTED":
            tensors = content.tensors[op.subgraph]
            assert {tensors[op.inputs[0]].dtype, tensors[op.inputs[1]].dtype, tensors[op.outputs[0]].dtype} == {"int8"}
