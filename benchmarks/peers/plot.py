"""The README's picture: milliseconds a token of ours and of the peers, at the same bits, as bars."""

from __future__ import annotations

import statistics
from html import escape

from peers import models
from peers.cells import CELLS, OURS, OURS_NATIVE, Cell
from peers.goals import Figures

WIDTH, LEFT, BAR, GAP, HEADER = 760, 230, 17, 5, 34
OWN, OTHER, BOUND = "#0b6e99", "#b8b8b8", "#b5472f"
GROUPS = (
    (models.M2, 8, "8 bits"), (models.M2, 4, "4-bit blocks"), (models.M3, 4, "4-bit blocks"), (models.M1, 8, "8 bits"),
    (models.KEYBOARD, 8, "8 bits"), (models.CHAT, 8, "8 bits"), (models.CHAT, 4, "4-bit blocks"),
)  # fmt: skip


def svg(figures: Figures) -> str:
    """A group of bars for each model and bits; a red line is what reading the weights once takes at this machine's rate."""
    body, top = [], 10
    for model, nominal, bits in GROUPS:
        step = "decode:0" if models.SHAPES[model].spec.family == "recurrent" else "decode:100"
        bars = [
            (statistics.median(found.values()), cell)
            for cell in CELLS
            if shown(cell, model, nominal) and (found := figures.get((cell.name, step)))
        ]
        if bars:
            title = f"{models.label(models.SHAPES[model])}, {bits}: ms a token, one thread"
            body.append(f'<text x="12" y="{top + 20}" font-size="13" font-weight="bold">{escape(title)}</text>')
            body += group(sorted(bars, key=lambda bar: bar[0]), figures, top + HEADER)
            top += HEADER + len(bars) * (BAR + GAP) + 8
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="11">'
    return "\n".join([frame, f'<rect width="{WIDTH}" height="{top}" fill="white"/>', *body, "</svg>"]) + "\n"


def shown(cell: Cell, model: str, nominal: int) -> bool:
    """It is in the main run and in this group; bars of LSTMs are of hosts in Python."""
    hosted = cell.peer != (OURS_NATIVE if cell.spec.family == "recurrent" else OURS)
    return cell.main and cell.model == model and cell.nominal == nominal and hosted


def group(bars: list[tuple[float, Cell]], figures: Figures, top: int) -> list[str]:
    """The bars of one group, the longest as wide as there is room."""
    scale = (WIDTH - LEFT - 70) / bars[-1][0]
    lines = []
    for i, (ms, cell) in enumerate(bars):
        y, own = top + i * (BAR + GAP), cell.peer in (OURS, OURS_NATIVE)
        label, weight = f"{cell.peer} {cell.form}", "bold" if own else "normal"
        lines.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end" font-weight="{weight}">{escape(label)}</text>')
        lines.append(f'<rect x="{LEFT}" y="{y}" width="{ms * scale:.1f}" height="{BAR}" fill="{OWN if own else OTHER}"/>')
        lines.append(f'<text x="{LEFT + ms * scale + 6:.1f}" y="{y + 12}">{ms:.2f}</text>')
        rates = figures.get((f"machine/{cell.name}", "gigabytes_per_second"))
        if rates:
            x = LEFT + cell.weight_bytes / statistics.median(rates.values()) / 1e6 * scale
            lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + BAR + 2}" stroke="{BOUND}" stroke-width="2"/>')
    return lines
