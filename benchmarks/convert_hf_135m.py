"""Seconds and peak memory of converting a Hugging Face folder of SmolLM2-135M's shape to int8: `python benchmarks/convert_hf_135m.py`.

A folder as SmolLM2-135M's is written (config.json, random bfloat16 weights, a byte-level tokenizer of 49,152 tokens), then converted
in fresh processes: once by the command line, once stage by stage. `edgelm convert` also proves the artifact against its source and
measures its speed; those stages are counted apart. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 100000, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
LIMIT_SECONDS = 5.0
LIMIT_GIGABYTES = 1.2
PROOF = ("reading op versions", "proving it", "running it here", "measuring size")
"""How the stages of `edgelm convert` begin that come after the conversion and judge it."""


def tensors() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the checkpoint."""
    width, kv, ffn = 576, 3 * 64, 1536
    layer = {
        "input_layernorm": (width,), "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, width), "post_attention_layernorm": (width,), "mlp.gate_proj": (ffn, width),
        "mlp.up_proj": (ffn, width), "mlp.down_proj": (width, ffn),
    }  # fmt: skip
    layers = {f"model.layers.{i}.{name}.weight": shape for i in range(30) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (49152, width), **layers, "model.norm.weight": (width,)}


def write_folder(folder: Path) -> None:
    """Writes the checkpoint: normal weights of 1 / sqrt(columns), cut to bfloat16."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(49152)))
    rng, header, end = np.random.default_rng(0), {}, 0
    for name, shape in tensors().items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    plain = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(plain).to_bytes(8, "little") + plain)
        for shape in tensors().values():
            values = rng.standard_normal(shape, np.float32) * shape[-1] ** -0.5 if len(shape) == 2 else np.ones(shape, np.float32)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def tokenizer(size: int) -> dict[str, Any]:
    """A byte-level BPE of `size` tokens with random merges."""
    from tokenizers import pre_tokenizers

    rng = np.random.default_rng(0)
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {token: i for i, token in enumerate(tokens)}, []
    while len(tokens) < size:
        left, right = (tokens[i] for i in rng.integers(0, len(tokens), 2))
        if len(left + right) < 12 and left + right not in vocabulary:
            vocabulary[left + right] = len(tokens)
            tokens.append(left + right)
            merges.append([left, right])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": None, "unk_token": None}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level, "normalizer": None, "model": model}


def stages(folder: Path, output: Path, started: float) -> list[dict[str, Any]]:
    """Converts in this process: for each stage its seconds, processor seconds, and the peak memory up to its end.

    Args:
        folder: The checkpoint.
        output: Of the artifact.
        started: `time.time()` when this process was started: its first stage is Python itself.
    """
    from edgelm import pipeline
    from edgelm.cli.main import spare_collector

    spare_collector()  # as the command line does
    begun = [("starting Python and edgelm", started, 0.0, 0.0)]  # stage, seconds and processor seconds so far, peak before

    def on_stage(stage: str, done: int, total: int) -> None:
        if begun[-1][0] != stage:
            begun.append((stage, time.time(), time.process_time(), _peak_gigabytes()))

    pipeline.convert(pipeline.Request(str(folder), output=output, arm64=False), pipeline.Watch(on_stage=on_stage))
    on_stage("end", 0, 0)
    return [
        {
            "stage": stage,
            "seconds": round(after[1] - wall, 2),
            "cpu_seconds": round(after[2] - cpu, 2),
            "peak_gigabytes": round(after[3], 3),
        }
        for (stage, wall, cpu, _), after in itertools.pairwise(begun)
    ]


def _peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def run(command: list[str]) -> tuple[str, dict[str, float]]:
    """Runs a process and returns what it printed, and its seconds and peak memory."""
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):  # 3: the report says that a limit is missed, such as the file's size
        raise SystemExit(f"{command} failed")
    return printed, {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gigabytes": round(usage.ru_maxrss * 1024 / 1e9, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs=3, metavar=("FOLDER", "OUTPUT", "STARTED"), help="convert in this process and print the stages")
    parser.add_argument("--write", metavar="FOLDER", help="write the checkpoint only")
    parser.add_argument("--skip-command", action="store_true", help="leave the run of the command line out")
    arguments = parser.parse_args()
    if arguments.stages:
        folder, output, started = arguments.stages
        print(json.dumps(stages(Path(folder), Path(output), float(started))))
        return
    if arguments.write:
        write_folder(Path(arguments.write))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "SmolLM2-135M-random")
        run([sys.executable, __file__, "--write", str(folder)])
        run([sys.executable, "-c", "import edgelm.pipeline"])  # compiles edgelm's modules, as pip does when it installs
        found = json.loads(run([sys.executable, __file__, "--stages", str(folder), f"{temporary}/staged", str(time.time())])[0])
        whole = {}
        if not arguments.skip_command:
            whole = {"edgelm_convert": run([sys.executable, "-m", "edgelm.cli.main", "convert", str(folder), "-o", f"{temporary}/out"])[1]}
        megabytes = round(Path(temporary, "staged", "model.tflite").stat().st_size / 1e6, 1)
    conversion = [stage for stage in found if not stage["stage"].startswith(PROOF)]
    before = found[: next(i for i, stage in enumerate(found) if stage["stage"].startswith(PROOF))]
    figures = {
        "seconds": round(sum(stage["seconds"] for stage in conversion), 2),
        "cpu_seconds": round(sum(stage["cpu_seconds"] for stage in conversion), 2),
        "peak_gigabytes": before[-1]["peak_gigabytes"],
        "file_megabytes": megabytes,
    }
    passed = figures["seconds"] <= LIMIT_SECONDS and figures["peak_gigabytes"] <= LIMIT_GIGABYTES
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),  # processes that want the cores: seconds grow with it, cpu_seconds hardly
    }
    print(
        json.dumps(
            {"model": "SmolLM2-135M's folder, random weights", "parameters": sum(int(np.prod(shape)) for shape in tensors().values())}
            | {"conversion": figures, "limits": {"seconds": LIMIT_SECONDS, "peak_gigabytes": LIMIT_GIGABYTES}, "passed": passed}
            | {"stages": found, **whole, "basis": "measured", "machine": machine},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
