"""The toolbox's results as a picture: what each recipe costs in perplexity, over what is downloaded."""

from __future__ import annotations

from html import escape
from typing import Any

Row = dict[str, Any]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 860, 420, 60, 50, 40
COLOURS = ("#0b6e99", "#b5472f")


def svg(rows: dict[str, list[Row]]) -> str:
    """A scatter plot of all models: x the download in MB, y the change of perplexity against float32 on a square-root scale.

    Args:
        rows: Model -> its rows, `float32` among them.
    """
    points = [(model, *point) for model, found in rows.items() for point in _points(found)]
    widest = max(download for _, _, download, _ in points) * 1.08
    highest = max(abs(change) for *_, change in points)
    lowest = min(0.0, *(change for *_, change in points))

    def x(download: float) -> float:
        return LEFT + download / widest * (WIDTH - LEFT - 20)

    def y(change: float) -> float:
        share = (_root(change) - _root(lowest)) / (_root(highest) - _root(lowest))
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    body = [f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#999" stroke-dasharray="4 3"/>']
    body += [_text(LEFT - 8, y(tick) + 4, f"{tick:+g} %", "end") for tick in (0, 1, 3, 8, 15, 25) if lowest <= tick <= highest]
    body += [_text(x(tick), HEIGHT - BOTTOM + 18, f"{tick} MB", "middle") for tick in range(int(widest) + 1)]
    for i, model in enumerate(rows):
        body.append(_text(LEFT + 230 * i, 20, f"● {model}", "start", COLOURS[i % 2]))
    for model, name, download, change in points:
        colour = COLOURS[list(rows).index(model) % 2]
        body.append(f'<circle cx="{x(download):.1f}" cy="{y(change):.1f}" r="4" fill="{colour}"/>')
        body.append(_text(x(download) + 6, y(change) - 5, name, "start", colour))
    body.append(_text(WIDTH / 2, HEIGHT - 8, "download (deflated)", "middle"))
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">'
    return "\n".join([frame, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *body, "</svg>"]) + "\n"


def _points(rows: list[Row]) -> list[tuple[str, float, float]]:
    whole = next(row["perplexity"] for row in rows if row["recipe"] == "float32")
    shown = (row for row in rows if "perplexity" in row and "float32" not in row["recipe"])
    return [(row["recipe"], row["download"] / 1e6, 100 * (row["perplexity"] / whole - 1)) for row in shown]


def _root(value: float) -> float:
    return float(abs(value) ** 0.5 * (1 if value >= 0 else -1))


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
