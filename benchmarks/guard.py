"""What a step of the benchmark's small models costs, in figures that no clock enters: ops, bytes, and instructions on an arm64 core.

    python benchmarks/guard.py            # prints them beside the committed ones
    python benchmarks/guard.py --write    # commits new ones, after a change that is meant to move them

Instructions are those of a Cortex-A76 under QEMU, counted in the artifact's first signature (`edgelm doctor --setup-arm64`). They are the
same every time on every machine, which seconds are not, and a graph that grew an op or lost a fast kernel shows in them at once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from peers import models

from edgelm import recipe
from edgelm.compress.run import apply
from edgelm.device import emulator
from edgelm.errors import EmulatorError
from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.tflite import reader
from edgelm.validate.arm64_calls import record

COMMITTED = Path(__file__).parent / "results" / "guard.json"
GUARDED = (models.M1, models.M3)
CORE = "cortex-a76"
REPEATS = 2
"""The first run of a call is counted with what it sets up; the last one's count is kept."""


def lowered(name: str) -> bytes:
    """The int8 artifact's graph of a benchmarked model, without manifest and tokenizer, which name versions."""
    spec = models.SHAPES[name].spec
    model = LanguageModel(spec, dict(models.random_weights(spec)), name=name)
    for step in recipe.load("int8").steps:
        model = apply(model, step)
    return direct.lower(model).tflite


def graph_figures(tflite: bytes) -> dict[str, Any]:
    """Bytes of the file, and for each signature its ops by kind."""
    model = reader.read(tflite)
    ops = {
        signature.name: dict(sorted(Counter(op.name for op in model.ops if op.subgraph == signature.subgraph).items()))
        for signature in model.signatures
    }
    return {"bytes": len(tflite), "ops": ops}


def instructions(tflite: bytes, machine: emulator.Machine) -> int:
    """Instructions of one token by the first signature: the fewest of its recorded calls.

    Raises:
        EmulatorError: The run failed, or the machine does not count.
    """
    name = reader.outline(tflite).signatures[0].name
    core = next(core for core in machine.cores if core.name == CORE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(tflite)
        calls = [call.inputs for call in record(path, [name])[name]]
        run = machine.run(core, path, name, calls, repeat=REPEATS, timeout=600.0)
    if run.counts is None:
        raise EmulatorError(f"{machine.title} counts no instructions", allowed="the emulator", fix="edgelm doctor --setup-arm64")
    return min(count["total"] for count in run.counts)


def figures(machine: emulator.Machine) -> dict[str, dict[str, Any]]:
    """Of every guarded model."""
    found = {}
    for name in GUARDED:
        tflite = lowered(name)
        found[name] = {**graph_figures(tflite), "instructions": instructions(tflite, machine)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="commit the figures")
    arguments = parser.parse_args()
    machine = emulator.find()
    if machine is None:
        raise SystemExit("the emulator is not set up: edgelm doctor --setup-arm64")
    found = figures(machine)
    known = json.loads(COMMITTED.read_text())["models"] if COMMITTED.is_file() else {}
    for name, figure in found.items():
        before = known.get(name, {})
        print(name, *(f"{key} {figure[key]:,} (committed {before.get(key, 0):,})" for key in ("bytes", "instructions")), sep="  ")
    if arguments.write:
        COMMITTED.write_text(
            json.dumps({"basis": "instructions", "core": CORE, "machine": machine.title, "models": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
