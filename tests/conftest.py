"""Fixtures every test folder shares."""

from __future__ import annotations

import fcntl
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


@pytest.fixture(scope="session")
def arm64_cache() -> Path:
    """A cache folder with the emulator of arm64 cores: the user's own, else one for all test runs, set up by the first of them."""
    from edgelm.device import emulator_setup
    from edgelm.device.cache import cache_folder
    from edgelm.errors import DebianPackagesError, EmulatorError

    if emulator_setup.is_set_up(cache_folder()):
        return cache_folder()
    folder = cache_folder() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "arm64.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            emulator_setup.set_up(folder, lambda stage, done, total: None)
        except (DebianPackagesError, EmulatorError) as error:
            pytest.skip(f"the emulator of arm64 cores cannot be set up: {error.what}")
    return folder
