"""ExecuTorch: its Llama example exported as 8da4w (int4 in groups of 32, int8 activations and embedding) for XNNPACK, cache inside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import job as jobs
import numpy as np
import torch
from job import Job

NAMES = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
"""Parts of a layer in the checkpoint -> in the example's."""
WHOLE = {"model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight"}


def convert(job: Job) -> None:
    """The checkpoint by the example's names, then its exporter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tensors = {example_name(name): torch.from_numpy(value.copy()) for name, value in jobs.llama_tensors(job.source).items()}
        torch.save(tensors | {"output.weight": tensors["tok_embeddings.weight"]}, folder / "model.pth")
        (folder / "params.json").write_text(json.dumps(parameters(job.source)))
        words = ["--checkpoint", folder / "model.pth", "--params", folder / "params.json", "--output_name", job.artifact, "-d", "fp32"]
        words += ["-kv", "--use_sdpa_with_kv_cache", "-X", "--xnnpack-extended-ops", "-qmode", "8da4w", "--group_size", "32", "-E", "8,0"]
        words += ["--max_seq_length", str(job.context), "--max_context_length", str(job.context)]
        subprocess.run([sys.executable, "-m", "executorch.examples.models.llama.export_llama", *map(str, words)], check=True)


def parameters(source: Path) -> dict[str, object]:
    """The example's params.json; rotary positions turn halves, as Hugging Face's do."""
    config = json.loads((source / "config.json").read_text())
    return {
        "dim": config["hidden_size"], "n_layers": config["num_hidden_layers"], "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"], "vocab_size": config["vocab_size"], "norm_eps": config["rms_norm_eps"],
        "hidden_dim": config["intermediate_size"], "rope_theta": config["rope_theta"], "use_scaled_rope": False, "use_hf_rope": True,
    }  # fmt: skip


def example_name(name: str) -> str:
    """The example's name of a checkpoint's tensor."""
    if name in WHOLE:
        return WHOLE[name]
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name).groups()
    return f"layers.{layer}.{NAMES[part]}.weight"


class Session:
    """The `forward` method: tokens (1, n) at a position; only the last token's logits come back."""

    def __init__(self, job: Job) -> None:
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 (registers the attention operator)
        from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool
        from executorch.kernels import quantized  # noqa: F401 (registers its operators)

        _unsafe_reset_threadpool(job.threads)
        self.module, self.position = _load_for_executorch(str(job.artifact)), 0

    def reset(self) -> None:
        """See `job.Session`."""
        self.position = 0

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        given = (torch.tensor([list(ids)]), torch.tensor([self.position]))
        logits = self.module.forward(given)[0]
        self.position += len(ids)
        return logits.numpy().reshape(-1, logits.shape[-1])[-1]


if __name__ == "__main__":
    jobs.run(convert, Session)
