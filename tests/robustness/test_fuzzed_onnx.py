"""ONNX files with damaged bytes and damaged fields: an error that helps, or a model; no crash, no hang, no gigabytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_models import fused_onnx, recurrent_onnx, transformer_onnx, window_onnx
from fuzz_runs import fuzz

onnx = pytest.importorskip("onnx")

MODELS = {"recurrent": recurrent_onnx, "transformer": transformer_onnx, "window": window_onnx, "fused": fused_onnx}
CASES = 500
PEAK = 1 << 30  # half of what the issue allows: the models have a thousand weights, the libraries take 100 MB


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_file_is_refused_or_read(name: str, tmp_path: Path) -> None:
    source = tmp_path / f"{name}.onnx"
    onnx.save(MODELS[name](), source)
    found = fuzz("onnx", source, tmp_path / "damaged", seed=40, cases=CASES)
    assert not found.failures, "\n".join(found.failures)
    assert found.outcomes.total() == CASES
    assert found.peak < PEAK
    assert {"SourceError", "UnsupportedModelError", "lifted"} <= set(found.outcomes), "some changes matter, some do not"


@pytest.mark.parametrize("name", MODELS)
def test_the_models_that_are_damaged_are_sound(name: str) -> None:
    onnx.checker.check_model(MODELS[name](), full_check=True)
