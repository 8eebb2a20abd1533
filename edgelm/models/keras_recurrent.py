"""The Keras graph of the recurrent family; importing this module imports tf_keras."""

from __future__ import annotations

from typing import Any

from tf_keras import initializers, layers

from edgelm.models.keras_cell import CellRNN, RecurrentCell
from edgelm.models.keras_layers import Tensor, TiedHead, VocabularyIds, dense
from edgelm.spec import ModelSpec, RecurrentSpec


def recurrent_logits(spec: RecurrentSpec, ids: Tensor) -> Tensor:
    """Token ids (batch, time) -> logits (batch, time, vocab)."""
    embedding = embedding_layer(spec, spec.embedding_size)
    x = embedding(ids)  # (batch, time, embedding_size)
    if spec.embedding_projection:
        x = layers.Dense(spec.embedding_projection, use_bias=False, name="embedding_projection")(x)
    for i in range(len(spec.units)):
        x = _recurrent_layer(spec, i)(x)  # (batch, time, units)
    for i, layer in enumerate(spec.hidden):
        x = dense(x, layer.size, layer.activation, layer.bias, f"hidden_{i}")
    return head(spec, x, ids, embedding)


def embedding_layer(spec: ModelSpec, size: int) -> Any:
    """The token table, layer `embedding`."""
    return layers.Embedding(spec.vocab_size, size, embeddings_initializer=initializers.RandomNormal(stddev=0.05), name="embedding")


def head(spec: ModelSpec, x: Tensor, ids: Tensor, embedding: Any) -> Tensor:
    """(batch, time, size) -> logits (batch, time, vocab), by the embedding's own table when the head is tied."""
    if not spec.tied_head:
        return layers.Dense(spec.vocab_size, use_bias=spec.head_bias, name="head")(x)
    table = embedding(VocabularyIds(spec.vocab_size, name="vocabulary")(ids))  # (vocab, size)
    return TiedHead(spec.head_bias, name="head")([x, table])


def _recurrent_layer(spec: RecurrentSpec, i: int) -> Any:
    name, gate_fed = f"layers_{i}", i == 0 and spec.gate_embedding
    if spec.cell == "cifg" or gate_fed or "gelu_tanh" in (spec.activation, spec.recurrent_activation):
        cell = RecurrentCell(spec.units[i], spec.cell, spec.activation, spec.recurrent_activation, spec.reset_after, not gate_fed)
        return CellRNN(cell, return_sequences=True, name=name)
    options: dict[str, Any] = {"activation": spec.activation, "return_sequences": True, "name": name}
    if spec.cell == "rnn":
        return layers.SimpleRNN(spec.units[i], **options)
    options["recurrent_activation"] = spec.recurrent_activation
    if spec.cell == "lstm":
        return layers.LSTM(spec.units[i], **options)
    return layers.GRU(spec.units[i], reset_after=spec.reset_after, **options)
