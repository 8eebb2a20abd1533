"""The float model that a lowering stands for: what is left of the weights after they were stored."""

from __future__ import annotations

from edgelm.lower.store import WeightStore
from edgelm.model import LanguageModel
from edgelm.tflite.quantize import dequantize


def rounded(store: WeightStore) -> LanguageModel:
    """The store's model with float32 weights as a runtime reads them back, and nothing left to round.

    Ranges of activations stay: they are part of what is computed.
    """
    model = store.model
    weights = {name: dequantize(store.whole(name)) if weight.ndim == 2 else model.float32(name) for name, weight in model.weights.items()}
    return model.replace(weights=weights, encodings={}, scales={})
