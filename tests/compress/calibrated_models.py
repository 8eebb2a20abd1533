"""Tiny models that know a little language, and text in it, for tests of what looks at text."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.step_data import StepData
from edgelm.model import LanguageModel
from edgelm.models import reference
from edgelm.spec import DenseLayer, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

LSTM = RecurrentSpec(48, 32, "lstm", (32,), hidden=(DenseLayer(32),), tied_head=True)
LLAMA = TransformerSpec(48, 32, 2, 4, 2, 8, 64, max_positions=64)
SPECS: dict[str, ModelSpec] = {"lstm": LSTM, "transformer": LLAMA}


def documents(count: int, seed: int) -> list[NDArray[np.int64]]:
    """Token k is followed by k + 1 or k + 2."""
    random = np.random.default_rng(seed)
    return [(random.integers(48) + np.cumsum(random.integers(1, 3, random.integers(10, 50)))) % 48 for _ in range(count)]


@functools.cache
def trained(kind: str) -> LanguageModel:
    """Trained for some seconds, once for all tests, from a fixed seed."""
    spec = SPECS[kind]
    import tf_keras

    from edgelm.compress.finetune import TrainSettings, train
    from edgelm.models import keras_model

    tf_keras.utils.set_random_seed(0)
    model = keras_model.build(spec)
    settings = TrainSettings(epochs=5, batch_size=8, sequence_length=24, learning_rate=1e-2, warmup_steps=5, strategy="none")
    train(model, documents(120, 0), documents(20, 1), settings)
    return LanguageModel(spec, keras_model.get_weights(model))


def untrained(spec: ModelSpec, seed: int = 0) -> LanguageModel:
    """Random weights of the size of trained ones."""
    random = np.random.default_rng(seed)
    weights = {
        name: np.ones(shape, np.float32) if "norm" in name else (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in weight_shapes(spec).items()
    }
    return LanguageModel(spec, weights)


def step_data(model: LanguageModel) -> StepData:
    return StepData(documents(60, 2), documents(20, 3), model)


def divergence(model: LanguageModel, rounded: LanguageModel, texts: list[NDArray[np.int64]]) -> float:
    """Mean KL(model || rounded) of their predictions, in nats."""
    total, count = 0.0, 0
    for text in texts:
        p, q = (_log_softmax(reference.logits(each, text[None], dtype=np.float64)) for each in (model, rounded))
        total, count = total + float((np.exp(p) * (p - q)).sum()), count + len(text)
    return total / count


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
