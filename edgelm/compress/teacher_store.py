"""A teacher's most likely tokens of every training position, on disk: a big teacher runs once, for all trainings on the same windows.

Positions are filled when a training first comes to them, so that a quarter of a pass costs a quarter of the teacher, and an interrupted
run goes on where it was. The top 32 of 3 M tokens take 390 MB: 2 bytes for an index (4 beyond 65,536 tokens) and 2 for a
log-probability.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.batches import Batch, Windows

if TYPE_CHECKING:
    from edgelm.compress.teacher import Teacher

LEAST = -60.0
"""Log of a mass that float16 holds and that adds nothing: what is left beside all tokens of a vocabulary."""

CHUNK = 1024
"""Tokens whose logits exist at a time."""


class TeacherStore:
    """Memory-mapped arrays in `FOLDER/KEY`; the key is of the teacher, the windows, `top_k` and the temperature.

    Args:
        teacher: Runs where nothing is stored yet.
        folder: Of all stores.
        top_k: Tokens kept of each position.
        temperature: Softens the distributions before they are kept.
    """

    def __init__(self, teacher: Teacher, folder: Path, top_k: int, temperature: float) -> None:
        self.teacher, self.folder, self.temperature = teacher, folder, temperature
        self.top_k = min(top_k, teacher.vocab_size)

    def open(self, windows: Windows) -> None:
        """Maps the arrays of these windows, which are made where there are none."""
        key = hashlib.sha256(f"{self.teacher.sha256} {windows.sha256} {self.top_k} {self.temperature}".encode()).hexdigest()[:32]
        place, total = self.folder / key, len(windows.tokens)
        index = np.uint16 if self.teacher.vocab_size <= 1 << 16 else np.int32
        if not place.exists():
            self._make(
                place,
                {
                    "indices": ((total, self.top_k), index),
                    "log_probs": ((total, self.top_k + 1), np.float16),
                    "done": ((total,), np.bool_),
                },
            )
        names = ("indices", "log_probs", "done")
        self.indices, self.log_probs, self.done = (np.load(place / f"{name}.npy", mmap_mode="r+") for name in names)

    def _make(self, place: Path, arrays: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        """Empty files, which take room as they are filled; all of them or none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".teacher-"))
        try:
            for name, (shape, dtype) in arrays.items():
                np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", dtype, shape).flush()  # type: ignore[no-untyped-call]
            temporary.replace(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def rows(self, batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """What the teacher says after each input of a batch; it runs for windows that it has not seen.

        Returns:
            Tokens (batch, time, k) and log-probabilities (batch, time, k + 1), the last that of all other tokens together.
        """
        real = batch.weights > 0
        missing = ~np.all(self.done[batch.positions] | ~real, axis=1)  # (batch,)
        if missing.any():
            at = batch.positions[missing][real[missing]]  # (tokens,)
            states = self.teacher.states(batch.ids[missing])[real[missing]]  # (tokens, size)
            for start in range(0, len(at), CHUNK):
                here = slice(start, start + CHUNK)
                self.indices[at[here]], self.log_probs[at[here]] = self._likely(states[here])
            self.done[at] = True  # after the rows: what is cut short is done again
        return self.indices[batch.positions].astype(np.int32), self.log_probs[batch.positions].astype(np.float32)

    def _likely(self, states: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(tokens, size) -> the likely tokens (tokens, k) and log-probabilities (tokens, k + 1)."""
        import tensorflow as tf

        log_p = tf.nn.log_softmax(self.teacher.logits(tf.constant(states)) / self.temperature)  # (tokens, vocab)
        values, indices = tf.math.top_k(log_p, self.top_k)
        others = tf.maximum(1.0 - tf.reduce_sum(tf.exp(values), axis=-1, keepdims=True), 0.0)
        rest = tf.maximum(tf.math.log(others), LEAST)
        return indices.numpy(), np.maximum(tf.concat([values, rest], axis=-1).numpy(), -60_000.0)  # what float16 holds
