"""Damaged and hostile Keras files: every one ends in a SourceError or is still sound; nothing else escapes."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import EdgeLMError, SourceError
from edgelm_converters.keras_config import MAX_DEPTH
from edgelm_converters.keras_files import read_h5, read_keras
from edgelm_converters.keras_graph import KerasGraph
from edgelm_converters.lift import NotLiftable
from edgelm_converters.saved_model import read_saved_model

FLIPS = 200
VOCAB, UNITS = 5, 3

LAYERS: list[dict[str, Any]] = [
    {"class_name": "InputLayer", "config": {"name": "ids", "batch_shape": [None, None]}},
    {"class_name": "Embedding", "config": {"name": "emb", "input_dim": VOCAB, "output_dim": UNITS}},
    {"class_name": "Dense", "config": {"name": "head", "units": VOCAB}},
]
CONFIG = {"class_name": "Sequential", "config": {"name": "lm", "layers": LAYERS}}
HELD = {"emb": [np.ones((VOCAB, UNITS), np.float32)], "head": [np.ones((UNITS, VOCAB), np.float32), np.ones(VOCAB, np.float32)]}


def h5(path: Path, edit: Callable[[Any], None] = lambda file: None) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(CONFIG), "2.19.0"
        for name, values in HELD.items():
            group = file.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"w{i}" for i in range(len(values))]
            for i, value in enumerate(values):
                group[f"w{i}"] = value
        edit(file)
    return path


def weights(edit: Callable[[Any], None] = lambda file: None) -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for name, values in zip(("embedding", "dense"), HELD.values(), strict=True):
            for i, value in enumerate(values):
                file[f"layers/{name}/vars/{i}"] = value
        edit(file)
    return memory.getvalue()


def keras(path: Path, config: str | bytes = json.dumps(CONFIG), held: bytes | None = None, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights() if held is None else held)
    return path


def reads_or_says_why(read: Callable[[Path], KerasGraph], path: Path) -> None:
    try:
        graph = read(path)
    except (EdgeLMError, NotLiftable) as error:
        assert str(error)
    else:
        assert graph.nodes


def test_the_undamaged_files_are_read(tmp_path: Path) -> None:
    assert len(read_h5(h5(tmp_path / "a.h5")).nodes) == len(read_keras(keras(tmp_path / "a.keras")).nodes) == len(LAYERS)


@pytest.mark.parametrize(("name", "make", "read"), [("m.h5", h5, read_h5), ("m.keras", keras, read_keras)])
def test_bit_flips(tmp_path: Path, name: str, make: Callable[[Path], Path], read: Callable[[Path], KerasGraph]) -> None:
    content = make(tmp_path / name).read_bytes()
    random = np.random.default_rng(7)
    for at, bit in zip(random.integers(0, len(content), FLIPS), random.integers(0, 8, FLIPS), strict=True):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(bit)
        (tmp_path / name).write_bytes(damaged)
        reads_or_says_why(read, tmp_path / name)


@pytest.mark.parametrize(("name", "make", "read"), [("m.h5", h5, read_h5), ("m.keras", keras, read_keras)])
def test_truncations(tmp_path: Path, name: str, make: Callable[[Path], Path], read: Callable[[Path], KerasGraph]) -> None:
    content = make(tmp_path / name).read_bytes()
    for length in np.linspace(0, len(content) - 1, FLIPS, dtype=int):
        (tmp_path / name).write_bytes(content[:length])
        if name == "m.keras":
            with pytest.raises(SourceError):  # the archive's directory stands at its end
                read(tmp_path / name)
        else:
            reads_or_says_why(read, tmp_path / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.text(max_size=5), lambda each: st.lists(each, max_size=3), max_leaves=5
)


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(LAYERS) - 1),
    key=st.sampled_from(["class_name", "config", "name", "inbound_nodes", "module"]),
    value=json_values,
)
def test_any_value_anywhere_in_a_layer_is_survived(tmp_path_factory: pytest.TempPathFactory, place: int, key: str, value: object) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["config"]["layers"][place][key] = value
    reads_or_says_why(read_keras, keras(tmp_path_factory.getbasetemp() / "any.keras", json.dumps(config)))


@settings(max_examples=100, deadline=None)
@given(calls=json_values, outputs=json_values)
def test_any_wiring_is_survived(tmp_path_factory: pytest.TempPathFactory, calls: object, outputs: object) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["class_name"] = "Functional"
    config["config"]["layers"][1]["inbound_nodes"] = [[["ids", 0, 0, {}]], calls]
    config["config"]["output_layers"] = [["emb", 0, 0], outputs]
    reads_or_says_why(read_keras, keras(tmp_path_factory.getbasetemp() / "wiring.keras", json.dumps(config)))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n....", "a PNG picture"),
        (b"\xff\xd8\xff\xe0....", "a JPEG picture"),
        (b"\x1f\x8b\x08....", "a gzip archive"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"", "an empty file"),
        (b"hello", "of no kind edgelm knows"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=what):
        read_keras(path)


def test_a_zip_of_something_else_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(SourceError, match=r"zip archive, but no \.keras model: config\.json"):
        read_keras(tmp_path / "model.keras")


def test_a_missing_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_keras(tmp_path / "nothing.keras")


@pytest.mark.parametrize("kind", ["keras 3 layout", "keras 2 layout"])
def test_weights_only_files_say_what_is_needed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.weights.h5"
    if kind == "keras 3 layout":
        path.write_bytes(weights())
    else:
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = ["emb"]
    with pytest.raises(SourceError, match="weights only") as caught:
        read_h5(path)
    assert 'model.save("model.keras")' in caught.value.fix


def test_decompression_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb = keras(tmp_path / "bomb.keras", held=bytes(50 << 20), method=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(SourceError, match="decompression bomb"):
        read_keras(bomb)


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(keras(tmp_path / "m.keras").read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # of model.weights.h5, the last one; sizes stand at 20 and 24
    struct.pack_into("<I", content, entry + 24, 1 << 31)
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(SourceError, match="decompression bomb"):
        read_keras(tmp_path / "m.keras")


def test_an_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    def enlarge(file: Any) -> None:
        del file["model_weights/emb/w0"]
        file["model_weights/emb"].create_dataset("w0", (1 << 20, 1 << 14), "f4", chunks=(64, 64), fillvalue=0)  # 64 GB, none of it written

    with pytest.raises(SourceError, match="larger than the file"):
        read_h5(h5(tmp_path / "m.h5", enlarge))


def test_links_out_of_the_file_are_refused(tmp_path: Path) -> None:
    h5(tmp_path / "other.h5")

    def link(file: Any) -> None:
        del file["model_weights/emb/w0"]
        file["model_weights/emb/w0"] = h5py.ExternalLink("other.h5", "/model_weights/emb/w0")

    with pytest.raises(SourceError, match="link to somewhere else"):
        read_h5(h5(tmp_path / "m.h5", link))


def test_external_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(VOCAB * UNITS * 4))

    def external(file: Any) -> None:
        del file["model_weights/emb/w0"]
        file["model_weights/emb"].create_dataset("w0", (VOCAB, UNITS), "f4", external=[(str(tmp_path / "secret"), 0, VOCAB * UNITS * 4)])

    with pytest.raises(SourceError, match="not stored inside the file"):
        read_h5(h5(tmp_path / "m.h5", external))


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 200_000])
def test_deep_nesting_is_refused(tmp_path: Path, depth: int) -> None:
    with pytest.raises(SourceError, match=r"nested deeper|not valid JSON"):
        read_keras(keras(tmp_path / "m.keras", '{"a": ' + "[" * depth + "]" * depth + "}"))


def test_wiring_in_circles_is_refused(tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["class_name"] = "Functional"
    first, second, third = config["config"]["layers"]
    first["inbound_nodes"], second["inbound_nodes"], third["inbound_nodes"] = [], [[["head", 0, 0]]], [[["emb", 0, 0]]]
    config["config"]["output_layers"] = [["head", 0, 0]]
    with pytest.raises(SourceError, match="nothing feeds layer 'emb'"):
        read_keras(keras(tmp_path / "m.keras", json.dumps(config)))


@settings(max_examples=100, deadline=None)
@given(metadata=st.binary(max_size=60))
def test_any_bytes_as_keras_metadata(tmp_path_factory: pytest.TempPathFactory, metadata: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "saved"
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "keras_metadata.pb").write_bytes(metadata)
    with pytest.raises(SourceError):
        read_saved_model(folder)
