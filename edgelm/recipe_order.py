"""The order steps may have: what changes shapes comes first, what fixes the grid of the weights comes last.

A step undoes what a later kind of step made where the order is wrong: structure pruning changes the rows that a 2:4 pattern was made in,
k-means moves zeros that pruning made unless it is told to keep them, and no step may move weights off the grid they are shipped on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from edgelm.errors import RecipeError
from edgelm.recipe_steps import Cluster, Finetune, LowBit, Mixed, Preserved, Prune, Qat, Quantize, Step, technique_of

LEGAL = "distill -> structure or share -> prune -> cluster -> one of qat, lowbit, quantize, mixed; finetune before prune and cluster"

_RANKS = {"distill": 0, "share": 1, "structure": 1, "prune": 2, "cluster": 3, "qat": 4, "lowbit": 4, "quantize": 4, "mixed": 4}
_GRIDS = (Qat, LowBit, Quantize, Mixed)

Steps = tuple[Step, ...]
Rule = Callable[[Steps], tuple[str, Steps]]
"""Steps -> (what is wrong with them, or nothing; the corrected steps)."""


def check(steps: Sequence[Step]) -> None:
    """Refuses steps whose order, or whose lack of a `preserve`, would undo what an earlier step made.

    Raises:
        RecipeError: With everything that is wrong, the legal order, and the corrected list.

    Example:
        >>> check([Quantize(Encoding.INT8, Encoding.INT8, Encoding.INT8), Prune()])
        Traceback (most recent call last):
        edgelm.errors.RecipeError: illegal order quantize -> prune: quantize fixes the grid of the weights, so it comes last
          allowed: distill -> structure or share -> prune -> cluster -> one of qat, lowbit, quantize, mixed; finetune before ...
          next: take prune -> quantize
    """
    right, problems = corrected(steps)
    if problems:
        raise RecipeError(f"illegal order {described(steps)}: {'; '.join(problems)}", allowed=LEGAL, fix=f"take {described(right)}")


def corrected(steps: Sequence[Step]) -> tuple[Steps, tuple[str, ...]]:
    """The nearest legal steps, and what was wrong with the given ones."""
    right, problems = tuple(steps), []
    for rule in _RULES:
        problem, right = rule(right)
        if problem:
            problems.append(problem)
    return right, tuple(problems)


def described(steps: Sequence[Step]) -> str:
    """Steps in one line, with the settings that the order depends on.

    Example:
        >>> described([Prune(), Cluster(preserve_sparsity=True)])
        'prune -> cluster (preserve_sparsity = true)'
    """
    return " -> ".join(_described(step) for step in steps) or "no steps"


def _described(step: Step) -> str:
    shown: dict[str, Any] = {}
    if isinstance(step, Cluster) and step.preserve_sparsity:
        shown["preserve_sparsity"] = True
    if isinstance(step, Qat) and step.preserve:
        shown["preserve"] = list(step.preserve)
    if isinstance(step, Quantize | Mixed) and step.compensate != "none":
        shown["compensate"] = step.compensate
    name = technique_of(step)
    return f"{name} ({', '.join(f'{key} = {json.dumps(value)}' for key, value in shown.items())})" if shown else name


def _one_grid(steps: Steps) -> tuple[str, Steps]:
    grids = [index for index, step in enumerate(steps) if isinstance(step, _GRIDS)]
    if len(grids) < 2:
        return "", steps
    named = " and ".join(technique_of(steps[index]) for index in grids)
    kept = tuple(step for index, step in enumerate(steps) if index not in grids[:-1])
    return f"{named} each fix the grid of the weights, so there is one of them at most", kept


def _lowbit_alone(steps: Steps) -> tuple[str, Steps]:
    lost = [technique_of(step) for step in steps if isinstance(step, Prune | Cluster)]
    if not lost or not any(isinstance(step, LowBit) for step in steps):
        return "", steps
    kept = tuple(step for step in steps if not isinstance(step, Prune | Cluster))
    return f"lowbit makes two or three values of its own and loses what {' and '.join(lost)} made", kept


def _in_order(steps: Steps) -> tuple[str, Steps]:
    ranks = [_rank(steps, index) for index in range(len(steps))]
    wrong = next((index for index in range(1, len(steps)) if ranks[index - 1] > ranks[index]), None)
    if wrong is None:
        return "", steps
    early, late = steps[wrong - 1], technique_of(steps[wrong])
    right = tuple(steps[index] for index in sorted(range(len(steps)), key=lambda index: ranks[index]))
    if isinstance(early, _GRIDS):
        return f"{technique_of(early)} fixes the grid of the weights, so it comes last", right
    return f"{late} {_WHY_EARLY[late]}, so it comes before {technique_of(early)}", right


def _rank(steps: Steps, index: int) -> int:
    """Place in the order; plain training may stand anywhere before pruning."""
    if not isinstance(steps[index], Finetune):
        return _RANKS[technique_of(steps[index])]
    before = max((_rank(steps, earlier) for earlier in range(index)), default=0)
    return min(before, _RANKS["structure"])


def _zeros_kept(steps: Steps) -> tuple[str, Steps]:
    """What pruning and clustering made is preserved by every step after them."""
    made: tuple[Preserved, ...] = ()
    right: list[Step] = []
    problems: list[str] = []
    for step in steps:
        problem, kept = _preserving(step, made)
        right.append(kept)
        problems += [problem] if problem else []
        made = ("sparsity",) if isinstance(step, Prune) else (*made, "clusters") if isinstance(step, Cluster) else made
    return "; ".join(problems), tuple(right)


def _preserving(step: Step, made: tuple[Preserved, ...]) -> tuple[str, Step]:
    if isinstance(step, Cluster) and "sparsity" in made and not step.preserve_sparsity:
        return "cluster after prune has to preserve zeros", dataclasses.replace(step, preserve_sparsity=True)
    if isinstance(step, Qat) and (missing := tuple(kind for kind in made if kind not in step.preserve)):
        kept = dataclasses.replace(step, preserve=(*step.preserve, *missing))
        return f"qat after {' and '.join(_MAKERS[kind] for kind in missing)} has to preserve {' and '.join(missing)}", kept
    if isinstance(step, Quantize | Mixed) and made and step.compensate != "none":
        why = f"{technique_of(step)} with compensate = {step.compensate!r} moves weights that {_MAKERS[made[-1]]} fixed"
        return why, dataclasses.replace(step, compensate="none")
    return "", step


_WHY_EARLY = {
    "distill": "trains a new model",
    "structure": "changes the shapes",
    "share": "changes the shapes",
    "finetune": "moves every weight",
    "prune": "moves weights off the shared values",
}
"""Technique -> why it cannot come after a later kind of step."""

_MAKERS: dict[Preserved, str] = {"sparsity": "prune", "clusters": "cluster"}

_RULES: tuple[Rule, ...] = (_one_grid, _lowbit_alone, _in_order, _zeros_kept)
