"""The oracle: both families of `edgelm.spec` computed with numpy alone, straight from the canonical weights.

Lifts, lowerings, runtimes and quality figures are all compared with it, so it favours plainness over speed. It is still fast
enough to score corpora: every product is one BLAS call over the whole batch, and only recurrent layers loop over time.
Encodings are ignored: the model's float weights are what is computed.

Example:
    >>> session = ReferenceSession(model, batch=8)
    >>> for chunk in np.split(ids, 10, axis=1):  # ids (8, 1000): the state runs on from chunk to chunk
    ...     score(session.extend(chunk))  # (8, 100, vocab)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextFullError
from edgelm.model import LanguageModel
from edgelm.models.activations import activate as activate  # the converters import it from here
from edgelm.spec import Activation, FloatArray, RecurrentSpec, TransformerSpec


def logits(model: LanguageModel, ids: NDArray[np.integer[Any]], *, dtype: type[np.floating[Any]] = np.float32) -> FloatArray:
    """Scores every position of a batch of token sequences, each from an empty state.

    Args:
        model: The model; its encodings are ignored.
        ids: (batch, time) token ids.
        dtype: What to compute in; `np.float64` for golden values.

    Returns:
        (batch, time, vocab) of `dtype`. That is 400 MB for 10,000 positions of 10,000 words: score corpora in chunks with
        `ReferenceSession.extend`.

    Raises:
        ContextFullError: A transformer was given more than `max_positions` tokens.
    """
    return ReferenceSession(model, batch=ids.shape[0], dtype=dtype).extend(ids)


Observe = Callable[[str, FloatArray], None]
"""Told the name of a matrix (rows, columns) and what it is multiplied with, (batch, time, columns)."""


class ReferenceSession:
    """Evaluates a model incrementally, keeping recurrent states or attention caches.

    Args:
        model: The model; its encodings are ignored.
        batch: Streams that run side by side.
        dtype: What to compute in.
        observe: Told the inputs of every product, the head's too. Of a GRU's recurrent matrix these are the states, also where the
            candidate's rows are multiplied with reset ones.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch: int = 1,
        *,
        dtype: type[np.floating[Any]] = np.float32,
        observe: Observe = lambda name, inputs: None,
    ) -> None:
        self.spec = model.spec
        self._observe = observe
        self.batch = batch
        self._weights: dict[str, FloatArray] = {name: np.asarray(weight, dtype) for name, weight in model.weights.items()}
        self._dtype = dtype
        self.reset()

    def reset(self) -> None:
        """Forgets everything: empty caches, zero states."""
        self._state: dict[str, FloatArray] = {}
        self.position = 0
        if isinstance(self.spec, RecurrentSpec):
            self._state = {name: np.zeros((self.batch, self.spec.state_size(name)), self._dtype) for name in self.spec.state_names}
        else:
            empty = np.zeros((self.batch, self.spec.kv_heads, 0, self.spec.head_dim), self._dtype)
            self._state = {f"{kind}_{layer}": empty for layer in range(self.spec.layers) for kind in "kv"}

    @property
    def state(self) -> Mapping[str, FloatArray]:
        """Recurrent: `spec.state_names` -> (batch, units). Transformer: `k_i`, `v_i` -> (batch, kv_heads, position, head_dim)."""
        return self._state

    def step(self, tokens: NDArray[np.integer[Any]]) -> FloatArray:
        """Takes one token a stream.

        Args:
            tokens: (batch,) token ids.

        Returns:
            (batch, vocab) logits of the next token.

        Raises:
            ContextFullError: A transformer has no position left.
        """
        return self.extend(np.asarray(tokens)[:, None])[:, 0]

    def extend(self, ids: NDArray[np.integer[Any]]) -> FloatArray:
        """Takes some tokens a stream.

        Args:
            ids: (batch, time) token ids.

        Returns:
            (batch, time, vocab) logits after each of them.

        Raises:
            ContextFullError: A transformer has fewer positions left.
        """
        ids = np.asarray(ids)
        hidden = self._recurrent(self.spec, ids) if isinstance(self.spec, RecurrentSpec) else self._transformer(self.spec, ids)
        self.position += ids.shape[1]
        table = "embedding.weight" if self.spec.tied_head else "head.weight"
        self._observe(table, hidden)
        scores: FloatArray = product(hidden, self._weights[table])  # (batch, time, vocab)
        if self.spec.head_bias:
            scores += self._weights["head.bias"]
        return scores

    def _dense(self, x: FloatArray, name: str) -> FloatArray:
        self._observe(f"{name}.weight", x)
        y = product(x, self._weights[f"{name}.weight"])
        bias = self._weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _activate(self, name: Activation, x: FloatArray) -> FloatArray:
        return activate(name, x)

    def _recurrent(self, spec: RecurrentSpec, ids: NDArray[np.integer[Any]]) -> FloatArray:
        x: FloatArray = self._weights["embedding.weight"][ids]  # (batch, time, embedding_size)
        if spec.embedding_projection:
            x = self._dense(x, "embedding_projection")
        for layer in range(len(spec.units)):
            name = f"layers.{layer}.input"
            gates = x + self._weights[f"{name}.bias"] if layer == 0 and spec.gate_embedding else self._dense(x, name)
            x = self._recurrent_layer(spec, layer, gates)  # (batch, time, units)
        for index, dense in enumerate(spec.hidden):
            x = self._activate(dense.activation, self._dense(x, f"hidden.{index}"))
        return x

    def _recurrent_layer(self, spec: RecurrentSpec, layer: int, gates: FloatArray) -> FloatArray:
        """Runs one layer over time; `gates` (batch, time, gates * units) are its input products, bias included."""
        kernel = self._weights[f"layers.{layer}.recurrent.weight"].T
        bias = self._weights.get(f"layers.{layer}.recurrent.bias", np.zeros(1, self._dtype))
        state = [self._state[name] for name in spec.state_names if name.endswith(f"_{layer}")]
        outputs = np.empty((gates.shape[0], gates.shape[1] + 1, spec.units[layer]), self._dtype)
        outputs[:, 0] = state[0]
        advance = _CELLS[spec.cell]
        for time in range(gates.shape[1]):
            state = advance(spec, gates[:, time], state, kernel, bias)
            outputs[:, time + 1] = state[0]
        self._observe(f"layers.{layer}.recurrent.weight", outputs[:, :-1])
        self._state |= dict(zip((name for name in spec.state_names if name.endswith(f"_{layer}")), state, strict=True))
        return outputs[:, 1:]

    def _transformer(self, spec: TransformerSpec, ids: NDArray[np.integer[Any]]) -> FloatArray:
        end = self.position + ids.shape[1]
        if end > spec.max_positions:
            raise ContextFullError(f"the model was made for {spec.max_positions} positions, {end} were asked for")
        x = self._weights["embedding.weight"][ids] * self._dtype(spec.embedding_scale)  # (batch, time, width)
        positions = np.arange(self.position, end)
        if spec.position == "learned":
            x += self._weights["positions.weight"][positions]
        elif spec.position == "sinusoidal":
            x += sinusoidal_table(spec, positions).astype(self._dtype)
        if spec.embedding_norm:
            x = self._norm(spec, x, "embedding_norm")
        for layer in range(spec.layers):
            x = self._block(spec, layer, x, positions)
        return self._norm(spec, x, "final_norm") if spec.final_norm else x

    def _block(self, spec: TransformerSpec, layer: int, x: FloatArray, positions: NDArray[np.integer[Any]]) -> FloatArray:
        norm = f"layers.{layer}.attention_norm"
        y = self._after(spec, x + self._attention(spec, layer, self._before(spec, x, norm), positions), norm)
        norm = f"layers.{layer}.ffn_norm"
        read = x if spec.parallel_residual else y
        return self._after(spec, y + self._feed_forward(spec, layer, self._before(spec, read, norm)), norm)

    def _before(self, spec: TransformerSpec, x: FloatArray, norm: str) -> FloatArray:
        return self._norm(spec, x, norm) if spec.norm_position == "pre" else x

    def _after(self, spec: TransformerSpec, x: FloatArray, norm: str) -> FloatArray:
        return self._norm(spec, x, norm) if spec.norm_position == "post" else x

    def _norm(self, spec: TransformerSpec, x: FloatArray, name: str) -> FloatArray:
        if spec.norm == "rms":
            return self._rms(spec, x) * self._weights[f"{name}.weight"]
        centred = x - x.mean(-1, keepdims=True)
        return self._rms(spec, centred) * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _rms(self, spec: TransformerSpec, x: FloatArray) -> FloatArray:
        scaled: FloatArray = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._dtype(spec.norm_eps))
        return scaled

    def _attention(self, spec: TransformerSpec, layer: int, x: FloatArray, positions: NDArray[np.integer[Any]]) -> FloatArray:
        batch, time = x.shape[:2]
        q, k, v = (
            self._dense(x, f"layers.{layer}.{name}").reshape(batch, time, -1, spec.head_dim).transpose(0, 2, 1, 3) for name in "qkv"
        )  # (batch, heads or kv_heads, time, head_dim)
        if spec.qk_norm:
            q = self._rms(spec, q) * self._weights[f"layers.{layer}.q_norm.weight"]
            k = self._rms(spec, k) * self._weights[f"layers.{layer}.k_norm.weight"]
        if spec.position == "rotary":
            q, k = rotate(spec, q, positions), rotate(spec, k, positions)
        k = self._state[f"k_{layer}"] = np.concatenate([self._state[f"k_{layer}"], k], axis=2)
        v = self._state[f"v_{layer}"] = np.concatenate([self._state[f"v_{layer}"], v], axis=2)
        q = q.reshape(batch, spec.kv_heads, -1, time, spec.head_dim)
        scores = q @ k[:, :, None].swapaxes(-1, -2) * self._dtype(spec.score_scale)  # (batch, kv_heads, group, time, position)
        scores[..., np.arange(k.shape[2]) > positions[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v[:, :, None]).reshape(batch, spec.heads, time, spec.head_dim)
        return self._dense(mixed.transpose(0, 2, 1, 3).reshape(batch, time, -1), f"layers.{layer}.o")

    def _feed_forward(self, spec: TransformerSpec, layer: int, x: FloatArray) -> FloatArray:
        up = self._dense(x, f"layers.{layer}.up")
        gate = self._dense(x, f"layers.{layer}.gate") if spec.gated else up
        inner = activate(spec.activation, gate)
        return self._dense(inner * up if spec.gated else inner, f"layers.{layer}.down")


State = list[FloatArray]


def _rnn(spec: RecurrentSpec, gates: FloatArray, state: State, kernel: FloatArray, bias: FloatArray) -> State:
    return [activate(spec.activation, gates + state[0] @ kernel)]


def _gru(spec: RecurrentSpec, gates: FloatArray, state: State, kernel: FloatArray, bias: FloatArray) -> State:
    (h,) = state
    units = h.shape[1]
    recurrent = h @ (kernel if spec.reset_after else kernel[:, : 2 * units]) + bias[: kernel.shape[1]]
    zr = activate(spec.recurrent_activation, gates[:, : 2 * units] + recurrent[:, : 2 * units])
    z, r = zr[:, :units], zr[:, units:]
    product = r * recurrent[:, 2 * units :] if spec.reset_after else (r * h) @ kernel[:, 2 * units :]
    candidate = activate(spec.activation, gates[:, 2 * units :] + product)
    return [z * h + (1 - z) * candidate]


def _lstm(spec: RecurrentSpec, gates: FloatArray, state: State, kernel: FloatArray, bias: FloatArray) -> State:
    h, c = state
    i, f, g, o = np.split(gates + h @ kernel, 4, axis=1)
    i, f, o = (activate(spec.recurrent_activation, gate) for gate in (i, f, o))
    c = f * c + i * activate(spec.activation, g)
    return [o * activate(spec.activation, c), c]


def _cifg(spec: RecurrentSpec, gates: FloatArray, state: State, kernel: FloatArray, bias: FloatArray) -> State:
    h, c = state
    f, g, o = np.split(gates + h @ kernel, 3, axis=1)
    f, o = activate(spec.recurrent_activation, f), activate(spec.recurrent_activation, o)
    c = f * c + (1 - f) * activate(spec.activation, g)
    return [o * activate(spec.activation, c), c]


_CELLS: Mapping[str, Callable[[RecurrentSpec, FloatArray, State, FloatArray, FloatArray], State]] = {
    "rnn": _rnn,
    "gru": _gru,
    "lstm": _lstm,
    "cifg": _cifg,
}


def sinusoidal_table(spec: TransformerSpec, positions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Vaswani et al. 2017, section 3.5: (count, width), sines in the even columns, cosines in the odd."""
    columns = np.arange(spec.width)
    angles = positions[:, None] / 10_000.0 ** ((columns - columns % 2) / spec.width)
    return np.where(columns % 2, np.cos(angles), np.sin(angles))


def rotary_table(spec: TransformerSpec, positions: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines of the rotary angles, each (count, rotary_size / 2) (Su et al. 2021)."""
    frequencies = spec.rope_theta ** (-np.arange(0, spec.rotary_size, 2) / spec.rotary_size)
    angles = positions[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


def rotate(spec: TransformerSpec, x: FloatArray, positions: NDArray[np.integer[Any]]) -> FloatArray:
    """Turns the leading `rotary_size` columns of (..., time, head_dim), first half against second half."""
    half = spec.rotary_size // 2
    cos, sin = (table.astype(x.dtype) for table in rotary_table(spec, positions))
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def product(x: FloatArray, weight: FloatArray) -> FloatArray:
    """One product of all rows of x (..., columns) with a weight (rows, columns), where numpy would do one for each batch: (..., rows)."""
    rows: FloatArray = x.reshape(-1, x.shape[-1]) @ weight.T
    return rows.reshape(*x.shape[:-1], len(weight))
