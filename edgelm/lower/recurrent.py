"""Recurrent models as one `step` signature: FULLY_CONNECTED and elementwise ops, states in and out.

    step: token int32 (1,), h_0 float32 (1, units), ...  ->  logits float32 (1, vocab), h_0, ...

The states are those of `RecurrentSpec.state_names`; outputs have the names of the inputs they replace. Such a step is 4.3 times
faster than the fused UNIDIRECTIONAL_SEQUENCE_LSTM and hides no state. No op fixes the first axis: a host may resize every input
from 1 to n rows and then steps n streams at once.

Input and recurrent matrix are one FULLY_CONNECTED on [x, h] where both are stored alike, except in three cases. The candidate of a GRU
needs its recurrent product apart. Integer weights of layer 0: hybrid kernels round [x, h] to 8 bits with one scale, and embeddings
are often ten times smaller than states; apart, the rounding error of a step was 2.4 times smaller for 3 % more time. And fixed scales
of rows, where those of the two matrices differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.lower.layers import LayerBuilder
from edgelm.lower.static import layer_builder
from edgelm.lower.store import WeightStore
from edgelm.spec import GATES, Cell, Encoding, RecurrentSpec
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import BLOCK_COLUMNS
from edgelm.tflite.writer import ModelBuilder

State = tuple[Tensor, ...]
"""(h,), or (h, c) of lstm and cifg, each (1, units)."""


def build_recurrent(spec: RecurrentSpec, store: WeightStore, builder: ModelBuilder) -> None:
    """Adds the `step` signature of a recurrent model to `builder`."""
    layers = layer_builder(builder, "step", store)
    token = layers.g.input("token", (1,), "int32")
    states = {name: layers.g.input(name, (1, spec.state_size(name))) for name in spec.state_names}
    x = layers.lookup(token, "embedding.weight")  # (1, embedding_size)
    if spec.embedding_projection:
        x = layers.plain_dense(x, "embedding_projection")
    new_states: dict[str, Tensor] = {}
    for index in range(len(spec.units)):
        names = [name for name in spec.state_names if name.endswith(f"_{index}")]
        state = _CELLS[spec.cell](_Layer(spec, layers, index), x, tuple(states[name] for name in names))
        new_states |= dict(zip(names, state, strict=True))
        x = state[0]
    for index, dense in enumerate(spec.hidden):
        x = layers.activate(dense.activation, layers.plain_dense(x, f"hidden.{index}"))
    layers.g.output("logits", layers.head(x))
    for name, tensor in new_states.items():
        layers.g.output(name, tensor)


class _Layer:
    """The products of one recurrent layer."""

    def __init__(self, spec: RecurrentSpec, layers: LayerBuilder, index: int) -> None:
        self.spec = spec
        self.layers = layers
        self.g = layers.g
        self.store = layers.store
        self.index = index
        self.at = f"layers.{index}"
        self.units = spec.units[index]

    @property
    def input_bias(self) -> NDArray[np.float32]:
        return self.store.model.float32(f"{self.at}.input.bias")

    def gates(self, x: Tensor, h: Tensor) -> Tensor:
        """W x + R h + b, (1, gates * units)."""
        if not self._fuses(x, h):
            return self.layers.add(self.input_product(x), self.recurrent_product(h), f"{self.at}:gates")
        names = [f"{self.at}.input.weight", f"{self.at}.recurrent.weight"]
        model = self.store.model
        joined = self.g.concatenate([x, h])  # (1, inputs + units)
        return self.layers.dense(
            joined,
            f"{self.at}.weight",
            names,
            lambda: np.concatenate([model.float32(name) for name in names], axis=1),
            self.input_bias,
            scales=self._joined_scales(x.shape[1], h.shape[1]),
        )

    def input_product(self, x: Tensor) -> Tensor:
        """W x + b, (1, gates * units); x itself holds W x where the embedding does."""
        if self.index == 0 and self.spec.gate_embedding:
            return self.g.add(x, self.g.constant(self.input_bias))
        return self.layers.plain_dense(x, f"{self.at}.input")

    def recurrent_product(self, h: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """R h + its bias for gates `first` up to `last` (all of them by default), (1, those gates * units)."""
        name = f"{self.at}.recurrent"
        last = GATES[self.spec.cell] if last is None else last
        if (first, last) == (0, GATES[self.spec.cell]):
            return self.layers.plain_dense(h, name)
        weight, scales = self.store.model.weights[f"{name}.weight"], self.store.fixed_scales(f"{name}.weight", self.units)
        rows = slice(first * self.units, last * self.units)
        return self.layers.dense(
            h, f"{name}.weight:{first}", [f"{name}.weight"], lambda: weight[rows], scales=None if scales is None else scales[rows]
        )

    def recurrent_activation(self, x: Tensor) -> Tensor:
        return self.layers.activate(self.spec.recurrent_activation, x)

    def activation(self, x: Tensor) -> Tensor:
        return self.layers.activate(self.spec.activation, x)

    def _fuses(self, x: Tensor, h: Tensor) -> bool:
        if self.layers.static or (self.index == 0 and self.spec.gate_embedding):
            return False
        names = (f"{self.at}.input.weight", f"{self.at}.recurrent.weight")
        apart = [self.store.possible(name, tensor.shape[1]) for name, tensor in zip(names, (x, h), strict=True)]
        joined = {self.store.possible(name, x.shape[1] + h.shape[1]) for name in names}
        if len(joined) > 1 or not self._grids_join(x.shape[1], h.shape[1]):
            return False
        (encoding,) = joined
        smaller_apart = any(part.bits < encoding.bits for part in apart)  # one of them has columns that blocks of 32 fit, the sum has not
        return not smaller_apart and (self.index > 0 or encoding in (Encoding.FLOAT32, Encoding.FLOAT16))

    def _fixed_scales(self, inputs: int, units: int) -> list[NDArray[np.float32] | None]:
        """Those of W and of R as parts of the joined matrix, (rows, blocks) each."""
        return [self.store.fixed_scales(f"{self.at}.{kind}.weight", inputs + units) for kind in ("input", "recurrent")]

    def _grids_join(self, inputs: int, units: int) -> bool:
        """Whether [W, R] can have the scales of W and of R: blocks side by side, or one in each row that both have."""
        a, b = self._fixed_scales(inputs, units)
        if a is None or b is None:
            return a is b
        return inputs % BLOCK_COLUMNS == 0 if self._blocks(inputs + units) else np.array_equal(a, b)

    def _joined_scales(self, inputs: int, units: int) -> NDArray[np.float32] | None:
        """Of [W, R], (rows, blocks), where `_grids_join`."""
        a, b = self._fixed_scales(inputs, units)
        if a is None or b is None:
            return None
        return np.concatenate([a, b], axis=1) if self._blocks(inputs + units) else a

    def _blocks(self, columns: int) -> bool:
        return self.store.possible(f"{self.at}.input.weight", columns) is Encoding.INT4_BLOCK32


def _rnn(layer: _Layer, x: Tensor, state: State) -> State:
    return (layer.activation(layer.gates(x, state[0])),)


def _gru(layer: _Layer, x: Tensor, state: State) -> State:
    g, (h,) = layer.g, state
    inputs = g.split(layer.input_product(x), 3)  # z, r, candidate
    gates = 3 if layer.spec.reset_after else 2  # of the recurrent product of h itself
    recurrent = g.split(layer.recurrent_product(h, 0, gates), gates)
    z, r = (layer.recurrent_activation(layer.layers.add(a, b, f"{layer.at}:gates")) for a, b in zip(inputs[:2], recurrent[:2], strict=True))
    product = g.mul(r, recurrent[2]) if layer.spec.reset_after else layer.recurrent_product(g.mul(r, h), 2, 3)  # (1, units)
    candidate = layer.activation(layer.layers.add(inputs[2], product, f"{layer.at}:candidate"))
    return (g.add(candidate, g.mul(z, g.sub(h, candidate))),)


def _lstm(layer: _Layer, x: Tensor, state: State) -> State:
    g, (h, c) = layer.g, state
    i, f, candidate, o = g.split(layer.gates(x, h), 4)  # each (1, units)
    kept = g.mul(layer.recurrent_activation(f), c)
    c = g.add(kept, g.mul(layer.recurrent_activation(i), layer.activation(candidate)))
    return g.mul(layer.recurrent_activation(o), layer.activation(c)), c


def _cifg(layer: _Layer, x: Tensor, state: State) -> State:
    g, (h, c) = layer.g, state
    f, candidate, o = g.split(layer.gates(x, h), 3)  # each (1, units)
    new = layer.activation(candidate)
    c = g.add(new, g.mul(layer.recurrent_activation(f), g.sub(c, new)))  # f * c + (1 - f) * new
    return g.mul(layer.recurrent_activation(o), layer.activation(c)), c


_CELLS: Mapping[Cell, Callable[[_Layer, Tensor, State], State]] = {"rnn": _rnn, "gru": _gru, "lstm": _lstm, "cifg": _cifg}
