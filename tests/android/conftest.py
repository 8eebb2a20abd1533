"""Fixtures of the tests that run the Java engine."""

from __future__ import annotations

from collections.abc import Iterator

import jvm_engine
import pytest


@pytest.fixture(scope="session")
def jvm() -> Iterator[jvm_engine.JvmEngine]:
    """The Java engine, one JVM for all tests of a process."""
    engine = jvm_engine.start()
    yield engine
    engine.close()
