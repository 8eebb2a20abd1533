"""Hugging Face folders with a damaged config.json, index, header or data: an error that helps, or a model; no crash, hang or gigabytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_models import llama_folder
from fuzz_runs import fuzz

CASES = 700
PEAK = 1 << 30  # half of what the issue allows: the model has a thousand weights


@pytest.mark.slow
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_damaged_folder_is_refused_or_read(shards: bool, tmp_path: Path) -> None:
    llama_folder(tmp_path / "llama", shards=shards)
    found = fuzz("folder", tmp_path / "llama", tmp_path / "damaged", seed=41, cases=CASES)
    assert not found.failures, "\n".join(found.failures)
    assert found.outcomes.total() == CASES
    assert found.peak < PEAK
    assert {"SourceError", "UnsupportedModelError", "lifted"} <= set(found.outcomes), "some changes matter, some do not"
