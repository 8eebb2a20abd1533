"""What the products of a decode take by themselves: `python benchmarks/products_alone.py`.

M2 (SmolLM2-135M's shape) as edgelm writes it and a graph of the same matrices with nothing between them take turns in the same rounds. The
difference is what norms, attention, gates and the runtime cost; the products' bytes over their time is how fast XNNPACK's kernels stream
weights, beside how fast this core reads memory at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers import machine, models
from peers.cells import streamed_bytes

from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.spec import Encoding, TransformerSpec, weight_shapes
from edgelm.tflite.quantize import QuantizedTensor, quantize
from edgelm.tflite.writer import ModelBuilder
from edgelm.validate.timed_calls import TimedFile, time_files

RESULT = Path(__file__).parent / "results" / "products.json"
FORMS: Mapping[str, Encoding] = {"int8": Encoding.INT8, "int4-block32-plain": Encoding.INT4_BLOCK32}
RUNG = 128
OPENINGS, ROUNDS, SLICE_S = 4, 5, 0.3
GROUPS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Matrices of a layer that edgelm joins, in the order of the graph."""


@dataclass(frozen=True)
class Pair:
    """One form: the whole decode and its products alone, ms a token, and what that means."""

    form: str
    decode_ms: float
    products_ms: float
    megabytes: float
    products_gb_s: float
    read_gb_s: float


def products(spec: TransformerSpec, encoding: Encoding) -> bytes:
    """Every product of a token, each on an input of its width, and nothing else."""
    rng = np.random.default_rng(models.SEED)
    builder = ModelBuilder()
    g = builder.subgraph("products")
    inputs = {width: g.input(f"x_{width}", (1, width)) for width in sorted({spec.width, spec.heads * spec.head_dim, spec.ffn_size})}
    shapes = weight_shapes(spec)
    layers = [[shapes[f"layers.{layer}.{name}.weight"] for name in group] for layer in range(spec.layers) for group in GROUPS]
    for number, parts in enumerate([*layers, [shapes["embedding.weight"]]]):
        rows, columns = sum(part[0] for part in parts), parts[0][1]
        matrix: QuantizedTensor = quantize(rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5), encoding)
        g.output(f"y_{number}", g.fully_connected(inputs[columns], g.weight(f"w_{number}", matrix)))
    return builder.finish()


def decode(spec: TransformerSpec, encoding: Encoding) -> bytes:
    """The model with one rung."""
    weights = dict(models.random_weights(spec))
    encodings = {name: encoding for name, value in weights.items() if value.ndim == 2}
    return direct.lower(LanguageModel(spec, weights, encodings=encodings), ladder=(RUNG,), prefill=0).tflite


def measured(form: str, encoding: Encoding) -> Pair:
    """Both graphs in the same rounds."""
    spec = models.SHAPES[models.M2].spec
    assert isinstance(spec, TransformerSpec)
    files = {"decode": TimedFile(decode(spec, encoding), spec.vocab_size), "products": TimedFile(products(spec, encoding), spec.vocab_size)}
    found = time_files(files, openings=OPENINGS, rounds=ROUNDS, slice_s=SLICE_S)
    size = streamed_bytes(spec, form, ours=True)
    alone = found["products", "products"]
    rate = float(np.median(machine.bandwidth(size, 1)))
    return Pair(form, found["decode", f"decode_{RUNG}"], alone, size / 1e6, size / alone / 1e6, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=RESULT)
    out = parser.parse_args().out
    rows = []
    for form, encoding in FORMS.items():
        print(f"{form} ...", file=sys.stderr, flush=True)
        rows.append(vars(measured(form, encoding)))
        print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in rows[-1].items()}))
    about = {
        "basis": "measured",
        "clock": "CPU time, 5th percentile, geometric mean over openings",
        "threads": 1,
        "machine": machine.facts(),
    }
    out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
