"""edgelm's own model folder: what is written is read back, and older folders still are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_model

from edgelm import source
from edgelm.errors import SourceError
from edgelm.model import LanguageModel
from edgelm.spec import Encoding

NAME = "layers.0.recurrent.weight"


def compressed(tmp_path: Path) -> LanguageModel:
    model = write_model(tmp_path / "tiny")
    scales = {NAME: np.full((256, 1), 0.25, np.float32)}
    weights = {**model.weights, NAME: np.rint(model.weights[NAME] * 4).astype(np.float32) / 4}
    encodings = {name: Encoding.INT8 for name, weight in weights.items() if weight.ndim == 2}
    return model.replace(weights=weights, scales=scales, encodings=encodings, ranges={"head:in": (-1.5, 2.0)})


def read(folder: Path) -> LanguageModel:
    model = source.load(str(folder)).model
    assert isinstance(model, LanguageModel)
    return model


def test_encodings_scales_and_ranges_survive_the_folder(tmp_path: Path) -> None:
    model = compressed(tmp_path)
    source.write_folder(model, tmp_path / "small", {"report.json": b"{}"})
    again = read(tmp_path / "small")
    assert (again.spec, again.encodings, again.ranges, again.tokenizer) == (model.spec, model.encodings, model.ranges, model.tokenizer)
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], weight)
    assert again.scales.keys() == {NAME}
    np.testing.assert_array_equal(again.scales[NAME], model.scales[NAME])
    source.write_folder(read(tmp_path / "tiny"), tmp_path / "small")
    assert not read(tmp_path / "small").scales, "nothing of a folder that stood there is left"


def test_a_model_that_is_not_compressed_has_the_files_of_old(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    assert sorted(file.name for file in (tmp_path / "tiny").iterdir()) == ["spec.json", "tokenizer.json", "weights.safetensors"]
    assert not read(tmp_path / "tiny").encodings


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("[]", "storage.json cannot be read"),
        ("{", "cannot be read"),
        ('{"encodings": {"layers.0.recurrent.weight": "int9"}}', "int9"),
        ('{"encodings": {"layers.7.recurrent.weight": "int8"}}', "layers.7.recurrent.weight, which the model does not have"),
        ('{"ranges": {"head:in": [1]}}', "storage.json cannot be read"),
    ],
)
def test_damaged_storage_is_refused(storage: str, message: str, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "tiny" / "storage.json").write_text(storage)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "tiny")


@pytest.mark.parametrize("scales", [{"nothing": np.ones((4, 1), np.float32)}, {NAME: np.ones((4, 1), np.float32)}, {NAME: np.ones(256)}])
def test_scales_that_do_not_fit_are_refused(scales: dict[str, np.ndarray], tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    write_model(tmp_path / "tiny")
    save_file(scales, tmp_path / "tiny" / "scales.safetensors")
    with pytest.raises(SourceError, match=r"scales\.safetensors has"):
        read(tmp_path / "tiny")


def test_ranges_are_plain_json(tmp_path: Path) -> None:
    source.write_folder(compressed(tmp_path), tmp_path / "small")
    assert json.loads((tmp_path / "small" / "storage.json").read_text())["ranges"] == {"head:in": [-1.5, 2.0]}


def test_the_hash_covers_weights_beside_an_onnx_file(tmp_path: Path) -> None:
    model, weights = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    model.write_bytes(b"graph")
    weights.write_bytes(b"one")
    before = source.content_sha256(model)
    weights.write_bytes(b"two")
    assert source.content_sha256(model) != before


def test_a_tokenizer_of_any_kind_beside_a_model_is_taken(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "tiny" / "tokenizer.json").unlink()
    assert read(tmp_path / "tiny").tokenizer is None
    (tmp_path / "tiny" / "vocab.txt").write_text("[UNK]\nsee\nyou\n", encoding="utf-8")
    assert '"see":1' in (read(tmp_path / "tiny").tokenizer or "")


def test_rows_that_no_token_has_are_told(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "few.txt").write_text("[UNK]\n" + "\n".join(f"word{i}" for i in range(4)), encoding="utf-8")
    model = source.load(tmp_path / "tiny", tokenizer=tmp_path / "few.txt").model
    assert model.origin is not None and "have no token" in model.origin.why
