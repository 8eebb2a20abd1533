"""What Python computes from an artifact when it is packaged, for the package's own test to compare with.

Two promises, of different strength. Token ids are exact: a tokenizer is integer work. Greedy choices are compared as choices, not as
logits, because kernels differ between CPUs (relative 2.4e-7 for dynamic int8 on arm64); a continuation ends before the first choice
whose margin is so small that another CPU may choose the other token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.artifact import Artifact
from edgelm.runtime.sampling import ranked
from edgelm.runtime.session import Session, open_session
from edgelm.text.tokenizer import Tokenizer

TEXTS = (
    "see you tomorrow",
    "I'd like 2 tickets, please!",
    "Grüße aus München, schöne Straße",
    "我们明天 在北京见。",
    " tabs\tand  spaces 🙂",
)
PROMPTS = (
    "see you",
    "how are you doing",
    "i would like to",
    "i would like to book a table for two people at eight on friday evening . " * 12,
)
"""The last one is long enough for `prefill_T` calls and for the second rung of a ladder."""

STEPS = 8
MARGIN = 1e-3
"""Least distance of the two best logits, as a share of their spread over the vocabulary: 4,000 times what CPUs differ by."""

_SEED_IDS = (1, 2, 3)  # prompts of a model without a tokenizer


@dataclass(frozen=True)
class Encoded:
    """A text and its token ids."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Continuation:
    """The ids a session was given, and the greedy choices after them; each choice is given to the session, too."""

    prompt: tuple[int, ...]
    choices: tuple[int, ...]


@dataclass(frozen=True)
class Golden:
    """The vectors of one artifact.

    Attributes:
        runtime: What computed them, such as `ai-edge-litert 2.1.0`.
        encoded: Texts in three languages and what they become; empty without a tokenizer.
        continuations: Greedy continuations, each at most `STEPS` long.
    """

    runtime: str
    encoded: tuple[Encoded, ...]
    continuations: tuple[Continuation, ...]


def compute(artifact: Artifact, runtime: str) -> Golden:
    """Runs an artifact on this host.

    Args:
        artifact: What is packaged.
        runtime: `ai-edge-litert` or `tflite-runtime`.

    Raises:
        RuntimeFailure: The runtime cannot run the file.
    """
    session = open_session(artifact.tflite, runtime=runtime)
    tokenizer = Tokenizer.from_json(artifact.tokenizer) if artifact.tokenizer else None
    encoded = tuple(Encoded(text, tuple(tokenizer.encode(text))) for text in TEXTS) if tokenizer else ()
    continuations = tuple(_continue(session, prompt) for prompt in _prompts(session, tokenizer))
    return Golden(session.runtime, encoded, tuple(each for each in continuations if each.choices))


def _prompts(session: Session[Any], tokenizer: Tokenizer | None) -> tuple[tuple[int, ...], ...]:
    room = session.max_positions - 1 if session.max_positions else None
    if tokenizer is None:
        return tuple((min(i, session.vocab_size - 1),) for i in _SEED_IDS)
    start = () if tokenizer.start_id is None else (tokenizer.start_id,)
    prompts = ((*start, *tokenizer.encode(text)) for text in PROMPTS)
    return tuple(dict.fromkeys(prompt[:room] for prompt in prompts if prompt[:room]))


def _continue(session: Session[Any], prompt: tuple[int, ...]) -> Continuation:
    session.reset()
    logits = session.prefill(prompt)
    choices: list[int] = []
    while len(choices) < STEPS:
        best, second = (int(i) for i in ranked(logits, 2)) if len(logits) > 1 else (0, 0)
        spread = float(np.ptp(logits))
        if logits[best] - logits[second] <= MARGIN * spread:
            break
        choices.append(best)
        if session.max_positions is not None and session.position >= session.max_positions:
            break
        logits = session.step(best)
    return Continuation(prompt, tuple(choices))
