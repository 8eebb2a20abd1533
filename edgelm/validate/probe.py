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
    """Text the source model writes itself, at temperature 1 from token `start`.

    Returns:
        (positions,) token ids; a transformer starts again where its context ends.
    """
    rng = np.random.default_rng(seed)
    session = ReferenceSession(model)
    window = model.spec.max_positions if isinstance(model.spec, TransformerSpec) else positions
    tokens: list[int] = []
    with threadpool_limits(1):  # products of one row are too small to share: waiting threads would slow them down tenfold
        for position in range(positions):
            if position % window == 0:
                session.reset()
                tokens.append(start)
                continue
            logits = session.step(np.array([tokens[-1]], np.int32))[0].astype(np.float64)  # (vocab,)
            weights = np.exp(logits - logits.max())
            tokens.append(int(rng.choice(len(weights), p=weights / weights.sum())))
    return np.array(tokens, np.int32)


def random_tokens(graph: OpaqueGraph, *, seed: int = 0) -> NDArray[np.int32]:
    """Two windows of uniformly random ids, for a graph that cannot be run step by step: (2 * time,)."""
    return np.random.default_rng(seed).integers(0, graph.vocab_size, 2 * graph.time, dtype=np.int32)


def held_out(corpus: Corpus, tokenizer: Tokenizer, positions: int = POSITIONS) -> NDArray[np.int32]:
    """The first ids of the corpus' test split: at most (positions,)."""
    documents = list(token_documents(corpus, tokenizer, "test", positions))
    return np.concatenate(documents)[:positions].astype(np.int32)
