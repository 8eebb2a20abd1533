"""A flame graph as inline SVG: what is inside what, and how much of it, on one page without a script."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass

from edgelm.report import number

WIDTH, ROW, GAP = 1000.0, 22, 1
LETTER = 6.6
"""Width of a letter of 11 px, px; a label is shown where it fits, and in full on hovering."""
NARROWEST = 0.5
"""Frames under so many px are left out: nobody sees them."""
COLOURS = ("#0969da", "#1a7f37", "#8250df", "#9a6700", "#0550ae", "#116329", "#6639ba", "#7d4e00")
FLAGGED, REST = "#cf222e", "#8c959f"


@dataclass(frozen=True)
class Frame:
    """One bar and what it is made of.

    Attributes:
        label: In the bar.
        value: Its size, in the unit of the graph; that of all children together at least.
        children: What it is made of, from left to right.
        note: Further words when one hovers over it.
        flagged: Drawn in red: worth a look.
        rest: Drawn in grey: what is left over.
    """

    label: str
    value: float
    children: tuple[Frame, ...] = ()
    note: str = ""
    flagged: bool = False
    rest: bool = False


def depth(frame: Frame) -> int:
    """Rows of a graph.

    Example:
        >>> depth(Frame("step", 2, (Frame("layers.0", 1), Frame("head", 1))))
        2
    """
    return 1 + max((depth(child) for child in frame.children), default=0)


def render_svg(frame: Frame, unit: str) -> str:
    """A frame over the whole width, its children below it, theirs below them.

    Args:
        frame: The whole.
        unit: Of the values, such as `us`.
    """
    label = html.escape(f"{frame.label}, {number(frame.value)} {unit}", quote=True)
    head = f"<svg role='img' aria-label=\"{label}\" viewBox='0 0 {WIDTH:g} {depth(frame) * ROW}' width='100%'>"
    return head + "".join(_bars(frame, unit, frame.value, 0.0, 0, 0)) + "</svg>"


def _bars(frame: Frame, unit: str, whole: float, left: float, row: int, colour: int) -> Iterator[str]:
    width = WIDTH * frame.value / whole if whole > 0 else 0.0
    if width < NARROWEST:
        return
    text, share = html.escape(frame.label), frame.value / whole
    note = f"; {html.escape(frame.note)}" if frame.note else ""
    fill = FLAGGED if frame.flagged else REST if frame.rest else COLOURS[colour % len(COLOURS)]
    yield f"<g><title>{text}: {number(round(frame.value, 3))} {html.escape(unit)}, {share:.1%}{note}</title>"
    yield f"<rect x='{left:.1f}' y='{row * ROW}' width='{max(width - GAP, NARROWEST):.1f}' height='{ROW - GAP}' fill='{fill}'/>"
    if len(frame.label) * LETTER < width:
        yield f"<text x='{left + 4:.1f}' y='{row * ROW + 15}' font-size='11' style='fill:#fff'>{text}</text>"
    yield "</g>"
    for place, child in enumerate(frame.children):
        yield from _bars(child, unit, whole, left, row + 1, place if row == 0 else colour + 1)
        left += WIDTH * child.value / whole
