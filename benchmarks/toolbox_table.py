"""The toolbox's bars, and its results as a table and as a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """What a recipe is held to.

    Attributes:
        change: Largest rise of perplexity over the float32 model, in per cent.
        download: Largest download, in multiples of int8's; None for no bar.
        faster: Least speed, in multiples of int8's; None for no bar.
        below: Recipe whose perplexity it has to be below; empty for none.
    """

    change: float | None
    download: float | None = None
    faster: float | None = None
    below: str = ""


BARS = {
    "float32": Bar(None),
    "int8": Bar(0.3),
    "int8-qat": Bar(0.1),
    "int4-block32-all": Bar(2.5),
    "int4-qat": Bar(0.7),
    "mixed": Bar(None, below="int4-block32-all"),
    "prune80-int8": Bar(2.0, download=0.45),
    "2of4-int8": Bar(1.0),
    "structure30-int8": Bar(3.0, faster=1.2),
    "cluster16-int8": Bar(1.5, download=0.65),
    "ternary-qat": Bar(8.0),
    "binary-qat": Bar(25.0),
    "full-int8-qat": Bar(3.0),
    "distill-int8": Bar(None),
}
"""Recipe -> its bar, in the order of the table."""


def markdown(model: str, rows: list[Row]) -> str:
    """The table of one model, as it stands in the README."""
    found = {row["recipe"]: row for row in rows}
    lines = [
        f"| {model} | perplexity | against float32 | bar | without training | file MB | download | met |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [_line(name, row, found) for name, row in found.items() if "perplexity" in row]
    return "\n".join(lines) + "\n"


def students(model: str, rows: list[Row]) -> str:
    """What the teacher is worth to a student of half the size, seed by seed; empty where it was not measured."""
    found = next((row for row in rows if "with_teacher" in row), None)
    if found is None:
        return ""
    taught, alone = (", ".join(f"{value:.2f}" for value in found[key]) for key in ("with_teacher", "without_teacher"))
    apart = "every one of them better" if max(found["with_teacher"]) < min(found["without_teacher"]) else "the seeds overlap"
    return f"{model}: {taught} with the teacher, {alone} without (three seeds each): {apart}"


def _line(name: str, row: Row, found: dict[str, Row]) -> str:
    whole, download = found.get("float32"), found.get("int8", {}).get("download")
    bar = BARS.get(name, Bar(None))
    change = 100 * (row["perplexity"] / whole["perplexity"] - 1) if whole else None
    bare = 100 * (row["untrained"] / whole["perplexity"] - 1) if whole and "untrained" in row else None
    cells = [
        f"{row['perplexity']:.3f}",
        _percent(change),
        _percent(bar.change),
        _percent(bare),
        f"{row['bytes'] / 1e6:.2f}",
        f"{row['download'] / download:.2f} x int8" if download else "",
        {True: "yes", False: "no", None: ""}[met(name, found)],
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f} %"


def met(name: str, found: dict[str, Row]) -> bool | None:
    """Whether a recipe meets its bar; None where it has none, or where figures that could still decide are missing."""
    bar, row, whole, int8 = BARS.get(name), found[name], found.get("float32"), found.get("int8")
    if bar is None or whole is None or int8 is None:
        return None
    verdicts: list[bool | None] = []
    if bar.change is not None:
        verdicts.append(100 * (row["perplexity"] / whole["perplexity"] - 1) <= bar.change)
    if bar.download is not None:
        verdicts.append(row["download"] <= bar.download * int8["download"])
    if bar.faster is not None:
        known = "ms_per_token" in row and "ms_per_token" in int8
        verdicts.append(bar.faster * row["ms_per_token"] <= int8["ms_per_token"] if known else None)
    if bar.below:
        verdicts.append(row["perplexity"] < found[bar.below]["perplexity"] if bar.below in found else None)
    if not verdicts or False in verdicts:
        return False if verdicts else None
    return None if None in verdicts else True
