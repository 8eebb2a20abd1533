"""Specs by name and size, for training from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Cell, DenseLayer, ModelSpec, RecurrentSpec, TransformerSpec

Architecture = Literal["lstm", "gru", "rnn", "cifg", "gpt2", "llama"]
RECURRENT: Mapping[str, Cell] = {"lstm": "lstm", "gru": "gru", "rnn": "rnn", "cifg": "cifg"}
TRANSFORMERS = ("gpt2", "llama")


@dataclass(frozen=True)
class RecurrentSize:
    """Columns of the (tied) embedding, and units of each layer."""

    embedding: int
    units: tuple[int, ...]


@dataclass(frozen=True)
class TransformerSize:
    """Width of the residual stream, blocks, and query heads."""

    width: int
    layers: int
    heads: int


RECURRENT_SIZES: Mapping[str, RecurrentSize] = {
    "tiny": RecurrentSize(64, (128,)),
    "small": RecurrentSize(96, (512,)),
    "medium": RecurrentSize(192, (1024,)),
    "large": RecurrentSize(256, (1024, 1024)),
}
TRANSFORMER_SIZES: Mapping[str, TransformerSize] = {
    "tiny": TransformerSize(64, 2, 4),
    "small": TransformerSize(192, 6, 6),
    "medium": TransformerSize(384, 8, 6),
    "large": TransformerSize(512, 12, 8),
}
SIZES = tuple(RECURRENT_SIZES)


def recurrent(cell: Cell, vocab_size: int, size: RecurrentSize) -> RecurrentSpec:
    """Embedding, recurrent layers, a projection back to the embedding's size and a head tied to it.

    Example:
        >>> recurrent("lstm", 10_000, RECURRENT_SIZES["small"]).units  # 2.3 million parameters
        (512,)
    """
    return RecurrentSpec(vocab_size, size.embedding, cell, size.units, hidden=(DenseLayer(size.embedding),), tied_head=True)


def transformer(architecture: str, vocab_size: int, size: TransformerSize, max_positions: int) -> ModelSpec:
    """GPT-2's (Radford et al. 2019) or Llama's (Touvron et al. 2023) block at some size, with a tied head.

    Raises:
        UnsupportedModelError: The width is no multiple of the heads, or a rotary head would be of odd size.
    """
    width, heads = size.width, size.heads
    if width % heads or (architecture == "llama" and width // heads % 2):
        raise UnsupportedModelError(f"width {width} cannot be divided into {heads} heads of even size", fix=f"--width {heads * 32}")
    if architecture == "gpt2":
        return TransformerSpec(
            vocab_size,
            width,
            size.layers,
            heads,
            heads,
            width // heads,
            4 * width,
            max_positions,
            position="learned",
            norm="layer",
            activation="gelu_tanh",
            gated=False,
            qkv_bias=True,
            output_bias=True,
            ffn_bias=True,
        )
    kv_heads = heads // 2 if heads % 2 == 0 else heads
    ffn_size = -(-8 * width // 3 // 32) * 32  # two thirds of 4 * width, as gating adds a third matrix
    return TransformerSpec(vocab_size, width, size.layers, heads, kv_heads, width // heads, ffn_size, max_positions)
