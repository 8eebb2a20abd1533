"""Keeps native libraries off stderr: they write there themselves, past Python."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """For its time, what libraries write to stderr leads nowhere; exceptions pass.

    TensorFlow prints a dozen lines on absent graphics cards while it is imported, before it reads any setting of its own, and LiteRT one
    line for each delegate it makes.
    """
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
