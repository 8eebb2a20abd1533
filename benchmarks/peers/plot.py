"""The README's picture: milliseconds a token of ours and of the peers, at the same bits, as bars."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from peers import models
from peers.cells import CELLS, OURS, OURS_NATIVE, Cell
from peers.goals import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, BAR, HEADER = 8.0, 0.23, 0.5
"""Inches."""
DOTS = 120
"""An inch."""
OWN, OTHER, BOUND = "#0b6e99", "#b8b8b8", "#b5472f"
GROUPS = (
    (models.M2, 8, "8 bits"), (models.M2, 4, "4-bit blocks"), (models.M3, 4, "4-bit blocks"), (models.M1, 8, "8 bits"),
    (models.KEYBOARD, 8, "8 bits"), (models.CHAT, 8, "8 bits"), (models.CHAT, 4, "4-bit blocks"),
)  # fmt: skip


def write(figures: Figures, path: Path) -> None:
    """The picture as a PNG, the same bytes for the same figures."""
    drawn(figures).savefig(path, dpi=DOTS, metadata={"Software": ""})


def drawn(figures: Figures) -> Figure:
    """A group of bars for each model and bits; a red line is what reading the weights once takes at this machine's rate."""
    from matplotlib.figure import Figure  # here: only reports need it

    groups = [(*group, bars) for group in GROUPS if (bars := bars_of(figures, group[0], group[1]))]
    heights = [HEADER + BAR * len(bars) for *_, bars in groups] or [HEADER]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
    for (model, _, bits, bars), axis in zip(groups, axes, strict=False):
        axis.set_title(f"{models.label(models.SHAPES[model])}, {bits}: ms a token, one thread", loc="left", fontsize=9, fontweight="bold")
        draw(axis, bars, figures)
    return figure


def bars_of(figures: Figures, model: str, nominal: int) -> list[tuple[float, Cell]]:
    """Milliseconds a token and cell of a group, the fastest first."""
    step = "decode:0" if models.SHAPES[model].spec.family == "recurrent" else "decode:100"
    timed = [(cell, figures.get((cell.name, step))) for cell in CELLS if shown(cell, model, nominal)]
    return sorted(((statistics.median(found.values()), cell) for cell, found in timed if found), key=lambda bar: bar[0])


def shown(cell: Cell, model: str, nominal: int) -> bool:
    """It is in the main run and in this group; bars of LSTMs are of hosts in Python."""
    hosted = cell.peer != (OURS_NATIVE if cell.spec.family == "recurrent" else OURS)
    return cell.main and cell.model == model and cell.nominal == nominal and hosted


def draw(axis: Axes, bars: list[tuple[float, Cell]], figures: Figures) -> None:
    """The bars of one group."""
    drawn_bars = axis.barh(range(len(bars)), [ms for ms, _ in bars], color=[OWN if own(cell) else OTHER for _, cell in bars])
    axis.bar_label(drawn_bars, [f"{ms:.2f}" for ms, _ in bars], padding=3, fontsize=8)
    axis.set_yticks(range(len(bars)), [f"{cell.peer} {cell.form}" for _, cell in bars], fontsize=8)
    for label, (_, cell) in zip(axis.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if own(cell) else "normal")
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.set_xlim(0, bars[-1][0] * 1.1)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    for place, (_, cell) in enumerate(bars):
        if rates := figures.get((f"machine/{cell.name}", "gigabytes_per_second")):
            axis.vlines(cell.weight_bytes / statistics.median(rates.values()) / 1e6, place - 0.45, place + 0.45, color=BOUND)


def own(cell: Cell) -> bool:
    """Of edgelm."""
    return cell.peer in (OURS, OURS_NATIVE)
