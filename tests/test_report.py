from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgelm.errors import ArtifactError
from edgelm.report import Check, Plot, Report, Table, number, render_html, render_json, render_terminal

GOLDEN = Path(__file__).parent / "golden" / "report.txt"


def make_report(passed: bool) -> Report:
    checks = (
        Check("file size", 2.31, 2.5, "MB", passed, "measured", "the embedding is 42 % of the file", "edgelm convert m --recipe int4"),
        Check("load time", 12.0, None, "ms"),
    )
    table = Table("Weights", ("weight", "bytes"), (("embedding.weight [x]", "960,000"),), "a note")
    plot = Plot("Size by layer", ("embedding <1>",), (0.96,), "MB", 2.5)
    return Report("tiny for android-arm64", (("source", "tiny.keras"),), checks, (table,), (plot,), ("edgelm predict build/tiny",))


def terminal(report: Report) -> str:
    stream = io.StringIO()
    render_terminal(report, Console(file=stream, width=100, highlight=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_json_round_trip() -> None:
    report = make_report(True)
    assert Report.from_dict(json.loads(render_json(report))) == report


def test_a_report_of_another_version_or_shape_is_refused() -> None:
    plain = make_report(True).to_dict()
    with pytest.raises(ArtifactError, match="version 99"):
        Report.from_dict(plain | {"schema_version": 99})
    with pytest.raises(ArtifactError, match="cannot be read"):
        Report.from_dict({key: value for key, value in plain.items() if key != "checks"})


def test_an_estimate_shows_its_interval() -> None:
    check = Check("time per token", 0.3612, 20.0, "ms", True, "estimated", interval=(0.2049, 2.551))
    report = Report("t", (), (check,))
    assert "0.3612 ms (0.2 to 2.6)" in terminal(report)
    assert "0.3612 ms (0.2 to 2.6)" in render_html(report).decode()
    assert Report.from_dict(json.loads(render_json(report))) == report
    assert "1234 ms (1,000 to 12,000)" in terminal(Report("t", (), (Check("a", "1234", unit="ms", interval=(1010.0, 12345.0)),)))


def test_terminal_golden() -> None:
    assert terminal(make_report(False)) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_html_is_self_contained_and_escaped() -> None:
    page = render_html(make_report(True)).decode()
    assert "<script" not in page
    assert "http" not in page
    assert "embedding &lt;1&gt;" in page
    assert "<svg" in page
    assert "PASS" in page


@pytest.mark.parametrize(("value", "text"), [(1234.5678, "1,235"), (0.00012345, "0.0001234"), (0, "0"), ("fits", "fits"), (None, "")])
def test_number(value: float | str | None, text: str) -> None:
    assert number(value) == text
