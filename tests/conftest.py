"""Fixtures every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The shared corpora, tokenizers and models; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("EDGELM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "corpora").is_dir():
        pytest.skip(f"no shared data at {folder}: set EDGELM_DATA")
    return folder
