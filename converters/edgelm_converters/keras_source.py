"""Runs a Keras model as a function from token ids to logits, the source's side of every proof, and measures what kind of model it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm_converters.keras_open import (
    arrays,
    first_line,
    framework_errors,
    import_module,
    open_model,
    open_signature,
    reset_states,
    stateful_layers,
)
from edgelm_converters.lift import Source

_PROBE_TIME = 8
_CALL_TIMES = (64, 32, 16, _PROBE_TIME)
_SMALLEST = 1e-30  # probabilities below it have lost their digits in float32; log stays finite


@dataclass(frozen=True)
class Loaded:
    """A model in its framework, as it is.

    Attributes:
        outputs: Array of the input's shape and dtype -> all outputs as arrays.
        shape: Of the input, None where free: (batch, time) of ids, or (batch, time, vocab) of one-hot rows.
        dtype: Of the input.
        framework: Name and version.
    """

    outputs: Callable[[NDArray[Any]], list[NDArray[Any]]]
    shape: tuple[int | None, ...]
    dtype: str
    framework: str


def load(path: Path, file_format: str, keras_version: str, *, trust: bool = False) -> Loaded:
    """Loads a model with the framework that wrote it, ready to run.

    Args:
        path: File or SavedModel folder, checked for safety already unless trusted.
        file_format: `keras`, `keras-h5` or `saved-model`.
        keras_version: As the file says.
        trust: Lets the framework run code from the file.

    Raises:
        SourceError: The framework cannot load it.
        UnsupportedModelError: It has more than one input.
        MissingDependencyError: The framework is not installed.
    """
    if file_format == "saved-model":
        return _loaded_signature(path)
    model, framework = open_model(path, keras_version, trust=trust)
    return _loaded(model, framework)


def _loaded(model: Any, framework: str) -> Loaded:
    if len(model.inputs) != 1:
        raise UnsupportedModelError(
            f"the model has {len(model.inputs)} inputs",
            allowed="one input of token ids",
            fix="save the model that was trained, without states",
        )
    given = model.inputs[0]
    dtype = given.dtype if isinstance(given.dtype, str) else given.dtype.name
    stateful = stateful_layers(model)

    def outputs(values: NDArray[Any]) -> list[NDArray[Any]]:
        reset_states(stateful)
        return arrays(model(values, training=False))

    return Loaded(outputs, tuple(given.shape), dtype, framework)


def _loaded_signature(path: Path) -> Loaded:
    tf = import_module("tensorflow")
    signature = open_signature(path)
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise UnsupportedModelError(f"the SavedModel has {len(inputs)} inputs", allowed="one input of token ids")
    (key, spec), *_ = inputs.items()
    shape = tuple(spec.shape.as_list()) if spec.shape.rank is not None else (None, None)

    def outputs(values: NDArray[Any]) -> list[NDArray[Any]]:
        return arrays(signature(**{key: tf.constant(values)}))

    return Loaded(outputs, shape, spec.dtype.name, f"tensorflow {tf.__version__}")


def as_source(loaded: Loaded, vocabularies: frozenset[int] = frozenset()) -> Source:
    """Measures what kind of language model was loaded.

    Args:
        loaded: The model.
        vocabularies: Sizes its input vocabulary may have; empty when not known.

    Raises:
        UnsupportedModelError: It is no language model: wrong input or output, or earlier positions see later tokens.
    """
    shape = loaded.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and not shape[2]):
        wanted = "token ids (batch, time) or one-hot rows (batch, time, vocabulary)"
        raise _no_language_model(f"its input is {_shape_text(shape)}", wanted)
    vocabularies = frozenset({shape[2]}) if len(shape) == 3 and shape[2] else vocabularies
    ids_limit = min(vocabularies, default=2)
    time = shape[1] or _PROBE_TIME
    ids = np.random.default_rng(0).integers(0, ids_limit, (2, time), dtype=np.int32)
    try:
        outputs = _Runner(loaded, 0).batched(ids)
    except framework_errors() as error:
        raise UnsupportedModelError(
            f"the model cannot be run on token ids: {first_line(error)}", allowed="one input of token ids"
        ) from error
    chosen, last_only = _choose(outputs, time, vocabularies)
    scores = outputs[chosen]
    probabilities = bool(scores.min() >= 0 and np.allclose(scores.sum(-1), 1, atol=1e-3))
    runner = _Runner(loaded, chosen, last_only, probabilities)
    if not last_only:
        _require_causal(scores, runner.batched(_with_another_end(ids, ids_limit))[chosen])
    call_time = shape[1] or next((time for time in _CALL_TIMES if _takes(runner, time)), _PROBE_TIME)
    return Source(loaded.framework, shape[1], call_time, int(scores.shape[-1]), probabilities, last_only, runner.logits)


def _takes(runner: _Runner, time: int) -> bool:
    """Whether the model runs on that many tokens; tables of positions end somewhere."""
    try:
        runner.batched(np.zeros((1, time), np.int32))
    except framework_errors():
        return False
    return True


def _choose(outputs: list[NDArray[Any]], time: int, vocabularies: frozenset[int]) -> tuple[int, bool]:
    """The output that holds the scores, and whether it holds them for the last position only."""
    for number, output in enumerate(outputs):
        fits = output.ndim in (2, 3) and output.shape[-1] > 1 and (not vocabularies or output.shape[-1] in vocabularies)
        if fits and (output.ndim == 2 or output.shape[1] == time):
            return number, output.ndim == 2
    shapes = ", ".join(_shape_text((None, *output.shape[1:])) for output in outputs)
    read = " or ".join(str(size) for size in sorted(vocabularies))
    wanted = f"scores for each of the {read} tokens it reads" if read else "scores (batch, time, vocabulary) or (batch, vocabulary)"
    raise _no_language_model(f"its output is {shapes}", wanted)


def _with_another_end(ids: NDArray[np.int32], vocabulary: int) -> NDArray[np.int32]:
    changed = ids.copy()
    changed[:, -1] = (changed[:, -1] + 1) % vocabulary
    return changed


def _require_causal(scores: NDArray[Any], changed: NDArray[Any]) -> None:
    """Raises when another last token changes the scores of the positions before it."""
    before, after = scores[:, :-1], changed[:, :-1]
    if before.size and np.max(np.abs(before - after)) > 1e-3 * max(float(np.ptp(before)), 1e-6):
        raise _no_language_model(
            "its earlier positions see later tokens", "causal models: no Bidirectional layer, and use_causal_mask=True in attention"
        )


def _no_language_model(why: str, allowed: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"no language model: {why}", allowed=allowed)


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


@dataclass(frozen=True)
class _Runner:
    """Feeds ids to a loaded model in the form it wants."""

    loaded: Loaded
    output: int
    last_only: bool = False
    probabilities: bool = False

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids (batch, time) -> (batch, time, vocab)."""
        if self.last_only:
            prefixes = [self._scores(self._last_window(ids[:, : end + 1])) for end in range(ids.shape[1])]
            scores = np.stack(prefixes, axis=1)  # (batch, time, vocab)
        else:
            scores = self._scores(self._padded(ids))[:, : ids.shape[1]]
        return np.log(np.maximum(scores, _SMALLEST)) if self.probabilities else scores

    def batched(self, ids: NDArray[np.int32]) -> list[NDArray[Any]]:
        """All outputs for ids of a time the model takes, whatever its batch is."""
        size = self.loaded.shape[0] or len(ids)
        pieces = []
        for start in range(0, len(ids), size):
            piece = ids[start : start + size]
            filled = np.concatenate([piece, np.zeros((size - len(piece), ids.shape[1]), np.int32)])
            pieces.append([output[: len(piece)] for output in self.loaded.outputs(self._encoded(filled))])
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _scores(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.asarray(self.batched(ids)[self.output], dtype=np.float32)

    def _encoded(self, ids: NDArray[np.int32]) -> NDArray[Any]:
        rows = self.loaded.shape[2] if len(self.loaded.shape) == 3 else None
        if rows is None:
            return ids.astype(self.loaded.dtype)
        return np.eye(rows, dtype=self.loaded.dtype)[ids]  # (batch, time, vocab)

    def _padded(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Fixed times are filled up on the right, which a causal model does not see."""
        time = self.loaded.shape[1] or ids.shape[1]
        if ids.shape[1] > time:
            raise UnsupportedModelError(f"the model takes {time} tokens, met {ids.shape[1]}", allowed=f"at most {time} tokens")
        return np.pad(ids, ((0, 0), (0, time - ids.shape[1])))

    def _last_window(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Fixed times are filled up on the left with token 0, as `keras.utils.pad_sequences` does."""
        time = self.loaded.shape[1] or ids.shape[1]
        return np.pad(ids[:, -time:], ((0, 0), (time - min(time, ids.shape[1]), 0)))
