"""Times calls of several models against each other on a machine that is never quite still.

All models are open at once and take turns, round by round, so that a slow second of the machine hits all of them alike. The clock is the
calling thread's CPU time, which stands still while another process has the core; with one thread the runtime computes in the caller.
It takes a system call to read, so that short calls are timed by the batch. What counts is the 5th percentile of the batches: company
on the core's other hyperthread and in the caches only ever adds time (a shared machine ran at half its speed for most of a minute), and
the very fastest may be a lucky one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgelm.runtime.engine import Call

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


def time_calls(calls: Mapping[str, Call], *, rounds: int, slice_s: float, on_round: OnRound = lambda done, total: None) -> dict[str, float]:
    """The 5th percentile of the CPU time of each call, ms.

    Args:
        calls: Label -> call, its inputs filled.
        rounds: How often each has its turn.
        slice_s: How long a turn takes, s; at least `MIN_BATCHES` batches.
        on_round: Progress: rounds done, rounds in all.
    """
    times: dict[str, list[float]] = {label: [] for label in calls}
    for done in range(rounds):
        on_round(done, rounds)
        for label, call in calls.items():
            times[label] += _turn(call, slice_s)
    return {label: float(np.percentile(found, FAST)) for label, found in times.items()}


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
