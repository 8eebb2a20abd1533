"""What a step is given besides the model: text, a place to work in, and someone to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.settings import OnProgress
from edgelm.errors import CorpusError
from edgelm.model import LanguageModel

Documents = Sequence[NDArray[np.integer[Any]]]


@dataclass(frozen=True)
class StepData:
    """The surroundings of a step.

    Attributes:
        train: Token ids of each training document.
        valid: The same for validation.
        source: The model before the recipe's first step: the teacher called `source`.
        folder: Where a training keeps its checkpoints; None for none.
        teachers: Where the likely tokens of teachers are kept, for all trainings on the same text; None runs a teacher at every step.
        resume: Go on from a checkpoint in `folder`.
        on_progress: Told after every training step.
    """

    train: Documents
    valid: Documents
    source: LanguageModel
    folder: Path | None = None
    teachers: Path | None = None
    resume: bool = True
    on_progress: OnProgress | None = None

    def calibration(self, tokens: int, length: int = 256) -> list[NDArray[np.int32]]:
        """About `tokens` training tokens in windows of at most `length`, spread over the whole split.

        Raises:
            CorpusError: There are fewer than two tokens.

        Example:
            >>> [len(w) for w in StepData([np.arange(600)], [], model).calibration(512)]
            [256, 256]
        """
        whole = [np.asarray(document, np.int32) for document in self.train if len(document) > 1]
        if not whole:
            raise CorpusError("the corpus has no training text to calibrate on", fix="give a corpus with --data")
        picked: list[NDArray[np.int32]] = []
        left = tokens
        for index in np.random.default_rng(0).permutation(len(whole)):
            for start in range(0, len(whole[index]) - 1, length):
                window = whole[index][start : start + min(length, left)]
                if len(window) > 1:
                    picked.append(window)
                    left -= len(window)
                if left < 2:
                    return picked
        return picked
