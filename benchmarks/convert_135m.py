"""Seconds and peak memory of lowering SmolLM2-135M's shape to int8: `python benchmarks/convert_135m.py [--encoding int8]`.

The weights are random, in one float16 file on disk that is mapped into memory as a safetensors file is; another process writes it,
so that only the conversion is measured: map, lower, write the .tflite. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.spec import Encoding, TransformerSpec, weight_shapes

SMOLLM2_135M = TransformerSpec(
    vocab_size=49152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn_size=1536, max_positions=8192, rope_theta=100_000.0
)
LADDER = (128, 256, 512, 1024)
LIMIT_SECONDS = 5.0
LIMIT_GIGABYTES = 1.2


def write_weights(path: Path) -> None:
    """Writes normal weights of 1 / sqrt(columns), all tensors of the spec one after the other."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for shape in weight_shapes(SMOLLM2_135M).values():
            values = rng.standard_normal(shape, np.float32) * shape[-1] ** -0.5 if len(shape) == 2 else np.ones(shape, np.float32)
            file.write(values.astype(np.float16).tobytes())


def map_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of `write_weights`, mapped."""
    mapped = np.memmap(path, np.float16, mode="r")
    weights, start = {}, 0
    for name, shape in weight_shapes(SMOLLM2_135M).items():
        end = start + int(np.prod(shape))
        weights[name], start = mapped[start:end].reshape(shape), end
    return weights


def convert(weights: Path, target: Path, encoding: str) -> dict[str, Any]:
    """Lowers the model and returns what it took; runs in a process of its own."""
    start, cpu_start = time.perf_counter(), time.process_time()
    tensors = map_weights(weights)
    encodings = {name: Encoding(encoding) for name, weight in tensors.items() if weight.ndim == 2}
    lowered = lower(LanguageModel(SMOLLM2_135M, tensors, encodings=encodings), ladder=LADDER)
    target.write_bytes(lowered.tflite)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
        "file_megabytes": round(target.stat().st_size / 1e6, 1),
        "notes": lowered.notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoding", default="int8", choices=[encoding.value for encoding in Encoding])
    encoding = parser.parse_args().encoding
    spawn = multiprocessing.get_context("spawn")  # a fresh process: its peak memory is the conversion's
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(1, maxtasksperchild=1) as pool:
        weights, target = Path(folder, "weights.f16"), Path(folder, "model.tflite")
        pool.apply(write_weights, (weights,))
        figures = pool.apply(convert, (weights, target, encoding))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": multiprocessing.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),  # processes that want the cores: seconds grow with it, cpu_seconds hardly
    }
    passed = figures["seconds"] <= LIMIT_SECONDS and figures["peak_gigabytes"] <= LIMIT_GIGABYTES
    limits = {"seconds": LIMIT_SECONDS, "peak_gigabytes": LIMIT_GIGABYTES}
    parameters = sum(int(np.prod(shape)) for shape in weight_shapes(SMOLLM2_135M).values())
    print(
        json.dumps(
            {"model": "SmolLM2-135M's shape", "parameters": parameters, "encoding": encoding, "ladder": LADDER}
            | figures
            | {"limits": limits, "passed": passed, "basis": "measured", "machine": machine},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
