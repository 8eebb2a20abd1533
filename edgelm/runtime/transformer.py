"""Sessions of transformers: a ladder of `decode_C` signatures and optional `prefill_T` ones over caches the host keeps.

The caches are input tensors of the runtime, written in place. A call returns only the new rows, which are copied to their slot
(kv_heads * head_dim numbers a layer). Decoding uses the smallest rung with a free slot; the used part of the caches is copied once
when the session moves to another signature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RuntimeFailure
from edgelm.runtime.base import Logits, Session
from edgelm.runtime.engine import Call, Engine

DECODE = re.compile(r"decode_(\d+)")
PREFILL = re.compile(r"prefill_(\d+)")
MASKED = np.float32(-1e9)
"""Added to the score of an empty slot; its weight is exactly 0 after the softmax."""

WORTH_PREFILL = 0.25
"""A prefill call is used when at least this share of it is tokens: a call of 64 took as long as 4 to 13 steps (1 to 44 million
parameters, int8), however many of them were padding."""


class Stage:
    """One allocated signature with its caches laid out by time.

    Args:
        call: The signature.
        time_axes: Cache name -> the axis that counts slots (2, or 3 for a transposed v).

    Attributes:
        decodes: It takes one token a call.
        slots: Cache slots.
        caches: Per cache, a view (slots, 1, heads, head_dim), in the order of the signature's names.
        rows: Per cache, the new rows as a view (time, 1, heads, head_dim).
        mask: (slots,) 0 for filled slots, `MASKED` elsewhere.
        tokens: (1,) or (time,).
        position: (1,).
        logits: (vocab,).
    """

    def __init__(self, call: Call, time_axes: Mapping[str, int]) -> None:
        self.call = call
        self.decodes = "token" in call.inputs
        self.caches = tuple(np.moveaxis(call.inputs[name], axis, 0) for name, axis in time_axes.items())
        self.rows = tuple(np.moveaxis(call.outputs[name], axis, 0) for name, axis in time_axes.items())
        self.steps = tuple((cache, rows[0]) for cache, rows in zip(self.caches, self.rows, strict=True))
        self.slots = self.caches[0].shape[0]
        self.mask: NDArray[np.float32] = call.inputs["mask"].reshape(-1)
        self.position = call.inputs["position"]
        self.tokens = call.inputs["token" if self.decodes else "tokens"]
        self.logits: Logits = call.outputs["logits"][0]
        self.mask.fill(MASKED)


@dataclass(frozen=True)
class TransformerSnapshot:
    """The cache rows since the snapshot before it on the same text; the chain back to `parent` None holds all of them.

    Attributes:
        parent: The snapshot before, None for the first.
        start: First position of `rows`.
        position: The position it was taken at.
        rows: Per cache, copies (position - start, 1, heads, head_dim).
    """

    parent: TransformerSnapshot | None
    start: int
    position: int
    rows: tuple[NDArray[Any], ...]


class TransformerSession(Session[TransformerSnapshot | None]):
    """Decodes with the smallest rung that has a free slot.

    Args:
        engine: A model with signatures `decode_C` and optionally `prefill_T`.

    Raises:
        RuntimeFailure: A signature misses a tensor.

    Attributes:
        max_positions: Slots of the longest rung.
    """

    prefills = True

    def __init__(self, engine: Engine) -> None:
        self._ladder = _names_by_size(engine, DECODE)  # cache slots -> signature, shortest first
        self._chunks = _names_by_size(engine, PREFILL)  # tokens a call -> signature, smallest first
        first = engine.signatures[next(iter(self._ladder.values()))]
        missing = {"token", "position", "mask"} - first.inputs.keys() or {"logits"} - first.outputs.keys()
        if missing:
            raise RuntimeFailure(f"a decode signature has no tensor named {', '.join(sorted(missing))}")
        self._engine = engine
        super().__init__(engine.runtime, vocab_size=first.outputs["logits"][-1], max_positions=max(self._ladder))
        rows = {name: shape for name, shape in first.outputs.items() if name != "logits"}
        self._time_axes = {name: next(axis for axis in (2, 3) if first.inputs[name][axis] != shape[axis]) for name, shape in rows.items()}
        self._stages: dict[str, Stage] = {}
        self._stage = self._at(self._ladder[min(self._ladder)])
        self._lineage: TransformerSnapshot | None = None

    def reset(self) -> None:
        """Forgets everything: all slots empty. The next step runs on the shortest rung again."""
        self._stage.mask.fill(MASKED)
        self._lineage = None
        self.position = 0

    def step(self, token: int) -> Logits:
        """Takes one token; see `Session.step`."""
        if not 0 <= token < self.vocab_size:
            self._refuse(token)
        position, stage = self.position, self._stage
        if position >= stage.slots or not stage.decodes or position == 0:
            stage = self._move(self._rung(position + 1))
        stage.tokens[0] = token
        stage.position[0] = position
        stage.call.invoke()
        for cache, row in stage.steps:
            cache[position] = row
        stage.mask[position] = 0
        self.position = position + 1
        return stage.logits

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Takes several tokens: in `prefill_T` chunks while that pays, one by one after; see `Session.prefill`."""
        self._admit(tokens)
        taken = 0
        while taken < len(tokens):
            chunk = self._chunk_for(len(tokens) - taken)
            if chunk is None:
                logits = self.step(tokens[taken])
                taken += 1
            else:
                count = min(len(chunk.tokens), len(tokens) - taken)
                logits = self._run_chunk(chunk, tokens[taken : taken + count])
                taken += count
        return logits

    def _chunk_for(self, waiting: int) -> Stage | None:
        """The largest prefill that fits behind `position` and that the waiting tokens fill well enough; None for a step."""
        for time, name in reversed(self._chunks.items()):
            slots = self._engine.signatures[name].inputs["mask"][-1]
            if waiting >= max(2, WORTH_PREFILL * time) and self.position + time <= slots:
                return self._at(name)
        return None

    def _run_chunk(self, stage: Stage, tokens: Sequence[int]) -> Logits:
        self._move(stage)
        start, end = self.position, self.position + len(tokens)
        stage.tokens.fill(0)
        stage.tokens[: len(tokens)] = tokens
        stage.position[0] = start
        stage.call.inputs["last"][0] = len(tokens) - 1
        stage.call.invoke()
        for cache, rows in zip(stage.caches, stage.rows, strict=True):
            cache[start:end] = rows[: len(tokens)]
        stage.mask[start:end] = 0
        self.position = end
        return stage.logits

    def _rung(self, positions: int) -> Stage:
        name = next((name for slots, name in self._ladder.items() if slots >= positions), None)
        return self._full(1) if name is None else self._at(name)

    def _at(self, name: str) -> Stage:
        """The stage of a signature, allocated when it is first needed."""
        if name not in self._stages:
            self._stages[name] = Stage(self._engine.call(name), self._time_axes)
        return self._stages[name]

    def _move(self, stage: Stage) -> Stage:
        """Makes `stage` the one whose caches are valid up to `position`."""
        if stage is not self._stage:
            for old, new in zip(self._stage.caches, stage.caches, strict=True):
                new[: self.position] = old[: self.position]
            stage.mask[: self.position] = 0
            stage.mask[self.position :] = MASKED
            self._stage = stage
        return stage

    def snapshot(self) -> TransformerSnapshot | None:
        """Copies the rows since the last snapshot on this text; None at position 0."""
        parent = self._lineage
        start = parent.position if parent else 0
        if start < self.position:
            rows = tuple(cache[start : self.position].copy() for cache in self._stage.caches)
            self._lineage = TransformerSnapshot(parent, start, self.position, rows)
        return self._lineage

    def restore(self, snapshot: TransformerSnapshot | None) -> None:
        """Goes to a snapshot; only rows that differ from the present text are written."""
        shared = {id(ancestor) for ancestor in _chain(self._lineage)}
        missing = [link for link in _chain(snapshot) if id(link) not in shared]
        position = snapshot.position if snapshot else 0
        self.position = missing[-1].start if missing else position  # up to here the caches hold the snapshot's text already
        if position > self._stage.slots:
            self._move(self._rung(position))
        for link in missing:
            for cache, rows in zip(self._stage.caches, link.rows, strict=True):
                cache[link.start : link.position] = rows
        self._stage.mask[:position] = 0
        self._stage.mask[position:] = MASKED
        self._lineage = snapshot
        self.position = position


def _chain(snapshot: TransformerSnapshot | None) -> list[TransformerSnapshot]:
    """A snapshot and its ancestors, latest first."""
    links = []
    while snapshot:
        links.append(snapshot)
        snapshot = snapshot.parent
    return links


def _names_by_size(engine: Engine, pattern: re.Pattern[str]) -> dict[int, str]:
    found = {int(match[1]): name for name in engine.signatures if (match := pattern.fullmatch(name))}
    return dict(sorted(found.items()))
