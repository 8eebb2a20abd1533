"""An ONNX model in onnxruntime as a function from token ids to logits, the source's side of every proof.

What kind of language model it is, is measured: which output holds the scores, which axis is time, whether it is causal, whether its states
can be fed back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.model import GraphCall
from edgelm_converters.lift import Source
from edgelm_converters.onnx_calls import MOST_TOKENS, Call, shape_text
from edgelm_converters.onnx_runner import Runner
from edgelm_converters.onnx_session import CallError, Session

_ROWS, _TIME = 3, 8  # of a probe; different, so that the axes can be told apart
_CALL_TIMES = (64, 32, 16, _TIME)
_CLOSE = 1e-4  # of the scores' spread: what is not touched comes out the same but for sums in another order


@dataclass(frozen=True)
class OnnxSource:
    """The source in both ways that it can be run.

    Attributes:
        whole: On whole sequences, each from empty states.
        stepped: One token at a time, states fed back; None where the model has no states or does not give them back.
        call: How it is called for one window of tokens, for a conversion as it is; None where that cannot be done.
    """

    whole: Source
    stepped: Source | None
    call: GraphCall | None


def as_source(session: Session, call: Call) -> OnnxSource:
    """Measures what kind of language model was loaded.

    Args:
        session: The model in onnxruntime.
        call: What its inputs are for.

    Raises:
        UnsupportedModelError: It is no language model: no scores of its vocabulary, earlier positions that see later tokens, no states
            where it takes one token at a time.
    """
    runner = _probed(session, call)
    single, time = runner.call.time == 1, runner.call.time
    fed = runner.state_outputs() if runner.call.states and time in (None, 1) else None
    stepped = dataclasses.replace(runner, fed=fed) if fed else None
    if single:
        if stepped is None:
            raise UnsupportedModelError(
                "the model takes one token at a time and has no states to go on from", allowed="states (or caches) as inputs and outputs"
            )
        return OnnxSource(_source(session, stepped, None, 1), None, None)
    call_time = time or next((size for size in _CALL_TIMES if _takes(runner, size)), _TIME)
    whole = _source(session, runner, time, call_time)
    return OnnxSource(whole, None if stepped is None else _source(session, stepped, None, call_time), _graph_call(runner, call_time))


def _source(session: Session, runner: Runner, time: int | None, call_time: int) -> Source:
    return Source(session.framework, time, call_time, runner.vocab_size, runner.probabilities, runner.last_only, runner.logits)


def _graph_call(runner: Runner, time: int) -> GraphCall | None:
    """How one window of tokens is put in; None where the model does not take one."""
    call = runner.call
    if call.one_hot or runner.rows not in (None, 1):
        return None
    shape = {1: (time,)}.get(call.rank, (time, 1) if call.time_first else (1, time))
    return GraphCall(call.ids.name, shape, runner.scores, {**call.empty_states(1), **call.held(1, time, 0)})


def _takes(runner: Runner, time: int) -> bool:
    """Whether the model runs on that many tokens; tables of positions end somewhere."""
    try:
        runner.window(np.zeros((runner.rows or 1, time), np.int32))
    except CallError:
        return False
    return True


def _probed(session: Session, call: Call) -> Runner:
    """The way of calling the model in which it is causal along time, and sequences do not see each other."""
    failures = list[str]()
    for layout in (call, dataclasses.replace(call, time_first=True)) if call.rank == 2 else (call,):
        for sized in (layout, *(layout.at(time) for time in call.traced_sizes if layout.time is None)):
            try:
                found = _attempt(session, sized)
            except CallError as error:
                failures.append(f"the model cannot be run on token ids: {error}")
                continue
            if isinstance(found, Runner):
                return found
            failures.append(found)
            break  # it runs on so many tokens: other numbers would not show what is wrong with it
    raise UnsupportedModelError(
        f"no language model: {failures[0]}", allowed="causal models of token ids (batch, time) that score the vocabulary they read"
    )


def _attempt(session: Session, call: Call) -> Runner | str:
    """The model as it runs on the first number of sequences that it takes, or what is wrong with it then.

    Raises:
        CallError: It takes none of them.
    """
    first: CallError | None = None
    for rows in dict.fromkeys((_ROWS, 1, *_sizes(call)) if call.rows is None else (call.rows,)):
        try:
            runner = _runner(session, call, rows)
            return runner if isinstance(runner, str) else _mixes(runner, rows) or runner
        except CallError as error:
            first = first or error
    raise first or CallError("it takes no sequences")


def _sizes(call: Call) -> Iterator[int]:
    """Numbers of sequences that states of a fixed size may stand for."""
    yield from (size for state in call.states for size in state.shape[:-1] if size and size * (call.time or _TIME) <= MOST_TOKENS)


def _ids(call: Call, rows: int) -> NDArray[np.int32]:
    limit = min(call.vocabularies, default=2)
    return np.random.default_rng(0).integers(0, limit, (rows, call.time or _TIME), dtype=np.int32)


def _runner(session: Session, call: Call, rows: int) -> Runner | str:
    """The model as it scores `rows` sequences; why it does not, where none of its outputs are scores."""
    ids = _ids(call, rows)
    first = Runner(session, call, None if rows == _ROWS and call.rows is None else rows, "", 0, False, False)
    outputs = session.run(first.feeds(ids, call.empty_states(rows), 0))
    for name, array in outputs.items():
        runner = dataclasses.replace(first, scores=name, vocab_size=int(array.shape[-1]) if array.ndim else 0)
        found = runner.arranged(array, *ids.shape)
        if found is None or runner.vocab_size < 2 or (call.vocabularies and runner.vocab_size not in call.vocabularies):
            continue
        probabilities = bool(found.min() >= 0 and np.allclose(found.sum(-1), 1, atol=1e-3))
        return dataclasses.replace(runner, last_only=found.shape[1] < ids.shape[1], probabilities=probabilities)
    shapes = ", ".join(shape_text(array.shape) for array in outputs.values())
    return f"it reads {' or '.join(map(str, sorted(call.vocabularies)))} tokens, and its outputs for {rows} x {ids.shape[1]} are {shapes}"


def _mixes(runner: Runner, rows: int) -> str | None:
    """Changes one token; says what changes that must not: other sequences, or positions before it."""
    ids = _ids(runner.call, rows)
    other, place = ids.copy(), ids.shape[1] // 2
    other[0, place] = (other[0, place] + 1) % min(runner.call.vocabularies, default=2)
    before, after = runner.window(ids), runner.window(other)  # (rows, time or 1, vocab)
    changed = np.abs(before - after).max(-1) > _CLOSE * max(float(np.ptp(before)), 1e-6)  # (rows, time or 1)
    if changed[1:].any():
        return "its sequences see each other"
    if not runner.last_only and changed[0, :place].any():
        return "its earlier positions see later tokens"
    return None
