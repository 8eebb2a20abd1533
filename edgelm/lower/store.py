"""The weights of a lowering: each is quantized once, shared by all signatures, and known by what it really became."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.model import LanguageModel
from edgelm.recipe import Form
from edgelm.spec import Encoding, FloatArray, weight_shapes
from edgelm.tflite.quantize import BLOCK_COLUMNS, QuantizedTensor, quantize


class WeightStore:
    """Quantizes the matrices of one model on demand.

    Args:
        model: Where the weights and the wanted encodings come from.
        form: Which runtime the graph is for.

    Attributes:
        encodings: Canonical name -> what the weight became so far; vectors stay float32.
    """

    def __init__(self, model: LanguageModel, form: Form) -> None:
        self.model = model
        self.form = form
        self.encodings: dict[str, Encoding] = dict.fromkeys(weight_shapes(model.spec), Encoding.FLOAT32)
        self._stored: dict[str, QuantizedTensor] = {}
        self._changed: dict[str, list[str]] = {}  # why -> names

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each reason why weights are not stored as they were wanted."""
        return tuple(f"{why}: {len(names)} stored as int8 ({', '.join(names)})" for why, names in self._changed.items())

    def possible(self, name: str, columns: int) -> Encoding:
        """What `name` can be stored as in a matrix of `columns`: what was wanted, or int8.

        Args:
            name: Canonical name.
            columns: Of the matrix it ends up in, which may hold other weights besides it.
        """
        return Encoding.INT8 if self._obstacle(name, columns) else self.model.encoding(name)

    def fixed_scales(self, name: str, columns: int) -> NDArray[np.float32] | None:
        """The scales (rows, blocks) that a technique fixed for `name` and that hold for what it can be stored as; else None.

        Args:
            name: Canonical name.
            columns: As in `possible`.
        """
        scales, encoding = self.model.scales.get(name), self.possible(name, columns)
        if scales is None or encoding.bits > 8:
            return None
        replaced = encoding is not self.model.encoding(name)
        return None if replaced and scales.shape[1] > 1 else scales  # int8 holds the integers of int4 rows, not those of blocks

    def matrix(
        self,
        key: str,
        names: Sequence[str],
        columns: int,
        build: Callable[[], FloatArray],
        scales: NDArray[np.float32] | None = None,
    ) -> QuantizedTensor:
        """The stored form of a matrix made of one or more weights that have one possible encoding.

        Args:
            key: Its name in the file; a second call with the same key returns the first result.
            names: The canonical weights in it.
            columns: Of the matrix.
            build: Makes the float matrix (rows, columns); called once.
            scales: Of the matrix, (rows, blocks), made of the `fixed_scales` of its weights as `build` makes it of them.
        """
        if key not in self._stored:
            encoding = self.possible(names[0], columns)
            for name in names:
                self.encodings[name] = encoding
                if (why := self._obstacle(name, columns)) and name not in self._changed.setdefault(why, []):
                    self._changed[why].append(name)
            self._stored[key] = quantize(build(), encoding, scales, name=f"weight {' + '.join(names)}")
        return self._stored[key]

    def whole(self, name: str) -> QuantizedTensor:
        """The stored form of one weight as it is."""
        weight = self.model.weights[name]
        columns = weight.shape[1]
        return self.matrix(name, [name], columns, lambda: weight, self.fixed_scales(name, columns))

    def _obstacle(self, name: str, columns: int) -> str:
        """Why `name` cannot be stored as wanted; empty when it can."""
        wanted = self.model.encoding(name)
        if self.form == "tflite-2.14" and wanted.bits == 4:
            return "tflite-runtime 2.14 has no 4-bit kernels"
        if wanted is Encoding.INT4_BLOCK32 and columns % BLOCK_COLUMNS:
            return f"int4-block32 takes columns in multiples of {BLOCK_COLUMNS}"
        if wanted is Encoding.INT4 and columns % 2:
            return "int4 takes an even number of columns"
        return ""
