"""Opens a .tflite file as a session, by the signatures it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgelm.errors import RuntimeFailure
from edgelm.runtime.base import Session
from edgelm.runtime.engine import Engine
from edgelm.runtime.forward import FORWARD, ForwardSession
from edgelm.runtime.recurrent import STEP, RecurrentSession
from edgelm.runtime.transformer import DECODE, TransformerSession

__all__ = ["ForwardSession", "RecurrentSession", "Session", "TransformerSession", "open_session"]


def open_session(model: bytes | Path, *, runtime: str = "ai-edge-litert", threads: int = 1, batch: int = 1) -> Session[Any]:
    """Loads a model and opens the session that its signatures call for.

    Args:
        model: A .tflite file, or its bytes.
        runtime: `ai-edge-litert` or `tflite-runtime`.
        threads: Threads of the runtime's own pool.
        batch: Texts side by side; more than 1 for recurrent models only.

    Returns:
        A `RecurrentSession` (signature `step`), `TransformerSession` (`decode_C`) or `ForwardSession` (`forward`).

    Raises:
        RuntimeFailure: The file cannot be loaded or run, or has none of these signatures.
        MissingDependencyError: The runtime is not installed.
    """
    engine = Engine(model, runtime=runtime, threads=threads)
    if STEP in engine.signatures:
        return RecurrentSession(engine, batch)
    if batch != 1:
        raise RuntimeFailure(f"batch = {batch}: only recurrent models run several texts side by side", allowed="batch = 1")
    if any(DECODE.fullmatch(name) for name in engine.signatures):
        return TransformerSession(engine)
    if FORWARD in engine.signatures:
        return ForwardSession(engine)
    met = ", ".join(engine.signatures) or "none"
    raise RuntimeFailure(
        f"the model has no signature edgelm can run (it has: {met})",
        allowed=f"{STEP}, decode_C (with prefill_T), {FORWARD}",
        fix="convert the source model with edgelm convert",
    )
