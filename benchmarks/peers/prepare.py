"""Everything before the clock runs: environments, source folders, conversions, and the proof that a peer computes the same model."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers import models, processes, reference
from peers.cells import CELLS, ENVIRONMENT, Cell
from peers.environments import ENVIRONMENTS, HOME, PeerUnavailableError

FACTS = HOME / "prepared"
"""A file for each cell."""
QUICK_S, CONVERSIONS = 10.0, 5
"""A conversion of fewer seconds is done so many times."""
FARTHEST = {32: 1e-3, 16: 0.02, 8: 0.15, 4: 0.65}
"""Bits -> the largest relative difference of the logits: rounding random weights of 30 layers to 4 bits alone makes 0.55 of it."""


@dataclass(frozen=True)
class Agreement:
    """How near a peer's logits are to the float reference.

    Attributes:
        difference: |peer - reference| / |reference|, over all calls.
        top1: Share of calls in which both prefer the same token.
        same: The difference is within `FARTHEST`.
    """

    difference: float
    top1: float
    same: bool


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32], nominal: int) -> Agreement:
    """Compares logits (calls, vocab).

    Raises:
        PeerUnavailableError: They have another shape.
    """
    if found.shape != expected.shape:
        raise PeerUnavailableError(f"gives logits of shape {found.shape}, not {expected.shape}")
    difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    top1 = float(np.mean(found.argmax(1) == expected.argmax(1)))
    return Agreement(difference, top1, difference <= FARTHEST[nominal])


def expected_logits(model: str) -> NDArray[np.float32]:
    """The reference's logits of the calls that `processes.spoken` makes, kept beside the model."""
    file = HOME / "models" / model / f"reference-{models.SEED}-{processes.SPOKEN}.npy"
    if not file.exists():
        shape = models.SHAPES[model]
        whole = reference.logits(shape.spec, shape.weights(), models.prompt(shape.spec, processes.SPOKEN))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, whole[processes.SPOKEN_PREFILL - 1 :])
    return np.asarray(np.load(file), np.float32)


def prepare(cells: list[Cell], *, opt_in: bool, compiling: bool, anew: bool = False) -> dict[str, dict[str, Any]]:
    """Brings every cell to where it can be timed.

    Args:
        cells: Which.
        opt_in: The environments that take longest, too.
        compiling: Those that need a compiler, too.
        anew: Convert what was converted before.

    Returns:
        Cell -> `bytes`, `convert_s`, `convert_gb`, `agreement`, or `error`; kept in a file, so that nothing is done twice.
    """
    facts = known()
    for cell in dict.fromkeys([*(cell.maker for cell in cells), *cells]):
        before = facts.get(cell.name, {})
        if "agreement" in before and cell.artifact.exists() and not anew:
            continue
        print(f"{cell.name}: preparing", file=sys.stderr, flush=True)
        try:
            require_environment(cell, opt_in=opt_in, compiling=compiling)
            facts[cell.name] = prepared(cell, facts, anew)
        except PeerUnavailableError as error:
            facts[cell.name] = {**conversion_of(before), "error": str(error)}
        keep(cell, facts[cell.name])
    return facts


def known() -> dict[str, dict[str, Any]]:
    """What was prepared before."""
    files = {cell.name: fact_file(cell) for cell in CELLS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def keep(cell: Cell, facts: dict[str, Any]) -> None:
    """Writes what preparing a cell found."""
    FACTS.mkdir(parents=True, exist_ok=True)
    fact_file(cell).write_text(json.dumps(facts, indent=1) + "\n")


def fact_file(cell: Cell) -> Path:
    """Such as `m2-llama.cpp-Q8_0.json`."""
    return FACTS / f"{cell.name.replace('/', '-')}.json"


def require_environment(cell: Cell, *, opt_in: bool, compiling: bool) -> None:
    """Installs the peer of a cell.

    Raises:
        PeerUnavailableError: It cannot be, or was not asked for.
    """
    environment = ENVIRONMENTS.get(ENVIRONMENT.get(cell.peer, ""))
    if environment is None:
        return
    if environment.opt_in and not opt_in and not cell.artifact.exists():
        raise PeerUnavailableError(f"left out: {environment.cost}; python benchmarks/bench.py prepare --opt-in {cell.name}")
    if environment.compiles and not compiling and not environment.ready:
        raise PeerUnavailableError(f"left out of a quick run: needs compiling ({environment.cost})")
    environment.make()


def prepared(cell: Cell, facts: dict[str, dict[str, Any]], anew: bool) -> dict[str, Any]:
    """Converts a cell and compares its logits.

    Raises:
        PeerUnavailableError: A process failed.
    """
    if not cell.source.exists():
        models.write(models.SHAPES[cell.model], cell.source)
    if cell.maker != cell:
        made = facts.get(cell.maker.name, {})
        if made.get("error") or not cell.artifact.exists():
            raise PeerUnavailableError(f"wants what {cell.maker.name} makes, which is not there")
        figures = conversion_of(made)
    else:
        figures = conversion_of(facts.get(cell.name, {}))
        if anew or not cell.artifact.exists() or not figures:
            figures = converted(cell)
    if not cell.speaks:  # it runs litert-torch's file, whose logits are compared
        return {**figures, "agreement": None}
    found = agreement(processes.spoken(cell), expected_logits(cell.model), cell.nominal)
    return {**figures, "agreement": asdict(found)}


def conversion_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a conversion."""
    return {key: value for key, value in facts.items() if key in ("bytes", "convert_s", "convert_gb", "convert_others", "stages")}


def converted(cell: Cell) -> dict[str, Any]:
    """Converts in a process of its own: what the conversion takes, Python's start included; of a quick one, the median of several.

    Raises:
        PeerUnavailableError: It failed.
    """
    cell.artifact.parent.mkdir(parents=True, exist_ok=True)
    runs = [convert_once(cell)]
    if runs[0]["convert_s"] < QUICK_S:
        runs += [convert_once(cell) for _ in range(CONVERSIONS - 1)]
    read_back(cell.artifact)
    return sorted(runs, key=lambda run: run["convert_s"])[len(runs) // 2]


def convert_once(cell: Cell) -> dict[str, Any]:
    """One conversion: its figures, and seconds of its stages where the peer's worker counts them.

    Raises:
        PeerUnavailableError: It failed.
    """
    remove(cell.artifact)  # onnx appends to a file of external weights that is there
    result, finished = processes.work(cell, "convert", 1)
    return {
        "bytes": result["bytes"],
        "convert_s": finished.seconds,
        "convert_gb": finished.peak_mb / 1e3,
        "convert_others": round(finished.others, 2),
        "stages": result["stages"],
    }


def read_back(path: Path) -> None:
    """Has a file, or those of a folder, lie in memory as read from storage, as on a phone, and not as written a moment ago.

    Pages that were written in one go stay together in blocks so large that reading one row of a table maps a large part of it.
    """
    for file in [path] if path.is_file() else [inside for inside in path.rglob("*") if inside.is_file()]:
        with file.open("rb") as stream:
            if hasattr(os, "posix_fadvise"):  # Linux
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while stream.read(1 << 20):
                pass


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def artifact_missing(cell: Cell) -> str:
    """Why a cell cannot be timed; empty when it can."""
    facts = known().get(cell.name, {})
    if facts.get("error"):
        return str(facts["error"])
    return "" if Path(cell.artifact).exists() else f"not prepared: python benchmarks/bench.py prepare {cell.name}"
