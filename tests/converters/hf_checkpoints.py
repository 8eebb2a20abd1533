"""Tiny random checkpoints of transformers, one for each architecture and for each option that changes what is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOCAB, TIME = 29, 32

_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "rms_norm_eps": 1e-3,
}  # fmt: skip
_QWEN3 = _LLAMA | {"head_dim": 8}  # 4 heads of 8 are wider than the 24 columns of the residual stream
_OPT = {
    "vocab_size": VOCAB, "hidden_size": 24, "ffn_dim": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 48, "word_embed_proj_dim": 24,
}  # fmt: skip
_GPT2 = {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 48, "layer_norm_epsilon": 1e-3}
_NEOX = {key: value for key, value in _LLAMA.items() if key not in ("num_key_value_heads", "rms_norm_eps")} | {"layer_norm_eps": 1e-3}

CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2, unscaled scores, untied": ("GPT2", _GPT2 | {"scale_attn_weights": False, "tie_word_embeddings": False, "n_inner": 40}),
    "llama": ("Llama", _LLAMA),
    "llama, tied as smollm": (
        "Llama",
        _LLAMA | {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}},
    ),
    "llama, biases": ("Llama", _LLAMA | {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama, head_dim": ("Llama", _LLAMA | {"head_dim": 10, "num_key_value_heads": 4}),
    "mistral": ("Mistral", _LLAMA | {"sliding_window": None}),
    "mistral, window": ("Mistral", _LLAMA | {"sliding_window": 36}),
    "qwen2": ("Qwen2", _LLAMA),
    "qwen2, windows in the second layer": (
        "Qwen2",
        _LLAMA | {"use_sliding_window": True, "sliding_window": 33, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3", _QWEN3),
    "qwen3, biases, tied": ("Qwen3", _QWEN3 | {"attention_bias": True, "tie_word_embeddings": True}),
    "gemma": ("Gemma", _LLAMA | {"head_dim": 8, "num_key_value_heads": 1}),
    "gemma, old gelu": ("Gemma", _LLAMA | {"head_dim": 6, "hidden_act": "gelu"}),
    "opt": ("OPT", _OPT),
    "opt, post-norm": ("OPT", _OPT | {"do_layer_norm_before": False, "activation_function": "gelu"}),
    "opt, no biases": ("OPT", _OPT | {"enable_bias": False, "_remove_final_layer_norm": True}),
    "gpt_neox": ("GPTNeoX", _NEOX | {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default", "partial_rotary_factor": 1 / 3}}),
    "gpt_neox, one after the other": ("GPTNeoX", _NEOX | {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0}),
    "phi": ("Phi", _NEOX | {"num_key_value_heads": 2, "partial_rotary_factor": 2 / 3}),
}
"""Case -> the prefix of transformers' classes, and keys of its config."""


def build(case: str) -> Any:
    """The model of a case, every weight random: zeros and ones would hide a bias or a norm that is not read."""
    import torch
    import transformers

    kind, keys = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**keys, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config._attn_implementation = "eager"
    head = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name or "ln_" in name else 0.0, 0.3)
    return model


def save(model: Any, folder: Path, dtype: str = "float32", **options: Any) -> Path:
    """Writes the checkpoint as `save_pretrained` does; the model has its rounded weights afterwards."""
    import torch

    for weight in model.parameters():  # not `model.to`, which would round the frequencies of the rotary positions, too
        weight.data = weight.data.to(getattr(torch, dtype))
    model.save_pretrained(folder, **options)
    for weight in model.parameters():
        weight.data = weight.data.float()
    return folder


def framework_logits(model: Any, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Logits (time, vocab) of one sequence, by transformers."""
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor(ids[None])).logits[0].numpy(), np.float32)


def change_config(folder: Path, **keys: Any) -> None:
    """Sets keys of a config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def retensored(folder: Path, change: Callable[[str, NDArray[Any]], Mapping[str, NDArray[Any]]]) -> None:
    """Writes the one weights file of a folder anew, each tensor replaced by what `change` makes of it."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()  # it may still be mapped
    save_file({new: value for name, tensor in tensors.items() for new, value in change(name, tensor).items()}, path)
