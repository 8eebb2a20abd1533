"""Exported SavedModels: what they compute in TensorFlow after they are loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import test_recurrent
import test_static
import test_transformer
from lowered_models import encoded, random_model

from edgelm import artifact
from edgelm.lower.saved_model import WrittenSavedModel, write_saved_model
from edgelm.models import reference
from edgelm.runtime.saved_model_session import open_saved_model
from edgelm.spec import Encoding, ModelSpec

# Float32 sums in another order; the logits of these models are of size 1 to 10.
TOLERANCE = 1e-4
STEPS = 36
SPECS: dict[str, ModelSpec] = {**test_recurrent.SPECS, **test_transformer.SPECS}
FAST = ("lstm", "llama")
# One of each cell, each way into the first layer, each kind of position, norm and block: TensorFlow takes seconds to trace a model.
MORE = (
    "rnn-2-layers",
    "gru",
    "gru-reset-before-gate-embedding",
    "cifg-gate-embedding",
    "lstm-2-layers",
    "hidden",
    "tied-by-projection",
    "activation-gelu_tanh",
    "gpt2",
    "tutorial",
    "llama-untied",
    "partial-rotary",
    "qk-norm",
    "post-rms",
    "no-positions",
    "gpt-neox",
    "gemma",
)


def put(written: WrittenSavedModel, folder: Path) -> Path:
    artifact.write(folder, written.files)
    return folder


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_every_option_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    model = random_model(SPECS[name])
    folder = put(write_saved_model(model), tmp_path / "model")
    ids = np.random.default_rng(3).integers(0, model.spec.vocab_size, (2, STEPS))
    wanted = reference.logits(model, ids)
    session = open_saved_model(folder)
    stepped = np.array([logits.copy() for logits in session.stream(ids[0].tolist())])  # (time, vocab)
    assert np.abs(stepped - wanted[0]).max() < TOLERANCE
    loaded = tf.saved_model.load(str(folder))
    served = loaded.signatures["serving_default"](ids=tf.constant(ids, tf.int32))["logits"].numpy()
    assert np.abs(served - wanted).max() < TOLERANCE


def test_signatures_are_those_of_the_tflite(tmp_path: Path) -> None:
    import tensorflow as tf

    shapes = {}
    for name in FAST:
        loaded = tf.saved_model.load(str(put(write_saved_model(random_model(SPECS[name])), tmp_path / name)))
        for signature, function in loaded.signatures.items():
            given = function.structured_input_signature[1]
            shapes[name, signature] = {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in given.items()}
    assert shapes["lstm", "step"] == {"token": ("int32", [None]), "h_0": ("float32", [None, 8]), "c_0": ("float32", [None, 8])}
    cache = ("float32", [None, 2, None, 8])
    assert shapes["llama", "forward"] == {"ids": ("int32", [None, None]), "k_0": cache, "v_0": cache, "k_1": cache, "v_1": cache}
    assert shapes["llama", "serving_default"] == {"ids": ("int32", [None, None])}


def test_rounded_weights_are_float_and_said_so(tmp_path: Path) -> None:
    model = encoded(random_model(SPECS["lstm"]), Encoding.INT8)
    written = write_saved_model(model)
    assert written.notes == ("weights rounded to int8 are stored as float32: the file is not smaller",)
    assert not np.array_equal(written.rounded.weights["embedding.weight"], model.weights["embedding.weight"])
    session = open_saved_model(put(written, tmp_path / "model"))
    ids = np.arange(20) % 24
    got = np.array([logits.copy() for logits in session.stream(ids.tolist())])
    assert np.abs(got - reference.logits(written.rounded, ids[None])[0]).max() < TOLERANCE


def test_ranges_are_left_out_and_said_so() -> None:
    written = write_saved_model(test_static.static_model("rnn"))
    assert not written.rounded.ranges
    assert "activations are float32: the int8 ranges of the model are left out" in written.notes
