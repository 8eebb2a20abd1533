"""The table of Hugging Face architectures: for each its spec from `config.json` and the names its checkpoints give our weights.

The sources are transformers' `modeling_*.py` and `configuration_*.py`, version 5; the tests compare the logits of each architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgelm.spec import TransformerSpec
from edgelm_converters import hf_specs
from edgelm_converters.hf_config import Config
from edgelm_converters.hf_weights import Names


@dataclass(frozen=True)
class Architecture:
    """One decoder of transformers.

    Attributes:
        head_class: The class with the head; base classes and classifiers have other heads.
        spec: Makes the spec of a config.
        names: Our modules -> theirs; `*` stands for the layer.
        prefixes: What may stand before all of their names.
        ignored: Their names (`*` for the layer) that are no weights: masks and frequencies that old checkpoints store.
    """

    head_class: str
    spec: Callable[[Config], TransformerSpec]
    names: Names
    prefixes: tuple[str, ...] = ("model.",)
    ignored: tuple[str, ...] = ("layers.*.self_attn.rotary_emb.inv_freq", "lm_head.weight")


LLAMA_NAMES: Names = {
    "embedding": ("embed_tokens", "plain"),
    "layers.*.attention_norm": ("layers.*.input_layernorm", "plain"),
    "layers.*.q": ("layers.*.self_attn.q_proj", "plain"),
    "layers.*.k": ("layers.*.self_attn.k_proj", "plain"),
    "layers.*.v": ("layers.*.self_attn.v_proj", "plain"),
    "layers.*.q_norm": ("layers.*.self_attn.q_norm", "plain"),
    "layers.*.k_norm": ("layers.*.self_attn.k_norm", "plain"),
    "layers.*.o": ("layers.*.self_attn.o_proj", "plain"),
    "layers.*.ffn_norm": ("layers.*.post_attention_layernorm", "plain"),
    "layers.*.gate": ("layers.*.mlp.gate_proj", "plain"),
    "layers.*.up": ("layers.*.mlp.up_proj", "plain"),
    "layers.*.down": ("layers.*.mlp.down_proj", "plain"),
    "final_norm": ("norm", "plain"),
    "head": ("lm_head", "plain"),
}

GEMMA_NAMES: Names = {
    **LLAMA_NAMES,
    "layers.*.attention_norm": ("layers.*.input_layernorm", "plus one"),
    "layers.*.ffn_norm": ("layers.*.post_attention_layernorm", "plus one"),
    "final_norm": ("norm", "plus one"),
}

GPT2_NAMES: Names = {
    "embedding": ("wte", "plain"),
    "positions": ("wpe", "plain"),
    "layers.*.attention_norm": ("h.*.ln_1", "plain"),
    "layers.*.q": ("h.*.attn.c_attn", "conv1d q"),
    "layers.*.k": ("h.*.attn.c_attn", "conv1d k"),
    "layers.*.v": ("h.*.attn.c_attn", "conv1d v"),
    "layers.*.o": ("h.*.attn.c_proj", "conv1d"),
    "layers.*.ffn_norm": ("h.*.ln_2", "plain"),
    "layers.*.up": ("h.*.mlp.c_fc", "conv1d"),
    "layers.*.down": ("h.*.mlp.c_proj", "conv1d"),
    "final_norm": ("ln_f", "plain"),
    "head": ("lm_head", "plain"),
}

OPT_NAMES: Names = {
    "embedding": ("embed_tokens", "plain"),
    "positions": ("embed_positions", "from row 2"),
    "layers.*.attention_norm": ("layers.*.self_attn_layer_norm", "plain"),
    "layers.*.q": ("layers.*.self_attn.q_proj", "plain"),
    "layers.*.k": ("layers.*.self_attn.k_proj", "plain"),
    "layers.*.v": ("layers.*.self_attn.v_proj", "plain"),
    "layers.*.o": ("layers.*.self_attn.out_proj", "plain"),
    "layers.*.ffn_norm": ("layers.*.final_layer_norm", "plain"),
    "layers.*.up": ("layers.*.fc1", "plain"),
    "layers.*.down": ("layers.*.fc2", "plain"),
    "final_norm": ("final_layer_norm", "plain"),
    "head": ("lm_head", "plain"),
}

GPT_NEOX_NAMES: Names = {
    "embedding": ("embed_in", "plain"),
    "layers.*.attention_norm": ("layers.*.input_layernorm", "plain"),
    "layers.*.q": ("layers.*.attention.query_key_value", "heads q"),
    "layers.*.k": ("layers.*.attention.query_key_value", "heads k"),
    "layers.*.v": ("layers.*.attention.query_key_value", "heads v"),
    "layers.*.o": ("layers.*.attention.dense", "plain"),
    "layers.*.ffn_norm": ("layers.*.post_attention_layernorm", "plain"),
    "layers.*.up": ("layers.*.mlp.dense_h_to_4h", "plain"),
    "layers.*.down": ("layers.*.mlp.dense_4h_to_h", "plain"),
    "final_norm": ("final_layer_norm", "plain"),
    "head": ("embed_out", "plain"),
}

PHI_NAMES: Names = {
    "embedding": ("embed_tokens", "plain"),
    "layers.*.attention_norm": ("layers.*.input_layernorm", "plain"),
    "layers.*.q": ("layers.*.self_attn.q_proj", "plain"),
    "layers.*.k": ("layers.*.self_attn.k_proj", "plain"),
    "layers.*.v": ("layers.*.self_attn.v_proj", "plain"),
    "layers.*.o": ("layers.*.self_attn.dense", "plain"),
    "layers.*.ffn_norm": ("layers.*.input_layernorm", "plain"),  # one norm for both branches
    "layers.*.up": ("layers.*.mlp.fc1", "plain"),
    "layers.*.down": ("layers.*.mlp.fc2", "plain"),
    "final_norm": ("final_layernorm", "plain"),
    "head": ("lm_head", "plain"),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": Architecture(
        "GPT2LMHeadModel", hf_specs.gpt2, GPT2_NAMES, ("transformer.",), ("h.*.attn.bias", "h.*.attn.masked_bias", "lm_head.weight")
    ),
    "llama": Architecture("LlamaForCausalLM", hf_specs.llama, LLAMA_NAMES),
    "mistral": Architecture("MistralForCausalLM", hf_specs.mistral, LLAMA_NAMES),
    "qwen2": Architecture("Qwen2ForCausalLM", hf_specs.qwen2, LLAMA_NAMES),
    "qwen3": Architecture("Qwen3ForCausalLM", hf_specs.qwen3, LLAMA_NAMES),
    "gemma": Architecture("GemmaForCausalLM", hf_specs.gemma, GEMMA_NAMES),
    "opt": Architecture("OPTForCausalLM", hf_specs.opt, OPT_NAMES, ("model.decoder.", "decoder."), ("lm_head.weight",)),
    "gpt_neox": Architecture(
        "GPTNeoXForCausalLM",
        hf_specs.gpt_neox,
        GPT_NEOX_NAMES,
        ("gpt_neox.",),
        (
            "layers.*.attention.bias",
            "layers.*.attention.masked_bias",
            "layers.*.attention.rotary_emb.inv_freq",
            "embed_out.weight",
        ),
    ),
    "phi": Architecture("PhiForCausalLM", hf_specs.phi, PHI_NAMES),
}
"""`model_type` of config.json -> how it is read. SmolLM and many others are `llama`."""

REFUSED: Mapping[str, str] = {
    "gemma2": "it normalizes the outputs of attention and feed-forward layers, caps its logits and slides over every other layer",
    "gemma3": "its text model normalizes outputs of its layers and has two rotary bases",
    "gemma3_text": "it normalizes the outputs of attention and feed-forward layers and has two rotary bases",
    "mixtral": "it has several experts in each layer",
    "qwen2_moe": "it has several experts in each layer",
    "qwen3_moe": "it has several experts in each layer",
    "phi3": "its projections are fused in a way of their own (qkv_proj, gate_up_proj)",
    "bert": "it is no causal language model",
    "t5": "it is an encoder-decoder model",
}
"""`model_type` -> why it is in neither family."""
