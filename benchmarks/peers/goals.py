"""The goals of the benchmark and how far each is met."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from peers.cells import BY_NAME, CELLS, OURS, OURS_NATIVE, Cell
from peers.store import Rounds, ratio

Figures = Mapping[tuple[str, str], Rounds]
STAGE = "stage: "
"""How the figures of a conversion's stages begin."""
PRODUCTS = Path(__file__).parents[1] / "results" / "products.json"

NATIVE, PYTHON = "edgelm-native-host", "edgelm"
M2_8, M2_4, M3_4 = f"m2/{NATIVE}/int8", f"m2/{NATIVE}/int4-block32", f"m3/{NATIVE}/int4-block32"
M2_4_ALL = f"m2/{NATIVE}/int4-block32-plain"
Q8, Q4 = "m2/llama.cpp/Q8_0", "m2/llama.cpp/Q4_0-pure"


@dataclass(frozen=True)
class Result:
    """One row of the goals' table.

    Attributes:
        what: The goal in words.
        wanted: With its direction, such as `>= 1.4`.
        measured: The figure; None when it could not be measured.
        met: None when it could not be measured.
        note: Why there is no figure, or what stops a goal that was missed.
    """

    what: str
    wanted: str
    measured: float | None
    met: bool | None
    note: str = ""


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        what: In words.
        limit: What is wanted.
        at_least: The figure has to reach the limit; otherwise to stay at or below it.
        figure: What is compared, from the figures of all cells; None when something was not measured.
        cells: Whose figures it takes, for the note when one is missing.
        reason: What stops it where it is missed, from the same figures; empty where nothing here tells.
    """

    what: str
    limit: float
    at_least: bool
    figure: Callable[[Figures], float | None]
    cells: tuple[str, ...]
    reason: Callable[[Figures], str] = lambda figures: ""

    def judge(self, figures: Figures, errors: Mapping[str, str]) -> Result:
        """Compares with the limit."""
        wanted = f"{'>=' if self.at_least else '<='} {self.limit:g}"
        found = self.figure(figures)
        if found is None:
            reasons = [f"{name}: {errors[name]}" for name in sorted(self.cells, key=lambda name: NATIVE in name) if name in errors]
            return Result(self.what, wanted, None, None, reasons[0] if reasons else "not measured")
        met = found >= self.limit if self.at_least else found <= self.limit
        return Result(self.what, wanted, found, met, "" if met else self.reason(figures))


def rounds_of(figures: Figures, name: str, figure: str) -> Rounds:
    """A cell's figure; where our native host cannot run a file, that of the same file in our Python host."""
    found = figures.get((name, figure))
    return found or figures.get((name.replace(f"/{NATIVE}/", f"/{PYTHON}/"), figure), {})


def faster(what: str, limit: float, figure: str, peer: str, ours: str) -> Goal:
    """The peer's time over ours; a step that is too near says how near both are to what reading the weights takes."""

    def found(figures: Figures) -> float | None:
        return ratio(figures.get((peer, figure), {}), rounds_of(figures, ours, figure))

    def reason(figures: Figures) -> str:
        near = [(name, bound_of(figures, name, figure)) for name in (ours, peer)] if figure.startswith("decode") else []
        shares = ", ".join(f"{name} at {share:.2f}" for name, share in near if share)
        alone = products_alone(ours) if shares else ""
        return f"of the rate at which one core reads as many bytes: {shares}{'; ' if alone else ''}{alone}" if shares else ""

    return Goal(what, limit, True, found, (peer, ours), reason)


def lighter(what: str, limit: float, figure: str, peer: str, ours: str, reason: Callable[[Figures], str] = lambda figures: "") -> Goal:
    """Ours over the peer's, to stay below; both of native hosts."""

    def found(figures: Figures) -> float | None:
        return ratio(figures.get((ours, figure), {}), figures.get((peer, figure), {}))

    return Goal(what, limit, False, found, (peer, ours), reason)


def slow_to_load(ours: str, other: str) -> Callable[[Figures], str]:
    """What a start consists of beside that of the same model in another form."""

    def reason(figures: Figures) -> str:
        loads = [statistics.median(found.values()) for name in (ours, other) if (found := figures.get((name, "load_ms")))]
        prefills = [statistics.median(found.values()) for name in (ours, other) if (found := figures.get((name, "prefill:128")))]
        if len(loads) < 2 or len(prefills) < 2:
            return ""
        return (
            f"loading takes {loads[0]:.0f} ms, {BY_NAME[other].form} {loads[1]:.0f}: LiteRT checks the scale of each block for each "
            f"signature; the prompt's call of 64 takes half of {prefills[0]:.0f} ms, {BY_NAME[other].form} half of {prefills[1]:.0f}"
        )

    return reason


def smallest(what: str, ours: str, reason: str = "") -> Goal:
    """Our file over the smallest file of the peers at the same bits."""
    own = BY_NAME[ours]
    peers = [cell.name for cell in rivals(own)]

    def figure(figures: Figures) -> float | None:
        sizes = [size for name in peers for size in figures.get((name, "bytes"), {}).values()]
        mine = list(rounds_of(figures, ours, "bytes").values())
        return mine[0] / min(sizes) if sizes and mine else None

    return Goal(what, 1.0, False, figure, (ours, *peers), lambda figures: reason)


def rivals(own: Cell) -> list[Cell]:
    """The peers' cells of the same model and bits."""
    return [cell for cell in CELLS if cell.model == own.model and cell.nominal == own.nominal and cell.peer not in (OURS, OURS_NATIVE)]


def share(what: str, limit: float, ours: str) -> Goal:
    """Share of the memory-bandwidth bound at depth 100, one thread: the bytes of the weights at the measured read rate over our time."""
    return Goal(what, limit, True, lambda figures: bound_of(figures, ours, "decode:100"), (ours,), lambda figures: products_alone(ours))


def products_alone(ours: str) -> str:
    """What `products_alone.py` found of a cell's model at its bits: how much of a step is anything but reading weights."""
    cell = BY_NAME[ours]
    rows = json.loads(PRODUCTS.read_text())["rows"] if PRODUCTS.exists() else []
    alike = (row for row in rows if row["model"] == cell.model and BY_NAME[f"{cell.model}/{PYTHON}/{row['form']}"].nominal == cell.nominal)
    row = next(alike, None)
    if row is None:
        return ""
    part, rate = row["products_ms"] / row["step_ms"], row["products_gb_s"] / row["read_gb_s"]
    return f"the products alone take {part:.2f} of a step and stream weights at {rate:.2f} of that rate (products.json)"


def bound_of(figures: Figures, name: str, figure: str) -> float | None:
    """A cell's share of the memory-bandwidth bound in one of its steps."""
    rates, times = rounds_of(figures, f"machine/{name}", "gigabytes_per_second"), rounds_of(figures, name, figure)
    return bound_share(BY_NAME[name], rates, times)


def bound_share(cell: Cell, rates: Rounds, times: Rounds) -> float | None:
    """Median over the rounds of (bytes / rate) / time."""
    shared = sorted(rates.keys() & times.keys())
    return statistics.median(cell.weight_bytes / rates[i] / 1e6 / times[i] for i in shared) if shared else None


def below(what: str, limit: float, figure: str, ours: str, reason: Callable[[Figures], str] = lambda figures: "") -> Goal:
    """A figure of ours, at most."""

    def found(figures: Figures) -> float | None:
        values = list(rounds_of(figures, ours, figure).values())
        return statistics.median(values) if values else None

    return Goal(what, limit, False, found, (ours,), reason)


def stages_of(ours: str) -> Callable[[Figures], str]:
    """What a conversion consists of, and how much of the processor others had meanwhile."""

    def reason(figures: Figures) -> str:
        stages = [(figure, found) for (cell, figure), found in figures.items() if cell == ours and figure.startswith(STAGE)]
        parts = [f"{figure.removeprefix(STAGE)} {seconds:.1f} s" for figure, found in stages for seconds in found.values()]
        others = [f"others on the host took {cores:.2f} of a core" for cores in rounds_of(figures, ours, "convert_others").values()]
        return ", ".join(parts + others)

    return reason


GRAPHS = "the weights alone are as large; a .tflite holds the graphs of its signatures besides, a GGUF none"
HEAD = "embedding and head have 8 bits in this recipe; the next row has 4"

GOALS = (
    faster("M2 decode, 8 bits: llama.cpp Q8_0 over ours", 1.4, "decode:100", Q8, M2_8),
    faster("M2 decode, 8 bits: onnxruntime int8 over ours", 1.5, "decode:100", "m2/onnxruntime/int8", M2_8),
    faster("M2 decode, 8 bits: LiteRT-LM over ours", 1.4, "decode:100", "m2/LiteRT-LM/dynamic-int8", M2_8),
    faster("M2 decode, 4-bit blocks: llama.cpp Q4_0 pure over ours", 1.2, "decode:100", Q4, M2_4),
    faster("M2 decode, 4-bit blocks: onnxruntime int4 over ours", 1.5, "decode:100", "m2/onnxruntime/int4-block32", M2_4),
    faster("M2 decode, 4-bit blocks: ExecuTorch 8da4w over ours", 1.8, "decode:100", "m2/ExecuTorch/8da4w", M2_4),
    faster("M2 decode, 4 bits for the head, too: llama.cpp Q4_0 pure over ours", 1.2, "decode:100", Q4, M2_4_ALL),
    faster("M2 decode at depth 512, 8 bits: llama.cpp Q8_0 over ours", 1.3, "decode:512", Q8, M2_8),
    faster("M2 decode at depth 512, 4-bit blocks: llama.cpp Q4_0 pure over ours", 1.2, "decode:512", Q4, M2_4),
    faster("M3 decode, 4-bit blocks: onnxruntime int4 over ours", 1.25, "decode:100", "m3/onnxruntime/int4-block32", M3_4),
    faster("M1 step: onnxruntime int8 over ours, both from Python", 1.4, "decode:0", "m1/onnxruntime/int8", "m1/edgelm/int8"),
    faster("M1 step: fused TFLite LSTM over ours, both from Python", 4.0, "decode:0", "m1/TFLite-fused-LSTM/int8", "m1/edgelm/int8"),
    faster("M2 prefill 128, 8 bits: litert-torch over ours", 1.5, "prefill:128", "m2/litert-torch/dynamic-int8", M2_8),
    faster("M2 prefill 128, 8 bits: llama.cpp Q8_0 over ours", 3.0, "prefill:128", Q8, M2_8),
    share("share of the bandwidth bound, M2 8 bits, depth 100", 0.9, M2_8),
    share("share of the bandwidth bound, M2 4-bit blocks, depth 100", 0.8, M2_4),
    lighter("peak memory of a native host, M2 8 bits: ours over llama.cpp's", 1.0, "peak_mb", Q8, M2_8),
    lighter("peak memory of a native host, M2 4 bits: ours over llama.cpp's", 1.0, "peak_mb", Q4, M2_4),
    smallest("file without tokenizer, M2 8 bits: ours over the smallest peer's", M2_8),
    smallest("file without tokenizer, M2 4-bit blocks: ours over the smallest peer's", M2_4, HEAD),
    smallest("file without tokenizer, M2 4 bits for the head, too: ours over the smallest peer's", M2_4_ALL, GRAPHS),
    lighter("cold start to the first token, M2 8 bits: ours over llama.cpp's", 1.0, "start_ms", Q8, M2_8),
    lighter("cold start to the first token, M2 4 bits: ours over llama.cpp's", 1.0, "start_ms", Q4, M2_4, slow_to_load(M2_4, M2_8)),
    below("conversion of M2 to 8 bits, seconds", 3.0, "convert_s", M2_8, stages_of(M2_8)),
    below("conversion of M2 to 8 bits, GB", 1.0, "convert_gb", M2_8),
)
