"""How well the latency model predicts this machine: `make bench-latency`.

The small graphs of `edgelm profiles calibrate --host` fit a profile of this machine, and models that are not among them are predicted by
it: the two bundled ones and others with random weights, in four recipes, as steps, as decodes on several rungs and as prefills. Prints a
table and writes JSON; exits with 3 when the error is above the limits.

Graphs and models take turns in the same rounds, by the same clock (CPU time of the calling thread, 5th percentile; the geometric mean over
eight times that all were opened anew): the memory of a shared machine may be half as fast a minute later, and the question here is how
true the model is, not how steady the machine. The load at the time is written down.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm import recipe as recipes
from edgelm import source
from edgelm.compress import quantize
from edgelm.device.cost import StepCost, step_cost
from edgelm.device.latency import predict
from edgelm.device.profile import DeviceProfile
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.models import static_sites
from edgelm.recipe_steps import Quantize
from edgelm.runtime.engine import Engine
from edgelm.spec import DenseLayer, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.reader import read
from edgelm.validate.host_calibration import fit_host, graph_files
from edgelm.validate.timed_calls import TimedFile, time_files

RESULT = Path(__file__).parent / "results" / "latency.json"
MEDIAN_LIMIT, WORST_LIMIT = 0.20, 0.40
OPENINGS, ROUNDS, SLICE_S = 8, 3, 0.03
BUNDLED = ("keyboard-lstm", "chat-transformer")
RANDOM: Mapping[str, ModelSpec] = {
    "LSTM 0.4 M": RecurrentSpec(4000, 64, "lstm", (128,), hidden=(DenseLayer(64),), tied_head=True),
    "GRU 5 M": RecurrentSpec(8000, 256, "gru", (512, 512), hidden=(DenseLayer(256),), tied_head=True),
    "CIFG 1.4 M": RecurrentSpec(10_000, 96, "cifg", (256,), hidden=(DenseLayer(96),), tied_head=True),
    "Llama 3 M": TransformerSpec(6000, 192, 4, 6, 6, 32, 640, 512),
    "GPT-2 12 M": TransformerSpec(8000, 320, 8, 5, 5, 64, 1280, 256, position="learned", norm="layer", activation="gelu", gated=False,
                                  qkv_bias=True, output_bias=True, ffn_bias=True),
    "Llama 30 M": TransformerSpec(16_000, 512, 8, 8, 2, 64, 1408, 256),
}  # fmt: skip
RECIPES = ("float32", "int8", "int4-block32")
FULL_INT8 = "full int8"
FULL_INT8_MODELS = ("LSTM 0.4 M", "Llama 3 M")


@dataclass(frozen=True)
class Pair:
    """One model in one recipe."""

    model: str
    recipe: str
    tflite: bytes
    vocab: int


@dataclass(frozen=True)
class Row:
    """One signature of a pair: measured and predicted, ms a call."""

    model: str
    recipe: str
    signature: str
    measured: float
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.measured - 1


def pairs() -> Iterator[Pair]:
    """Every model in every recipe that is written for it."""
    models = {name: _bundled(name) for name in BUNDLED} | {name: _random(spec) for name, spec in RANDOM.items()}
    for name, model in models.items():
        for recipe in RECIPES:
            yield Pair(name, recipe, _lowered(model, recipe), model.spec.vocab_size)
        if name in FULL_INT8_MODELS:
            ranges = dict.fromkeys(static_sites.sites(model.spec), (-4.0, 4.0))
            static = LanguageModel(model.spec, model.weights, ranges=ranges)
            yield Pair(name, FULL_INT8, _lowered(static, "int8"), model.spec.vocab_size)


def _bundled(name: str) -> LanguageModel:
    model = source.load(name).model
    assert isinstance(model, LanguageModel)
    return model


def _random(spec: ModelSpec) -> LanguageModel:
    rng = np.random.default_rng(11)
    shapes = weight_shapes(spec)
    weights = {
        name: rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5) if len(shape) == 2 else np.ones(shape, np.float32)
        for name, shape in shapes.items()
    }
    return LanguageModel(spec, weights)


def _lowered(model: LanguageModel, recipe: str) -> bytes:
    chosen = recipes.load(recipe)
    for step in chosen.steps:
        assert isinstance(step, Quantize)
        model = quantize.apply(model, step)
    return direct.lower(model, form=chosen.form).tflite


def pair_files() -> tuple[dict[str, TimedFile], dict[tuple[str, str], StepCost]]:
    """Every pair's file by `model<tab>recipe`, and what a call of each of its signatures does."""
    files: dict[str, TimedFile] = {}
    costs: dict[tuple[str, str], StepCost] = {}
    for pair in pairs():
        label, model = f"{pair.model}\t{pair.recipe}", read(pair.tflite)
        files[label] = TimedFile(pair.tflite, pair.vocab)
        costs |= {(label, signature.name): step_cost(model, signature.name) for signature in model.signatures}
        print(f"  {pair.model}, {pair.recipe}: {len(pair.tflite) / 1e6:.1f} MB", file=sys.stderr)
    return files, costs


def predicted(costs: Mapping[tuple[str, str], StepCost], measured: Mapping[tuple[str, str], float], profile: DeviceProfile) -> list[Row]:
    """The pairs' calls with what they took and what the profile says."""
    rows = []
    for key, cost in costs.items():
        estimate, tokens = predict(cost, profile), cost.tokens
        (model_name, recipe), signature = key[0].split("\t"), key[1]
        figures = (estimate.ms_per_token * tokens, estimate.low * tokens, estimate.high * tokens)
        rows.append(Row(model_name, recipe, signature, measured[key], *figures))
    return rows


def summary(rows: list[Row]) -> dict[str, Any]:
    """The errors of pairs: of each the signature an app calls most, and of all signatures."""
    whole = [abs(row.error) for row in rows]
    inside = sum(row.low <= row.measured <= row.high for row in rows) / len(rows)
    return {
        "pairs": len({(row.model, row.recipe) for row in rows}),
        "signatures": len(rows),
        "median_error": round(statistics.median(whole), 3),
        "worst_error": round(max(whole), 3),
        "inside_interval": round(inside, 3),
        "passed": statistics.median(whole) <= MEDIAN_LIMIT and max(whole) <= WORST_LIMIT,
    }


def _table(rows: list[Row]) -> str:
    lines = [f"{'model':<18}{'recipe':<14}{'signature':<13}{'measured ms':>12}{'predicted ms':>13}{'error':>8}  interval"]
    for row in rows:
        figures = f"{row.measured:>12.4f}{row.predicted:>13.4f}{row.error:>8.0%}  {row.low:.4f} to {row.high:.4f}"
        lines.append(f"{row.model:<18}{row.recipe:<14}{row.signature:<13}{figures}")
    return "\n".join(lines)


def main() -> int:
    """Fits, measures, predicts; 0 when the errors are within the limits, else 3."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=RESULT)
    out = parser.parse_args().out
    load = os.getloadavg()[0]
    graphs = graph_files(lambda stage, done, total: None)
    files, costs = pair_files()
    measured = time_files(
        {**graphs.files, **files},
        openings=OPENINGS,
        rounds=ROUNDS,
        slice_s=SLICE_S,
        on_round=lambda done, total: print(f"  round {done} of {total}", file=sys.stderr),
    )
    calibration = fit_host(graphs.observed(measured))
    fitted = [math.log(after / one.ms) for after, one in zip(calibration.after, calibration.observations, strict=True)]
    rows = predicted(costs, measured, calibration.profile)
    result = summary(rows) | {"limits": {"median_error": MEDIAN_LIMIT, "worst_error": WORST_LIMIT}}
    print(_table(rows))
    print(json.dumps(result, indent=1))
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "runtime": Engine(next(pairs()).tflite).runtime,
    }
    fit = {"calls": len(fitted), "median_error": round(statistics.median(abs(math.expm1(miss)) for miss in fitted), 3)}
    clock = f"CPU time of the calling thread, 5th percentile, geometric mean over {OPENINGS} openings"
    content = result | {"basis": "measured", "clock": clock, "machine": machine, "fit": fit}
    content["rows"] = [vars(row) | {"error": round(row.error, 3)} for row in rows]
    out.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if result["passed"] else 3


if __name__ == "__main__":
    sys.exit(main())
