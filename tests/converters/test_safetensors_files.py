"""The safetensors reader against the library's own files, and damaged ones: one clear error each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from edgelm.errors import SourceError
from edgelm_converters.safetensors_files import MAX_HEADER_BYTES, read_header

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "b": np.arange(6, dtype=np.float16).reshape(2, 3) / 3,
    "none": np.zeros((0, 5), np.float32),
    "number": np.array(2.5, np.float32),
}


def written(path: Path, header: object, data: bytes = b"") -> Path:
    plain = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(plain).to_bytes(8, "little") + plain + data)
    return path


def tensor(**keys: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | keys}


def test_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    found = read_header(path)
    assert found.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        read = found[name].read()
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)


@given(st.lists(st.integers(0, (1 << 16) - 1), min_size=1, max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path, bits: list[int]) -> None:
    stored = np.array(bits, "<u2")
    entry = {"a": {"dtype": "BF16", "shape": [len(bits)], "data_offsets": [0, stored.nbytes]}}
    read = read_header(written(tmp_path / "b.safetensors", entry, stored.tobytes()))["a"].read()
    assert read.nbytes == stored.nbytes and not read.flags.owndata and not read.flags.writeable  # mapped, not copied
    np.testing.assert_array_equal(np.asarray(read, np.float32), (stored.astype(np.uint32) << 16).view(np.float32))


def test_odd_places_are_read(tmp_path: Path) -> None:
    """Old files are not aligned: a float32 may begin at any byte."""
    header = json.dumps(tensor()).encode()
    header += b" " * (4 - len(header) % 4 + 1)
    values = np.array([1.5, -2.25], np.float32)
    read = read_header(written(tmp_path / "a.safetensors", header, values.tobytes()))["a"].read()
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "its header is no JSON"),
        (b"\xff\xff", b"", "its header is no JSON"),
        (b"[" * 100_000, b"", "its header is no JSON"),
        (b'{"a": 1, "a": 2}', b"", "stands there twice"),
        ([1], b"", "no table of tensors"),
        ({"a": 5}, b"", "no dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32"}}, b"", "no dtype, shape and data_offsets"),
        (tensor(dtype="F31"), bytes(8), "has dtype 'F31'"),
        (tensor(dtype=["F32"]), bytes(8), "has dtype"),
        (tensor(shape=[-2]), bytes(8), "these are no sizes"),
        (tensor(shape="2"), bytes(8), "these are no sizes"),
        (tensor(shape=[True, 2]), bytes(8), "these are no sizes"),
        (tensor(shape=[1 << 60]), bytes(8), "these are no sizes"),
        (tensor(shape=[1 << 40, 1 << 40]), bytes(8), "its place is"),
        (tensor(shape=[3]), bytes(8), "takes 12 bytes, its place is"),
        (tensor(data_offsets=[8, 0]), bytes(8), "its place is"),
        (tensor(data_offsets=[0]), bytes(8), "these are no sizes"),
        (tensor(data_offsets=[4, 12]), bytes(12), "begins at byte 4"),
        (tensor(), bytes(7), "take 8 bytes, the file holds 7"),
        (tensor(), bytes(9), "take 8 bytes, the file holds 9"),
        (tensor() | {"b": tensor()["a"]}, bytes(8), "the one before it ends at 8"),
        (tensor() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12), "the one before it ends at 8"),
    ],
)
def test_damaged_headers_are_refused(header: object, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        read_header(written(tmp_path / "a.safetensors", header, data))


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\0" * 8, (1 << 62).to_bytes(8, "little") + b"{}", b"PK\3\4" + bytes(100)])
def test_files_without_a_header_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match="truncated or no safetensors file"):
        read_header(tmp_path / "a.safetensors")


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((1 << 33).to_bytes(8, "little"))
        file.truncate(1 << 34)  # a sparse file: the header would fit
    with pytest.raises(SourceError, match=f"at most {MAX_HEADER_BYTES:,}"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.safetensors cannot be read"):
        read_header(tmp_path / "none.safetensors")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_changed_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(save(TENSORS))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        for found in read_header(path).values():
            assert found.read().nbytes < 1000
    except SourceError as error:
        assert str(path) in error.what
