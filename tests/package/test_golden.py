from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import packed_models
import pytest
from numpy.typing import NDArray

from edgelm import artifact
from edgelm.package import golden
from edgelm.runtime.base import Session
from edgelm.runtime.session import open_session
from edgelm.text.tokenizer import Tokenizer


class Scripted(Session[int]):
    """A session whose logits are given; it notes what it was fed."""

    def __init__(self, rows: Sequence[Sequence[float]], max_positions: int | None = None) -> None:
        super().__init__("scripted 1.0", len(rows[0]), max_positions)
        self.rows = [np.array(row, np.float32) for row in rows]
        self.fed: list[int] = []

    def reset(self) -> None:
        self.position = 0

    def step(self, token: int) -> NDArray[np.float32]:
        self.fed.append(token)
        self.position += 1
        return self.rows[self.position - 1]

    def snapshot(self) -> int:
        return self.position

    def restore(self, snapshot: int) -> None:
        self.position = snapshot


def continued(session: Scripted) -> golden.Continuation:
    return golden._continue(session, (0,))


def test_a_continuation_ends_before_a_choice_another_cpu_may_make_differently() -> None:
    near = 10 - golden.MARGIN * 10 * 0.9
    session = Scripted([[0, 10, 5], [0, 5, 10], [0, near, 10], [0, 0, 10]])
    assert continued(session).choices == (1, 2)
    assert session.fed == [0, 1, 2]
    clear = 10 - golden.MARGIN * 10 * 1.1
    assert continued(Scripted([[0, 10, 5], [0, 5, 10], [0, clear, 10], [0, 10, 10]])).choices == (1, 2, 2)


def test_a_continuation_ends_where_the_context_does() -> None:
    assert continued(Scripted([[0, 10, 5], [0, 5, 10], [10, 5, 0]], max_positions=2)).choices == (1, 2)


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_vectors_are_what_tokenizer_and_session_say(tmp_path: Path, kind: str) -> None:
    loaded = artifact.load(packed_models.tiny(tmp_path / "lm", kind))
    vectors = golden.compute(loaded, "ai-edge-litert")
    assert loaded.tokenizer is not None
    tokenizer, session = Tokenizer.from_json(loaded.tokenizer), open_session(loaded.tflite)
    assert [(each.text, list(each.ids)) for each in vectors.encoded] == [(text, tokenizer.encode(text)) for text in golden.TEXTS]
    assert vectors.runtime == session.runtime
    assert max(len(each.prompt) for each in vectors.continuations) > 32, "prefill_32 must have been used"
    for each in vectors.continuations:
        session.reset()
        logits = session.prefill(each.prompt)
        for choice in each.choices:
            assert int(logits.argmax()) == choice
            if session.max_positions is None or session.position < session.max_positions:
                logits = session.step(choice)


def test_a_model_without_a_tokenizer_has_choices_only(tmp_path: Path) -> None:
    vectors = golden.compute(artifact.load(packed_models.graph(tmp_path / "lm", last_only=False)), "ai-edge-litert")
    assert vectors.encoded == ()
    assert vectors.continuations
