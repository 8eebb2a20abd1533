"""The numpy oracle of models with fixed activation ranges: what their int8 graphs compute, rounding for rounding.

Rounding happens where `edgelm.lower.static` has int8 tensors, on values that are computed in float between them; sums of int8 products
and int32 biases are exact enough in float32 that integers differ by a step now and then, at ties. Without rounding the same sites can be
observed, to find ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.model import LanguageModel
from edgelm.models.activations import activate
from edgelm.models.reference import ReferenceSession, State
from edgelm.models.static_sites import affines, input_site, round_to_int8
from edgelm.spec import Activation, FloatArray, RecurrentSpec, TransformerSpec

Observe = Callable[[str, FloatArray], None]

FIXED_OUTPUTS: Mapping[str, tuple[float, int]] = {"sigmoid": (1 / 256, -128), "tanh": (1 / 128, 0)}
"""Activation -> scale and zero point its int8 kernel gives: sigmoid ends at 255 / 256, tanh at 127 / 128."""


def logits(model: LanguageModel, ids: NDArray[np.integer[Any]]) -> FloatArray:
    """Scores every position of a batch as the int8 graph does, each row from an empty state.

    Args:
        model: With ranges, and with its matrices on int8 grids.
        ids: (batch, time) token ids.

    Returns:
        (batch, time, vocab) float32.

    Raises:
        UnsupportedModelError: A site has no range.
        ContextFullError: A transformer was given more than `max_positions` tokens.
    """
    return StaticSession(model, batch=ids.shape[0]).extend(ids)


class StaticSession(ReferenceSession):
    """Evaluates a model incrementally with int8 activations.

    Args:
        model: With ranges, unless it is observed.
        batch: Streams that run side by side.
        observe: Given, nothing is rounded, and it is told every site with its values, (..., columns).
    """

    def __init__(self, model: LanguageModel, batch: int = 1, *, observe: Observe | None = None) -> None:
        super().__init__(model, batch)
        self._told = observe
        self._affines = affines(model) if observe is None else {}

    def extend(self, ids: NDArray[np.integer[Any]]) -> FloatArray:
        """As of `ReferenceSession`: (batch, time) ids -> (batch, time, vocab) logits."""
        ids = np.asarray(ids)
        hidden = self._recurrent(self.spec, ids) if isinstance(self.spec, RecurrentSpec) else self._transformer(self.spec, ids)
        self.position += ids.shape[1]
        table = self._weights["embedding.weight" if self.spec.tied_head else "head.weight"]
        scores: FloatArray = self._at("head:in", hidden) @ table.T
        return self._at("head:out", scores + self._weights["head.bias"] if self.spec.head_bias else scores)

    def _at(self, site: str, x: FloatArray) -> FloatArray:
        if self._told is not None:
            self._told(site, x)
            return x
        return round_to_int8(x, self._affines[site])

    def _activate(self, name: Activation, x: FloatArray) -> FloatArray:
        """An activation of values that are int8."""
        if name == "silu":
            y: FloatArray = x * self._activate("sigmoid", x)
            return y
        y = activate(name, x)
        return round_to_int8(y, FIXED_OUTPUTS[name]) if name in FIXED_OUTPUTS and self._told is None else y

    def _dense(self, x: FloatArray, name: str) -> FloatArray:
        return self._at(f"{name}:out", super()._dense(self._at(input_site(name), x), name))

    def _recurrent_layer(self, spec: RecurrentSpec, layer: int, gates: FloatArray) -> FloatArray:
        names = [name for name in spec.state_names if name.endswith(f"_{layer}")]
        state = [self._state[name] for name in names]
        outputs = np.empty((*gates.shape[:2], spec.units[layer]), np.float32)
        advance = {"rnn": self._rnn, "gru": self._gru, "lstm": self._lstm, "cifg": self._cifg}[spec.cell]
        for time in range(gates.shape[1]):
            state = advance(spec, f"layers.{layer}", gates[:, time], state)
            outputs[:, time] = state[0]
        self._state |= dict(zip(names, state, strict=True))
        return outputs

    def _gates(self, at: str, inputs: FloatArray, h: FloatArray) -> FloatArray:
        return self._at(f"{at}:gates", inputs + self._dense(h, f"{at}.recurrent"))

    def _rnn(self, spec: RecurrentSpec, at: str, inputs: FloatArray, state: State) -> State:
        return [self._activate(spec.activation, self._gates(at, inputs, state[0]))]

    def _gru(self, spec: RecurrentSpec, at: str, inputs: FloatArray, state: State) -> State:
        (h,), both = state, 2 * state[0].shape[1]
        if spec.reset_after:
            recurrent = self._dense(h, f"{at}.recurrent")
        else:
            recurrent = self._rows(h, f"{at}.recurrent", slice(0, both), f"{at}.recurrent")
        gates = self._at(f"{at}:gates", inputs[:, :both] + recurrent[:, :both])
        z, r = np.split(self._activate(spec.recurrent_activation, gates), 2, axis=1)
        if spec.reset_after:
            product = r * recurrent[:, both:]
        else:
            product = self._rows(r * h, f"{at}.recurrent", slice(both, None), f"{at}.candidate")
        candidate = self._activate(spec.activation, self._at(f"{at}:candidate", inputs[:, both:] + product))
        return [candidate + z * (h - candidate)]

    def _rows(self, x: FloatArray, name: str, rows: slice, site: str) -> FloatArray:
        """Some rows of a matrix times x, with sites of their own."""
        return self._at(f"{site}:out", self._at(f"{site}:in", x) @ self._weights[f"{name}.weight"][rows].T)

    def _lstm(self, spec: RecurrentSpec, at: str, inputs: FloatArray, state: State) -> State:
        i, f, g, o = np.split(self._gates(at, inputs, state[0]), 4, axis=1)
        i, f, o = (self._activate(spec.recurrent_activation, gate) for gate in (i, f, o))
        c = f * state[1] + i * self._activate(spec.activation, g)
        return [o * activate(spec.activation, c), c]

    def _cifg(self, spec: RecurrentSpec, at: str, inputs: FloatArray, state: State) -> State:
        f, g, o = np.split(self._gates(at, inputs, state[0]), 3, axis=1)
        f, o = self._activate(spec.recurrent_activation, f), self._activate(spec.recurrent_activation, o)
        new = self._activate(spec.activation, g)
        c = new + f * (state[1] - new)
        return [o * activate(spec.activation, c), c]

    def _feed_forward(self, spec: TransformerSpec, layer: int, x: FloatArray) -> FloatArray:
        at = f"layers.{layer}"
        if not spec.gated:
            return self._dense(self._activate(spec.activation, self._dense(x, f"{at}.up")), f"{at}.down")
        gate = self._activate(spec.activation, self._dense(x, f"{at}.gate"))
        return self._dense(self._at(f"{at}.gate:act", gate) * self._dense(x, f"{at}.up"), f"{at}.down")
