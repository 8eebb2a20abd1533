"""`edgelm convert --target onnx` and `--target saved-model`, from the command to the files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_models import write_corpus, write_model

from edgelm import artifact, export, pipeline, source
from edgelm.errors import ArtifactError, MissingDependencyError, UnsupportedModelError
from edgelm.model import Imported, OpaqueGraph, Origin
from edgelm.report import Check, Report
from edgelm.runtime.onnx_session import open_onnx
from edgelm.spec import Encoding


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgelm.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def exported(folder: Path, target: str = "onnx", **options: object) -> Report:
    return pipeline.convert(pipeline.Request(str(folder), target=target, **options)).report  # type: ignore[arg-type]


def named(report: Report, text: str) -> Check:
    return next(check for check in report.checks if text in check.name)


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_onnx_is_written_proven_and_reported(kind: str, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny", kind)
    result = run("convert", tmp_path / "tiny", "--target", "onnx", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert f"written: {tmp_path / 'out'}" in result.stdout
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "model.onnx",
        "report.html",
        "report.json",
        "tokenizer.json",
    ]
    report = Report.from_dict(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert report.title == "tiny as onnx"
    assert named(report, "onnx.checker").passed
    for comparison in ("parity with the rounded weights", "parity with the source"):
        # 1e-4 times the scale of the logits: only the order of float32 sums differs.
        assert named(report, f"{comparison}: largest logit difference").passed
    assert named(report, "parity with the rounded weights: prefill against steps").passed
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == "float32", "servers get float32 unless a recipe is named"
    assert list(manifest["files"]) == ["model.onnx"]


@pytest.mark.parametrize("recipe", ["int8", "float16", "int4-block32"])
def test_a_recipe_makes_the_file_smaller(recipe: str, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    exported(tmp_path / "tiny", output=tmp_path / "plain")
    report = exported(tmp_path / "tiny", recipe=recipe, output=tmp_path / "small")
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("small", "plain")]
    assert sizes[0] < 0.6 * sizes[1]
    assert all(check.passed for check in report.checks if check.name.startswith("parity with the rounded") and check.limit is not None)
    assert named(report, "parity with the source: mean KL").passed
    kinds = set(json.loads((tmp_path / "small" / "manifest.json").read_text())["encodings"].values())
    assert recipe in kinds


def test_a_compressed_model_keeps_its_encodings(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny")
    encodings = {name: Encoding.INT8 for name, weight in model.weights.items() if weight.ndim == 2}
    source.write_folder(model.replace(encodings=encodings), tmp_path / "small")
    exported(tmp_path / "small", output=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == "as-compressed"
    assert manifest["encodings"]["head.weight"] == "int8"


def test_equal_input_gives_an_equal_file(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    for out in ("one", "two"):
        exported(tmp_path / "tiny", recipe="int8", output=tmp_path / out)
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


def test_the_proof_runs_on_held_out_text_where_there_is_some(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    report = exported(tmp_path / "tiny", output=tmp_path / "out", data=write_corpus(tmp_path / "corpus"))
    assert "held-out text of corpus" in report.tables[0].rows[0][1]


def test_a_wrong_file_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that is off by one in a single row is found, and the artifact says so."""
    write_model(tmp_path / "tiny")

    def damaged(model: bytes, **options: object) -> object:
        proto = onnx.load_from_string(model)
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "head.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[3] += 1.0
        bias.CopyFrom(onnx.numpy_helper.from_array(values, "head.bias"))
        return open_onnx(proto.SerializeToString(), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "open_onnx", damaged)
    report = exported(tmp_path / "tiny", output=tmp_path / "out")
    assert named(report, "parity with the rounded weights: largest logit difference").passed is False
    assert not report.passed


@pytest.mark.slow
def test_a_saved_model_is_written_and_proven(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    result = run("convert", tmp_path / "tiny", "--target", "saved-model", "--recipe", "int8", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "stored as float32: the file is not smaller" in result.stdout
    assert (tmp_path / "out" / "variables" / "variables.index").is_file()
    assert {"saved_model.pb", "variables/variables.index"} < json.loads((tmp_path / "out" / "manifest.json").read_text())["files"].keys()
    again = run("convert", tmp_path / "tiny", "--target", "saved-model", "-o", tmp_path / "out")
    assert again.returncode == 0, again.stderr


def test_verbs_of_devices_say_what_the_folder_is(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    exported(tmp_path / "tiny", output=tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"holds no model\.tflite: it was written for a server"):
        pipeline.check(tmp_path / "out")


def test_what_is_in_the_way_stays(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ArtifactError, match="is no edgelm artifact"):
        exported(tmp_path / "tiny", output=tmp_path / "photos")
    assert [entry.name for entry in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_graph_that_was_not_recognised_is_refused_by_name(tmp_path: Path) -> None:
    origin = Origin("keras", "tf_keras", "graph", "layer 'conv1d' (Conv1D) is in no family edgelm rebuilds")
    graph = OpaqueGraph(tmp_path / "odd.keras", "keras", 4, 8, probabilities=False, last_only=False, name="odd", origin=origin)
    imported = Imported(graph, lambda ids: np.zeros((*ids.shape, 8), np.float32))
    with pytest.raises(UnsupportedModelError, match=r"odd cannot be written as onnx.*Conv1D"):
        pipeline.convert(pipeline.Request(imported, target="onnx", output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "tiny")
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError) as caught:
        exported(tmp_path / "tiny", output=tmp_path / "out")
    assert caught.value.fix == "pip install 'edgelm[onnx]'"
    assert not (tmp_path / "out").exists()


def test_nested_files_are_written_all_or_nothing(tmp_path: Path) -> None:
    artifact.write(tmp_path / "out", {artifact.MANIFEST: b"{}", "variables/deep/part": b"1"})
    assert (tmp_path / "out" / "variables" / "deep" / "part").read_bytes() == b"1"
    artifact.write(tmp_path / "out", {artifact.MANIFEST: b"{}"})
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [artifact.MANIFEST]
