"""The models that are timed: shapes, random weights with a fixed seed, and the folders every peer starts from.

LSTMs are written as edgelm's own folder, transformers as Hugging Face folders. Random weights are normal with 1 / sqrt(columns) (the LSTM's
embedding with 1), so that every layer matters to the logits; the two bundled models have their trained ones. All are rounded to bfloat16,
so that all peers get the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgelm import source
from edgelm.model import LanguageModel
from edgelm.spec import ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

SEED = 0
CONTEXT = 1024
"""Positions of M2 and M3, and the cache every peer gets (SmolLM2 itself was made for 8,192)."""

M1, M2, M3 = "m1", "m2", "m3"
KEYBOARD, CHAT = "keyboard-lstm", "chat-transformer"
"""The bundled models, by their names."""


@dataclass(frozen=True)
class Shape:
    """One benchmarked model.

    Attributes:
        name: `m1`, `m2`, `m3`, or a bundled model's.
        title: For tables.
        spec: What it is.
        trained: Its weights are the bundled ones.
    """

    name: str
    title: str
    spec: ModelSpec
    trained: bool = False

    @property
    def context(self) -> int:
        """Slots of the cache every peer gets."""
        return self.spec.max_positions if isinstance(self.spec, TransformerSpec) else CONTEXT

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Canonical names and float32 values that bfloat16 holds exactly."""
        if not self.trained:
            return dict(random_weights(self.spec))
        return {name: np.asarray(value).astype(ml_dtypes.bfloat16).astype(np.float32) for name, value in bundled(self.name).weights.items()}


@cache
def bundled(name: str) -> LanguageModel:
    """A model that edgelm ships."""
    model = source.load(name).model
    assert isinstance(model, LanguageModel)
    return model


SHAPES = {
    M1: Shape(M1, "keyboard LSTM, 3.6 M", RecurrentSpec(10_000, 256, "lstm", (256, 256), tied_head=True, head_bias=False)),
    M2: Shape(M2, "SmolLM2-135M's shape", TransformerSpec(49_152, 576, 30, 9, 3, 64, 1536, CONTEXT, rope_theta=100_000.0)),
    M3: Shape(M3, "Llama-shaped, 15 M", TransformerSpec(32_000, 288, 6, 6, 6, 48, 768, CONTEXT)),
    KEYBOARD: Shape(KEYBOARD, "bundled LSTM, 2.3 M", bundled(KEYBOARD).spec, trained=True),
    CHAT: Shape(CHAT, "bundled transformer, 3.0 M", bundled(CHAT).spec, trained=True),
}


def label(shape: Shape) -> str:
    """Such as `M1, keyboard LSTM, 3.6 M`."""
    return f"{shape.name if shape.trained else shape.name.upper()}, {shape.title}"


def parameters(spec: ModelSpec) -> int:
    """Numbers in all weights; a tied head is counted once."""
    return sum(int(np.prod(shape)) for shape in weight_shapes(spec).values())


def random_weights(spec: ModelSpec) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Canonical names and float32 values that bfloat16 holds exactly: norms 1, biases and matrices random."""
    rng = np.random.default_rng(SEED)
    for name, shape in weight_shapes(spec).items():
        if len(shape) == 1 and "norm" in name:
            yield name, np.ones(shape, np.float32)
        else:
            scale = (
                0.05 if len(shape) == 1 else 1.0 if isinstance(spec, RecurrentSpec) and name == "embedding.weight" else shape[-1] ** -0.5
            )
            yield name, (rng.standard_normal(shape, np.float32) * scale).astype(ml_dtypes.bfloat16).astype(np.float32)


def write(shape: Shape, folder: Path) -> None:
    """Writes the source folder of a model."""
    if isinstance(shape.spec, TransformerSpec):
        write_huggingface(shape.spec, shape.weights(), folder)
    else:
        source.write_folder(LanguageModel(shape.spec, shape.weights(), name=shape.name), folder)


def write_huggingface(spec: TransformerSpec, weights: Mapping[str, NDArray[np.float32]], folder: Path) -> None:
    """Writes a Llama checkpoint: config.json, model.safetensors in bfloat16 and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(llama_config(spec), indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(spec.vocab_size)))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0]['content'] }}", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    tensors = [(huggingface_name(name), value.astype(ml_dtypes.bfloat16)) for name, value in weights.items()]
    header, end = {}, 0
    for name, value in tensors:
        start, end = end, end + value.nbytes
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [start, end]}
    plain = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(plain).to_bytes(8, "little") + plain)
        for _, value in tensors:
            file.write(value.tobytes())


def llama_config(spec: TransformerSpec) -> dict[str, Any]:
    """The `config.json` of a Llama of this shape."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": spec.vocab_size, "hidden_size": spec.width,
        "intermediate_size": spec.ffn_size, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim, "max_position_embeddings": spec.max_positions,
        "hidden_act": "silu", "rms_norm_eps": spec.norm_eps, "rope_theta": spec.rope_theta, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def huggingface_name(name: str) -> str:
    """The checkpoint's name of a canonical weight.

    Example: `layers.3.q.weight` is `model.layers.3.self_attn.q_proj.weight`.
    """
    if not name.startswith("layers."):
        return {"embedding.weight": "model.embed_tokens.weight", "final_norm.weight": "model.norm.weight"}[name]
    _, layer, part = name.split(".", 2)
    return f"model.layers.{layer}.{HUGGINGFACE[part.removesuffix('.weight')]}.weight"


HUGGINGFACE = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def tokenizer(size: int) -> dict[str, Any]:
    """A byte-level BPE of `size` tokens: some peers' exporters want one, none of the figures depends on it."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>"]
    pairs = [(left, right) for left in letters for right in letters][: size - len(letters) - len(special)]
    merged = [left + right for left, right in pairs]
    tokens = [*special, *letters, *merged, *(f"<spare{i}>" for i in range(size - len(special) - len(letters) - len(merged)))]
    added = [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, text in enumerate(special)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {text: i for i, text in enumerate(tokens)}, "merges": pairs, "unk_token": "<unk>", "dropout": None}
    return {"version": "1.0", "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level, "normalizer": None, "model": model}


def prompt(spec: ModelSpec, count: int) -> list[int]:
    """Random token ids, none of them special."""
    return [int(token) for token in np.random.default_rng(SEED + 1).integers(3, spec.vocab_size, count)]
