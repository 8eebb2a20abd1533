"""Distillation losses against numpy, stored teachers against live ones, and what stores and teachers refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.compress.batches import batches, cut
from edgelm.compress.settings import TrainingError
from edgelm.compress.step_data import StepData
from edgelm.model import LanguageModel
from edgelm.recipe_training import Training
from edgelm.spec import RecurrentSpec, TransformerSpec, weight_shapes

LSTM = RecurrentSpec(20, 16, "rnn", (24,))
LLAMA = TransformerSpec(20, 16, 1, 2, 1, 8, 32, max_positions=16)
DOCUMENTS = [np.random.default_rng(seed).integers(0, 20, size) for seed, size in enumerate((30, 7, 12, 19, 2))]


def random_model(spec: Any, seed: int = 0) -> LanguageModel:
    random = np.random.default_rng(seed)
    shapes = weight_shapes(spec).items()
    return LanguageModel(spec, {name: (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32) for name, shape in shapes})


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def logits() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    teacher, student = random.standard_normal((2, 3, 5, 20)).astype(np.float32) * 2
    return teacher, student


def test_the_full_divergence_is_numpys(logits: tuple[np.ndarray, np.ndarray]) -> None:
    from edgelm.compress.teacher import full_divergence

    teacher, student = logits
    p, q = softmax(teacher / 2), softmax(student / 2)
    np.testing.assert_allclose(full_divergence(teacher, student, 2.0), np.sum(p * np.log(p / q), -1), atol=1e-6)
    assert float(full_divergence(np.zeros(2, np.float32), np.log(np.array([1, 3], np.float32)), 1.0)) == pytest.approx(0.1438, abs=1e-4)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_the_rest_of_the_mass_is_a_bucket(logits: tuple[np.ndarray, np.ndarray], k: int) -> None:
    from edgelm.compress.teacher import bucket_divergence, full_divergence

    teacher, student = logits
    p, q = softmax(teacher / 2), softmax(student / 2)
    top = np.argsort(-p, -1)[..., :k].astype(np.int32)
    p_top, q_top = np.take_along_axis(p, top, -1), np.take_along_axis(q, top, -1)
    p_rest, q_rest = 1 - p_top.sum(-1, keepdims=True), 1 - q_top.sum(-1, keepdims=True)
    stored = np.log(np.concatenate([p_top, np.maximum(p_rest, 1e-20)], -1))
    wanted = np.sum(p_top * np.log(p_top / q_top), -1)
    if k < 20:
        wanted = wanted + (p_rest * np.log(p_rest / q_rest))[..., 0]
    got = bucket_divergence(top, stored, student, 2.0).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert (got <= full_divergence(teacher, student, 2.0).numpy() + 1e-5).all()  # buckets can only hide a difference


@pytest.mark.parametrize("spec", [LSTM, LLAMA], ids=["recurrent", "transformer"])
@pytest.mark.slow
def test_a_store_of_the_whole_vocabulary_is_the_live_teacher(spec: Any, tmp_path: Path) -> None:
    from edgelm.compress.teacher import Distillation, ModelTeacher
    from edgelm.models import reference

    model = random_model(spec)
    teacher, windows = ModelTeacher(model), cut(DOCUMENTS, 12)
    live, stored = Distillation(teacher, 2.0, 0.3), Distillation(teacher, 2.0, 0.3, (tmp_path, 99))
    for objective in (live, stored):
        objective.begin(windows)
    for batch in batches(windows, 3, order=(0, 0)):
        student = np.random.default_rng(1).standard_normal((*batch.ids.shape, 20)).astype(np.float32)
        a, b = (
            objective.of_logits(batch.ids, batch.targets, student, *objective.extra(batch)).numpy() * batch.weights
            for objective in (live, stored)
        )
        np.testing.assert_allclose(a, b, atol=4e-3)  # float16 keeps log-probabilities of about 3 to 2^-10
        states = teacher.states(batch.ids)
        np.testing.assert_allclose(teacher.logits(states), reference.logits(model, batch.ids), atol=1e-4)


class CountingTeacher:
    """Its logits are a table; it counts the windows that it was asked for."""

    sha256, vocab_size, longest = "ab" * 32, 20, None

    def __init__(self) -> None:
        self.table = np.random.default_rng(3).standard_normal((20, 20)).astype(np.float32)
        self.windows = 0

    def states(self, ids: np.ndarray) -> np.ndarray:
        self.windows += len(ids)
        return self.table[ids]

    def logits(self, states: Any) -> Any:
        return states


def test_the_teacher_runs_once_for_each_window_whatever_happens_between(tmp_path: Path) -> None:
    from edgelm.compress.teacher_store import TeacherStore

    windows, teacher = cut(DOCUMENTS, 12), CountingTeacher()
    store = TeacherStore(teacher, tmp_path, 4, 1.0)
    store.open(windows)
    first, *others = list(batches(windows, 2, order=(0, 0)))
    store.rows(first)
    assert teacher.windows == 2
    again = TeacherStore(teacher, tmp_path, 4, 1.0)  # a resumed run, and another recipe
    again.open(windows)
    for batch in (first, *others, *batches(windows, 3, order=(0, 1))):
        indices, log_probs = again.rows(batch)
        p = softmax(teacher.table[batch.ids])
        real = batch.weights > 0
        np.testing.assert_array_equal(indices[real], np.argsort(-p, -1)[..., :4][real])
        np.testing.assert_allclose(np.exp(log_probs[real]).sum(-1), 1, atol=2e-3)
    assert teacher.windows == len(windows.starts)
    other = TeacherStore(teacher, tmp_path, 4, 2.0)  # another temperature is another store
    other.open(windows)
    other.rows(first)
    assert teacher.windows == len(windows.starts) + 2


def test_a_window_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    from edgelm.compress.teacher_store import TeacherStore

    class Interrupted(CountingTeacher):
        def logits(self, states: Any) -> Any:
            raise KeyboardInterrupt

    windows = cut(DOCUMENTS, 12)
    batch = next(batches(windows, 2))
    broken = TeacherStore(Interrupted(), tmp_path, 4, 1.0)
    broken.open(windows)
    with pytest.raises(KeyboardInterrupt):
        broken.rows(batch)
    teacher = CountingTeacher()
    store = TeacherStore(teacher, tmp_path, 4, 1.0)
    store.open(windows)
    store.rows(batch)
    assert teacher.windows == 2


@pytest.mark.slow
def test_loss_of_a_step(tmp_path: Path) -> None:
    from edgelm.compress.teacher import Distillation, loss_of

    data = StepData(DOCUMENTS, DOCUMENTS, random_model(LLAMA))
    assert loss_of(Training(), data).name == "cross-entropy"
    assert loss_of(Training(teacher="source", alpha=1), data).name == "cross-entropy"
    live = loss_of(Training(teacher="source"), data)
    stored = loss_of(Training(teacher="source"), dataclasses.replace(data, teachers=tmp_path))
    assert isinstance(live, Distillation)
    assert isinstance(stored, Distillation)
    assert (live.store is None, stored.store is None) == (True, False)
    assert live.name != stored.name  # a checkpoint of one is not one of the other
    with pytest.raises(TrainingError, match="takes 16 tokens, the windows have up to 29"):
        live.begin(cut(DOCUMENTS, 64))
