from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgelm.cli import doctor, main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgelm.cli.main", *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    heavy = "{'tensorflow', 'tf_keras', 'keras', 'numpy', 'ai_edge_litert', 'tokenizers', 'rich'}"
    code = f"import sys, edgelm.cli.main; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_help_lists_every_verb_and_loads_no_tensorflow() -> None:
    result = run("--help")
    assert result.returncode == 0
    for verb, (_, text) in main.VERBS.items():
        assert f"{verb} " in result.stdout
        assert text in result.stdout


@pytest.mark.parametrize("verb", sorted(main.VERBS))
def test_every_verb_has_help_and_loads_no_tensorflow(verb: str) -> None:
    call = f"cli.main(['{verb}', '--help'], standalone_mode=False)"
    code = f"import sys; from edgelm.cli.main import cli; {call}; assert 'tensorflow' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


def test_an_unknown_verb_is_a_usage_error() -> None:
    result = run("convrt")
    assert result.returncode == 2
    assert "No such command" in result.stderr


def test_an_error_names_what_allowed_and_next_without_a_traceback() -> None:
    result = run("convert", "no-such-model", "-o", "build/never")
    assert result.returncode == 1
    assert "error: no model at no-such-model" in result.stderr
    assert "allowed: a bundled model" in result.stderr
    assert "Traceback" not in result.stderr


def test_recipes_show_prints_a_recipe() -> None:
    result = run("recipes", "--show", "int4-block32")
    assert result.returncode == 0
    assert 'weights = "int4-block32"' in result.stdout
    assert run("recipes", "--show", "int5").returncode == 1


def test_doctor_finds_this_environment_good_and_a_wrong_version_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(doctor.command)
    assert result.exit_code == 0, result.output
    assert "this environment is good" in result.output
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.3.0")
    findings = {finding.text.split(" ")[0]: finding for finding in doctor.package_findings()}
    assert findings["numpy"].ok is False
    assert findings["numpy"].fix == "pip install 'numpy==1.26.4'"
