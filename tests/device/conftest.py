"""What several modules of this folder run: the native runner and the bundled models."""

from __future__ import annotations

from pathlib import Path

import pytest
from runner_models import BUNDLED, built_runner, write_int8


@pytest.fixture(scope="module")
def native() -> Path:
    return built_runner()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_int8(name, folder) for name in BUNDLED}
