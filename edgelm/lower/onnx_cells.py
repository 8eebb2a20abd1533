"""One step of each recurrent cell in plain ops: the body of a Scan, which has int8 places where `reference_static` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgelm.lower.onnx_layers import OnnxLayers
from edgelm.lower.onnx_weights import COLUMNS
from edgelm.models.static_sites import input_site
from edgelm.spec import GATES, Cell, RecurrentSpec

States = tuple[str, ...]
"""(h,), or (h, c) of lstm and cifg, each (batch, units)."""


class ScanCell:
    """A cell whose matrices stand outside of the loop.

    Args:
        spec: Of the model.
        index: Of the layer.
        outer: Layers of the graph around the loop.

    Attributes:
        zr_kernel: Of a GRU whose reset gate comes before the recurrent product: the part for its gates, (units, 2 * units).
        candidate_kernel: The rest of it, (units, units).
    """

    def __init__(self, spec: RecurrentSpec, index: int, outer: OnnxLayers) -> None:
        self.spec = spec
        self.at = f"layers.{index}"
        self.units = spec.units[index]
        kernel = outer.weights.matrix(f"{self.at}.recurrent.weight", COLUMNS)  # (units, gates * units)
        if spec.cell == "gru" and not spec.reset_after:
            sizes = outer.g.ints(2 * self.units, self.units)
            self.zr_kernel, self.candidate_kernel = outer.g.ops("Split", kernel, sizes, outputs=2, axis=1)
        self.layers = outer.inside(outer.g.subgraph())
        self.g = self.layers.g

    def body(self) -> Any:
        """The graph: states (batch, units) and input products (batch, gates * units) -> new states, and h once more."""
        kinds = "hc" if self.spec.cell in ("lstm", "cifg") else "h"
        shape = ("batch", self.units)
        states = tuple(self.g.input(f"{self.at}:{kind}", "float32", shape) for kind in kinds)
        products = self.g.input(f"{self.at}:products", "float32", ("batch", GATES[self.spec.cell] * self.units))
        new = _STEPS[self.spec.cell](self, products, states)
        for kind, value in zip((*kinds, "output"), (*new, new[0]), strict=True):
            self.g.output(f"{self.at}:{kind}:new", value, "float32", shape)
        return self.g.graph(self.at)

    def recurrent(self, h: str) -> str:
        """R h + its bias, (batch, gates * units)."""
        return self.layers.dense(h, f"{self.at}.recurrent")

    def gates(self, products: str, h: str) -> str:
        """All pre-activations, (batch, gates * units)."""
        return self.layers.at(f"{self.at}:gates", self.g.op("Add", products, self.recurrent(h)))

    def split(self, x: str, *sizes: int) -> tuple[str, ...]:
        """X (batch, columns) in parts of so many units."""
        return self.g.ops("Split", x, self.g.ints(*(size * self.units for size in sizes)), outputs=len(sizes), axis=1)

    def gate(self, x: str) -> str:
        """An activated gate."""
        return self.layers.activate(self.spec.recurrent_activation, x)

    def candidate(self, x: str) -> str:
        """An activated candidate."""
        return self.layers.activate(self.spec.activation, x)

    def emitted(self, o: str, c: str) -> str:
        """What an LSTM gives: its cell state stays float in every model."""
        return self.g.op("Mul", self.gate(o), self.layers.float_activate(self.spec.activation, c))

    def mixed(self, share: str, old: str, new: str) -> str:
        """A share of the old and the rest of the new: share * old + (1 - share) * new."""
        return self.g.op("Add", new, self.g.op("Mul", share, self.g.op("Sub", old, new)))

    def product(self, x: str, site: str, kernel: str) -> str:
        """X times a part of the recurrent matrix, with sites of its own."""
        return self.layers.at(f"{site}:out", self.g.op("MatMul", self.layers.at(input_site(site), x), kernel))


def _rnn(cell: ScanCell, products: str, states: States) -> States:
    return (cell.candidate(cell.gates(products, states[0])),)


def _gru(cell: ScanCell, products: str, states: States) -> States:
    (h,), g = states, cell.g
    of_gates, of_candidate = cell.split(products, 2, 1)
    if cell.spec.reset_after:
        zr, rest = cell.split(cell.recurrent(h), 2, 1)
    else:
        zr, rest = cell.product(h, f"{cell.at}.recurrent", cell.zr_kernel), ""
    z, r = cell.split(cell.gate(cell.layers.at(f"{cell.at}:gates", g.op("Add", of_gates, zr))), 1, 1)
    if cell.spec.reset_after:
        product = g.op("Mul", r, rest)
    else:
        product = cell.product(g.op("Mul", r, h), f"{cell.at}.candidate", cell.candidate_kernel)
    new = cell.candidate(cell.layers.at(f"{cell.at}:candidate", g.op("Add", of_candidate, product)))
    return (cell.mixed(z, h, new),)


def _lstm(cell: ScanCell, products: str, states: States) -> States:
    (h, c), g = states, cell.g
    i, f, candidate, o = cell.split(cell.gates(products, h), 1, 1, 1, 1)
    kept = g.op("Mul", cell.gate(f), c)
    c = g.op("Add", kept, g.op("Mul", cell.gate(i), cell.candidate(candidate)))
    return cell.emitted(o, c), c


def _cifg(cell: ScanCell, products: str, states: States) -> States:
    h, c = states
    f, candidate, o = cell.split(cell.gates(products, h), 1, 1, 1)
    c = cell.mixed(cell.gate(f), c, cell.candidate(candidate))
    return cell.emitted(o, c), c


_STEPS: Mapping[Cell, Callable[[ScanCell, str, States], States]] = {"rnn": _rnn, "gru": _gru, "lstm": _lstm, "cifg": _cifg}
