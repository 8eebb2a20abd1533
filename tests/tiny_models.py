"""Tiny models with tokenizers on disk, in edgelm's own format, for tests of the whole path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgelm import source
from edgelm.model import LanguageModel
from edgelm.spec import ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.text.tokenizer import train_word_level

LINES = ["see you at eight", "see you there", "are you there at eight", "you are here", "i am here", "see me there at ten"] * 4


def recurrent_spec(vocab_size: int) -> RecurrentSpec:
    return RecurrentSpec(vocab_size=vocab_size, embedding_size=32, cell="lstm", units=(64,), tied_head=False)


def transformer_spec(vocab_size: int) -> TransformerSpec:
    return TransformerSpec(vocab_size, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_size=64, max_positions=64)


def parallel_spec(vocab_size: int) -> TransformerSpec:
    """Blocks as Phi's."""
    return replace(
        transformer_spec(vocab_size), kv_heads=4, rotary_dim=4, norm="layer", activation="gelu_tanh", gated=False, parallel_residual=True,
        qkv_bias=True, output_bias=True, ffn_bias=True, tied_head=False, head_bias=True,
    )  # fmt: skip


SPECS: Mapping[str, Callable[[int], ModelSpec]] = {
    "recurrent": recurrent_spec,
    "transformer": transformer_spec,
    "parallel": parallel_spec,
}


def write_model(folder: Path, kind: str = "recurrent", seed: int = 0) -> LanguageModel:
    """A model with random weights (scaled like trained ones) and a word tokenizer, written to `folder`."""
    tokenizer = train_word_level(LINES, vocab_size=64)
    spec = SPECS[kind](tokenizer.vocab_size)
    rng = np.random.default_rng(seed)
    weights = {
        name: np.ones(shape, np.float32) if "norm" in name else (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in weight_shapes(spec).items()
    }
    model = LanguageModel(spec, weights, name=folder.name, tokenizer=tokenizer.to_json())
    source.write_folder(model, folder)
    return model


def write_corpus(folder: Path) -> Path:
    """A corpus with the three splits."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"{split}.txt").write_text("\n".join(LINES[:8]) + "\n\n" + "\n".join(LINES[8:16]) + "\n", encoding="utf-8")
    return folder
