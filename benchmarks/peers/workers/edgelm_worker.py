"""edgelm: converted from the folder as `edgelm convert` does it, run by its Python sessions (the native host is a program of its own)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import job as jobs
import numpy as np
from job import Job

PLAIN = Path(__file__).parents[1] / "int4-block32-plain.toml"
"""4 bits in blocks of 32 for the head and embedding, too, rounded plainly."""
STAGES = ("importing edgelm", "reading with hash and tokenizer", "rounding and lowering", "packing and writing")
"""Of a conversion; Python's own start and end come on top."""


def convert(job: Job) -> dict[str, float]:
    """Read, round, lower, pack with the tokenizer and the manifest, write; not proven and measured, as the peers' are not."""
    times = [time.perf_counter()]
    from edgelm import artifact, manifest, pipeline, recipe, source

    times.append(time.perf_counter())
    imported = source.load(job.source)
    times.append(time.perf_counter())
    chosen = recipe.load(str(PLAIN) if job.form == PLAIN.stem else job.form)
    built = pipeline.build(imported.model, chosen, cache=None)
    times.append(time.perf_counter())
    facts = manifest.build(built.model, chosen, "android-arm64", built.tflite, built.encodings)
    job.artifact.write_bytes(artifact.pack(built.tflite, facts, built.model.tokenizer))
    times.append(time.perf_counter())
    return {stage: end - begin for stage, (begin, end) in zip(STAGES, itertools.pairwise(times), strict=True)}


class Session:
    """`edgelm.runtime`'s session."""

    def __init__(self, job: Job) -> None:
        from edgelm.runtime.session import open_session

        self.session = open_session(job.artifact, threads=job.threads)

    def reset(self) -> None:
        """See `job.Session`."""
        self.session.reset()

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        return self.session.prefill(ids) if len(ids) > 1 else self.session.step(ids[0])


if __name__ == "__main__":
    jobs.run(convert, Session)
