"""The framework-free language model in the middle, what it came from, and what converters return.

Every converter ends in a `LanguageModel` or an `OpaqueGraph`; every lowering starts from one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.spec import Encoding, FloatArray, ModelSpec, weight_shapes


@dataclass(frozen=True)
class LiftProof:
    """The evidence that a lifted model equals its source: both ran on the same random tokens.

    Attributes:
        tokens: Positions compared.
        max_abs_difference: Largest |difference| of the centred logits (probabilities are compared as log-probabilities).
        top1_agreement: Share of positions where both prefer the same token.
    """

    tokens: int
    max_abs_difference: float
    top1_agreement: float


@dataclass(frozen=True)
class Origin:
    """Where a model came from and which of the two ways it took.

    Attributes:
        format: `edgelm`, `keras`, `keras-h5`, `saved-model`, ...
        framework: What runs the source, with its version, such as `tf_keras 2.19.0`.
        way: `native` (edgelm's own format), `lifted` (weights taken out and proven) or `graph` (converted as it is).
        why: One sentence for the report.
        proof: The evidence of a lift; None otherwise.
    """

    format: str
    framework: str
    way: Literal["native", "lifted", "graph"]
    why: str
    proof: LiftProof | None = None


@dataclass(frozen=True)
class LanguageModel:
    """A spec with named weights: what edgelm compresses and lowers.

    Attributes:
        spec: One of the two families.
        weights: Canonical name -> array (float32, or float16 or bfloat16 where the source stores that; memory-mapped where it allows).
        name: For file names and reports.
        encodings: Name -> how the artifact stores it; names that are missing are stored as float32.
        scales: Name -> scales that a technique fixed: float32 (rows, blocks), one block a row for int8 and int4. The weight is on that
            grid already, and is stored on it exactly; names that are missing get scales from their largest weights.
        ranges: Activation site (`edgelm.models.static_sites`) -> (lowest, highest) value. With ranges all activations between matrices
            are int8 with these fixed ranges (NPUs); without, the runtime rounds activations as it meets them.
        tokenizer: The text of a `tokenizer.json`, or None.
        source_sha256: Hash of the source's bytes.
        origin: How it came to be.

    Raises:
        UnsupportedModelError: A weight is missing, superfluous or of another shape than `weight_shapes(spec)` says.
    """

    spec: ModelSpec
    weights: Mapping[str, FloatArray]
    name: str = "model"
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tokenizer: str | None = None
    source_sha256: str = ""
    origin: Origin | None = None

    def __post_init__(self) -> None:
        wanted = weight_shapes(self.spec)
        for name, shape in wanted.items():
            if name not in self.weights:
                raise UnsupportedModelError(f"weight {name} {shape} is missing from model {self.name!r}")
            if tuple(self.weights[name].shape) != shape:
                raise UnsupportedModelError(f"weight {name} of model {self.name!r} is {self.weights[name].shape}, the spec wants {shape}")
        for name in self.weights:
            if name not in wanted:
                raise UnsupportedModelError(f"weight {name} of model {self.name!r} has no place in its {self.spec.family} spec")

    @property
    def parameters(self) -> int:
        """Number of weights; a tied table counts once."""
        return sum(int(weight.size) for weight in self.weights.values())

    def encoding(self, name: str) -> Encoding:
        """How the artifact stores weight `name`."""
        return self.encodings.get(name, Encoding.FLOAT32)

    def float32(self, name: str) -> NDArray[np.float32]:
        """Weight `name` as float32."""
        return np.asarray(self.weights[name], dtype=np.float32)

    def replace(self, **changes: Any) -> LanguageModel:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class GraphCall:
    """How a graph of several inputs and outputs (ONNX) becomes `scores(ids)` for one window of tokens.

    Attributes:
        ids: Name of the input that takes the token ids.
        ids_shape: Its shape for one window: (1, time), (time, 1) where time is the first axis, or (time,).
        scores: Name of the output that holds the scores: any shape whose last axis is the vocabulary.
        held: Every other input -> the value it is held at: states of zeros, empty caches, masks of ones, positions 0..time-1.
    """

    ids: str
    ids_shape: tuple[int, ...]
    scores: str
    held: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class OpaqueGraph:
    """A language model that was not recognised: it goes to TFLite as it is, with one `forward` signature.

    Attributes:
        path: The source file or folder.
        format: `keras`, `keras-h5`, `saved-model` or `onnx`.
        time: Tokens a call takes.
        vocab_size: Size of the last axis of its output.
        probabilities: The output is softmax probabilities instead of logits.
        last_only: The output is (batch, vocab) for the last position only, instead of (batch, time, vocab).
        name: For file names and reports.
        tokenizer: The text of a `tokenizer.json`, or None.
        source_sha256: Hash of the source's bytes.
        origin: How it came to be; `origin.why` says what was not recognised.
        call: Which inputs and outputs an ONNX graph has; None for the other formats, which have one of each.
    """

    path: Path
    format: str
    time: int
    vocab_size: int
    probabilities: bool
    last_only: bool
    name: str = "model"
    tokenizer: str | None = None
    source_sha256: str = ""
    origin: Origin | None = None
    call: GraphCall | None = None


SourceLogits = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""Runs a model in its own framework: ids (batch, time) -> logits (batch, time, vocab).

A source that yields probabilities is mapped through log; a source with last-step outputs is run on every prefix."""


@dataclass(frozen=True)
class Imported:
    """What a converter returns: the model, and the source itself as a function for the proof."""

    model: LanguageModel | OpaqueGraph
    source_logits: SourceLogits
