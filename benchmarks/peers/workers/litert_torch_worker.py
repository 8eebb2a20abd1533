"""litert-torch: its export of a Hugging Face folder, run by LiteRT's CompiledModel with the caches written in place.

Its prefill gives no logits: the last token of a prompt is a decode, as LiteRT-LM does it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import job as jobs
import numpy as np
from job import Job

CHUNK = 128
MASKED = -1e9
RECIPES = {"dynamic-int8": "dynamic_wi8_afp32"}


def convert(job: Job) -> None:
    """The exported model as model.tflite, and bundled for LiteRT-LM as model.litertlm."""
    from litert_torch.generative.export_hf.export import export

    job.artifact.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.artifact.parent) as folder:
        settings = {"prefill_lengths": [CHUNK], "cache_length": job.context, "quantization_recipe": RECIPES[job.form]}
        export(str(job.source), folder, keep_temporary_files=True, **settings)
        shutil.move(Path(folder) / "model_quantized.tflite", job.artifact / "model.tflite")
        shutil.move(Path(folder) / "model.litertlm", job.artifact / "model.litertlm")


class Call:
    """One signature with its buffers."""

    def __init__(self, model: Any, name: str, caches: dict[str, Any]) -> None:
        lists = model.get_signature_list()[name]
        self.model, self.index = model, model.get_signature_index(name)
        self.given = dict(zip(lists["inputs"], model.create_input_buffers(self.index), strict=True))
        returned = dict(zip(lists["outputs"], model.create_output_buffers(self.index), strict=True))
        for cache in [cache for cache in self.given if cache.startswith("kv_cache")]:
            buffer = caches.setdefault(cache, self.given[cache])
            self.given[cache] = returned[cache] = buffer
        self.inputs, self.outputs = list(self.given.values()), list(returned.values())
        self.logits = returned.get("logits")

    def run(self, tokens: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> None:
        """Takes (1, n) tokens at (n,) positions with a mask (1, 1, n, context)."""
        for name, value in (("tokens", tokens), ("input_pos", positions), ("mask", mask)):
            self.given[name].write(value)
        self.model.run_by_index(self.index, self.inputs, self.outputs)


class Session:
    """Both signatures on the same caches."""

    def __init__(self, job: Job) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import Options

        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=job.threads))
        model = CompiledModel.from_file(str(job.artifact / "model.tflite"), options=options)
        caches: dict[str, Any] = {}
        self.decode, self.prefill = Call(model, "decode", caches), Call(model, f"prefill_{CHUNK}", caches)
        self.vocabulary = int(np.prod(model.get_output_tensor_details("decode")["logits"]["shape"]))
        self.context, self.position = job.context, 0

    def reset(self) -> None:
        """See `job.Session`."""
        self.position = 0

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        for start in range(0, len(ids) - 1, CHUNK):
            part = ids[start : min(start + CHUNK, len(ids) - 1)]
            tokens = np.zeros((1, CHUNK), np.int32)
            tokens[0, : len(part)] = part
            self.run(self.prefill, tokens)
            self.position += len(part)
        self.run(self.decode, np.array([[ids[-1]]], np.int32))
        self.position += 1
        return np.asarray(self.decode.logits.read(self.vocabulary, np.float32)).ravel()

    def run(self, call: Call, tokens: np.ndarray) -> None:
        """One call from the current position on; what is behind the prompt's end is overwritten later."""
        positions = np.arange(self.position, self.position + tokens.shape[1], dtype=np.int32)
        seen = np.arange(self.context)[None] <= positions[:, None]
        mask = np.where(seen, 0, MASKED).astype(np.float32)[None, None]
        call.run(tokens, positions, np.ascontiguousarray(mask))


if __name__ == "__main__":
    jobs.run(convert, Session)
