"""Muon against PyTorch's, and what the loop makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_tiny import LEARN, LSTM, data_of, fresh

from edgelm.compress.fit import fit
from edgelm.compress.settings import TrainingError, TrainSettings
from edgelm.models import keras_model

tf = pytest.importorskip("tensorflow")
from edgelm.compress.muon import MOMENTUM, Muon, is_kernel, orthogonal  # noqa: E402


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000))
def test_steps_are_nearly_orthogonal(rows: int, columns: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    values = np.linalg.svd(orthogonal(matrix).numpy(), compute_uv=False)
    exact = np.linalg.svd(matrix, compute_uv=False) / np.linalg.norm(matrix)
    assert values[exact > 0.01].min() > 0.6  # the quintic's plateau is 0.7 to 1.2; smaller singular values are on their way to it
    assert values.max() < 1.25


def test_three_steps_equal_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra [torch]")
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(24, 16)).astype(np.float32), random.normal(size=(3, 24, 16)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    ours = tf.Variable(start, name="dense/kernel")
    optimizer = Muon(0.01, weight_decay=0.0)
    optimizer.build([ours])
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        reference.step()
        optimizer.apply_gradients([(tf.constant(gradient), ours)])
    # PyTorch iterates in bfloat16, of 8 bits: three steps of rms 0.002 agree to a few per cent of one
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), atol=4e-4)
    assert np.abs(ours.numpy() - start).max() > 3e-3


def test_tables_vectors_and_scales_stay_with_adamw() -> None:
    names = {"kernel": (4, 4), "recurrent_kernel": (4, 4), "embeddings": (9, 4), "bias": (4,), "kernel_log_scale": (4, 1)}
    found = [name for name, shape in names.items() if is_kernel(tf.Variable(np.zeros(shape, np.float32), name=f"layer/{name}"))]
    assert found == ["kernel", "recurrent_kernel"]


def test_the_loop_learns_with_it() -> None:
    model = keras_model.from_language_model(fresh(LSTM))
    result = fit(model, dataclasses.replace(LEARN, epochs=4, optimizer="muon"), data_of(fresh(LSTM)))
    assert result.perplexity < 6  # of 40 words; 2 is the best there is, and a model that learnt nothing has 40


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(TrainingError, match="optimizer = 'lion'"):
        TrainSettings(optimizer="lion")  # type: ignore[arg-type]
