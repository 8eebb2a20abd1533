"""A `LanguageModel` as the bytes of an ONNX file with its states as inputs and outputs, for servers.

`edgelm.lower.onnx_recurrent` and `edgelm.lower.onnx_transformer` document the inputs and outputs, `edgelm.lower.onnx_weights` how weights
are stored.

Example:
    >>> written = write_onnx(model)
    >>> Path("model.onnx").write_bytes(written.onnx)
    >>> onnxruntime.InferenceSession("model.onnx").get_inputs()[0].name
    'input_ids'
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from edgelm.lower.onnx_builder import OnnxGraphBuilder
from edgelm.lower.onnx_layers import OnnxLayers
from edgelm.lower.onnx_recurrent import write_recurrent
from edgelm.lower.onnx_transformer import write_transformer
from edgelm.lower.onnx_weights import OnnxWeights
from edgelm.model import LanguageModel
from edgelm.spec import Encoding, RecurrentSpec, spec_to_dict

LARGEST_TOKENIZER = 1_000_000
"""Bytes of a tokenizer that goes into the file; larger ones lie beside it only."""


@dataclass(frozen=True)
class WrittenOnnx:
    """A model written as ONNX.

    Attributes:
        onnx: The bytes of the file.
        encodings: Canonical name -> what each weight really became.
        rounded: The model the file stands for: weights as they are stored, as float32.
        notes: What differs from what was asked for, one sentence each.
    """

    onnx: bytes
    encodings: Mapping[str, Encoding]
    rounded: LanguageModel
    notes: tuple[str, ...]


def write_onnx(model: LanguageModel) -> WrittenOnnx:
    """Writes a model as ONNX, opset 21, standard ops only.

    Args:
        model: What to write; its `encodings` say how weights are stored, and with `ranges` QuantizeLinear and DequantizeLinear stand
            around its products.

    Returns:
        The file, checked by `onnx.checker`; `metadata_props` holds the spec, the encodings, the source's hash and a small tokenizer.

    Raises:
        UnsupportedModelError: A weight cannot be stored, or all of them are too large for one file.
        MissingDependencyError: The onnx package is not installed.
        ConversionError: The checker refuses the file: a bug.
    """
    g = OnnxGraphBuilder()
    weights = OnnxWeights(model, g)
    layers = OnnxLayers(g, weights)
    if isinstance(model.spec, RecurrentSpec):
        write_recurrent(model.spec, layers)
    else:
        write_transformer(model.spec, layers)
    return WrittenOnnx(g.finish(model.name, _metadata(model, weights.encodings)), weights.encodings, weights.rounded(), weights.notes)


def _metadata(model: LanguageModel, encodings: Mapping[str, Encoding]) -> dict[str, str]:
    facts = {
        "edgelm.spec": json.dumps(spec_to_dict(model.spec), sort_keys=True),
        "edgelm.encodings": json.dumps({name: encoding.value for name, encoding in sorted(encodings.items())}),
        "edgelm.source_sha256": model.source_sha256,
    }
    if model.tokenizer and len(model.tokenizer.encode("utf-8")) <= LARGEST_TOKENIZER:
        facts["edgelm.tokenizer"] = model.tokenizer
    return facts
