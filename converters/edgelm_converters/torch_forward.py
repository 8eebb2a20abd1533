"""How a PyTorch language model is called: which argument takes the ids, what it begins with, which axis is time, where the scores are.

Everything is found by running the module on a few tokens; names of arguments and attributes are hints only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError

_IDS_NAMES = ("input_ids", "token_ids", "ids", "idx", "tokens", "x", "input", "inputs", "src")
_STARTERS = ("init_hidden", "init_state", "init_states", "initial_state", "zero_state")
_PROBE = (3, 5)  # rows and times that differ from each other and from 1
_ALLOWED = "forward(ids) or forward(ids, states), which returns scores (batch, time, vocab) alone, first in a tuple, or as .logits"
_NEXT = "edgelm.load(module, example_tokens=(ids, states)) with the states, or empty caches, that stand before the first token"

States = tuple[Any, ...]


@dataclass(frozen=True)
class Forward:
    """A module and how it is called.

    Attributes:
        module: The torch.nn.Module.
        names: Names of the arguments, that of the ids first; empty to pass them by place.
        initial: Batch size -> what follows the ids before the first token.
        rows: Batch size that `initial` is made for; None for any.
        vocabularies: Rows of the module's embedding tables.
        time_first: Ids are (time, batch).
    """

    module: Any
    names: tuple[str, ...]
    initial: Callable[[int], States]
    rows: int | None
    vocabularies: frozenset[int]
    time_first: bool = False

    def call(self, ids: Any, states: Sequence[Any]) -> tuple[Any, States]:
        """One call.

        Args:
            ids: Tensor, (batch, time) or as the module wants it.
            states: What follows the ids.

        Returns:
            The tensor of scores as the module shapes it, and what else it returned.
        """
        values = (ids, *states)
        output = self.module(**dict(zip(self.names, values, strict=False))) if self.names else self.module(*values)
        return _scores_and_rest(output, self.vocabularies)

    def scores(self, ids: NDArray[np.integer[Any]], states: Sequence[Any] | None = None) -> tuple[NDArray[np.float32], States]:
        """Runs the module in eval mode without gradients; its modes are as before afterwards.

        Args:
            ids: (batch, time).
            states: What follows the ids; `initial` by default.

        Returns:
            Scores (batch, time, vocab), or (batch, vocab) where the module scores the last position only, and what else it returned.

        Raises:
            UnsupportedModelError: The scores have another shape.
        """
        import torch

        with inference(self.module):
            tokens = torch.tensor(np.asarray(ids, np.int64), device=_device(self.module))
            given = self.initial(len(ids)) if states is None else states
            scores, rest = self.call(tokens.T if self.time_first else tokens, given)
        return self._arranged(scores.detach().float().cpu().numpy(), ids.shape), rest

    def _arranged(self, scores: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Scores as (batch, time, vocab), or (batch, vocab) of the last position."""
        batch, time = shape
        ours = (time, batch) if self.time_first else (batch, time)
        if scores.shape[:-1] == (batch * time,) and (time > 1 or scores.ndim == 2):
            scores = scores.reshape(*ours, scores.shape[-1])
        if scores.shape[:-1] == ours:
            return np.swapaxes(scores, 0, 1) if self.time_first else scores
        last = (1, batch) if self.time_first else (batch, 1)
        if scores.shape[:-1] in ((batch,), last):
            return scores.reshape(batch, scores.shape[-1])
        raise _not_run(self.module, f"it gives {scores.shape} for {batch} rows of {time} ids")


@contextlib.contextmanager
def inference(module: Any) -> Iterator[None]:
    """Eval mode, no gradients, and no fused Transformer kernels, which exporters do not know; all as before afterwards."""
    import torch

    modes = [(part, part.training) for part in module.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part, mode in modes:
            part.training = mode


def find_forward(module: Any, example: Any) -> tuple[Forward, NDArray[np.int64]]:
    """Finds out how a module is called.

    Args:
        module: The torch.nn.Module.
        example: Ids (batch, time) or (time, batch), as array, list or tensor; or a tuple of them and what follows them in the call.

    Returns:
        The way to call it that works, and the ids as (batch, time).

    Raises:
        UnsupportedModelError: None works.
    """
    given, states = _example(example)
    reasons: list[str] = []
    for initial in [_constant(states)] if states is not None else _starts(module):
        for time_first in (False, True):
            ids = given.T if time_first else given
            rows = None if states is None else len(ids)
            forward = Forward(module, _names(module), initial, rows, _vocabularies(module), time_first)
            try:
                if _rows_apart(forward, ids):
                    return forward, ids
                reasons.append("its rows see each other's tokens")
            except UnsupportedModelError as error:
                reasons.append(error.what)
            except Exception as error:  # forward is anyone's code
                reasons.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    raise _not_run(module, reasons[0])


def steps(forward: Forward, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Scores token by token, what a call returns beside its scores going into the next: (batch, time) -> (batch, time, vocab)."""
    states: Sequence[Any] | None = None
    columns = []
    for at in range(ids.shape[1]):
        scores, states = forward.scores(ids[:, at : at + 1], states)
        columns.append(scores.reshape(len(ids), -1))
    return np.stack(columns, axis=1)


def probe_ids(forward: Forward, example: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids to try the module with, made of the example's: (3, 5), or as many rows as its states have."""
    values = np.unique(example)
    values = values if len(values) > 1 else np.array([0, 1])
    rows, time = forward.rows or _PROBE[0], _PROBE[1]
    return np.asarray(np.random.default_rng(0).choice(values, (rows, time)), np.int64)


def changed(ids: NDArray[np.int64], at: int) -> NDArray[np.int64]:
    """The ids with another one at time `at` of the first row."""
    other = ids.copy()
    values = np.unique(ids)
    choices = values[values != ids[0, at]]
    other[0, at] = choices[0] if len(choices) else int(ids[0, at] == 0)
    return other


def _rows_apart(forward: Forward, example: NDArray[np.int64]) -> bool:
    """Whether it runs, and a token changes no other row: else the axes are the other way round."""
    ids = probe_ids(forward, example)
    try:
        before, _ = forward.scores(ids)
    except Exception:  # a module may take the example's size only; when that fails, too, the caller hears why
        ids = example
        before, _ = forward.scores(ids)
    after, _ = forward.scores(changed(ids, 0))
    return bool(np.allclose(before[1:], after[1:], atol=1e-5 * max(float(np.ptp(before)), 1e-6)))


def _example(example: Any) -> tuple[NDArray[np.int64], States | None]:
    ids, *states = example if isinstance(example, tuple) and example and not isinstance(example[0], int) else (example,)
    array = np.asarray(ids.detach().cpu().numpy() if hasattr(ids, "detach") else ids)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise UnsupportedModelError(
            f"example_tokens holds {array.dtype} {array.shape}", allowed="whole numbers (batch, time), or a tuple of them and the states"
        )
    return array.astype(np.int64), tuple(states) or None


def _parameters(module: Any) -> list[inspect.Parameter]:
    """Of forward; none for TorchScript, which does not tell."""
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except ValueError:
        return []


def _names(module: Any) -> tuple[str, ...]:
    """Names to pass arguments by, where the ids are not the first one."""
    parameters = _parameters(module)
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    ids = next((name for name in names if name in _IDS_NAMES), None)
    by_place = ids is None or (ids == names[0] and not any(p.kind == p.KEYWORD_ONLY and p.name == ids for p in parameters))
    return () if by_place else (str(ids), *(name for name in names if name != ids))


def _starts(module: Any) -> Iterator[Callable[[int], States]]:
    """What may follow the ids at the beginning: nothing, None, what the module's own method makes, zeros for its recurrent layer."""
    parameters = _parameters(module)
    required = sum(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) - 1
    if required < 1:
        yield lambda batch: ()
        return
    yield lambda batch: (None,) * required
    for name in _STARTERS:
        method = getattr(module, name, None)
        if callable(method):
            yield _as_arguments(method, required)
    yield from (_as_arguments(zeros, required) for zeros in _zero_states(module))


def _as_arguments(make: Callable[[int], Any], required: int) -> Callable[[int], States]:
    """`forward(ids, (h, c))` has one further argument, `forward(ids, h, c)` two."""

    def initial(batch: int) -> States:
        states = make(batch)
        return tuple(states) if required > 1 and isinstance(states, tuple | list) else (states,)

    return initial


def _zero_states(module: Any) -> Iterator[Callable[[int], Any]]:
    import torch

    layers = [part for part in module.modules() if isinstance(part, torch.nn.RNNBase)]
    if len(layers) != 1:
        return
    layer, device = layers[0], _device(module)
    depth, width = layer.num_layers * (2 if layer.bidirectional else 1), layer.proj_size or layer.hidden_size

    def zeros(batch: int) -> Any:
        h = torch.zeros(depth, batch, width, device=device)
        return (h, torch.zeros(depth, batch, layer.hidden_size, device=device)) if layer.mode == "LSTM" else h

    yield zeros


def _constant(states: States | None) -> Callable[[int], States]:
    return lambda batch: states or ()


def _scores_and_rest(output: Any, vocabularies: frozenset[int]) -> tuple[Any, States]:
    """The scores among what forward returned, and the other values of a tuple."""
    import torch

    if torch.is_tensor(output):
        return output, ()
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        output = vars(output)
    values = list(output.values()) if isinstance(output, Mapping) else list(output) if isinstance(output, tuple | list) else []
    tensors = [value for value in values if torch.is_tensor(value) and value.is_floating_point() and value.ndim in (2, 3)]
    fitting = [value for value in tensors if int(value.shape[-1]) in vocabularies]  # a tensor while it is traced
    scores = named if named is not None else next(iter([*fitting, *tensors]), None)
    if scores is None:
        raise UnsupportedModelError(f"forward returns {type(output).__name__} without scores", allowed=_ALLOWED)
    return scores, tuple(value for value in values if value is not scores) if isinstance(output, tuple | list) else ()


def _vocabularies(module: Any) -> frozenset[int]:
    import torch

    return frozenset(part.num_embeddings for part in module.modules() if isinstance(part, torch.nn.Embedding))


def _device(module: Any) -> Any:
    return next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), "cpu")


def _not_run(module: Any, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{type(module).__name__} cannot be run on token ids: {why}", allowed=_ALLOWED, fix=_NEXT)
