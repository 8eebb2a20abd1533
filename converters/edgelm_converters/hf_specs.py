"""From `config.json` to a spec, one function for each architecture of `hf_architectures`.

Defaults are those of transformers' configuration classes: a checkpoint may leave them out.
"""

from __future__ import annotations

from typing import Any

from edgelm.spec import TransformerSpec
from edgelm_converters.hf_config import Config, Rope


def llama(config: Config) -> TransformerSpec:
    """Llama (Touvron et al. 2023), SmolLM and many others."""
    bias = config.flag("attention_bias", False)
    return _llama_like(config, qkv_bias=bias, output_bias=bias, ffn_bias=config.flag("mlp_bias", False))


def mistral(config: Config) -> TransformerSpec:
    """Mistral (Jiang et al. 2023): Llama with a sliding window."""
    return _llama_like(config, max_positions=_within_window(config, used=True))


def qwen2(config: Config) -> TransformerSpec:
    """Qwen2: Llama with biases on q, k and v."""
    return _llama_like(config, qkv_bias=True, max_positions=_within_window(config, used=False))


def qwen3(config: Config) -> TransformerSpec:
    """Qwen3: Llama with norms on q and k."""
    bias = config.flag("attention_bias", False)
    window = _within_window(config, used=False)
    return _llama_like(config, head_dim=128, qkv_bias=bias, output_bias=bias, qk_norm=True, max_positions=window)


def gemma(config: Config) -> TransformerSpec:
    """Gemma (2024): norms of 1 + weight (see the table of weights), scaled embeddings, GELU gates."""
    config.refuse("use_bidirectional_attention", "it is no causal model")
    bias = config.flag("attention_bias", False)
    says_gelu = config.plain.get("hidden_act") in (None, "gelu")  # as the first releases do; their tanh approximation is meant
    return _llama_like(
        config,
        head_dim=256,
        qkv_bias=bias,
        output_bias=bias,
        activation="gelu_tanh" if says_gelu else config.activation("hidden_act", ""),
        tied_head=config.flag("tie_word_embeddings", True),
        embedding_scale=config.size("hidden_size") ** 0.5,
    )


def _llama_like(config: Config, *, head_dim: int = 0, **changes: Any) -> TransformerSpec:
    """What the Llama family has in common; `changes` are keys of the spec, `head_dim` the default where it is no share of the width."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    plain: dict[str, Any] = {
        "vocab_size": config.size("vocab_size"),
        "width": width,
        "layers": config.size("num_hidden_layers"),
        "heads": heads,
        "kv_heads": config.size("num_key_value_heads", heads),
        "head_dim": config.size("head_dim", head_dim or max(1, width // heads)),
        "ffn_size": config.size("intermediate_size"),
        "max_positions": config.size("max_position_embeddings", 2048),
        "rope_theta": config.rope().theta,
        "norm_eps": config.number("rms_norm_eps", 1e-6),
        "activation": config.activation("hidden_act", "silu"),
        "tied_head": config.flag("tie_word_embeddings", False),
    }
    return TransformerSpec(**{**plain, **changes})


def _within_window(config: Config, *, used: bool) -> int:
    """Positions up to which a sliding window is the same as full attention."""
    positions = config.size("max_position_embeddings", 2048)
    window = config.window(config.size("num_hidden_layers"), used=used)
    if window is None or window >= positions:
        return positions
    config.notes.append(f"its attention slides over {window} tokens: contexts are limited to that, where it equals full attention")
    return window


def gpt2(config: Config) -> TransformerSpec:
    """GPT-2 (Radford et al. 2019)."""
    config.refuse("scale_attn_by_inverse_layer_idx", "scores are scaled differently in each layer")
    config.refuse("add_cross_attention", "it is the decoder of an encoder-decoder model")
    width, heads = config.size("n_embd"), config.size("n_head")
    return TransformerSpec(
        vocab_size=config.size("vocab_size"),
        width=width,
        layers=config.size("n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=max(1, width // heads),
        ffn_size=config.size("n_inner", 4 * width),
        max_positions=config.size("n_positions", 1024),
        position="learned",
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        gated=False,
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
        tied_head=config.flag("tie_word_embeddings", True),
        attention_scale=0.0 if config.flag("scale_attn_weights", True) else 1.0,
    )


def opt(config: Config) -> TransformerSpec:
    """OPT (Zhang et al. 2022): ReLU, learned positions; its 350m variant normalizes after each layer."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.refuse("word_embed_proj_dim", "the embeddings go through a projection of their own (opt-350m)", unless=width)
    config.refuse("layer_norm_elementwise_affine", "its norms have no weights", unless=True)
    before, bias = config.flag("do_layer_norm_before", True), config.flag("enable_bias", True)
    return TransformerSpec(
        vocab_size=config.size("vocab_size"),
        width=width,
        layers=config.size("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=max(1, width // heads),
        ffn_size=config.size("ffn_dim"),
        max_positions=config.size("max_position_embeddings", 2048),
        position="learned",
        norm="layer",
        norm_position="pre" if before else "post",
        final_norm=before and not config.flag("_remove_final_layer_norm", False),
        activation=config.activation("activation_function", "relu"),
        gated=False,
        qkv_bias=bias,
        output_bias=bias,
        ffn_bias=bias,
        tied_head=config.flag("tie_word_embeddings", True),
    )


def gpt_neox(config: Config) -> TransformerSpec:
    """GPT-NeoX (Black et al. 2022) and Pythia: parallel branches, part of each head turned."""
    rope = config.rope(0.25, "rotary_emb_base", "rotary_pct")
    bias = config.flag("attention_bias", True)
    return _parallel(config, rope, qkv_bias=bias, output_bias=bias, parallel_residual=config.flag("use_parallel_residual", True))


def phi(config: Config) -> TransformerSpec:
    """Phi-1 to Phi-2: as GPT-NeoX, with one norm for both branches and a bias on the head."""
    config.refuse("qk_layernorm", "q and k go through layer norms")
    heads = config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", heads)
    return _parallel(config, config.rope(0.5), kv_heads=kv_heads, qkv_bias=True, output_bias=True, parallel_residual=True, head_bias=True)


def _parallel(config: Config, rope: Rope, **changes: Any) -> TransformerSpec:
    """What GPT-NeoX and Phi have in common; `changes` are keys of the spec."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim = max(1, width // heads)
    plain: dict[str, Any] = {
        "vocab_size": config.size("vocab_size"),
        "width": width,
        "layers": config.size("num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": head_dim,
        "ffn_size": config.size("intermediate_size"),
        "max_positions": config.size("max_position_embeddings", 2048),
        "rope_theta": rope.theta,
        "rotary_dim": max(1, int(head_dim * rope.share)),  # 1 is odd, which the spec refuses: no column would be turned
        "norm": "layer",
        "norm_eps": config.number("layer_norm_eps", 1e-5),
        "activation": config.activation("hidden_act", "gelu"),
        "gated": False,
        "ffn_bias": True,
        "tied_head": config.flag("tie_word_embeddings", False),
    }
    return TransformerSpec(**{**plain, **changes})
