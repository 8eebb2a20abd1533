"""A corpus as the token documents that steps train on, after a look at whether it fits the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.settings import OnProgress
from edgelm.compress.step_data import StepData
from edgelm.errors import CorpusError, TokenizerError
from edgelm.model import LanguageModel
from edgelm.text.corpus import Corpus, token_documents
from edgelm.text.tokenizer import Tokenizer

LEAST_TOKENS = 1000
"""Of the training split: less than a handful of batches teaches a model nothing but these very lines."""

MOST_UNKNOWN = 0.4
"""Share of unknown words. The keyboard model does not know 1 % of held-out dialogues, 20 to 26 % of Shakespeare and of Wikipedia, 73 % of
German and 89 % of Chinese news. Tokenizers that spell out any text have no unknown words, and cannot be asked."""

VALIDATION_TOKENS = 100_000


def step_data(corpus: Corpus, model: LanguageModel, on_progress: OnProgress | None = None) -> StepData:
    """The training and validation splits as tokens of a model.

    Args:
        corpus: Of text in the model's language.
        model: Its tokenizer makes the tokens, and it is the teacher called `source`.
        on_progress: Told after every training step.

    Raises:
        TokenizerError: The model has no tokenizer, or one without a token that can stand between lines.
        CorpusError: Too little text, or text of another language.
    """
    if model.tokenizer is None:
        raise TokenizerError(
            f"model {model.name} has no tokenizer, so the text of {corpus.path} cannot become its tokens",
            allowed="tokenizer.json beside the model",
            fix="add --tokenizer PATH",
        )
    tokenizer = Tokenizer.from_json(model.tokenizer)
    train = list(token_documents(corpus, tokenizer, "train"))
    require_fitting(corpus.path, train, tokenizer)
    return StepData(train, list(token_documents(corpus, tokenizer, "valid", VALIDATION_TOKENS)), model, on_progress=on_progress)


def require_fitting(path: Path, documents: Sequence[NDArray[np.integer[Any]]], tokenizer: Tokenizer) -> None:
    """Refuses text that is too little to learn from, or that the tokenizer does not know.

    Raises:
        CorpusError: With the measured number of tokens or share of unknown ones.
    """
    tokens = sum(map(len, documents))
    if tokens < LEAST_TOKENS:
        raise CorpusError(f"{path} is too small to train on: {tokens:,} training tokens", allowed=f"at least {LEAST_TOKENS:,}")
    if tokenizer.unknown_id is None:
        return
    unknown = sum(int(np.count_nonzero(ids == tokenizer.unknown_id)) for ids in documents)
    text = sum(int(np.count_nonzero(ids != tokenizer.boundary_id)) for ids in documents)
    if unknown > MOST_UNKNOWN * text:
        raise CorpusError(
            f"the model's tokenizer does not know {unknown / text:.0%} of the words of {path}: is it text of another language?",
            allowed=f"at most {MOST_UNKNOWN:.0%} unknown words",
            fix="give text of the model's own language and kind",
        )
