"""Tiny random language models in plain torch, written the way people write them.

`ZOO` maps a name to a function that builds one: a seeded module in eval mode with all its weights, biases and norms random, and what a
caller has to know to run and export it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_recurrent import CellLM, ExplicitZerosLM, LastStepWithStates, RecurrentLM, SeparateStatesLM, StatelessLM, WordLanguageModel
from torch_sizes import HEAD_DIM, HEADS, VOCAB, WIDTH
from torch_transformers import (
    GPT,
    CachedGPT,
    CachedLlama,
    EncoderLM,
    Llama,
    TutorialTransformer,
    new_gelu,
)


@dataclass(frozen=True)
class Zoo:
    """A module and how it is called.

    Attributes:
        module: In eval mode, without gradients.
        family: `recurrent` or `transformer`.
        initial: What `forward` takes after the ids to begin with, nested as it wants it, with batch 1; empty caches have no time.
        example: The same to export with: caches have a time.
        state_names: Names of its tensors, flattened; `present_` or `new_` + name are the outputs.
        time_first: Ids are (time, batch), scores (time, batch, vocab).
        flat: Scores are (time * batch, vocab).
        last_only: Scores are (batch, vocab) for the last position.
        log_probabilities: Scores are log-probabilities.
    """

    module: nn.Module
    family: str
    initial: tuple[Any, ...] = ()
    example: tuple[Any, ...] = ()
    state_names: tuple[str, ...] = ()
    time_first: bool = False
    flat: bool = False
    last_only: bool = False
    log_probabilities: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def scores(self, ids: np.ndarray) -> np.ndarray:
        """Runs the module: ids (1, time) -> (time, vocab), step by step where it takes and returns states, else in one call."""
        tokens = torch.tensor(ids, dtype=torch.int64)
        with torch.no_grad():
            if self.initial:
                return np.stack(list(self._steps(tokens)))
            if self.last_only:
                return np.stack([self._call(tokens[:, : end + 1])[-1] for end in range(tokens.shape[1])])
            return self._call(tokens)

    def _steps(self, tokens: Tensor) -> Iterator[np.ndarray]:
        states = self.initial
        for at in range(tokens.shape[1]):
            column = tokens[:, at : at + 1]
            scores, *states = self.module(column.T if self.time_first else column, *states)
            yield scores.numpy().reshape(-1)

    def _call(self, tokens: Tensor) -> np.ndarray:
        output = self.module(tokens.T if self.time_first else tokens)
        return (output[0] if isinstance(output, tuple) else output).numpy().reshape(-1, VOCAB)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter a value that matters: matrices keep the scale of what they multiply, norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    recurrent = {id(parameter) for part in module.modules() if isinstance(part, nn.RNNBase) for parameter in part.parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * values + (1 if bool((parameter == 1).all()) else 0))
            elif id(parameter) in tables:
                parameter.copy_(0.7 * values)
            else:
                parameter.copy_(values * (1.5 if id(parameter) in recurrent else 1) / math.sqrt(parameter.shape[-1]))
    return module.eval().requires_grad_(False)


def _recurrent(kind: type[nn.RNNBase], layers: int = 1, **options: Any) -> Callable[[], Zoo]:
    def build() -> Zoo:
        module = RecurrentLM(kind, layers, **options)
        h = torch.zeros(layers, 1, options.get("proj_size") or WIDTH)
        lstm = kind is nn.LSTM
        states = ((h, torch.zeros(layers, 1, WIDTH)),) if lstm else (h,)
        time_first = not options.get("batch_first", True)
        return Zoo(randomised(module), "recurrent", states, states, ("h", "c") if lstm else ("h",), time_first=time_first)

    return build


def _word_model(tied: bool) -> Callable[[], Zoo]:
    def build() -> Zoo:
        states = ((torch.zeros(2, 1, WIDTH), torch.zeros(2, 1, WIDTH)),)
        module = randomised(WordLanguageModel(tied))
        return Zoo(module, "recurrent", states, states, ("h", "c"), time_first=True, flat=True, log_probabilities=True)

    return build


def _stateless(make: Callable[[], nn.Module], **facts: Any) -> Callable[[], Zoo]:
    return lambda: Zoo(randomised(make()), "recurrent", **facts)


def _flat_states(make: Callable[[], nn.Module], shapes: dict[str, tuple[int, ...]], **facts: Any) -> Callable[[], Zoo]:
    def build() -> Zoo:
        states = tuple(torch.zeros(shape) for shape in shapes.values())
        return Zoo(randomised(make()), "recurrent", states, states, tuple(shapes), **facts)

    return build


def _transformer(make: Callable[[], nn.Module], **facts: Any) -> Callable[[], Zoo]:
    return lambda: Zoo(randomised(make()), "transformer", **facts)


def _cached_gpt() -> Zoo:
    def caches(time: int) -> tuple[Any, ...]:
        return ([tuple(torch.zeros(1, HEADS, time, HEAD_DIM) for _ in "kv") for _ in range(2)],)

    names = tuple(f"past_{kind}{layer}" for layer in range(2) for kind in "kv")
    return Zoo(randomised(CachedGPT(flash=False)), "transformer", caches(0), caches(5), names)


def _cached_llama(kv_heads: int, rotary: str) -> Callable[[], Zoo]:
    def build() -> Zoo:
        def caches(time: int) -> tuple[Tensor, ...]:
            return tuple(torch.zeros(1, kv_heads, time, HEAD_DIM) for _ in range(4))

        names = tuple(f"past_key_values.{layer}.{kind}" for layer in range(2) for kind in ("key", "value"))
        return Zoo(randomised(CachedLlama(kv_heads=kv_heads, rotary=rotary)), "transformer", caches(0), caches(5), names)

    return build


def _dense() -> StatelessLM:
    layers = (nn.Linear(WIDTH, 20), nn.ReLU(), nn.Dropout(0.1), nn.Linear(20, 10), nn.Tanh())
    return StatelessLM(nn.LSTM(12, WIDTH, batch_first=True), layers)


def _tied_projection() -> StatelessLM:
    return StatelessLM(nn.LSTM(12, WIDTH, batch_first=True), (nn.Linear(WIDTH, 12, bias=False),), tied=True)


ZOO: dict[str, Callable[[], Zoo]] = {
    "lstm": _recurrent(nn.LSTM),
    "lstm-2": _recurrent(nn.LSTM, 2, dropout=0.2),
    "lstm-3-time-first": _recurrent(nn.LSTM, 3, batch_first=False),
    "lstm-no-bias": _recurrent(nn.LSTM, 2, bias=False, head_bias=False),
    "lstm-tied": _recurrent(nn.LSTM, 2, tied=True),
    "lstm-tied-no-bias": _recurrent(nn.LSTM, tied=True, head_bias=False),
    "lstm-proj": _recurrent(nn.LSTM, 2, proj_size=8),
    "lstm-word-model": _word_model(tied=False),
    "lstm-word-model-tied": _word_model(tied=True),
    "lstm-separate-states": _flat_states(SeparateStatesLM, {"h": (2, 1, WIDTH), "c": (2, 1, WIDTH)}),
    "lstm-stateless": _stateless(lambda: StatelessLM(nn.LSTM(12, WIDTH, 2, batch_first=True))),
    "lstm-last": _stateless(lambda: StatelessLM(nn.LSTM(12, WIDTH, 2, batch_first=True), last=True), last_only=True),
    "lstm-dense": _stateless(_dense),
    "lstm-dense-gelu": _stateless(lambda: StatelessLM(nn.LSTM(12, WIDTH, batch_first=True), (nn.Linear(WIDTH, 20), nn.GELU()))),
    "lstm-tied-projection": _stateless(_tied_projection),
    "lstm-explicit-zeros": _stateless(ExplicitZerosLM),
    "lstm-cell": _flat_states(CellLM, {"h": (1, WIDTH), "c": (1, WIDTH)}, extra={"one_step": True}),
    "gru": _recurrent(nn.GRU),
    "gru-2-time-first": _recurrent(nn.GRU, 2, batch_first=False),
    "gru-tied": _recurrent(nn.GRU, tied=True, head_bias=False),
    "gru-stateless": _stateless(lambda: StatelessLM(nn.GRU(12, WIDTH, 2, batch_first=True))),
    "gru-last-states": _flat_states(LastStepWithStates, {"h": (1, 1, WIDTH)}),
    "rnn-tanh": _recurrent(nn.RNN, 2),
    "rnn-relu": _recurrent(nn.RNN, nonlinearity="relu"),
    "rnn-stateless": _stateless(lambda: StatelessLM(nn.RNN(12, WIDTH, batch_first=True))),
    "encoder": _transformer(EncoderLM),
    "encoder-constant-mask": _transformer(lambda: EncoderLM(mask="constant")),
    "encoder-is-causal": _transformer(lambda: EncoderLM(mask="is_causal")),
    "encoder-norm-first": _transformer(lambda: EncoderLM(norm_first=True, activation="gelu", final_norm=True)),
    "encoder-sinusoidal": _transformer(lambda: EncoderLM(positions="sinusoidal", scaled=True, mask="triu")),
    "encoder-norm-first-sinusoidal": _transformer(
        lambda: EncoderLM(norm_first=True, positions="sinusoidal", scaled=True, mask="constant", final_norm=True, tied=True)
    ),
    "encoder-gelu-tied": _transformer(lambda: EncoderLM(activation="gelu", tied=True, head_bias=False)),
    "encoder-last": _transformer(lambda: EncoderLM(norm_first=True, last=True), last_only=True),
    "transformer-tutorial": _transformer(TutorialTransformer, time_first=True, log_probabilities=True),
    "gpt": _transformer(GPT),
    "gpt-no-bias": _transformer(lambda: GPT(bias=False)),
    "gpt-by-hand": _transformer(lambda: GPT(flash=False, activation=new_gelu)),
    "gpt-gelu-tanh": _transformer(lambda: GPT(activation=lambda x: functional.gelu(x, approximate="tanh"), tied=False)),
    "gpt-last": _transformer(lambda: GPT(last=True), last_only=True),
    "gpt-cached": _cached_gpt,
    "llama": _transformer(Llama),
    "llama-gqa": _transformer(lambda: Llama(kv_heads=2, tied=True)),
    "llama-mqa-sdpa": _transformer(lambda: Llama(kv_heads=1, by_hand=False)),
    "llama-interleaved": _transformer(lambda: Llama(rotary="interleaved")),
    "llama-table": _transformer(lambda: Llama(kv_heads=2, rotary="table")),
    "llama-partial": _transformer(lambda: Llama(rotary="partial")),
    "llama-rmsnorm-module": _transformer(lambda: Llama(norm=lambda: nn.RMSNorm(WIDTH, eps=1e-6))),
    "llama-qk-norm": _transformer(lambda: Llama(kv_heads=2, qk_norm=True)),
    "llama-last": _transformer(lambda: Llama(last=True), last_only=True),
    "llama-cached": _cached_llama(HEADS, "halves"),
    "llama-cached-gqa-table": _cached_llama(2, "table"),
}
"""Name -> how to build one; each call gives a new module with the same weights."""
