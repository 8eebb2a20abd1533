from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from edgelm.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edgelm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgelm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return run
