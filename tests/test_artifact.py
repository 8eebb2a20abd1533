from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgelm import artifact
from edgelm.errors import ArtifactError
from edgelm.spec import Encoding
from edgelm.tflite.quantize import quantize
from edgelm.tflite.writer import ModelBuilder

MANIFEST = {"schema_version": 1, "name": "tiny", "encodings": {"w": "int8"}, "target": "host"}


def tiny_tflite() -> bytes:
    builder = ModelBuilder()
    graph = builder.subgraph("step")
    x = graph.input("x", (1, 32))
    graph.output("y", graph.fully_connected(x, graph.weight("w", quantize(np.ones((4, 32), np.float32), Encoding.INT8))))
    return builder.finish()


def files(text: str = "{}") -> dict[str, bytes]:
    return {artifact.MODEL: artifact.pack(tiny_tflite(), MANIFEST, text), artifact.MANIFEST: artifact.encode_json(MANIFEST)}


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def test_the_tflite_alone_is_an_artifact_that_unzip_reads(tmp_path: Path) -> None:
    artifact.write(tmp_path / "tiny", files('{"version": "1.0"}'))
    lone = tmp_path / "lone.tflite"
    lone.write_bytes((tmp_path / "tiny" / artifact.MODEL).read_bytes())
    loaded = artifact.load(lone)
    assert loaded.name == "tiny"
    assert loaded.encodings == {"w": Encoding.INT8}
    assert loaded.tokenizer == '{"version": "1.0"}'
    with zipfile.ZipFile(lone) as archive:
        assert json.loads(archive.read(artifact.MANIFEST)) == MANIFEST


def test_equal_content_gives_equal_bytes() -> None:
    assert files() == files()


def test_a_new_artifact_replaces_the_old_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    artifact.write(tmp_path / "tiny", files("first"))
    artifact.write(tmp_path / "tiny", files("second"))
    assert artifact.load(tmp_path / "tiny").tokenizer == "second"
    assert leftovers(tmp_path) == []


def test_a_folder_that_is_no_artifact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ArtifactError, match="is no edgelm artifact"):
        artifact.write(tmp_path / "photos", files())
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"cat"


def test_a_full_disk_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact.write(tmp_path / "tiny", files("old"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifact.os, "fsync", full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        artifact.write(tmp_path / "tiny", files("new"))
    assert artifact.load(tmp_path / "tiny").tokenizer == "old"
    assert leftovers(tmp_path) == []


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifact.check_writable(tmp_path / "file" / "tiny")


@pytest.mark.parametrize("damage", ["truncated", "no zip", "bad json", "other version", "missing"])
def test_damaged_artifacts_are_refused(tmp_path: Path, damage: str) -> None:
    data = files()[artifact.MODEL]
    broken = {
        "truncated": data[: len(data) // 2],
        "no zip": tiny_tflite(),
        "bad json": artifact.metadata.attach(tiny_tflite(), {artifact.MANIFEST: b"{"}),
        "other version": artifact.pack(tiny_tflite(), {**MANIFEST, "schema_version": 99}, None),
    }
    place = tmp_path / "model.tflite"
    if damage != "missing":
        place.write_bytes(broken[damage])
    with pytest.raises(ArtifactError):
        artifact.load(place)


@pytest.mark.slow
def test_killing_the_writer_at_any_moment_leaves_the_old_artifact_or_none(tmp_path: Path) -> None:
    """A process that replaces an artifact over and over is killed at twelve different moments."""
    folder = tmp_path / "tiny"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_artifact import files; from edgelm import artifact\n"
        "print('ready', flush=True)\nn = 0\nwhile True:\n    n += 1\n    artifact.write(Path(sys.argv[2]), files(f'number {n}'))"
    )
    for moment in range(12):
        process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.007 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if folder.exists():
            loaded = artifact.load(folder)
            assert loaded.tokenizer is not None
            assert loaded.tokenizer.startswith("number ")
