"""The parts of the app that need no Android, run on this machine's JVM: checks of what comes from outside, and the LiteRT adapter."""

from __future__ import annotations

import app_classes
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return app_classes.compiled(tmp_path_factory.mktemp("app-classes"))


def test_unit_tests_of_the_app(classes: str) -> None:
    tests = app_classes.APP / "test/java"
    names = [".".join(file.relative_to(tests).with_suffix("").parts) for file in sorted(tests.rglob("*Test.java"))]
    assert len(names) >= 3
    assert "OK (" in app_classes.java("-cp", classes, "org.junit.runner.JUnitCore", *names)


def test_adapter_gives_the_logits_of_the_jvms_own_runner(classes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    models = app_classes.bundled_models(tmp_path_factory.mktemp("models"))
    assert app_classes.equal_logits(classes, models) == {"keyboard-lstm": 42 * 10_000, "chat-transformer": 42 * 4_000}
