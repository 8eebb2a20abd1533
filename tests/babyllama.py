"""A published Llama of 0.9 M parameters (llama2.c's first format), for tests of whole models; see its SOURCE.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.model import LanguageModel
from edgelm.spec import TransformerSpec


def load(folder: Path) -> LanguageModel:
    """The model in `folder`, its rotary weights permuted from interleaved pairs to halves."""
    data = (folder / "model5000.bin").read_bytes()
    width, ffn, layers, heads, kv_heads, vocab, positions = (int(value) for value in np.frombuffer(data, np.int32, 7))
    size = width // heads
    values = np.frombuffer(data, np.float32, offset=28)

    def take(*shape: int) -> NDArray[np.float32]:
        nonlocal values
        count = int(np.prod(shape))
        taken, values = values[:count].reshape(shape), values[count:]
        return taken

    weights = {"embedding.weight": take(vocab, width)}
    shapes = {
        "attention_norm": (width,), "q": (width, width), "k": (kv_heads * size, width), "v": (kv_heads * size, width), "o": (width, width),
        "ffn_norm": (width,), "gate": (ffn, width), "down": (width, ffn), "up": (ffn, width),
    }  # fmt: skip
    for name, shape in shapes.items():
        for layer, weight in enumerate(take(layers, *shape)):
            weights[f"layers.{layer}.{name}.weight"] = halves(weight, size) if name in ("q", "k") else weight
    weights["final_norm.weight"] = take(width)
    return LanguageModel(TransformerSpec(vocab, width, layers, heads, kv_heads, size, ffn, positions), weights, name="babyllama")


def halves(weight: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows of each head from pairs (0, 1), (2, 3), ... to evens, then odds."""
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.transpose(0, 2, 1, 3).reshape(weight.shape)
