"""Distillation end to end: students of both families, teachers of any kind, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.compress.distill import apply, embedding_start, halved, parameters, student_spec
from edgelm.compress.step_data import StepData
from edgelm.errors import EdgeLMError, RecipeError
from edgelm.model import Imported, LanguageModel
from edgelm.models import reference
from edgelm.recipe_steps import Distill
from edgelm.recipe_training import Training
from edgelm.spec import DenseLayer, RecurrentSpec, TransformerSpec

VOCAB = 20
LSTM = RecurrentSpec(VOCAB, 16, "lstm", (24,), hidden=(DenseLayer(16),), tied_head=True)
LLAMA = TransformerSpec(VOCAB, 16, 1, 2, 1, 8, 32, max_positions=32)
QUICK = Training(epochs=2, learning_rate=1e-2, batch_size=8, sequence_length=12, warmup_steps=5, precision="float32")


def documents(count: int, seed: int) -> list[np.ndarray]:
    """Token k is followed by k + 1 or k + 2."""
    random = np.random.default_rng(seed)
    return [(random.integers(VOCAB) + np.cumsum(random.integers(1, 3, random.integers(5, 40)))) % VOCAB for _ in range(count)]


def trained(spec: Any) -> LanguageModel:
    import tf_keras

    from edgelm.compress.finetune import TrainSettings, train
    from edgelm.models import keras_model

    tf_keras.utils.set_random_seed(0)
    model = keras_model.build(spec)
    settings = TrainSettings(epochs=6, batch_size=8, sequence_length=12, learning_rate=1e-2, warmup_steps=5, strategy="none")
    train(model, documents(300, 0), documents(20, 1), settings)
    return LanguageModel(spec, keras_model.get_weights(model), name="teacher")


@pytest.fixture(scope="module")
def teacher() -> LanguageModel:
    return trained(LSTM)


@pytest.fixture(scope="module")
def data(teacher: LanguageModel) -> StepData:
    return StepData(documents(40, 2), documents(20, 1), teacher)  # a few dozen steps: too few to learn it all from the text


def mapped_distance(student: LanguageModel, teacher: LanguageModel, data: StepData) -> float:
    """Mean squared distance of the teacher's last hidden states from the best linear map of the student's."""
    from edgelm.compress.teacher import ModelTeacher

    ids = np.stack([document[:5] for document in data.valid]).astype(np.int32)
    own, wanted = (ModelTeacher(model).states(ids).reshape(ids.size, -1) for model in (student, teacher))
    mapped = own @ np.linalg.lstsq(own, wanted, rcond=None)[0]
    return float(np.square(mapped - wanted).mean())


def perplexity(model: LanguageModel, data: StepData) -> float:
    from edgelm.compress import fit
    from edgelm.models import keras_model

    return fit.perplexity(keras_model.from_language_model(model), data.valid, sequence_length=12)


# --- specs -----------------------------------------------------------------------------------------------------------------------


def test_a_student_is_changes_a_whole_spec_or_half() -> None:
    assert student_spec(LSTM, {"units": [8]}) == dataclasses.replace(LSTM, units=(8,))
    whole = {"family": "transformer", "width": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8, "ffn_size": 8, "max_positions": 16}
    assert student_spec(LSTM, whole) == TransformerSpec(VOCAB, 8, 1, 1, 1, 8, 8, 16)
    keyboard = RecurrentSpec(10_000, 96, "lstm", (512,), hidden=(DenseLayer(96),), tied_head=True)
    chat = TransformerSpec(4000, 192, 6, 6, 2, 32, 480, max_positions=512)
    for spec in (keyboard, chat):
        share = parameters(student_spec(spec, {})) / parameters(spec)
        assert 0.45 < share <= 0.5  # sizes are multiples of 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unitz": [8]}, "cannot be read"),
        ({"vocab_size": 7}, "vocab_size = 7"),
        ({"embedding_size": 8}, "tied head"),
        ({"family": "rwkv"}, "family 'rwkv'"),
    ],
)
def test_students_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeLMError, match=message):
        student_spec(LSTM, changes)


def test_a_model_that_cannot_be_halved_wants_a_spec() -> None:
    with pytest.raises(RecipeError, match="too small"):
        halved(RecurrentSpec(5, 8, "rnn", (8,)))


def test_the_embedding_starts_as_the_closest_table_of_its_rank() -> None:
    random = np.random.default_rng(0)
    table = (random.standard_normal((VOCAB, 4)) @ random.standard_normal((4, 16))).astype(np.float32)  # rank 4
    model = LanguageModel(
        RecurrentSpec(VOCAB, 16, "rnn", (1,), head_bias=False),
        {
            "embedding.weight": table,
            "layers.0.input.weight": np.zeros((1, 16), np.float32),
            "layers.0.recurrent.weight": np.zeros((1, 1), np.float32),
            "layers.0.input.bias": np.zeros(1, np.float32),
            "head.weight": np.zeros((VOCAB, 1), np.float32),
        },
    )
    teacher = Imported(model, lambda ids: np.zeros((*ids.shape, VOCAB), np.float32))
    start = embedding_start(np.zeros((VOCAB, 8), np.float32), teacher)["embedding.weight"]
    np.testing.assert_allclose(start @ start.T, table @ table.T, atol=1e-3)  # nothing of a table of rank 4 is lost in 8 columns
    assert embedding_start(np.zeros((VOCAB, 17), np.float32), teacher) == {}


# --- training --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "student",
    [
        {"units": [12]},
        {"family": "transformer", "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn_size": 16, "max_positions": 32},
    ],
    ids=["lstm", "another family"],
)
def test_a_student_with_a_teacher_beats_the_same_without(
    student: dict[str, Any], teacher: LanguageModel, data: StepData, tmp_path: Path
) -> None:
    train = dataclasses.replace(QUICK, epochs=6)  # both start with the teacher's table: what sets them apart takes longer to show
    alone = apply(teacher, Distill(student, alpha=1.0, train=train), data)
    taught = apply(teacher, Distill(student, alpha=0.1, top_k=4, train=train), dataclasses.replace(data, teachers=tmp_path))
    assert taught.spec == alone.spec == student_spec(teacher.spec, student)
    assert perplexity(taught, data) < perplexity(alone, data)
    assert teacher.spec == LSTM
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_hidden_states_are_matched_through_a_map_that_is_dropped(teacher: LanguageModel, data: StepData) -> None:
    narrow = {"embedding_size": 8, "units": [12], "hidden": [{"size": 8}]}
    taught = apply(teacher, Distill(narrow, hidden=1.0, alpha=0.5, train=QUICK), data)
    alone = apply(teacher, Distill(narrow, alpha=1.0, train=QUICK), data)
    assert taught.weights.keys() == alone.weights.keys()
    assert mapped_distance(taught, teacher, data) < mapped_distance(alone, teacher, data)


@pytest.mark.slow
def test_a_teacher_that_edgelm_does_not_know_teaches_too(data: StepData, teacher: LanguageModel, tmp_path: Path) -> None:
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    convolution = tf_keras.Sequential(
        [
            layers.Input((None,), dtype="int32"),
            layers.Embedding(VOCAB, 16),
            layers.Conv1D(16, 2, padding="causal", activation="relu"),
            layers.Dense(VOCAB),
        ]
    )
    convolution.save(tmp_path / "convolution.keras")
    step = Distill({"units": [12]}, teacher=str(tmp_path / "convolution.keras"), alpha=0.0, top_k=0, train=QUICK)
    taught = apply(teacher, step, data)
    ids = np.array([data.valid[0][:10]], np.int32)
    wanted = convolution(ids).numpy()
    before, after = (
        np.mean((reference.logits(model, ids) - wanted - np.mean(reference.logits(model, ids) - wanted, -1, keepdims=True)) ** 2)
        for model in (apply(teacher, dataclasses.replace(step, train=dataclasses.replace(QUICK, epochs=0)), data), taught)
    )
    assert after < before  # alpha 0: it learns nothing but the teacher's distributions
    with pytest.raises(RecipeError, match="cannot look into"):
        apply(teacher, dataclasses.replace(step, hidden=1.0, alpha=0.5), data)


@pytest.mark.slow
def test_a_teacher_of_another_vocabulary_is_refused(teacher: LanguageModel, data: StepData) -> None:
    with pytest.raises(RecipeError, match="knows 10000 tokens"):
        apply(teacher, Distill({"units": [12]}, teacher="keyboard-lstm", train=QUICK), data)
