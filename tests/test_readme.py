"""What the README shows is what the program does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgelm import recipe, source

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = ROOT / "benchmarks"


def run(*arguments: str, cache: Path | None = None) -> str:
    command = [sys.executable, "-m", "edgelm.cli.main", *arguments]
    environment = {**os.environ, **({"EDGELM_CACHE": str(cache)} if cache else {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment).stdout


def block_after(text: str) -> str:
    """The first fenced block that contains `text`."""
    return next(block for _, block in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL) if text in block)


def without_figures(transcript: str) -> list[str]:
    """Names of the checks with their verdicts, and the commands; figures differ from machine to machine."""
    kept = []
    for line in transcript.splitlines():
        check = re.match(r" ?(\S.*?)\s{2,}.*(PASS|FAIL)\s*$", line)
        if check:
            kept.append(f"{check[1]}: {check[2]}")
        elif line.startswith("  edgelm "):
            kept.append(line.rstrip())
    return kept


def test_the_help_is_the_programs_own() -> None:
    help_text = run("--help").replace("python -m edgelm.cli.main", "edgelm")
    assert block_after("Usage: edgelm").strip() == help_text.strip()


@pytest.mark.slow
def test_the_transcript_is_what_make_demo_prints(tmp_path: Path, arm64_cache: Path) -> None:
    shown = block_after("keyboard-lstm for android-arm64")
    printed = run("convert", "keyboard-lstm", "--target", "android-arm64", "-o", str(tmp_path / "keyboard-lstm"), cache=arm64_cache)
    printed = printed.replace(str(tmp_path), "build")
    assert without_figures(printed) == without_figures(shown)
    assert len(without_figures(shown)) > 8, "the pattern still finds the checks"


def test_the_table_has_every_model_and_recipe_that_needs_no_text() -> None:
    for model in source.bundled():
        for name in recipe.shipped():
            if not recipe.load(name).wants_data:
                assert f"| {model} | {name} |" in README


@pytest.mark.parametrize("model", sorted(source.bundled()))
def test_the_toolbox_tables_are_the_committed_results(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import toolbox_table

    rows = json.loads((BENCHMARKS / "results" / f"toolbox-{model}.json").read_text())["rows"]
    assert toolbox_table.markdown(model, rows) in README
    assert toolbox_table.students(model, rows) in README


def test_the_table_of_peers_is_the_committed_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from peers import goals, table

    results = json.loads((BENCHMARKS / "results" / "peers.json").read_text())["goals"]
    assert table.goals_table([goals.Result(**result) for result in results]) in README


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
