"""The calls an arm64 proof repeats: what the sessions of this host give each signature, and what LiteRT answers here."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from edgelm.runtime.transformer import DECODE, PREFILL, WORTH_PREFILL, TransformerSession

Tensors = Mapping[str, NDArray[Any]]

SEED = 0
SAMPLED = 64
"""Tokens of the text the model writes; longer contexts repeat it."""

STEPS, DECODES, WINDOWS = 8, 3, 3
"""Calls of a recurrent model, of each rung of a transformer (first, middle and last slot), and of a graph converted as it is."""


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


def record(model: Path, chosen: Collection[str] | None = None) -> Mapping[str, tuple[RecordedCall, ...]]:
    """Runs a model on this host the way an app does and keeps a few calls of each signature.

    A recurrent model takes consecutive steps of a text it writes itself; a transformer decodes at the first, the middle and the last slot
    of each rung and prefills a chunk, not quite full, behind another; a graph converted as it is sees windows of several fills.

    Args:
        model: A .tflite with signatures edgelm can run.
        chosen: Signatures; None for all.

    Returns:
        Signature -> its calls, in the file's order, without those that no session would call.

    Raises:
        RuntimeFailure: The model cannot be run here.

    Example:
        >>> {name: len(calls) for name, calls in record(Path("chat/model.tflite")).items()}
        {'decode_128': 3, 'decode_256': 3, 'decode_512': 3, 'prefill_64': 1, 'prefill_32': 1}
    """
    recorder = Recorder()
    engine = recording_engine(model, recorder)
    if STEP in engine.signatures:
        _steps(RecurrentSession(engine), recorder)
    elif any(DECODE.fullmatch(name) for name in engine.signatures):
        _decodes(TransformerSession(engine), list(engine.signatures), engine.signatures if chosen is None else chosen, recorder)
    elif FORWARD in engine.signatures:
        _windows(ForwardSession(engine), recorder)
    else:
        raise RuntimeFailure(f"the model has no signature edgelm can run (it has: {', '.join(engine.signatures) or 'none'})")
    return {name: tuple(recorder.calls[name]) for name in engine.signatures if name in recorder.calls}


def calls_of(signature: str) -> int:
    """How many calls `record` keeps of a signature, by its name."""
    if DECODE.fullmatch(signature):
        return DECODES
    return 1 if PREFILL.fullmatch(signature) else {STEP: STEPS}.get(signature, WINDOWS)


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


def _steps(session: RecurrentSession, recorder: Recorder) -> None:
    text = written_text(session, 2 * STEPS)
    session.prefill(text[:STEPS])
    with recorder.recording():
        session.prefill(text[STEPS:])


def _decodes(session: TransformerSession, names: Sequence[str], chosen: Collection[str], recorder: Recorder) -> None:
    rungs = sorted(int(match[1]) for name in chosen if (match := DECODE.fullmatch(name)))
    text = written_text(session, rungs[-1])
    for first, slots in zip([0, *rungs], rungs, strict=False):
        for position in np.unique(np.linspace(first, slots - 1, DECODES).astype(int)):
            if position > session.position:
                session.prefill(text[session.position : position])
            with recorder.recording():
                session.step(text[position])
    sizes = sorted(int(match[1]) for name in names if (match := PREFILL.fullmatch(name)))
    for size, larger in zip(sizes, [*sizes[1:], math.inf], strict=False):
        if f"prefill_{size}" not in chosen:
            continue
        session.reset()
        if 2 * size <= rungs[-1]:
            session.prefill(text[:size])
        count = min(3 * size // 4, larger * WORTH_PREFILL - 1)  # so few that the session does not take the larger chunk
        with recorder.recording():
            session.prefill(text[: max(2, int(count))])


def _windows(session: ForwardSession, recorder: Recorder) -> None:
    assert session.max_positions is not None  # a window has an end
    text = written_text(session, session.max_positions)
    with recorder.recording():
        for length in np.unique(np.linspace(1, session.max_positions, WINDOWS).astype(int)):
            session.reset()
            session.prefill(text[:length])
