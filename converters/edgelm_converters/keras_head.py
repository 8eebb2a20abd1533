"""What both lifters share: the result, and the checks that a graph is a language model at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.spec import FloatArray, ModelSpec
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_wiring import Wiring


@dataclass(frozen=True)
class Lift:
    """A model taken out of a Keras graph, not yet proven.

    Attributes:
        spec: What it is.
        weights: Canonical name -> array.
        probabilities: The source's output is softmax probabilities instead of logits.
        last_only: The source's output is (batch, vocab) for the last position only.
        one_hot: The source wants one-hot vectors (batch, time, vocab) instead of ids.
        notes: What the lift leaves out, one sentence each, for the report.
    """

    spec: ModelSpec
    weights: dict[str, FloatArray]
    probabilities: bool
    last_only: bool
    one_hot: bool
    notes: tuple[str, ...] = ()


def same_table(head: FloatArray, table: FloatArray | None) -> bool:
    """The head's weight (vocab, width) is the embedding table itself."""
    return table is not None and np.array_equal(head, table)


def check_classes(vocab: int, classes: int) -> None:
    """Sees to it that the model scores the tokens it reads.

    Args:
        vocab: Size of the input vocabulary.
        classes: Size of the output's last axis.

    Raises:
        UnsupportedModelError: They differ: a classifier or a regression.
    """
    if vocab == classes:
        return
    kind = "a regression or a yes/no classifier" if classes == 1 else "a classifier or a translation model, not a language model"
    raise UnsupportedModelError(
        f"the model reads a vocabulary of {vocab} tokens but has {classes} output{'s' * (classes != 1)}: {kind}",
        allowed="a model that scores the next token of its own input vocabulary",
        fix="give the last Dense layer as many units as the Embedding has rows, and train it on the next token",
    )


def input_features(wiring: Wiring, node: LayerNode) -> int:
    """Width of the one-hot vectors that `node` reads from the model's input.

    Raises:
        UnsupportedModelError: The input is numbers, not one-hot vectors.
    """
    source = wiring.source(node)
    shape: Sequence[int | None] = source.config.get("batch_shape") or source.config.get("batch_input_shape") or ()
    features = shape[-1] if len(shape) == 3 else None
    if features is None or features < 2:
        raise UnsupportedModelError(
            f"layer {node.name!r} reads the model's input {tuple(shape)} as numbers: the model has no vocabulary",
            allowed="token ids (batch, time) into an Embedding, or one-hot vectors (batch, time, vocab)",
        )
    return int(features)


def check_head_activation(name: str) -> str:
    """The head's activation, where its outputs can be read as scores of a vocabulary.

    Raises:
        UnsupportedModelError: They cannot: sigmoid, relu, ...
    """
    if name not in ("linear", "softmax", "log_softmax"):
        raise UnsupportedModelError(
            f"the last layer's activation is {name!r}: its outputs are no distribution over a vocabulary",
            allowed="softmax, or linear for logits",
        )
    return name
