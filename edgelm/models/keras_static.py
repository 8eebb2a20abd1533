"""Keras models whose activations are int8 with fixed ranges while they train; importing this module imports tf_keras.

Each layer rounds what its int8 kernel rounds (`edgelm.models.reference_static` is the same in numpy), with TensorFlow's own fake-quant
op: its gradient is one within the range and zero beyond. The ranges are constants. Moving averages, TF-MOT's way, follow the activations
only after many steps, and clip the logits of short trainings; ranges that were calibrated before have nothing to follow, and the weights
learn to stay within them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from edgelm.model import LanguageModel
from edgelm.models.keras_cell import CellRNN, RecurrentCell
from edgelm.models.keras_layers import GatedActivation, Tensor, TiedHead, activation, register
from edgelm.models.keras_names import keras_weights
from edgelm.models.static_sites import affines, input_site
from edgelm.spec import RecurrentSpec

Affine = Sequence[float]
"""Scale and zero point."""

_FIXED_OUTPUTS: Mapping[str, Affine] = {"sigmoid": (1 / 256, -128), "tanh": (1 / 128, 0)}


def with_ranges(plain: Any, model: LanguageModel) -> Any:
    """A model made by `keras_model.build` with the activations of a language model rounded; layers and weights keep their names.

    Args:
        plain: Built from the spec of `model`.
        model: Its ranges are taken.

    Returns:
        ids (batch, time) int32 -> logits (batch, time, vocab) float32, with fresh weights.

    Raises:
        UnsupportedModelError: A site has no range.
    """
    known = {site: list(affine) for site, affine in affines(model).items()}
    names = {place.layer: name.rsplit(".", 1)[0] for name, place in keras_weights(model.spec).items()} | {"head": "head"}

    def rounded(layer: Any) -> Any:
        return _rounded(layer, names.get(layer.name, ""), known, model)

    return tf_keras.models.clone_model(plain, clone_function=rounded)


def _rounded(layer: Any, name: str, known: Mapping[str, Affine], model: LanguageModel) -> Any:
    if isinstance(layer, tf_keras.layers.RNN) and isinstance(model.spec, RecurrentSpec):
        return _rounded_rnn(layer.name, known, model.spec)
    if isinstance(layer, GatedActivation):
        return StaticGate(layer.activation, known[layer.name.replace("_", ".").removesuffix(".gated") + ".gate:act"], name=layer.name)
    if not isinstance(layer, (tf_keras.layers.Dense, TiedHead)):
        return layer.__class__.from_config(layer.get_config())
    ends = known[input_site(name)], known[f"{name}:out"]
    if isinstance(layer, TiedHead):
        return StaticTiedHead(*ends, use_bias=layer.use_bias, name=layer.name)
    return StaticDense(*ends, tf_keras.activations.serialize(layer.activation), layer.units, use_bias=layer.use_bias, name=layer.name)


def _rounded_rnn(name: str, known: Mapping[str, Affine], spec: RecurrentSpec) -> StaticRNN:
    index = int(name.removeprefix("layers_"))
    at = f"layers.{index}"
    own = {site.removeprefix(at): affine for site, affine in known.items() if site.startswith((f"{at}.", f"{at}:"))}
    fed = index == 0 and spec.gate_embedding
    cell = StaticCell(own, spec.units[index], spec.cell, spec.activation, spec.recurrent_activation, spec.reset_after, not fed)
    return StaticRNN(cell, return_sequences=True, name=name)


def fake_quant(x: Tensor, affine: Affine) -> Tensor:
    """X on the int8 grid of a scale and a zero point, straight-through, in x's dtype."""
    scale, zero_point = affine
    low, high = scale * (-128 - zero_point), scale * (127 - zero_point)
    return tf.cast(tf.quantization.fake_quant_with_min_max_args(tf.cast(x, tf.float32), low, high), x.dtype)


def rounded_activation(name: str, x: Tensor) -> Tensor:
    """An activation of `edgelm.spec` as int8 kernels compute it of int8 values."""
    if name == "silu":
        return x * rounded_activation("sigmoid", x)
    y = activation(name)(x)
    return fake_quant(y, _FIXED_OUTPUTS[name]) if name in _FIXED_OUTPUTS else y


@register
class StaticDense(tf_keras.layers.Dense):  # type: ignore[misc]
    """A Dense layer that reads and gives int8 values, with an activation of these behind it.

    Args:
        given: Scale and zero point of its input.
        product: The same of its output before the activation.
        squash: Name of the activation.
        units: Outputs.
        **options: Of Dense, but no activation.
    """

    def __init__(self, given: Affine, product: Affine, squash: str, units: int, **options: Any) -> None:
        super().__init__(units, **options)
        self.given, self.product, self.squash = given, product, squash

    def call(self, inputs: Tensor) -> Tensor:
        """(..., columns) -> (..., units)."""
        return rounded_activation(self.squash, fake_quant(super().call(fake_quant(inputs, self.given)), self.product))

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "given": self.given, "product": self.product, "squash": self.squash}


@register
class StaticTiedHead(TiedHead):
    """A tied head that reads and gives int8 values; arguments as of `StaticDense`."""

    def __init__(self, given: Affine, product: Affine, use_bias: bool = False, **options: Any) -> None:
        super().__init__(use_bias, **options)
        self.given, self.product = given, product

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """[x (batch, time, size), table (vocab, size)] -> (batch, time, vocab)."""
        x, table = inputs
        return fake_quant(super().call([fake_quant(x, self.given), table]), self.product)

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "given": self.given, "product": self.product}


@register
class StaticGate(GatedActivation):
    """activation(gate) * up of int8 values, the activated gate int8 too."""

    def __init__(self, activation: str, activated: Affine, **options: Any) -> None:
        super().__init__(activation, **options)
        self.activated = activated

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """The product, of the shape of one input."""
        gate, up = inputs
        return fake_quant(rounded_activation(self.activation, gate), self.activated) * up

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "activated": self.activated}


@register
class StaticCell(RecurrentCell):
    """A step of a recurrent layer on int8 values, given the input products.

    Args:
        affines: Site without its layer (`.input:in`, `:gates`, ...) -> scale and zero point.
        *arguments: Of `RecurrentCell`.
        **options: Of every Keras layer.
    """

    def __init__(self, affines: Mapping[str, Affine], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.affines = dict(affines)

    def input_product(self, inputs: Tensor) -> Tensor:
        """(batch, time, inputs) -> (batch, time, gates * units), bias included."""
        bias = self.bias[0] if self.cell == "gru" and self.reset_after else self.bias
        if not self.input_kernel:
            return inputs + bias
        return self._at(".input:out", tf.matmul(self._at(".input:in", inputs), self.kernel) + bias)

    def call(self, inputs: Tensor, states: Sequence[Tensor], training: bool | None = None) -> tuple[Tensor, list[Tensor]]:
        """The input products (batch, gates * units) and the states (batch, units) -> output and the new states."""
        steps: dict[str, Callable[..., tuple[Tensor, ...]]] = {"rnn": self._rnn, "gru": self._gru, "lstm": self._lstm, "cifg": self._cifg}
        states = steps[self.cell](inputs, *states)
        return states[0], list(states)

    def _at(self, site: str, x: Tensor) -> Tensor:
        return fake_quant(x, self.affines[site])

    def _times(self, h: Tensor, kernel: Tensor, site: str, bias: Tensor | float = 0.0) -> Tensor:
        return self._at(f"{site}:out", tf.matmul(self._at(f"{site}:in", h), kernel) + bias)

    def _sum(self, gates: Tensor, h: Tensor) -> Tensor:
        return self._at(":gates", gates + self._times(h, self.recurrent_kernel, ".recurrent"))

    def _rnn(self, gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (rounded_activation(self.activation, self._sum(gates, h)),)

    def _gru(self, gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        both = 2 * self.units
        if self.reset_after:
            recurrent = self._times(h, self.recurrent_kernel, ".recurrent", self.bias[1])
        else:
            recurrent = self._times(h, self.recurrent_kernel[:, :both], ".recurrent")
        pre = self._at(":gates", gates[:, :both] + recurrent[:, :both])
        z, r = tf.split(rounded_activation(self.recurrent_activation, pre), 2, axis=1)
        product = r * recurrent[:, both:] if self.reset_after else self._times(r * h, self.recurrent_kernel[:, both:], ".candidate")
        candidate = rounded_activation(self.activation, self._at(":candidate", gates[:, both:] + product))
        return (candidate + z * (h - candidate),)

    def _lstm(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f, g, o = tf.split(self._sum(gates, h), 4, axis=1)
        i, f, o = (rounded_activation(self.recurrent_activation, gate) for gate in (i, f, o))
        c = f * c + i * rounded_activation(self.activation, g)
        return o * activation(self.activation)(c), c

    def _cifg(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        f, g, o = tf.split(self._sum(gates, h), 3, axis=1)
        f, o = rounded_activation(self.recurrent_activation, f), rounded_activation(self.recurrent_activation, o)
        new = rounded_activation(self.activation, g)
        c = new + f * (c - new)
        return o * activation(self.activation)(c), c

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**super().get_config(), "affines": self.affines}


@register
class StaticRNN(CellRNN):
    """Keras' loop over time around a `StaticCell`; the input products of all tokens are one product before it."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> StaticRNN:
        """As of `CellRNN`."""
        options = dict(config)
        return cls(StaticCell.from_config(options.pop("cell")["config"]), **options)

    def call(self, inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """(batch, time, inputs) -> (batch, time, units)."""
        return super().call(self.cell.input_product(inputs), *arguments, **options)
