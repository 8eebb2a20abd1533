"""edgelm beside its peers on the same models: `python benchmarks/bench.py all`, or in parts.

    python benchmarks/bench.py prepare [CELL ...]     environments, conversions, and whether each peer computes the same model
    python benchmarks/bench.py run [CELL ...]         times what is prepared; goes on where it was interrupted
    python benchmarks/bench.py report                 benchmarks/results/peers.json, .md and .png
    python benchmarks/bench.py list                   the cells, such as m2/llama.cpp/Q8_0; parts of a name choose, too

Everything is made under build/peers: about 9 GB and three quarters of an hour the first time, of which compiling llama.cpp is 8 minutes;
ExecuTorch, whose conversion of M2 alone takes a quarter of an hour, only with --opt-in. `--quick` takes the small models and no peer that
needs compiling.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from peers import machine, models, plot, prepare, processes, rounds, table
from peers.cells import LITERT_LM, LITERT_TORCH, Cell, chosen
from peers.environments import ENVIRONMENTS, HOME
from peers.goals import GOALS, STAGE, Figures
from peers.store import Store, by_figure

RESULTS = Path(__file__).parent / "results"
LOUD = 0.25
"""Of a core: company above it moves a figure by more than the rounds differ anyway."""
QUICK_PEERS = (LITERT_LM, LITERT_TORCH)
"""Left out of a quick run besides those that are compiled: their environments are the largest."""


def main() -> None:
    arguments = parsed()
    cells = [cell for cell in chosen(arguments.cells, arguments.everything) if not (arguments.quick and slow(cell))]
    if arguments.verb == "list":
        print("\n".join(f"{cell.name:45s} {'main' if cell.main else ''}" for cell in cells))
        return
    if arguments.verb in ("prepare", "all"):
        facts = prepare.prepare(cells, opt_in=arguments.opt_in, compiling=not arguments.quick, anew=arguments.anew)
        print("\n".join(prepared_line(cell, facts.get(cell.name, {})) for cell in cells))
    if arguments.amx:
        os.environ[processes.AMX] = "1"
    store = Store(HOME / "runs" / f"{arguments.name}.jsonl")
    if arguments.verb in ("run", "all"):
        start = time.perf_counter()
        rounds.run(rounds.Plan(cells, arguments.rounds, arguments.verbs, arguments.threads, arguments.patience), store)
        print(f"timed for {(time.perf_counter() - start) / 60:.1f} minutes")
    if arguments.verb in ("report", "run", "all"):
        print(report(store, arguments.results))


def slow(cell: Cell) -> bool:
    """Left out of a quick run."""
    return cell.model == models.M2 or cell.peer in QUICK_PEERS


def prepared_line(cell: Cell, facts: dict[str, Any]) -> str:
    """What preparing a cell found."""
    if facts.get("error"):
        return f"{cell.name:45s} {facts['error']}"
    found = facts.get("agreement")
    same = (
        f"{'same' if found['same'] else 'DIFFERENT'} ({found['difference']:.1e}, top-1 {found['top1']:.0%})"
        if found
        else "no logits to read"
    )
    return f"{cell.name:45s} {facts['bytes'] / 1e6:7.1f} MB  {facts['convert_s']:6.1f} s  {facts['convert_gb']:5.2f} GB  {same}"


def report(store: Store, folder: Path) -> str:
    """Writes the results; the Markdown."""
    facts = prepare.known()
    figures = by_figure(store.samples)
    for name, known in facts.items():
        measured = {figure: known[figure] for figure in ("bytes", "convert_s", "convert_gb", "convert_others") if figure in known}
        measured |= {STAGE + stage: seconds for stage, seconds in known.get("stages", {}).items()}
        figures |= {(name, figure): {0: value} for figure, value in measured.items()}
    errors = {name: known["error"] for name, known in facts.items() if known.get("error")}
    errors |= {sample.cell: sample.error for sample in store.samples if sample.error and not store.has(sample.key)}
    results = [goal.judge(figures, errors) for goal in GOALS]
    others = [sample.others for sample in store.samples if not sample.error and not sample.cell.startswith(rounds.MACHINE)]
    about = {"machine": machine.facts(), "versions": {name: list(made.pins) for name, made in ENVIRONMENTS.items() if made.ready}}
    about |= {"amx": processes.AMX in os.environ, "samples": len(others), "others": statistics.median(others or [0.0])}
    about |= {"loud_samples": sum(cores > machine.QUIET for cores in others)}
    about |= {"basis": "measured"}
    plain = {"goals": [dataclasses.asdict(result) for result in results], "cells": as_json(figures), "prepared": facts, **about}
    text = title(about) + "\n\n" + table.markdown(figures, results, facts, errors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(plain, indent=1) + "\n")
    (folder / "peers.md").write_text(text)
    plot.write(figures, folder / "peers.png")
    return text


def title(about: dict[str, Any]) -> str:
    """One line on the machine, and a warning when it was not quiet."""
    found = about["machine"]
    line = (
        f"Measured on {found['processor']} ({found['cores']} cores, {', '.join(found['features'])}): medians of rounds of fresh processes"
        f"{'' if about['amx'] else ', to all of which the kernel refuses the AMX unit, as phones have none'}."
    )
    if not about["loud_samples"]:
        return line
    loud = f"more than {machine.QUIET:g} of a core during {about['loud_samples']} of {about['samples']} measurements"
    warning = "; do not quote them" if about["others"] > LOUD else ""
    return f"{line} Others on the host took {loud} (median of all: {about['others']:.2f}), from those of a round alike{warning}."


def as_json(figures: Figures) -> dict[str, dict[str, list[float]]]:
    """Cell -> figure -> its value in each round."""
    plain: dict[str, dict[str, list[float]]] = {}
    for (cell, figure), found in figures.items():
        plain.setdefault(cell, {})[figure] = [round(found[i], 5) for i in sorted(found)]
    return plain


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("all", "prepare", "run", "report", "list"))
    parser.add_argument("cells", nargs="*", metavar="CELL", help="parts of cells' names; the main ones when none is named")
    parser.add_argument("--everything", action="store_true", help="all cells, not the main ones only")
    parser.add_argument("--quick", action="store_true", help="small models, no peer that needs compiling")
    parser.add_argument("--opt-in", action="store_true", help="the peers that take longest to install and convert, too")
    parser.add_argument("--anew", action="store_true", help="convert again what was converted before")
    parser.add_argument("--amx", action="store_true", help="processes may use the CPU's matrix unit; kept apart, in build/peers/amx")
    parser.add_argument("--rounds", type=int, help="5, or 2 of a quick run")
    parser.add_argument("--verbs", nargs="+", choices=processes.VERBS, default=list(processes.VERBS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a quiet machine before each round")
    parser.add_argument("--name", help="of the run, main, quick or amx; its samples are kept in build/peers/runs/NAME.jsonl")
    parser.add_argument("--results", type=Path, help="folder; benchmarks/results, or build/peers/NAME of a run of another name")
    arguments = parser.parse_intermixed_args()  # cells may come after an option
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.name = arguments.name or ("quick" if arguments.quick else "amx" if arguments.amx else "main")
    arguments.results = arguments.results or (RESULTS if arguments.name == "main" else HOME / arguments.name)
    return arguments


if __name__ == "__main__":
    main()
