"""A Keras model as plain data: which layers, how they are wired, and the arrays they hold.

Readers of files (`keras_files`, `saved_model`) produce a `KerasGraph`; the lifter (`keras_lift`) recognises language models in it.
Nothing here depends on a Keras installation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class LayerNode:
    """One call of one layer.

    Attributes:
        name: Unique in the graph. A layer called twice gives the nodes "name" and "name#1", which hold the same arrays.
            Layers of a nested model are named "outer/inner".
        kind: Keras class name: "Embedding", "LSTM", "CuDNNLSTM", "MultiHeadAttention", "TFOpLambda", ...
        config: The layer's config as plain JSON values: tuples are lists, dtype policies and activations their names,
            `batch_input_shape` is called `batch_shape`, a GRU always has `reset_after`; Keras 1 keys have their Keras 2 names.
        inputs: Names of the producing nodes, in positional order.
        arguments: Keyword arguments of the call (use_causal_mask=True, mask=..., constants); tensors appear as
            `{"tensor": "<node name>"}`. Positional arguments that are no tensors stand under their position: `{"1": 1.5}`.
        weights: Arrays in Keras' shapes by name: "kernel", "recurrent_kernel", "bias", "embeddings", "gamma", "beta";
            of MultiHeadAttention "query/kernel", "query/bias", "key/...", "value/...", "attention_output/..."; of an RNN over stacked
            cells "0/kernel", "1/kernel", ...; of a Bidirectional layer "forward/kernel", "backward/kernel", ...; of a layer in no
            table "0", "1", ... in Keras' order.
        wrapped: Wrapper kinds around the layer, outermost first: ("TimeDistributed",), ("Bidirectional",).
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    arguments: Mapping[str, Any]
    weights: Mapping[str, NDArray[Any]]
    wrapped: tuple[str, ...]


@dataclass(frozen=True)
class KerasGraph:
    """A whole model.

    Attributes:
        nodes: In topological order, InputLayer included.
        outputs: Names of the nodes whose results are the model's outputs.
        keras_version: "3.x", "2.x" or "1.x" as the file says.
        format: "keras", "keras-h5" or "saved-model".
    """

    nodes: tuple[LayerNode, ...]
    outputs: tuple[str, ...]
    keras_version: str
    format: str
