"""The engine's own JUnit tests, as Android Studio runs them."""

from __future__ import annotations

import subprocess

import pytest
from jvm_engine import DEMO, class_path

pytestmark = pytest.mark.slow


def test_junit_tests_pass() -> None:
    names = sorted(f"dev.edgelm.core.{file.stem}" for file in (DEMO / "core/src/test/java").rglob("*Test.java"))
    command = ["java", "-cp", class_path(), "org.junit.runner.JUnitCore", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "OK (" in done.stdout
