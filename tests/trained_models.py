"""Tiny models that have learned something, for tests of what compression does to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.compress import fit, plain
from edgelm.compress.step_data import StepData
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.models import keras_model
from edgelm.recipe_steps import Finetune
from edgelm.recipe_training import Training
from edgelm.spec import DenseLayer, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite import reader

VOCAB = 48
DOCUMENTS = [((np.arange(33) * step + start) % VOCAB).astype(np.int32) for step in (1, 2, 5) for start in range(VOCAB)]
"""Counting by ones, twos and fives: what comes next follows from the last two tokens."""

Family = Literal["lstm", "transformer"]
FAMILIES: tuple[Family, ...] = ("lstm", "transformer")
SPECS: dict[Family, ModelSpec] = {
    "lstm": RecurrentSpec(VOCAB, 32, "lstm", (64,), hidden=(DenseLayer(32),), tied_head=True),
    "transformer": TransformerSpec(VOCAB, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_size=64, max_positions=64),
}


@dataclass(frozen=True)
class Shipped:
    """A quantized matrix of a .tflite.

    Attributes:
        dtype: `int8` or `int4`.
        codes: (rows, columns) int8.
        scales: (rows, blocks) float32.
    """

    dtype: str
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def weight(self) -> NDArray[np.float32]:
        """(rows, columns) as the runtime computes with it."""
        rows, blocks = self.scales.shape
        return (self.codes.reshape(rows, blocks, -1) * self.scales[:, :, None]).reshape(self.codes.shape)


RETRAIN = Training(epochs=3, batch_size=8, sequence_length=32, learning_rate=5e-3, warmup_steps=5, precision="float32")
"""54 steps: enough for a tiny model to get over what was done to it."""


@lru_cache
def trained(family: Family) -> LanguageModel:
    """A model whose perplexity is far below that of guessing."""
    rng = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if "norm" in name else (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in weight_shapes(SPECS[family]).items()
    }
    fresh = LanguageModel(SPECS[family], weights, name=family)
    return plain.apply(fresh, Finetune(RETRAIN), data_of(fresh))


def data_of(model: LanguageModel) -> StepData:
    """The documents, for a recipe that starts with `model`."""
    return StepData(DOCUMENTS, DOCUMENTS[::4], model)


def perplexity(model: LanguageModel) -> float:
    """On the documents, by the weights in `model.weights`."""
    return fit.perplexity(keras_model.from_language_model(model), DOCUMENTS)


def shipped(model: LanguageModel) -> dict[str, Shipped]:
    """Name -> what the .tflite of a model holds, for each of its quantized matrices."""
    content = reader.read(direct.lower(model).tflite)
    weights: dict[str, Shipped] = {}
    for tensor in (tensor for subgraph in content.tensors for tensor in subgraph):
        if tensor.quantization and tensor.nbytes and tensor.name not in weights:
            values, scales = reader.weight_values(content, tensor)
            weights[tensor.name] = Shipped(tensor.dtype, values, np.asarray(scales, np.float32).reshape(len(values), -1))
    return weights
