"""The tokens a proof runs on: held-out text where there is some, else text that the model itself samples.

Random tokens would measure an artifact where it will never be used: far outside of the text the model was trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgelm.model import LanguageModel, OpaqueGraph
from edgelm.models.reference import ReferenceSession
from edgelm.spec import TransformerSpec
from edgelm.text.corpus import Corpus, token_documents
from edgelm.text.tokenizer import Tokenizer

POSITIONS = 512
LARGE, STREAMS = 20_000_000, 16
"""A step of a model of more parameters takes as long as reading its weights does, so it writes that many texts at once."""


def chosen(model: LanguageModel | OpaqueGraph, tokenizer: Tokenizer | None, corpus: Corpus | None) -> tuple[NDArray[np.int32], str]:
    """The tokens a proof runs on, and what they are.

    Args:
        model: The source.
        tokenizer: Its tokenizer, or None.
        corpus: Text, or None.
    """
    if corpus and tokenizer:
        return held_out(corpus, tokenizer), f"held-out text of {corpus.path.name}"
    if isinstance(model, LanguageModel):
        start = tokenizer.start_id if tokenizer and tokenizer.start_id is not None else 0
        return sampled(model, start=start), "text that the source model wrote (seed 0)"
    return random_tokens(model), "random tokens (seed 0)"


def sampled(model: LanguageModel, positions: int = POSITIONS, *, start: int = 0, seed: int = 0) -> NDArray[np.int32]:
    """Texts the source model writes itself, at temperature 1 from token `start`, one after another.

    Returns:
        (positions,) token ids; a text ends where a transformer's context does, and after `positions / streams` tokens.
    """
    rng = np.random.default_rng(seed)
    streams = STREAMS if model.parameters > LARGE else 1
    session = ReferenceSession(model, streams)
    window = model.spec.max_positions if isinstance(model.spec, TransformerSpec) else positions
    tokens = np.full((streams, -(-positions // streams)), start, np.int32)
    with threadpool_limits(1):  # products of few rows are too small to share: waiting threads would slow them down tenfold
        for position in range(tokens.shape[1]):
            if position % window == 0:
                session.reset()
                continue
            for stream, logits in enumerate(session.step(tokens[:, position - 1]).astype(np.float64)):  # (vocab,)
                weights = np.exp(logits - logits.max())
                tokens[stream, position] = rng.choice(len(weights), p=weights / weights.sum())
    return tokens.reshape(-1)[:positions]


def random_tokens(graph: OpaqueGraph, *, seed: int = 0) -> NDArray[np.int32]:
    """Two windows of uniformly random ids, for a graph that cannot be run step by step: (2 * time,)."""
    return np.random.default_rng(seed).integers(0, graph.vocab_size, 2 * graph.time, dtype=np.int32)


def held_out(corpus: Corpus, tokenizer: Tokenizer, positions: int = POSITIONS) -> NDArray[np.int32]:
    """The first ids of the corpus' test split: at most (positions,)."""
    documents = list(token_documents(corpus, tokenizer, "test", positions))
    return np.concatenate(documents)[:positions].astype(np.int32)
