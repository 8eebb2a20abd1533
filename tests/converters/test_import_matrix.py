"""The import matrix: exporter x family x opset x options. Each case is lifted, proven, lowered, and run on LiteRT with states carried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from onnx_exports import KERAS, dynamo, fixed_time, legacy, newer, tf2onnx  # noqa: E402
from torch_sizes import STEPS, VOCAB  # noqa: E402
from torch_zoo import ZOO  # noqa: E402

from edgelm.lower.direct import lower  # noqa: E402
from edgelm.model import LanguageModel  # noqa: E402
from edgelm.runtime.session import open_session  # noqa: E402
from edgelm.spec import TransformerSpec  # noqa: E402
from edgelm_converters import onnx  # noqa: E402

# float32 sums in another order: these models differ by 1e-7 to 1e-5; a wrong gate order, mask or rotation by 1e-1
MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Case:
    """One export.

    Attributes:
        model: Of the zoo, or of `KERAS`.
        exporter: `legacy`, `dynamo` or `tf2onnx`.
        opset: None for the exporter's own.
        dynamic: Batch and time are free in the file; else they are fixed: one token where there are states, else the whole test.
        upgraded: Opset that onnx's own converter takes the file to.
    """

    model: str
    exporter: str
    opset: int | None = None
    dynamic: bool = True
    upgraded: int | None = None

    def __str__(self) -> str:
        opset = self.upgraded or self.opset or "own"
        return f"{self.model}-{self.exporter}-{opset}{'' if self.dynamic else '-fixed'}"


LEGACY = (
    ("lstm", 13), ("lstm", 20), ("lstm-2", 14), ("lstm-3-time-first", 15), ("lstm-no-bias", 16), ("lstm-tied", 17),
    ("lstm-tied-no-bias", 18), ("lstm-word-model", 17), ("lstm-word-model-tied", 13), ("lstm-separate-states", 19), ("lstm-stateless", 20),
    ("lstm-last", 17), ("lstm-dense", 14), ("lstm-dense-gelu", 20), ("lstm-tied-projection", 15), ("lstm-explicit-zeros", 16),
    ("gru", 13), ("gru-2-time-first", 17), ("gru-tied", 20), ("gru-stateless", 18), ("gru-last-states", 14),
    ("rnn-tanh", 13), ("rnn-relu", 17), ("rnn-stateless", 20),
    ("gpt", 14), ("gpt-no-bias", 17), ("gpt-by-hand", 13), ("gpt-gelu-tanh", 20), ("gpt-last", 15), ("gpt-cached", 17),
    ("llama", 14), ("llama-gqa", 16), ("llama-mqa-sdpa", 18), ("llama-interleaved", 14), ("llama-table", 17), ("llama-partial", 19),
    ("llama-qk-norm", 15), ("llama-last", 20), ("llama-cached", 17), ("llama-cached-gqa-table", 15),
)  # fmt: skip

LEGACY_FIXED = (
    ("lstm", 17), ("lstm-stateless", 13), ("lstm-word-model", 17), ("gru-stateless", 17), ("rnn-relu", 13),
    ("encoder", 17), ("encoder-constant-mask", 14), ("encoder-is-causal", 20), ("encoder-norm-first", 17), ("encoder-sinusoidal", 16),
    ("encoder-norm-first-sinusoidal", 18), ("encoder-gelu-tied", 20), ("transformer-tutorial", 17), ("gpt-by-hand", 17), ("llama-gqa", 17),
    ("encoder-last", 17),
)  # fmt: skip
"""The tracing exporter fixes the time inside nn.MultiheadAttention whatever the axes say, so encoders are exported with fixed axes."""

DYNAMO = (
    ("lstm-stateless", None),
    ("gru", 18),
    ("encoder-norm-first", 21),
    ("gpt", 23),
    ("llama-rmsnorm-module", 23),
    ("llama-cached", 20),
)
"""A few of the others: an export takes ten seconds."""

KERAS_CASES = (("keras-lstm", 13), ("keras-lstm-2", 15), ("keras-lstm-softmax", 18), ("keras-gru", 17), ("keras-decoder", 17))

UPGRADED = (("lstm-2", 24), ("gru", 23), ("gpt", 24), ("llama-gqa", 22))

CASES = (
    *(Case(model, "legacy", opset) for model, opset in LEGACY),
    *(Case(model, "legacy", opset, dynamic=False) for model, opset in LEGACY_FIXED),
    *(Case(model, "legacy", 18, upgraded=opset) for model, opset in UPGRADED),
    *(Case(model, "dynamo", opset) for model, opset in DYNAMO),
    *(Case(model, "dynamo", None, dynamic=False) for model in ("lstm-word-model", "gpt-by-hand")),
    *(Case(model, "tf2onnx", opset) for model, opset in KERAS_CASES),
)


def parameters() -> Iterator[Any]:
    """Cases that export for more than two seconds are slow ones."""
    for case in CASES:
        yield pytest.param(case, id=str(case), marks=() if case.exporter == "legacy" else (pytest.mark.slow,))


def test_the_matrix_is_as_large_as_promised() -> None:
    assert len(set(CASES)) == len(CASES) >= 40


@pytest.mark.parametrize("case", parameters())
def test_case_is_lifted_proven_and_runs_on_litert(case: Case, tmp_path: Path) -> None:
    ids = np.random.default_rng(5).integers(0, VOCAB, (1, STEPS))
    path, wanted = exported(case, tmp_path / "model.onnx", ids)
    model = onnx.read(path).model
    assert isinstance(model, LanguageModel), model.origin and model.origin.why
    assert model.origin is not None
    assert model.origin.way == "lifted"
    assert model.origin.proof is not None
    assert model.origin.proof.max_abs_difference <= MAX_DIFFERENCE
    assert np.abs(centred(on_litert(model, ids)) - centred(wanted)).max() <= MAX_DIFFERENCE


def exported(case: Case, path: Path, ids: np.ndarray) -> tuple[Path, np.ndarray]:
    """The file, and what its framework gives for the ids: (time, vocab)."""
    if case.exporter == "tf2onnx":
        keras = pytest.importorskip("tf_keras")
        pytest.importorskip("tf2onnx")
        keras.utils.set_random_seed(0)
        model = KERAS[case.model](keras)
        wanted = np.asarray(model(ids))[0]
        return tf2onnx(model, path, opset=case.opset or 17), np.log(wanted) if case.model.endswith("softmax") else wanted
    zoo = ZOO[case.model]()
    time = 6 if case.dynamic else fixed_time(zoo)
    if case.exporter == "dynamo":
        pytest.importorskip("onnxscript")
        return dynamo(zoo, path, opset=case.opset, dynamic=case.dynamic, time=time), zoo.scores(ids)
    legacy(zoo, path, opset=case.opset or 17, dynamic=case.dynamic, time=time)
    return newer(path, case.upgraded) if case.upgraded else path, zoo.scores(ids)


def on_litert(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """Logits (time, vocab), token by token with the states carried."""
    options = {"ladder": (STEPS,), "prefill": 0} if isinstance(model.spec, TransformerSpec) else {}
    session = open_session(lower(model, **options).tflite)
    return np.stack([session.step(int(token)).copy() for token in ids[0]])


def centred(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities and logits differ by a constant for each position."""
    return logits - logits.mean(axis=-1, keepdims=True)
