"""The two families of language models as specs, with canonical weight names and shapes.

Weight matrices are stored (out, in), the way FULLY_CONNECTED and PyTorch keep them. `weight_shapes(spec)` is the table of names and
shapes that `edgelm.model.LanguageModel` checks its weights against.

Gate order along the first axis of recurrent matrices: lstm `i f g o`; cifg `f g o` (i = 1 - f); gru `z r h`
with h_t = z * h_{t-1} + (1 - z) * candidate; rnn has one gate. These are Keras' orders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError

Cell = Literal["rnn", "gru", "lstm", "cifg"]
Activation = Literal["linear", "tanh", "relu", "sigmoid", "hard_sigmoid", "gelu", "gelu_tanh", "silu"]
Position = Literal["learned", "sinusoidal", "rotary", "none"]

GATES: Mapping[str, int] = {"rnn": 1, "gru": 3, "lstm": 4, "cifg": 3}

FloatArray = NDArray[np.floating[Any]]


class Encoding(StrEnum):
    """How one weight is stored in the artifact.

    A (rows, columns) matrix takes rows * columns * bits / 8 bytes plus its scales: one float32 a row for `INT8` and `INT4`,
    one float16 for each 32 columns of a row for `INT4_BLOCK32` (4.5 bits a weight in all).
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"
    INT4_BLOCK32 = "int4-block32"

    @property
    def bits(self) -> int:
        """Bits a weight, scales not counted."""
        return {"float32": 32, "float16": 16, "int8": 8}.get(self.value, 4)


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer between the recurrent stack and the head (a projection is one with a linear activation)."""

    size: int
    activation: Activation = "linear"
    bias: bool = True


@dataclass(frozen=True)
class RecurrentSpec:
    """Embedding, N recurrent layers, dense layers, head.

    Attributes:
        vocab_size: Rows of the embedding and of the head.
        embedding_size: Columns of the embedding; with `gate_embedding` that is gates * units of the first layer.
        cell: `rnn`, `gru`, `lstm` or `cifg` (Greff et al. 2015: coupled input and forget gate).
        units: Units of each recurrent layer, first to last.
        activation: Of the candidate and of the cell output.
        recurrent_activation: Of the gates.
        reset_after: GRU only: the reset gate is applied after the recurrent product (CuDNN, PyTorch) instead of before it.
        hidden: Dense layers after the last recurrent layer.
        tied_head: The head uses the embedding table.
        head_bias: The head adds a bias.
        gate_embedding: The embedding rows are the first layer's input products already (a one-hot input model): that layer
            has no `input.weight`.
        embedding_projection: Size of a linear layer between embedding and first recurrent layer; 0 for none.
    """

    vocab_size: int
    embedding_size: int
    cell: Cell
    units: tuple[int, ...]
    activation: Activation = "tanh"
    recurrent_activation: Activation = "sigmoid"
    reset_after: bool = True
    hidden: tuple[DenseLayer, ...] = ()
    tied_head: bool = False
    head_bias: bool = True
    gate_embedding: bool = False
    embedding_projection: int = 0
    family: Literal["recurrent"] = "recurrent"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "hidden", tuple(d if isinstance(d, DenseLayer) else DenseLayer(**d) for d in self.hidden))
        _require_positive(self, "vocab_size", "embedding_size")
        if not self.units or min(self.units) < 1:
            raise UnsupportedModelError(f"units = {self.units}: a recurrent model needs at least one layer of at least one unit")
        if self.cell not in GATES:
            raise UnsupportedModelError(f"cell {self.cell!r} is not known", allowed=", ".join(GATES))
        if self.gate_embedding and self.embedding_size != GATES[self.cell] * self.units[0]:
            raise UnsupportedModelError(f"gate_embedding wants embedding_size = gates * units[0], met {self.embedding_size}")
        if self.tied_head and self.head_inputs != self.embedding_size:
            raise UnsupportedModelError(f"a tied head wants {self.embedding_size} inputs, met {self.head_inputs}")

    @property
    def head_inputs(self) -> int:
        """Columns of the head."""
        return self.hidden[-1].size if self.hidden else self.units[-1]

    def layer_inputs(self, layer: int) -> int:
        """Columns of the input matrix of recurrent layer `layer`."""
        return self.units[layer - 1] if layer else self.embedding_projection or self.embedding_size

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state tensors of a step, each (1, units): `h_0`, `c_0`, `h_1`, ... (`c_` for lstm and cifg only)."""
        kinds = "hc" if self.cell in ("lstm", "cifg") else "h"
        return tuple(f"{kind}_{layer}" for layer in range(len(self.units)) for kind in kinds)

    def state_size(self, name: str) -> int:
        """Columns of the state tensor `name`."""
        return self.units[int(name.split("_")[1])]


@dataclass(frozen=True)
class TransformerSpec:
    """A decoder-only transformer.

    Attributes:
        vocab_size: Rows of the embedding and of the head.
        width: Size of the residual stream.
        layers: Number of blocks.
        heads: Query heads.
        kv_heads: Key/value heads; less than `heads` is grouped-query attention (Ainslie et al. 2023).
        head_dim: Size of one head; heads * head_dim need not equal width.
        ffn_size: Width of the feed-forward layer.
        max_positions: Longest context the model was made for.
        position: `learned` adds `positions.weight`, `sinusoidal` adds Vaswani et al.'s table (sines in the even columns, cosines
            in the odd), `rotary` turns q and k (Su et al. 2021, halves convention: lifts permute interleaved weights).
        rope_theta: Base of the rotary frequencies.
        rotary_dim: Leading part of each head that is turned; 0 means all of it.
        norm: `layer` (weight and bias) or `rms` (weight).
        norm_position: `pre` (x + f(norm(x))) or `post` (norm(x + f(x))).
        norm_eps: Added to the variance.
        final_norm: A norm before the head.
        activation: Of the feed-forward layer.
        gated: SwiGLU-like: activation(gate(x)) * up(x).
        qkv_bias: Biases on q, k and v.
        output_bias: Bias on o.
        ffn_bias: Biases on gate, up and down.
        tied_head: The head uses the embedding table.
        head_bias: The head adds a bias.
        embedding_scale: Token embeddings are multiplied by it (sqrt(width) in Vaswani et al. and Gemma).
        embedding_norm: A norm right after the embeddings and positions.
        attention_scale: Multiplies the scores; 0 means head_dim ** -0.5.
        qk_norm: An RMS norm over head_dim of q and k before rotation (Qwen3).
        parallel_residual: With `pre`, attention and feed-forward layer both read the block's input:
            x + attention(attention_norm(x)) + ffn(ffn_norm(x)) (GPT-NeoX; a block with one norm, as Phi's, holds it twice).
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    max_positions: int
    position: Position = "rotary"
    rope_theta: float = 10_000.0
    rotary_dim: int = 0
    norm: Literal["layer", "rms"] = "rms"
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-5
    final_norm: bool = True
    activation: Activation = "silu"
    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    tied_head: bool = True
    head_bias: bool = False
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    attention_scale: float = 0.0
    qk_norm: bool = False
    parallel_residual: bool = False
    family: Literal["transformer"] = "transformer"

    def __post_init__(self) -> None:
        _require_positive(self, "vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "ffn_size", "max_positions")
        if self.heads % self.kv_heads:
            raise UnsupportedModelError(f"heads = {self.heads} is no multiple of kv_heads = {self.kv_heads}")
        if self.parallel_residual and self.norm_position != "pre":
            raise UnsupportedModelError(
                f"parallel_residual with norm_position {self.norm_position!r}: parallel branches read the block's input through norms",
                allowed='norm_position "pre"',
            )
        if self.position == "rotary" and (self.rotary_size % 2 or self.rotary_size > self.head_dim):
            raise UnsupportedModelError(f"rotary positions want an even part of the head, met {self.rotary_size} of {self.head_dim}")

    @property
    def rotary_size(self) -> int:
        """Leading columns of each head that rotary positions turn."""
        return self.rotary_dim or self.head_dim

    @property
    def score_scale(self) -> float:
        """What the attention scores are multiplied by."""
        return self.attention_scale or float(self.head_dim**-0.5)


ModelSpec = RecurrentSpec | TransformerSpec


def _require_positive(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UnsupportedModelError(f"{name} = {value!r} in the model's spec", allowed="a whole number of at least 1")


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain JSON values; `spec_from_dict` reads it back."""
    plain = dataclasses.asdict(spec)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def spec_from_dict(plain: Mapping[str, Any]) -> ModelSpec:
    """Reads what `spec_to_dict` wrote.

    Raises:
        UnsupportedModelError: An unknown family or key, or an illegal value.
    """
    kinds: dict[str, type[RecurrentSpec] | type[TransformerSpec]] = {"recurrent": RecurrentSpec, "transformer": TransformerSpec}
    kind = kinds.get(str(plain.get("family")))
    if kind is None:
        raise UnsupportedModelError(f"model family {plain.get('family')!r} is not known", allowed=", ".join(kinds))
    try:
        return kind(**plain)
    except TypeError as error:
        raise UnsupportedModelError(f"the {plain['family']} spec cannot be read: {error}") from error


def weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Canonical weight names and shapes of a spec, in the order of the forward pass.

    Example:
        >>> weight_shapes(RecurrentSpec(10, 4, "gru", (8,)))["layers.0.recurrent.weight"]
        (24, 8)
    """
    return _recurrent_shapes(spec) if isinstance(spec, RecurrentSpec) else _transformer_shapes(spec)


def _recurrent_shapes(spec: RecurrentSpec) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (spec.vocab_size, spec.embedding_size)}
    if spec.embedding_projection:
        shapes["embedding_projection.weight"] = (spec.embedding_projection, spec.embedding_size)
    for i, units in enumerate(spec.units):
        rows = GATES[spec.cell] * units
        if i or not spec.gate_embedding:
            shapes[f"layers.{i}.input.weight"] = (rows, spec.layer_inputs(i))
        shapes[f"layers.{i}.recurrent.weight"] = (rows, units)
        shapes[f"layers.{i}.input.bias"] = (rows,)
        if spec.cell == "gru" and spec.reset_after:
            shapes[f"layers.{i}.recurrent.bias"] = (rows,)
    columns = spec.units[-1]
    for i, dense in enumerate(spec.hidden):
        shapes[f"hidden.{i}.weight"] = (dense.size, columns)
        if dense.bias:
            shapes[f"hidden.{i}.bias"] = (dense.size,)
        columns = dense.size
    return shapes | _head_shapes(spec, columns)


def _transformer_shapes(spec: TransformerSpec) -> dict[str, tuple[int, ...]]:
    width, q, kv = spec.width, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (spec.vocab_size, width)}
    if spec.position == "learned":
        shapes["positions.weight"] = (spec.max_positions, width)
    if spec.embedding_norm:
        shapes |= _norm_shapes(spec, "embedding_norm")
    for i in range(spec.layers):
        at = f"layers.{i}"
        shapes |= _norm_shapes(spec, f"{at}.attention_norm")
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes |= _dense_shapes(f"{at}.{name}", rows, width, spec.qkv_bias)
        if spec.qk_norm:
            shapes |= {f"{at}.q_norm.weight": (spec.head_dim,), f"{at}.k_norm.weight": (spec.head_dim,)}
        shapes |= _dense_shapes(f"{at}.o", width, q, spec.output_bias)
        shapes |= _norm_shapes(spec, f"{at}.ffn_norm")
        if spec.gated:
            shapes |= _dense_shapes(f"{at}.gate", spec.ffn_size, width, spec.ffn_bias)
        shapes |= _dense_shapes(f"{at}.up", spec.ffn_size, width, spec.ffn_bias)
        shapes |= _dense_shapes(f"{at}.down", width, spec.ffn_size, spec.ffn_bias)
    if spec.final_norm:
        shapes |= _norm_shapes(spec, "final_norm")
    return shapes | _head_shapes(spec, width)


def _norm_shapes(spec: TransformerSpec, name: str) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (spec.width,)}
    return weight | {f"{name}.bias": (spec.width,)} if spec.norm == "layer" else weight


def _dense_shapes(name: str, rows: int, columns: int, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if bias else weight


def _head_shapes(spec: ModelSpec, columns: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {} if spec.tied_head else {"head.weight": (spec.vocab_size, columns)}
    return shapes | {"head.bias": (spec.vocab_size,)} if spec.head_bias else shapes
