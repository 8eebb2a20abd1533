"""llama.cpp: writes the GGUF file with the gguf package, and has the small native host quantize it. Running is the native host's."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import gguf
import job as jobs
import numpy as np
from job import Job

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
"""Parts of a layer in the checkpoint -> in GGUF."""

HOST = Path(sys.executable).with_name("llama_host")


def convert(job: Job) -> None:
    """F16 first, as llama.cpp's own way has it, then the form."""
    if job.form == "F16":
        write_f16(job.source, job.artifact)
        return
    with tempfile.TemporaryDirectory(dir=job.artifact.parent) as folder:
        whole = Path(folder) / "f16.gguf"
        write_f16(job.source, whole)
        subprocess.run([HOST, "quantize", whole, job.artifact, job.form], check=True)


def write_f16(source: Path, target: Path) -> None:
    """A Llama without a vocabulary: matrices in float16, norms in float32."""
    config = json.loads((source / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    for name, value in jobs.llama_tensors(source).items():
        turned = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        value = interleaved(value, turned) if turned else value
        writer.add_tensor(gguf_name(name), value.astype(np.float16 if value.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def interleaved(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k in the order of rotary positions that turns neighbours; the checkpoint's turns halves."""
    return value.reshape(heads, 2, len(value) // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)


def no_session(_job: Job) -> NoReturn:
    raise SystemExit("llama.cpp is run by llama_host")


if __name__ == "__main__":
    jobs.run(convert, no_session)
