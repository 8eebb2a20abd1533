"""The Keras models against the numpy oracle, weights in and out, files written and read."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.models import keras_model, reference
from edgelm.models.keras_names import SPEC_LAYER, from_canonical, keras_weights, to_canonical
from edgelm.spec import DenseLayer, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

PROJECTION = (DenseLayer(12, "gelu_tanh"), DenseLayer(6, bias=False))
GPT2 = TransformerSpec(
    23,
    16,
    2,
    4,
    4,
    4,
    32,
    max_positions=12,
    position="learned",
    norm="layer",
    activation="gelu_tanh",
    gated=False,
    qkv_bias=True,
    output_bias=True,
    ffn_bias=True,
)
LLAMA = TransformerSpec(23, 16, 2, 4, 2, 6, 24, max_positions=12)


def _replace(spec: ModelSpec, **changes: object) -> ModelSpec:
    return dataclasses.replace(spec, **changes)


SPECS: dict[str, ModelSpec] = {
    "rnn": RecurrentSpec(23, 6, "rnn", (8, 7)),
    "rnn-relu-gates": RecurrentSpec(23, 8, "rnn", (8,), activation="relu", gate_embedding=True),
    "gru": RecurrentSpec(23, 6, "gru", (8, 7)),
    "gru-reset-before": RecurrentSpec(23, 6, "gru", (8, 7), reset_after=False),
    "gru-gates": RecurrentSpec(23, 24, "gru", (8, 7), gate_embedding=True),
    "gru-gates-reset-before": RecurrentSpec(23, 24, "gru", (8,), gate_embedding=True, reset_after=False),
    "lstm": RecurrentSpec(23, 6, "lstm", (8, 7)),
    "lstm-hard": RecurrentSpec(23, 6, "lstm", (8,), recurrent_activation="hard_sigmoid", activation="silu"),
    "lstm-gelu": RecurrentSpec(23, 6, "lstm", (8,), activation="gelu_tanh"),
    "lstm-gates": RecurrentSpec(23, 32, "lstm", (8,), gate_embedding=True, head_bias=False),
    "lstm-tied": RecurrentSpec(23, 6, "lstm", (8, 7), hidden=PROJECTION, tied_head=True),
    "lstm-projected": RecurrentSpec(23, 6, "lstm", (8,), embedding_projection=5, hidden=(DenseLayer(9, "relu"),)),
    "cifg": RecurrentSpec(23, 6, "cifg", (8, 7)),
    "cifg-tied-gates": RecurrentSpec(23, 24, "cifg", (8,), gate_embedding=True, hidden=(DenseLayer(24),), tied_head=True, head_bias=False),
    "gpt2": GPT2,
    "gpt2-untied": _replace(GPT2, tied_head=False, head_bias=True, activation="gelu"),
    "llama": LLAMA,
    "qwen3": _replace(LLAMA, qk_norm=True, qkv_bias=True),
    "gemma-like": _replace(LLAMA, embedding_scale=4.0, activation="gelu_tanh", attention_scale=0.3, kv_heads=1),
    "partial-rotary": _replace(LLAMA, rotary_dim=2, rope_theta=500.0, tied_head=False),
    "phi": _replace(GPT2, position="rotary", rotary_dim=2, parallel_residual=True, tied_head=False, head_bias=True),
    "parallel-gated-rms": _replace(LLAMA, parallel_residual=True),
    "vaswani": _replace(
        GPT2, position="sinusoidal", norm_position="post", activation="relu", embedding_norm=True, final_norm=False, head_bias=True
    ),
    "post-rms-none": _replace(LLAMA, norm_position="post", position="none", gated=False, tied_head=False),
}


def _random_model(spec: ModelSpec) -> LanguageModel:
    random = np.random.default_rng(0)
    return LanguageModel(spec, {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()})


def _ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 23, (3, 11)).astype(np.int32)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_layer_arrays_and_canonical_weights_are_inverses(spec: ModelSpec) -> None:
    model = _random_model(spec)
    back = to_canonical(spec, from_canonical(spec, model.weights))
    assert list(back) == list(weight_shapes(spec))
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(back[name], weight)


def test_a_missing_layer_is_named() -> None:
    spec = SPECS["lstm"]
    layers = from_canonical(spec, _random_model(spec).weights)
    del layers["layers_1"]
    with pytest.raises(UnsupportedModelError, match="layers_1"):
        to_canonical(spec, layers)


def test_the_lean_modules_do_not_import_tensorflow() -> None:
    import subprocess

    code = "import sys, edgelm.models.keras_model, edgelm.models.keras_names; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_equal_the_reference_and_weights_come_back_bit_for_bit(spec: ModelSpec) -> None:
    model = _random_model(spec)
    keras = keras_model.from_language_model(model)
    assert keras_model.spec_of(keras) == spec
    # float32 sums in another order; the logits are of size 1 to 10
    np.testing.assert_allclose(keras(_ids()).numpy(), reference.logits(model, _ids()), atol=1e-4)
    back = keras_model.get_weights(keras)
    assert list(back) == list(weight_shapes(spec))
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(back[name], weight)
    variables = sum(int(np.prod(variable.shape)) for variable in keras.trainable_variables)
    assert variables == model.parameters  # nothing in the model is outside the canonical weights


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_roles_stand_where_the_saved_order_says(spec: ModelSpec) -> None:
    keras = keras_model.from_language_model(_random_model(spec))
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for place in keras_weights(spec).values():
        arrays.setdefault(place.layer, {})[place.role] = keras.get_layer(place.layer).get_weights()[place.index]
    for name, weight in to_canonical(spec, arrays).items():
        np.testing.assert_array_equal(weight, keras_model.get_weights(keras)[name])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["gru-gates", "lstm-tied", "lstm-hard", "lstm-gelu", "cifg", "gpt2", "qwen3", "vaswani"])
def test_a_saved_file_gives_the_same_model(name: str, suffix: str, tmp_path: Path) -> None:
    model = _random_model(SPECS[name])
    keras = keras_model.from_language_model(model)
    keras_model.save(keras, tmp_path / f"model{suffix}")
    again = keras_model.load(tmp_path / f"model{suffix}")
    assert keras_model.spec_of(again) == SPECS[name]
    np.testing.assert_array_equal(again(_ids()).numpy(), keras(_ids()).numpy())
    for weight, array in keras_model.get_weights(again).items():
        np.testing.assert_array_equal(array, model.weights[weight])
    assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]  # no temporary file is left


@pytest.mark.slow
def test_files_and_models_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    import tf_keras

    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"not a zip")
    with pytest.raises(SourceError, match=r"broken\.keras"):
        keras_model.load(broken)
    other = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(UnsupportedModelError, match="EdgeLMSpec"):
        keras_model.get_weights(other)
    with pytest.raises(SourceError, match=r"\.keras"):
        keras_model.save(other, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="max_positions"):
        keras_model.build(LLAMA, sequence_length=13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm-tied", "cifg", "qwen3", "gpt2"])
def test_the_model_clones_with_its_shared_table(name: str) -> None:
    """TF-MOT wraps layers through clone_model."""
    import tf_keras

    keras = keras_model.from_language_model(_random_model(SPECS[name]))
    clone = tf_keras.models.clone_model(keras)
    clone.set_weights(keras.get_weights())
    assert keras.get_layer(SPEC_LAYER).get_config() == clone.get_layer(SPEC_LAYER).get_config()
    np.testing.assert_array_equal(clone(_ids()).numpy(), keras(_ids()).numpy())
