"""Bad ONNX files, Hugging Face folders and pickles through the command line: one error, exit code 1, and nothing is written."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_onnx import BAD
from fuzz_models import llama_folder

pytest.importorskip("onnx")
pytestmark = pytest.mark.slow  # a process each

STDERR = re.compile(r"reading the model\nerror: ([^\n]+)(\n  allowed: [^\n]+)?(\n  next: [^\n]+)?\n")
"""All that stderr may hold: the stage that was reached, and one error."""

KINDS = ["truncated", "external data elsewhere", "no weights", "opset too new", "custom domain", "pictures", "a function of itself"]


def converted(source: Path) -> str:
    """Converts a model that cannot be; what was said. Its folder and the place of the artifact stay as they were."""
    folder = source.parent
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-m", "edgelm.cli.main", "convert", source.name, "-o", "out"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert result.returncode == 1, result.stdout + result.stderr
    assert STDERR.fullmatch(result.stderr), result.stderr
    assert sorted(folder.rglob("*")) == before
    return result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    said = converted(BAD[kind].make(tmp_path / "model"))
    assert re.search(BAD[kind].cause, said)
    assert re.search(BAD[kind].help, said)


def config(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        plain = json.loads((folder / "config.json").read_text()) | keys
        (folder / "config.json").write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))

    return change


def cut(folder: Path) -> None:
    content = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(content[: len(content) // 2])


def huge_header(folder: Path) -> None:
    content = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + content[8:])


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "broken config": (lambda folder: (folder / "config.json").write_text('{"model_type": "lla'), r"config\.json is no JSON"),
    "unknown kind": (config(model_type="mamba9"), r"architecture mamba9 is not known"),
    "no kind": (config(model_type=None), "has no model_type"),
    "missing key": (config(hidden_size=None), "hidden_size is missing"),
    "absurd size": (config(vocab_size=10**12), "vocab_size = 1000000000000"),
    "wrong shape": (config(vocab_size=14), r"\(13, 8\)"),
    "missing tensor": (config(num_hidden_layers=3), r"layers\.2"),
    "truncated shard": (cut, r"a\.safetensors is truncated"),
    "huge header": (huge_header, r"a\.safetensors is truncated or no safetensors file"),
    "missing shard": (lambda folder: (folder / "b.safetensors").unlink(), r"the shard b\.safetensors is missing"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder(kind: str, tmp_path: Path) -> None:
    change, cause = FOLDERS[kind]
    llama_folder(tmp_path / "llama", shards=True)
    change(tmp_path / "llama")
    assert re.search(cause, converted(tmp_path / "llama"))


class Writes:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_not_run(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"weights": Writes(tmp_path / "ran")}, protocol=protocol))
    assert "m.pt" in converted(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


def test_a_torch_archive_with_code_is_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weights": torch.zeros(2), "more": Writes(tmp_path / "ran")}, tmp_path / "m.pt")
    assert "--trust" in converted(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()
