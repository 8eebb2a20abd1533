from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_runtimes import BOTH, run

from edgelm.errors import ArtifactError
from edgelm.spec import Encoding
from edgelm.tflite import metadata
from edgelm.tflite.metadata import METADATA_NAME, attach, model_metadata, read_attached
from edgelm.tflite.quantize import quantize
from edgelm.tflite.reader import read
from edgelm.tflite.writer import ModelBuilder

FILES = {"tokenizer.json": b'{"model": "words"}' * 1000, "manifest.json": b"{}"}
WEIGHT = np.random.default_rng(6).standard_normal((16, 64)).astype(np.float32)


def plain_model() -> bytes:
    model = ModelBuilder()
    g = model.subgraph("main")
    g.output("y", g.fully_connected(g.input("x", (1, 64)), g.weight("w", quantize(WEIGHT, Encoding.FLOAT32))))
    return model.finish({METADATA_NAME: model_metadata("keyboard", "a test", {"tokenizer.json": "words", "manifest.json": "facts"})})


MODEL = plain_model()
ATTACHED = attach(MODEL, FILES)


def test_files_come_back() -> None:
    assert read_attached(ATTACHED) == FILES
    assert read_attached(MODEL) == {}


def test_the_model_in_front_is_untouched() -> None:
    assert ATTACHED.startswith(MODEL)
    assert len(ATTACHED) - len(MODEL) < len(FILES["tokenizer.json"]) / 10  # deflated
    assert read(ATTACHED).bytes_by_weight() == read(MODEL).bytes_by_weight()


@pytest.mark.parametrize("runtime", BOTH)
def test_runtimes_run_the_model_in_front(runtime: str) -> None:
    x = np.random.default_rng(7).standard_normal((1, 64)).astype(np.float32)
    assert np.allclose(run(runtime, ATTACHED, {"x": x})["y"], x @ WEIGHT.T, atol=1e-4)


def test_equal_inputs_give_equal_bytes() -> None:
    assert attach(MODEL, FILES) == ATTACHED


def test_unzip_reads_it_without_complaint(tmp_path: Path) -> None:
    unzip = shutil.which("unzip")
    if unzip is None:
        pytest.skip("no unzip on this machine")
    path = tmp_path / "model.tflite"
    path.write_bytes(ATTACHED)
    said = subprocess.run([unzip, "-o", str(path), "-d", str(tmp_path)], capture_output=True, text=True, check=True)  # 1 is a warning
    assert "warning" not in said.stdout + said.stderr
    assert (tmp_path / "tokenizer.json").read_bytes() == FILES["tokenizer.json"]


def test_a_second_archive_is_refused() -> None:
    with pytest.raises(ArtifactError, match="already"):
        attach(ATTACHED, FILES)


def text_field(table: Table, field: int) -> str:
    place = table.Offset(4 + 2 * field)
    return str(table.String(table.Pos + place).decode())


def test_the_metadata_entry_names_the_files() -> None:
    data = read(MODEL).metadata[METADATA_NAME]
    assert data[4:8] == b"M001"
    root = Table(data, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, data, 0))
    assert (text_field(root, 0), text_field(root, 1), text_field(root, 7)) == ("keyboard", "a test", "1.0.0")
    vector = root.Offset(4 + 2 * 6)
    assert root.VectorLen(vector) == 2
    first = Table(data, root.Indirect(root.Vector(vector)))
    assert (text_field(first, 0), text_field(first, 1)) == ("tokenizer.json", "words")


@settings(max_examples=300, deadline=None)
@given(st.integers(len(MODEL), len(ATTACHED) - 1), st.integers(0, 255))
def test_corrupt_archives_are_read_or_refused(position: int, value: int) -> None:
    data = bytearray(ATTACHED)
    data[position] = value
    try:
        assert all(isinstance(content, bytes) for content in read_attached(bytes(data)).values())
    except ArtifactError as error:
        assert "files inside" in error.what


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "_MOST_BYTES", 1 << 20)
    with pytest.raises(ArtifactError, match="over 1 MiB"):
        read_attached(attach(MODEL, {"zeros": bytes(1 << 20), "one": b"1"}))
