"""The proof of an export: it computes the rounded model exactly, and the source as closely as its rounding allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.model import SourceLogits
from edgelm.report import Check, Table
from edgelm.runtime.states import StateSession
from edgelm.validate import parity
from edgelm.validate.parity_limits import ParityLimits


@dataclass(frozen=True)
class Comparison:
    """One session held against one source.

    Attributes:
        name: Stands in the checks, such as `parity with the rounded weights`.
        session: The export, loaded again.
        expected: What it has to compute.
        limits: How closely.
    """

    name: str
    session: StateSession
    expected: SourceLogits
    limits: ParityLimits


def prove(comparisons: Sequence[Comparison], tokens: NDArray[np.int32], text: str) -> tuple[tuple[Check, ...], Table]:
    """Runs every comparison token by token, states fed back.

    Args:
        comparisons: What is compared.
        tokens: (time,) ids.
        text: What they are.

    Returns:
        The checks, and a table of how they came about.
    """
    checks: list[Check] = []
    rows = [("compared on", f"{len(tokens)} positions of {text}")]
    for each in comparisons:
        result = parity.parity(each.expected, each.session, tokens)
        found = parity.checks(result, each.limits)
        checks += [dataclasses.replace(check, name=check.name.replace("parity", each.name, 1)) for check in found]
        rows.append((each.name, f"{result.runtime}; allowed because {each.limits.reason}"))
    return tuple(checks), Table("Proof", ("question", "answer"), tuple(rows), detail=True)
