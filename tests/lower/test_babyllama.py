"""A published model, lowered, against logits that were computed in float64 by other code."""

from __future__ import annotations

from pathlib import Path

import babyllama
import numpy as np
import pytest
import sentencepiece
from lowered_models import TransformerRun, encoded, relative_error, run_decodes

from edgelm.lower.direct import lower
from edgelm.spec import Encoding

pytestmark = pytest.mark.data


@pytest.fixture
def folder(data_folder: Path) -> Path:
    return data_folder / "models" / "babyllama_tok105"


def test_float32_logits_equal_the_golden_ones(folder: Path) -> None:
    model, golden = babyllama.load(folder), np.load(folder / "golden.npz")
    lowered = lower(model)
    got = run_decodes(lowered.tflite, model.spec, golden["ids"], lowered.ladder)
    # Logits reach 20, where float32 steps by 2e-6; the sums of 5 layers lose a digit more (measured: 2e-5).
    np.testing.assert_allclose(got, golden["logits"], atol=1e-4)


def test_int8_prefers_the_same_tokens(folder: Path) -> None:
    model, golden = encoded(babyllama.load(folder), Encoding.INT8), np.load(folder / "golden.npz")
    lowered = lower(model)
    got = run_decodes(lowered.tflite, model.spec, golden["ids"], lowered.ladder)
    assert relative_error(got, golden["logits"]) < 0.03  # 8-bit rows of weights and activations (measured: 0.014)
    assert np.mean(got.argmax(1) == golden["logits"].argmax(1)) > 0.98


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.INT8])
def test_greedy_text_is_the_published_one(folder: Path, encoding: Encoding) -> None:
    model = encoded(babyllama.load(folder), encoding)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tok105.model"))
    lowered = lower(model)
    run = TransformerRun(lowered.tflite, model.spec, lowered.ladder[-1])
    ids = [tokenizer.bos_id()]
    logits = run.prefill(min(lowered.prefills), ids)
    for _ in range(90):
        ids.append(int(logits.argmax()))
        logits = run.decode(lowered.ladder[0], ids[-1])
    text = tokenizer.decode(ids)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside in the")
