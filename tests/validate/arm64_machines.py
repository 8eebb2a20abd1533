"""Stand-ins for arm64 machines: they run the calls on this host and change the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.device.emulator import CORES, Core, Run
from edgelm.device.runner import Tensors
from edgelm.errors import EmulatorError
from edgelm.runtime.engine import Engine

Change = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class HostMachine:
    """Answers with what LiteRT on this host computes, changed; a core named in `crashes` crashes."""

    change: Change = np.copy
    crashes: str = ""
    counted: bool = True
    title: str = "a stand-in"
    cores: tuple[Core, ...] = CORES

    def run(self, core: Core, model: Path, signature: str, calls: Sequence[Tensors], *, repeat: int, timeout: float) -> Run:
        if core.name == self.crashes:
            raise EmulatorError(f"signature {signature!r} on {core.name}: died", fix="report it")
        call = Engine(model).call(signature)
        answers = []
        for given in calls:
            for name, array in given.items():
                call.inputs[name][...] = array
            call.invoke()
            answers.append({name: self.change(array) for name, array in call.outputs.items()})
        counts = [{"total": 1000 + i, "fmla": 1, "widening": 0, "dot": 7, "mmla": 0, "sve": 0} for i in range(len(calls))]
        return Run(answers, counts if self.counted else None)


def off_by(relative: float) -> Change:
    """Moves every number by a share of the largest."""
    return lambda array: (array + relative * np.abs(array).max()).astype(array.dtype)


def reversed_order(array: NDArray[Any]) -> NDArray[Any]:
    """Another token becomes the likeliest."""
    return array[..., ::-1].copy()
