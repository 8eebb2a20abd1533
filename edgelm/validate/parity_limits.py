"""How far an artifact may be from its source, by how its weights are stored: a table with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgelm.spec import Encoding


@dataclass(frozen=True)
class Missed:
    """What to say of a missed limit: the top cause, and the next command with what it should bring."""

    cause: str
    fix: str


@dataclass(frozen=True)
class ParityLimits:
    """What an artifact may differ by.

    Attributes:
        max_abs_difference: Of centred logits, times the larger of 1 and their scale; None where rounding decides that.
        mean_kl: In nats a position.
        top1_agreement: Least share, near ties not allowed; None where rounding decides them.
        clear_agreement: Least share, near ties allowed.
        reason: Why these.
        missed: What to say when they are.
    """

    max_abs_difference: float | None
    mean_kl: float
    top1_agreement: float | None
    clear_agreement: float
    reason: str
    missed: Missed


LIMITS: Mapping[Encoding, ParityLimits] = {
    Encoding.FLOAT32: ParityLimits(
        max_abs_difference=1e-4,
        mean_kl=1e-6,
        top1_agreement=0.999,
        clear_agreement=1.0,
        reason="only the order of float32 sums differs: 6e-8 an operation, some hundred operations deep, relative to the logits",
        missed=Missed(
            "the artifact computes something else than the source",
            "edgelm inspect MODEL shows how it was read; please report the model, this is a bug",
        ),
    ),
    Encoding.FLOAT16: ParityLimits(
        max_abs_difference=None,
        mean_kl=1e-3,
        top1_agreement=None,
        clear_agreement=0.99,
        reason="weights keep 11 bits (5e-4 relative)",
        missed=Missed("weights exceed what float16 holds", "edgelm convert MODEL --recipe float32 (twice the size, difference below 1e-4)"),
    ),
    Encoding.INT8: ParityLimits(
        max_abs_difference=None,
        mean_kl=1e-2,
        top1_agreement=None,
        clear_agreement=0.99,
        reason="a step is 1/127 of a row's largest weight; trained models lose 0.0003 nats and no clear preference",
        missed=Missed(
            "outliers in some rows make the steps of the others coarse",
            "edgelm convert MODEL --recipe float16 (twice the size, mean KL below 0.001)",
        ),
    ),
    Encoding.INT4_BLOCK32: ParityLimits(
        max_abs_difference=None,
        mean_kl=0.1,
        top1_agreement=None,
        clear_agreement=0.9,
        reason="a step is 1/7 of the largest of 32 weights; trained models lose 0.01 to 0.04 nats and 4 % of the clear preferences",
        missed=Missed(
            "4 bits are too few for this model without retraining",
            "edgelm convert MODEL --recipe int8 (1.3 to 1.5 times the size, at most a twentieth of the loss)",
        ),
    ),
    Encoding.INT4: ParityLimits(
        max_abs_difference=None,
        mean_kl=0.15,
        top1_agreement=None,
        clear_agreement=0.85,
        reason="a step is 1/7 of a row's largest weight; trained models lose 0.03 to 0.1 nats and 9 % of the clear preferences",
        missed=Missed(
            "one scale a row is too coarse for 4 bits",
            "edgelm convert MODEL --recipe int4-block32 (1.3 to 1.4 times the size, under a third of the loss)",
        ),
    ),
}
"""Encoding -> limits, finest first.

The losses are those of three trained models (LSTM of 2.3 million parameters, transformers of 0.9 and 3 million) rounded without
retraining. Plain top-1 agreement has no limit for rounded weights: even int8 swaps 1 % of the top words, each time near ties."""


def limits_for(encodings: Iterable[Encoding]) -> ParityLimits:
    """The limits of a model that mixes encodings: those of the coarsest; float32's when there are none.

    Example:
        >>> limits_for([Encoding.FLOAT32, Encoding.INT8]).clear_agreement
        0.99
    """
    order = list(LIMITS)
    return LIMITS[max(encodings, key=order.index, default=Encoding.FLOAT32)]


PREFILL_MISSED = Missed(
    cause="the prefill signature computes something else than the decode ones",
    fix="edgelm inspect FOLDER lists the signatures; please report the model, this is a bug",
)
