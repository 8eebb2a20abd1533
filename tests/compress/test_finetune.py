"""The training loop: it learns, it resumes to the bit, it refuses what it must."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.compress import checkpoint
from edgelm.compress.batches import batches, cut, share
from edgelm.compress.finetune import Progress, TrainingError, TrainResult, TrainSettings, train
from edgelm.compress.objective import cross_entropy
from edgelm.compress.steps import multiplies_bfloat16
from edgelm.compress.strategy import resolve
from edgelm.spec import DenseLayer, RecurrentSpec, TransformerSpec

RNN = RecurrentSpec(20, 16, "rnn", (24,), hidden=(DenseLayer(16),), tied_head=True)  # its graph is built quickest
LSTM = RecurrentSpec(20, 16, "lstm", (24,), hidden=(DenseLayer(16),), tied_head=True)
LLAMA = TransformerSpec(20, 16, 1, 2, 1, 8, 32, max_positions=32)
QUICK = TrainSettings(epochs=3, batch_size=8, sequence_length=12, learning_rate=1e-2, warmup_steps=5, checkpoint_steps=4, strategy="none")


def _documents(count: int, seed: int) -> list[np.ndarray]:
    """Token k is followed by k + 1 or k + 2: one bit a token, while single tokens are spread over the vocabulary."""
    random = np.random.default_rng(seed)
    return [(random.integers(20) + np.cumsum(random.integers(1, 3, random.integers(5, 40)))) % 20 for _ in range(count)]


TRAIN, VALID = _documents(120, 0), _documents(20, 1)


def _model(spec: Any = RNN, seed: int = 0) -> Any:
    import tf_keras

    from edgelm.models import keras_model

    tf_keras.utils.set_random_seed(seed)
    return keras_model.build(spec)


# --- windows and batches -------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    sequence_length=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_every_transition_of_every_document_is_predicted_once(
    lengths: list[int], sequence_length: int, batch_size: int, epoch: int
) -> None:
    documents, next_token = [], 0
    for length in lengths:
        documents.append(np.arange(next_token, next_token + length))
        next_token += length
    windows = cut(documents, sequence_length)
    seen: list[tuple[int, int]] = []
    for batch in batches(windows, batch_size, order=(7, epoch)):
        assert batch.ids.shape[0] <= batch_size
        assert batch.ids.shape[1] <= sequence_length
        real = batch.weights == 1
        seen += zip(batch.ids[real].tolist(), batch.targets[real].tolist(), strict=True)
    wanted = [(int(a), int(b)) for document in documents for a, b in itertools.pairwise(document)]
    assert sorted(seen) == sorted(wanted)
    assert windows.predicted == len(wanted)


def test_the_order_is_of_the_seed_and_the_epoch_and_can_be_entered_midway() -> None:
    windows = cut(TRAIN, 12)
    orders = {key: [batch.ids.tobytes() for batch in batches(windows, 8, order=key)] for key in ((0, 0), (0, 1), (1, 0))}
    assert orders[0, 0] != orders[0, 1]
    assert orders[0, 0] != orders[1, 0]
    assert [batch.ids.tobytes() for batch in batches(windows, 8, order=(0, 0), first=3)] == orders[0, 0][3:]


def test_limit_tokens_cuts_inside_a_document() -> None:
    assert cut([np.arange(10), np.arange(10)], 100, limit_tokens=15).lengths.tolist() == [9, 4]


def test_replicas_share_rows_and_missing_rows_are_zeros() -> None:
    rows = np.arange(1, 6)[:, None]
    assert [share(rows, replica, 2)[:, 0].tolist() for replica in range(2)] == [[1, 2, 3], [4, 5, 0]]


# --- settings and strategies ---------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls() -> None:
    settings = TrainSettings(learning_rate=1.0, warmup_steps=10)
    rates = [settings.learning_rate_at(step, 110) for step in range(110)]
    assert rates[:2] == pytest.approx([0.1, 0.2])
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert TrainSettings(learning_rate=1.0, warmup_steps=0, cosine=False).learning_rate_at(99, 100) == 1.0


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"patience": -1}, {"clip_norm": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        TrainSettings(**wrong)


def test_strategies() -> None:
    two = {"TF_CONFIG": json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}})}
    one = {"TF_CONFIG": json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}})}
    assert resolve("auto", {}, 0) == "none"
    assert resolve("auto", {}, 2) == "mirrored"
    assert resolve("auto", two, 2) == "multiworker"
    assert resolve("auto", one, 0) == "none"
    assert resolve("multiworker", one, 0) == "multiworker"
    assert resolve("none", two, 4) == "none"
    with pytest.raises(TrainingError, match="TF_CONFIG"):
        resolve("multiworker", {}, 0)
    with pytest.raises(TrainingError, match="cannot be read"):
        resolve("auto", {"TF_CONFIG": "{broken"}, 0)


# --- checkpoints ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_and_another_training_is_refused(tmp_path: Path) -> None:
    identity = {"settings": {"epochs": 3, "seed": 0}, "data": "ab"}
    arrays = {"model": [np.arange(3.0), np.ones((2, 2), np.float32)], "optimizer": [np.array(7)], "best": []}
    checkpoint.save(checkpoint.Checkpoint(identity, {"step": 7}, arrays), tmp_path)
    found = checkpoint.load(tmp_path, identity)
    assert found is not None
    assert found.progress == {"step": 7}
    np.testing.assert_array_equal(found.arrays["model"][1], arrays["model"][1])
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
    with pytest.raises(TrainingError, match="settings seed is 0 there and 1 now"):
        checkpoint.load(tmp_path, {**identity, "settings": {"epochs": 3, "seed": 1}})
    with pytest.raises(TrainingError, match="data is ab there"):
        checkpoint.load(tmp_path, {**identity, "data": "cd"})


def test_a_damaged_checkpoint_is_an_error_and_a_missing_one_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, {}) is None
    checkpoint.save(checkpoint.Checkpoint({}, {}, {"model": [np.arange(1000.0)]}), tmp_path)
    content = (tmp_path / checkpoint.FILE).read_bytes()
    (tmp_path / checkpoint.FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match="damaged"):
        checkpoint.load(tmp_path, {})


# --- training ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spec", [LSTM, LLAMA], ids=["lstm", "llama"])
def test_training_beats_the_unigram_baseline_and_keeps_the_best_epoch(spec: Any) -> None:
    told: list[Progress] = []
    model = _model(spec)
    result = train(model, TRAIN, VALID, QUICK, on_progress=told.append)
    counts = Counter(int(token) for document in TRAIN for token in document[1:])
    targets = [int(token) for document in VALID for token in document[1:]]
    unigram = math.exp(-np.mean([math.log(counts[token] / counts.total()) for token in targets]))
    assert result.perplexity < unigram / 2  # the true process has perplexity 2, single tokens have about 20
    assert result.perplexity == min(epoch.valid_perplexity for epoch in result.history)
    assert told[0].step == 0
    assert told[0].plan.train_tokens == sum(len(document) - 1 for document in TRAIN)
    assert told[-1].step == told[-1].plan.steps == 3 * told[-1].plan.steps_an_epoch
    assert told[-1].seconds_left < 1
    logits = model(np.array([VALID[0][:-1]], np.int32)).numpy()[0]
    assert np.mean((logits.argmax(-1) - VALID[0][:-1]) % 20 <= 2) > 0.8


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[Any, TrainResult]:
    model = _model()
    return model, train(model, TRAIN, VALID, QUICK)


LAST = 3 * cut(TRAIN, QUICK.sequence_length).steps(QUICK.batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [6, LAST])  # inside an epoch; after the last step but before its validation
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(stop_at: int, uninterrupted: tuple[Any, TrainResult], tmp_path: Path) -> None:
    whole, expected = uninterrupted

    def interrupt(progress: Progress) -> None:
        if progress.step == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_model(), TRAIN, VALID, QUICK, tmp_path, interrupt)
    again = _model(seed=99)
    told: list[Progress] = []
    result = train(again, TRAIN, VALID, QUICK, tmp_path, told.append, resume=True)
    assert told[0].step == stop_at
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # threads may sum in another order
    assert [e.valid_perplexity for e in result.history] == pytest.approx([e.valid_perplexity for e in expected.history], rel=1e-5)
    assert [e.loss for e in result.history] == pytest.approx([e.loss for e in expected.history], rel=1e-5)
    done = train(_model(), TRAIN, VALID, QUICK, tmp_path, resume=True)  # resuming what is done gives the result
    assert done.perplexity == result.perplexity


@pytest.mark.slow
def test_a_crash_loses_only_what_came_after_the_last_checkpoint(tmp_path: Path) -> None:
    def crash(progress: Progress) -> None:
        if progress.step == 7:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(_model(), TRAIN, VALID, QUICK, tmp_path, crash)
    told: list[Progress] = []
    train(_model(), TRAIN, VALID, QUICK, tmp_path, told.append, resume=True)
    assert told[0].step == 4  # checkpoint_steps


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training documents"):
        train(_model(), [np.array([3])], VALID, QUICK)
    with pytest.raises(TrainingError, match="validation documents"):
        train(_model(), TRAIN, [], QUICK)
    with pytest.raises(TrainingError, match="token id 20"):
        train(_model(), [np.array([3, 20])], VALID, QUICK)
    train(_model(), TRAIN, VALID, TrainSettings(max_steps=2, strategy="none"), tmp_path)
    with pytest.raises(TrainingError, match="model cell is rnn there and cifg now"):
        train(_model(RecurrentSpec(20, 16, "cifg", (24,))), TRAIN, VALID, TrainSettings(max_steps=2), tmp_path, resume=True)


@pytest.mark.slow
def test_a_diverging_training_stops_with_a_reason() -> None:
    model = _model()
    model.get_layer("head").bias.assign(np.full(20, np.nan, np.float32))
    with pytest.raises(TrainingError, match="diverged"):
        train(model, TRAIN, VALID, QUICK)


@pytest.mark.slow
def test_patience_and_max_steps_stop_early() -> None:
    frozen = TrainSettings(epochs=9, batch_size=64, learning_rate=1e-12, weight_decay=0.0, patience=2, warmup_steps=0, strategy="none")
    assert len(train(_model(), TRAIN, VALID, frozen).history) <= 5
    told: list[Progress] = []
    train(_model(), TRAIN, VALID, TrainSettings(batch_size=8, max_steps=3, strategy="none"), on_progress=told.append)
    assert told[-1].step == 3
    assert len(told[-1].history) == 1


@pytest.mark.slow
def test_own_loss_and_step_hook_are_used() -> None:
    import tensorflow as tf

    steps: list[int] = []
    model = _model()
    before = model.get_weights()
    settings = TrainSettings(epochs=1, max_steps=3, weight_decay=0.0, strategy="none")
    train(model, TRAIN, VALID, settings, loss=lambda ids, targets, logits: 0 * tf.reduce_sum(logits, -1), before_step=steps.append)
    assert steps == [0, 1, 2]
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # a loss of nothing teaches nothing


REPLICAS = """
import sys, numpy as np, tensorflow as tf, tf_keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from edgelm.compress.finetune import TrainSettings, train
from edgelm.models import keras_model
from edgelm.spec import RecurrentSpec
documents = [(np.arange(n) * 3 + n) % 11 for n in range(3, 30)]
weights = {}
for strategy in ("none", "mirrored"):
    tf_keras.utils.set_random_seed(0)
    model = keras_model.build(RecurrentSpec(11, 8, "rnn", (8,)))
    train(model, documents, documents, TrainSettings(epochs=1, batch_size=9, sequence_length=16, warmup_steps=0, strategy=strategy))
    weights[strategy] = np.concatenate([w.ravel() for w in model.get_weights()])
assert np.isfinite(weights["none"]).all()
print(np.abs(weights["none"] - weights["mirrored"]).max())
"""


@pytest.mark.slow
def test_two_replicas_compute_what_one_does() -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert float(ran.stdout.split()[-1]) < 1e-5  # gradients are summed in another order


# --- precision and speed -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bfloat16_trains_as_well_and_leaves_the_option_as_it_was() -> None:
    import tensorflow as tf

    from edgelm.compress.steps import BFLOAT16

    before = tf.config.optimizer.get_experimental_options().get(BFLOAT16, False)
    seen: list[bool] = []

    def look(step: int) -> None:
        seen.append(tf.config.optimizer.get_experimental_options().get(BFLOAT16, False))

    settings = dataclasses.replace(QUICK, precision="bfloat16")
    result = train(_model(LSTM), TRAIN, VALID, settings, before_step=look)
    assert result.perplexity == pytest.approx(train(_model(LSTM), TRAIN, VALID, QUICK).perplexity, rel=0.05)  # 8 bits of mantissa
    assert set(seen) == {before}
    assert tf.config.optimizer.get_experimental_options().get(BFLOAT16, False) == before


def test_processors_without_bfloat16_stay_with_float32(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("flags : fpu avx2 fma\n")
    (tmp_path / "new").write_text("flags : fpu avx2 fma amx_bf16\n")
    assert [multiplies_bfloat16(tmp_path / name) for name in ("old", "new", "none")] == [False, True, False]


def test_cross_entropy_and_its_gradient_are_tensorflows() -> None:
    import tensorflow as tf

    random = np.random.default_rng(0)
    logits = tf.constant(random.standard_normal((2, 5, 20)) * 30, tf.float32)  # far apart: exp must not overflow
    targets, weights = tf.constant(random.integers(0, 20, (2, 5)), tf.int32), tf.constant(random.random((2, 5)), tf.float32)
    results = []
    for loss in (cross_entropy, lambda ids, targets, logits: tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = loss(targets, targets, logits)
            total = tf.reduce_sum(losses * weights)
        results.append((losses.numpy(), tape.gradient(total, logits).numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-5), (True, 3e-2)])  # of the largest gradient; bfloat16 has 8 bits
def test_the_fused_lstm_has_the_outputs_and_gradients_of_keras(bfloat16: bool, tolerance: float) -> None:
    import tensorflow as tf

    from edgelm.models.fused_lstm import fused_lstms

    model = _model(RecurrentSpec(20, 16, "lstm", (24, 12)))
    ids = tf.constant(np.random.default_rng(0).integers(0, 20, (4, 9)), tf.int32)

    @tf.function
    def run() -> Any:
        with tf.GradientTape() as tape:
            logits = model(ids, training=True)
            loss = tf.reduce_mean(cross_entropy(ids, ids, logits))
        return [logits, *(tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, model.trainable_variables))]

    wanted = run()
    with fused_lstms(model, bfloat16):
        fused = tf.function(run.python_function)()
    again = tf.function(run.python_function)()
    for a, b, c in zip(wanted, fused, again, strict=True):
        np.testing.assert_allclose(b, a, atol=tolerance * float(np.abs(a).max()))
        np.testing.assert_allclose(c, a, atol=1e-6)  # Keras' own call is back
    assert max(float(np.abs(a - b).max()) for a, b in zip(wanted, fused, strict=True)) > 0  # it was another computation


@pytest.mark.slow
def test_epochs_before_a_schedule_has_settled_are_not_the_best() -> None:
    settings = dataclasses.replace(QUICK, epochs=2, learning_rate=1e-12)  # nothing changes: the first epoch would win
    steps = cut(TRAIN, QUICK.sequence_length).steps(QUICK.batch_size)
    assert train(_model(), TRAIN, VALID, settings, best_from_step=steps + 1).best_epoch == 2
    assert train(_model(), TRAIN, VALID, settings, best_from_step=99 * steps).best_epoch == 2  # the end always counts
    with pytest.raises(TrainingError, match="precision"):
        TrainSettings(precision="float8")  # type: ignore[arg-type]
