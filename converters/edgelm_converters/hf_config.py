"""A `config.json` of Hugging Face: its values with types, and the rules that all architectures share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm.spec import Activation

ONNX_WAY = "export it to ONNX (optimum-cli export onnx --model FOLDER OUTPUT) and convert the .onnx file"

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "linear",
}
"""Names in `config.json` -> ours."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions as a config has them: base of the frequencies, and the share of each head that is turned."""

    theta: float
    share: float


@dataclass(frozen=True)
class Config:
    """The keys of one `config.json`.

    Attributes:
        path: Of the file, for errors.
        plain: The keys. A key whose value is null counts as absent.
        notes: What the spec leaves out, a sentence each; spec makers add to it.
    """

    path: Path
    plain: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def has(self, key: str) -> bool:
        """The key is there."""
        return self.plain.get(key) is not None

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1.

        Raises:
            SourceError: It is missing without a default, or none. So for the other getters.
        """
        value = self._value(key, default)
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise self._wrong(key, value, "a whole number of at least 1")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        return self._positive(key, self._value(key, default))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def activation(self, key: str, default: str) -> Activation:
        """The activation that a key names."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise UnsupportedModelError(f"{self.path}: {key} = {value!r} is in no family edgelm has", allowed=", ".join(ACTIVATIONS))
        return ACTIVATIONS[value]

    def rope(self, share: float | None = None, theta_key: str = "rope_theta", share_key: str = "partial_rotary_factor") -> Rope:
        """Rotary positions, as transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`) write them.

        Args:
            share: Default of the share that is turned; None for architectures that turn whole heads only.
            theta_key: The older key of the base.
            share_key: The older key of the share.

        Raises:
            UnsupportedModelError: The frequencies are scaled (linear, dynamic, yarn, longrope, llama3), differ from layer to layer, or
                turn a share of a head where the architecture turns all of it.
        """
        tables = [self._table(key) for key in ("rope_parameters", "rope_scaling")]
        for table in tables:
            self._require_plain_rope(table)
        theta = tables[0].get("rope_theta", self._value(theta_key, 10_000.0))
        turned = tables[0].get("partial_rotary_factor", self._value(share_key, share or 1.0))
        if share is None and turned != 1:
            raise UnsupportedModelError(f"{self.path}: {share_key} = {turned!r}: this architecture turns whole heads", allowed="1")
        return Rope(self._positive(theta_key, theta), self._positive(share_key, turned))

    def window(self, layers: int, *, used: bool) -> int | None:
        """Tokens that a sliding window reaches back to; None where every layer sees all.

        Args:
            layers: Of the model.
            used: Whether the window is used where `use_sliding_window` does not say.

        Raises:
            SourceError: The window is no size.
        """
        if not self.has("sliding_window") or not self.flag("use_sliding_window", used):
            return None
        kinds, first = self.plain.get("layer_types"), self.plain.get("max_window_layers")
        everywhere_full = "sliding_attention" not in kinds if isinstance(kinds, list) else isinstance(first, int) and first >= layers
        return None if everywhere_full else self.size("sliding_window")

    def refuse(self, key: str, reason: str, *, unless: object = False) -> None:
        """Refuses the model where a key is there with another value than `unless`.

        Raises:
            UnsupportedModelError: It is.
        """
        if self.has(key) and self.plain[key] != unless:
            raise UnsupportedModelError(f"{self.path}: {key} = {self.plain[key]!r}: {reason}", allowed=f"{key} = {unless!r}", fix=ONNX_WAY)

    def _require_plain_rope(self, table: Mapping[str, Any]) -> None:
        if any(isinstance(value, dict) for value in table.values()):
            raise UnsupportedModelError(f"{self.path}: its rotary positions differ from layer to layer", allowed="one base for all layers")
        kind = table.get("rope_type", table.get("type", "default"))
        if kind == "linear" and table.get("factor") == 1:
            return
        if kind not in ("default", None):
            raise UnsupportedModelError(
                f"{self.path}: rotary positions scaled by {kind!r} are in no family edgelm has",
                allowed="plain rotary positions",
                fix=ONNX_WAY,
            )

    def _table(self, key: str) -> Mapping[str, Any]:
        table = self._value(key, {})
        if not isinstance(table, dict):
            raise self._wrong(key, table, "a table or null")
        return {name: value for name, value in table.items() if value is not None}

    def _value(self, key: str, default: Any) -> Any:
        value = self.plain.get(key)
        return default if value is None else value

    def _positive(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def _wrong(self, key: str, value: Any, allowed: str) -> SourceError:
        met = "is missing" if value is None else f"= {value!r}"
        return SourceError(f"{self.path}: {key} {met}", allowed=allowed)
