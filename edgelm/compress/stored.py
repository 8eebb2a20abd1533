"""A model's weights as an artifact would store them: the values a runtime computes with, and their bytes.

The lowering does this for good, graph by graph; here it is done weight by weight, to say after each step what the model has come to.
Two figures differ by that: matrices that the lowering joins share the scales of their rows, and a file holds graphs and metadata, too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.model import LanguageModel
from edgelm.spec import Encoding
from edgelm.tflite.quantize import BLOCK_COLUMNS, QuantizedTensor, dequantize, integer_values, quantize

LOOKED_UP = ("embedding.weight", "positions.weight")
"""Tables: a row is read for each token, which multiplies nothing; a tied table is multiplied by the head, too."""

INTEGER_LEVEL, FLOAT_LEVEL = 6, 1
"""Of the deflation: a mantissa's low bits are noise, on which a higher level takes several times as long for hardly any gain."""


@dataclass(frozen=True)
class Figures:
    """What a model has come to.

    Attributes:
        perplexity: A token, on validation documents, by the weights as they are stored and activations in float; None without text.
        parameters: Weights; a tied table counts once.
        nonzeros: Stored weights that are not zero.
        distinct_values: Most different stored values of a matrix: integers where it is stored as such.
        macs_per_token: Multiply-accumulates with weights for one token; attention over the context and element-wise work come on top, and
            kernels multiply by zeros, too.
        bytes: Of the weights with their scales as they are stored, without graphs and metadata.
        compressed_bytes: The same, deflated: about what they add to a download.
    """

    perplexity: float | None
    parameters: int
    nonzeros: int
    distinct_values: int
    macs_per_token: int
    bytes: int
    compressed_bytes: int


def measure(model: LanguageModel, perplexity: float | None = None) -> Figures:
    """Counts what is stored; one weight at a time is held in memory."""
    nonzeros = distinct = nbytes = 0
    deflated = {True: zlib.compressobj(INTEGER_LEVEL), False: zlib.compressobj(FLOAT_LEVEL)}
    compressed = 0
    for name in model.weights:
        tensor = stored(model, name)
        values = _stored_values(tensor)
        nonzeros += int(np.count_nonzero(values))
        distinct = max(distinct, len(np.unique(values))) if len(tensor.shape) == 2 else distinct
        nbytes += tensor.nbytes
        stream = deflated[tensor.scales is not None]
        compressed += len(stream.compress(tensor.data.tobytes()))
        compressed += 0 if tensor.scales is None else len(stream.compress(tensor.scales.tobytes()))
    compressed += sum(len(stream.flush()) for stream in deflated.values())
    return Figures(perplexity, model.parameters, nonzeros, distinct, macs_per_token(model), nbytes, compressed)


def effective(model: LanguageModel) -> LanguageModel:
    """The model with the float32 weights a runtime computes with."""
    return model.replace(weights={name: dequantize(stored(model, name)) for name in model.weights}, encodings={}, scales={})


def stored(model: LanguageModel, name: str) -> QuantizedTensor:
    """One weight as it is stored: on its own scales where it has some, else rounded; as int8 where its encoding does not fit its shape."""
    weight, encoding = model.weights[name], model.encoding(name)
    if weight.ndim == 1 or encoding is Encoding.FLOAT32:
        return quantize(np.asarray(weight, np.float32), Encoding.FLOAT32)
    scales = model.scales.get(name) if encoding.bits <= 8 else None
    columns = weight.shape[1]
    if (encoding is Encoding.INT4_BLOCK32 and columns % BLOCK_COLUMNS) or (encoding is Encoding.INT4 and columns % 2):
        encoding = Encoding.INT8
        scales = scales if scales is not None and scales.shape[1] == 1 else None  # int8 holds the integers of int4 rows
    return quantize(weight, encoding, scales, name=name)


def _stored_values(tensor: QuantizedTensor) -> NDArray[np.int8] | NDArray[np.float32]:
    return dequantize(tensor) if tensor.scales is None else integer_values(tensor)


def macs_per_token(model: LanguageModel) -> int:
    """Multiply-accumulates with weight matrices for one token.

    Example:
        A tied LSTM of 10 words, 4 columns and 4 units does 16 * 4 + 16 * 4 in its layer and 10 * 4 in its head.
    """
    multiplied = sum(int(weight.size) for name, weight in model.weights.items() if weight.ndim == 2 and name not in LOOKED_UP)
    return multiplied + (int(model.weights["embedding.weight"].size) if model.spec.tied_head else 0)
