"""Times calls of several models against each other on a machine that is never quite still.

All models are open at once and take turns, round by round, so that a slow second of the machine hits all of them alike. The clock is the
calling thread's CPU time, which stands still while another process has the core; with one thread the runtime computes in the caller.
It takes a system call to read, so that short calls are timed by the batch. What counts is the 5th percentile of the batches: company
on the core's other hyperthread and in the caches only ever adds time (a shared machine ran at half its speed for most of a minute), and
the very fastest may be a lucky one.

Then all are closed and opened again in another order: whether weights that just fit a cache stay there depends on the physical pages
they got, for as long as they live. The geometric mean over the openings counts.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgelm.runtime.engine import Call, Engine

FAST = 5
"""Percentile of the batches that counts."""
MIN_BATCHES = 3
WARM_UP = 2
BATCH_S = 0.0005
"""Reading the clock takes under a thousandth of it."""

OnRound = Callable[[int, int], None]


def fill(call: Call, vocab: int, seed: int = 0) -> None:
    """Puts likely values into the inputs of a call: ids under `vocab`, floats of a normal distribution, a mask that hides nothing."""
    rng = np.random.default_rng(seed)
    for name, tensor in call.inputs.items():
        if tensor.dtype == np.float32 and name != "mask":
            tensor[...] = rng.standard_normal(tensor.shape, np.float32)
        elif tensor.dtype in (np.int32, np.int64) and name in ("token", "tokens", "ids"):
            tensor[...] = rng.integers(0, vocab, tensor.shape)


@dataclass(frozen=True)
class TimedFile:
    """A file whose signatures are timed.

    Attributes:
        tflite: The file.
        vocab: Ids in its inputs are under this.
    """

    tflite: bytes
    vocab: int


def time_files(
    files: Mapping[str, TimedFile],
    *,
    openings: int,
    rounds: int,
    slice_s: float,
    on_round: OnRound = lambda done, total: None,
) -> dict[tuple[str, str], float]:
    """The CPU time of a call of every signature of every file.

    Args:
        files: Label -> file.
        openings: How often all of them are opened.
        rounds: How often each signature has its turn in one opening.
        slice_s: How long a turn takes, s; at least `MIN_BATCHES` batches.
        on_round: Progress: rounds done, rounds in all.

    Returns:
        (Label, signature) -> ms: the geometric mean over the openings of the 5th percentile of the batches in each.
    """
    logarithms: dict[tuple[str, str], list[float]] = {}
    labels = list(files)
    for opening in range(openings):
        gc.collect()  # the calls of the opening before hold their memory until then
        random.Random(opening).shuffle(labels)
        calls = {key: call for label in labels for key, call in _opened(label, files[label]).items()}
        times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for done in range(rounds):
            on_round(opening * rounds + done, openings * rounds)
            for key, call in calls.items():
                times[key] += _turn(call, slice_s)
        for key, found in times.items():
            logarithms.setdefault(key, []).append(float(np.log(np.percentile(found, FAST))))
        calls.clear()
    return {key: float(np.exp(np.mean(found))) for key, found in logarithms.items()}


def _opened(label: str, file: TimedFile) -> dict[tuple[str, str], Call]:
    engine = Engine(file.tflite)
    calls = {(label, signature): engine.call(signature) for signature in engine.signatures}
    for call in calls.values():
        fill(call, file.vocab)
    return calls


def _turn(call: Call, slice_s: float) -> Sequence[float]:
    """Times of a call, ms, one for each batch; the first calls bring the weights back into the caches and are left out."""
    for _ in range(WARM_UP):
        call.invoke()
    began = time.thread_time()
    call.invoke()
    once = time.thread_time() - began
    batch = max(1, round(BATCH_S / max(once, 1e-7)))
    times: list[float] = []
    left = slice_s
    while len(times) < MIN_BATCHES or left > 0:
        began = time.thread_time()
        for _ in range(batch):
            call.invoke()
        spent = time.thread_time() - began
        times.append(spent / batch * 1e3)
        left -= spent
    return times
