"""The calls an arm64 proof repeats: what the sessions of this host give each signature, and what LiteRT answers here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RuntimeFailure
from edgelm.runtime.base import Session
from edgelm.runtime.engine import Call, Engine
from edgelm.runtime.forward import FORWARD, ForwardSession
from edgelm.runtime.recurrent import STEP, RecurrentSession
from edgelm.runtime.transformer import DECODE, PREFILL, TransformerSession

Tensors = Mapping[str, NDArray[Any]]

SEED = 0
SAMPLED = 64
"""Tokens of the text the model writes; longer contexts repeat it."""


@dataclass(frozen=True)
class RecordedCall:
    """One call: copies of its inputs and of what LiteRT on this host made of them, name -> array."""

    inputs: Tensors
    outputs: Tensors


@dataclass
class Recorder:
    """Keeps the calls it is told to.

    Attributes:
        calls: Signature -> its calls, in order.
        on: Whether to keep what is called now.
    """

    calls: dict[str, list[RecordedCall]] = field(default_factory=dict)
    on: bool = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """For its time, calls are kept."""
        self.on = True
        try:
            yield
        finally:
            self.on = False


class _RecordingCall(Call):
    """A call whose recorder is looked up in its class; `recording_engine` makes a class for each engine."""

    recorder: Recorder

    def invoke(self) -> None:
        if not self.recorder.on:
            super().invoke()
            return
        inputs = {name: array.copy() for name, array in self.inputs.items()}
        super().invoke()
        outputs = {name: array.copy() for name, array in self.outputs.items()}
        self.recorder.calls.setdefault(self.name, []).append(RecordedCall(inputs, outputs))


def recording_engine(model: Path, recorder: Recorder) -> Engine:
    """LiteRT on this host, whose calls the recorder sees."""

    class Recording(_RecordingCall):
        pass

    class RecordingEngine(Engine):
        call_class = Recording

    Recording.recorder = recorder
    return RecordingEngine(model)


def record(model: Path, calls: int) -> Mapping[str, tuple[RecordedCall, ...]]:
    """Runs a model on this host the way an app does and keeps a few calls of each signature.

    A recurrent model takes consecutive steps of a text it writes itself; a transformer decodes at the first, the last and slots between
    of each rung and prefills a whole and a part of a chunk, behind each other; a graph converted as it is sees windows of several fills.

    Args:
        model: A .tflite with signatures edgelm can run.
        calls: Of each signature.

    Returns:
        Signature -> its calls, in the file's order; empty for one that no session would call.

    Raises:
        RuntimeFailure: The model cannot be run here.
    """
    recorder = Recorder()
    engine = recording_engine(model, recorder)
    if STEP in engine.signatures:
        _steps(RecurrentSession(engine), recorder, calls)
    elif any(DECODE.fullmatch(name) for name in engine.signatures):
        _decodes(TransformerSession(engine), engine, recorder, calls)
    elif FORWARD in engine.signatures:
        _windows(ForwardSession(engine), recorder, calls)
    else:
        raise RuntimeFailure(f"the model has no signature edgelm can run (it has: {', '.join(engine.signatures) or 'none'})")
    return {name: tuple(recorder.calls.get(name, ())[:calls]) for name in engine.signatures}


def written_text(session: Session[Any], length: int) -> list[int]:
    """Tokens the model itself samples at temperature 1, the same each time; the session is reset."""
    rng = np.random.default_rng(SEED)
    session.reset()
    tokens = [int(rng.integers(session.vocab_size))]
    while len(tokens) < min(length, SAMPLED):
        logits = session.step(tokens[-1])
        tokens.append(int(np.argmax(logits + rng.gumbel(size=logits.shape))))
    session.reset()
    return (tokens * (length // len(tokens) + 1))[:length]


def _steps(session: RecurrentSession, recorder: Recorder, calls: int) -> None:
    text = written_text(session, 2 * calls)
    session.prefill(text[:calls])
    with recorder.recording():
        session.prefill(text[calls:])


def _decodes(session: TransformerSession, engine: Engine, recorder: Recorder, calls: int) -> None:
    rungs = sorted(int(match[1]) for name in engine.signatures if (match := DECODE.fullmatch(name)))
    text = written_text(session, rungs[-1])
    for first, slots in zip([0, *rungs], rungs, strict=False):
        for position in np.unique(np.linspace(first, slots - 1, calls).astype(int)):
            if position > session.position:
                session.prefill(text[session.position : position])
            with recorder.recording():
                session.step(text[position])
    for size in sorted(int(match[1]) for name in engine.signatures if (match := PREFILL.fullmatch(name))):
        session.reset()
        with recorder.recording():
            for count in (size, max(2, (size + 3) // 4)):
                if session.position + size <= rungs[-1]:
                    session.prefill(text[session.position : session.position + count])


def _windows(session: ForwardSession, recorder: Recorder, calls: int) -> None:
    assert session.max_positions is not None  # a window has an end
    text = written_text(session, session.max_positions)
    with recorder.recording():
        for length in np.unique(np.linspace(1, session.max_positions, calls).astype(int)):
            session.reset()
            session.prefill(text[:length])
