"""Tiny trained models of both families for the tests of pruning, and what became of them in the .tflite."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np

from edgelm.compress.fit import fit
from edgelm.compress.step_data import StepData
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models import keras_model, reference
from edgelm.recipe_training import Training
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite import reader

VOCAB = 40
RNN = RecurrentSpec(VOCAB, 16, "rnn", (32,), hidden=(DenseLayer(16),), tied_head=True)  # its graph is built quickest
LSTM = dataclasses.replace(RNN, cell="lstm")
LLAMA = TransformerSpec(VOCAB, 32, 1, 4, 2, 8, 64, max_positions=32)
LEARN = Training(epochs=6, learning_rate=1e-2, batch_size=16, sequence_length=16, warmup_steps=5, precision="float32")
RETRAIN = dataclasses.replace(LEARN, epochs=3, learning_rate=4e-3)


def _documents(count: int, seed: int) -> list[np.ndarray]:
    """Token k is followed by k + 1 or k + 2: one bit a token, perplexity 2 at best."""
    random = np.random.default_rng(seed)
    return [(random.integers(VOCAB) + np.cumsum(random.integers(1, 3, 30))) % VOCAB for _ in range(count)]


TRAIN, VALID = _documents(200, 0), _documents(20, 1)


def data_of(model: LanguageModel, **options: Any) -> StepData:
    """Text of the language the models are trained on."""
    return StepData(TRAIN, VALID, model, **options)


@cache
def fresh(spec: ModelSpec) -> LanguageModel:
    """Random weights, of the size that keeps activations in size."""
    random = np.random.default_rng(0)
    return LanguageModel(
        spec,
        {
            name: np.ones(shape, np.float32) if "norm" in name else (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
            for name, shape in weight_shapes(spec).items()
        },
    )


@cache
def trained(spec: ModelSpec) -> LanguageModel:
    """A model that knows the language."""
    keras = keras_model.from_language_model(fresh(spec))
    fit(keras, LEARN, data_of(fresh(spec)))
    return LanguageModel(spec, keras_model.get_weights(keras))


def perplexity(model: LanguageModel) -> float:
    """On the validation text, by numpy."""
    ids = np.stack(VALID)
    logits = reference.logits(model, ids[:, :-1], dtype=np.float64)
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0]
    return float(np.exp(np.mean(np.log(np.exp(logits).sum(-1)) - chosen)))


def stored(model: LanguageModel, encoding: Encoding) -> dict[str, np.ndarray]:
    """Name in the .tflite -> the integers of every matrix, lowered in that encoding."""
    encodings = {name: encoding for name, weight in model.weights.items() if weight.ndim == 2}
    file = reader.read(lower(model.replace(encodings=encodings), prefill=0).tflite)
    tensors = {tensor.name: tensor for tensors in file.tensors for tensor in tensors if tensor.nbytes and tensor.dtype in ("int8", "int4")}
    return {name: reader.weight_values(file, tensor)[0] for name, tensor in tensors.items()}
