"""What the products of a step take by themselves: `python benchmarks/products_alone.py`.

A benchmarked model as edgelm writes it and a graph of the same matrices with nothing between them take turns in the same rounds. The
difference is what norms, attention, gates and the runtime cost; the products' bytes over their time is how fast XNNPACK's kernels stream
weights, beside how fast this core reads as many bytes. As `make bench` does, the kernel refuses AMX to the process; `--amx` allows it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers import machine, models
from peers.cells import streamed_bytes
from peers.processes import WORKERS

from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.spec import Encoding
from edgelm.tflite.quantize import quantize
from edgelm.tflite.reader import read
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate.timed_calls import TimedFile, time_files

RESULT = Path(__file__).parent / "results" / "products.json"
CASES = (
    (models.M1, "int8", Encoding.INT8),
    (models.M2, "int8", Encoding.INT8),
    (models.M2, "int4-block32-plain", Encoding.INT4_BLOCK32),
)
RUNG = 128
OPENINGS, ROUNDS, SLICE_S = 4, 5, 0.3


@dataclass(frozen=True)
class Pair:
    """One model in one form: a whole step and its products alone, ms, and what that means."""

    model: str
    form: str
    step_ms: float
    products_ms: float
    megabytes: float
    products_gb_s: float
    read_gb_s: float


def products(tflite: bytes, encoding: Encoding) -> bytes:
    """Every product of a file's one signature, each on an input of its width, and nothing else."""
    rng = np.random.default_rng(models.SEED)
    model = read(tflite)
    (tensors,) = model.tensors
    shapes = [tensors[op.inputs[1]].shape for op in model.ops if op.name == "FULLY_CONNECTED"]
    builder = ModelBuilder()
    g = builder.subgraph("products")
    inputs = {width: g.input(f"x_{width}", (1, width)) for width in sorted({columns for _, columns in shapes})}
    for number, (rows, columns) in enumerate(shapes):
        matrix = rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)
        g.output(f"y_{number}", g.fully_connected(inputs[columns], g.weight(f"w_{number}", quantize(matrix, encoding))))
    return builder.finish()


def step(name: str, encoding: Encoding) -> bytes:
    """The model with a step, or one rung, alone."""
    spec = models.SHAPES[name].spec
    weights = dict(models.random_weights(spec))
    encodings = {key: encoding for key, value in weights.items() if value.ndim == 2}
    return direct.lower(LanguageModel(spec, weights, encodings=encodings), ladder=(RUNG,), prefill=0).tflite


def measured(name: str, form: str, encoding: Encoding) -> Pair:
    """Both graphs in the same rounds."""
    spec = models.SHAPES[name].spec
    whole = step(name, encoding)
    files = {"step": whole, "products": products(whole, encoding)}
    timed = {label: TimedFile(tflite, spec.vocab_size) for label, tflite in files.items()}
    found = {label: ms for (label, _), ms in time_files(timed, openings=OPENINGS, rounds=ROUNDS, slice_s=SLICE_S).items()}
    size = streamed_bytes(spec, form, ours=True)
    rate = float(np.median(machine.bandwidth(size, 1)))
    return Pair(name, form, found["step"], found["products"], size / 1e6, size / found["products"] / 1e6, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=RESULT)
    parser.add_argument("--amx", action="store_true", help="the process may use the CPU's matrix unit")
    arguments = parser.parse_args()
    if not arguments.amx:
        sys.path.append(str(WORKERS))
        from launch import refuse_amx

        refuse_amx()
    rows = []
    for case in CASES:
        print(*case[:2], "...", file=sys.stderr, flush=True)
        rows.append(vars(measured(*case)))
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}))
    about = {"basis": "measured", "clock": "CPU time, 5th percentile, mean over openings", "threads": 1, "machine": machine.facts()}
    arguments.out.write_text(json.dumps(about | {"amx": arguments.amx, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
