from __future__ import annotations

import json
from pathlib import Path

import packed_models
import pytest

from edgelm.package import ios
from edgelm.package.subject import open_subject


@pytest.mark.parametrize("kind", ["recurrent", "transformer", "graph"])
def test_the_file_set_is_whole_and_says_that_it_was_never_built(tmp_path: Path, kind: str) -> None:
    folder = packed_models.graph(tmp_path / "lm", last_only=False) if kind == "graph" else packed_models.tiny(tmp_path / "lm", kind)
    subject = open_subject(folder)
    files = ios.files(subject)
    names = {"lm.tflite", "manifest.json", "Lm.swift", "README.md"} | (set() if kind == "graph" else {"tokenizer.json"})
    assert files.keys() == names
    assert files["lm.tflite"] == subject.artifact.tflite
    assert json.loads(files["manifest.json"])["name"] == "lm"
    swift, readme = files["Lm.swift"].decode(), files["README.md"].decode()
    assert swift.startswith("// NOT BUILT, NOT RUN")
    assert "NOT BUILT" in readme.splitlines()[0]
    assert "FULLY_CONNECTED v" in readme
    assert swift.count("{") == swift.count("}")
    assert swift.count("(") == swift.count(")")


def test_the_snippet_names_the_tensors_of_the_signature(tmp_path: Path) -> None:
    recurrent = ios.files(open_subject(packed_models.tiny(tmp_path / "lm")))["Lm.swift"].decode()
    assert 'states = ["c_0", "h_0"]' in recurrent
    transformer = ios.files(open_subject(packed_models.tiny(tmp_path / "tr", "transformer")))["Tr.swift"].decode()
    assert 'caches = ["k_0", "k_1", "v_0", "v_1"]' in transformer
    assert 'signatureRunner(with: "decode_64")' in transformer
