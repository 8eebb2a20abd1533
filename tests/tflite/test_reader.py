"""The reader on good, truncated and corrupt bytes; no interpreter ever sees a corrupt file."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import ArtifactError
from edgelm.spec import Encoding
from edgelm.tflite.quantize import dequantize, integer_values, quantize
from edgelm.tflite.reader import TfliteModel, outline, read, weight_values
from edgelm.tflite.writer import ModelBuilder

WEIGHT = np.random.default_rng(5).standard_normal((40, 64)).astype(np.float32)
QUANTIZED = {encoding: quantize(WEIGHT, encoding) for encoding in Encoding}


def written() -> bytes:
    model = ModelBuilder("a test")
    for name in ("first", "second"):
        g = model.subgraph(name)
        x = g.input("x", (1, 64))
        for encoding, q in QUANTIZED.items():
            g.output(f"y_{encoding}", g.fully_connected(x, g.weight(f"w.{encoding}", q)))
        g.output("x", g.mul(x, g.constant(np.arange(64, dtype=np.float32))))
    return model.finish({"note": b"hello", "empty": b""})


DATA = written()


def test_reads_back_what_was_written() -> None:
    model = read(DATA)
    assert model.description == "a test"
    assert model.nbytes == len(DATA)
    assert model.metadata == {"note": b"hello", "empty": b""}
    assert [signature.name for signature in model.signatures] == ["first", "second"]
    second = model.signature("second")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in second.inputs.items()} == {"x": ((1, 64), "float32")}
    assert second.outputs["y_int8"].shape == (1, 40)
    assert second.outputs["x"].index != second.inputs["x"].index
    assert [op.name for op in model.ops if op.subgraph == 1].count("FULLY_CONNECTED") == 5
    assert model.custom_ops == model.flex_ops == ()


@pytest.mark.parametrize("encoding", Encoding)
def test_weights_and_scales_are_read_exactly(encoding: Encoding) -> None:
    model = read(DATA)
    values, scales = weight_values(model, model.tensor(f"w.{encoding}"))
    q = QUANTIZED[encoding]
    if q.scales is None:
        assert np.array_equal(values.astype(np.float32), dequantize(q))
    else:
        assert np.array_equal(values, integer_values(q))
        assert np.array_equal(scales, q.scales)


def test_quantization_is_summed_up() -> None:
    model = read(DATA)
    summaries = {encoding: model.tensor(f"w.{encoding}").quantization for encoding in Encoding}
    assert {encoding: info.summary for encoding, info in summaries.items() if info} == {
        "int8": "per row (40)",
        "int4": "per row (40)",
        "int4-block32": "blocks of 32",
    }


def test_bytes_by_weight_count_shared_buffers_once() -> None:
    sizes = read(DATA).bytes_by_weight()
    assert next(iter(sizes)) == "w.float32"
    assert sizes["w.float32"] == 40 * 64 * 4
    assert sizes["w.int8"] == 40 * 64 + 40 * 4
    assert sizes["w.int4"] == 40 * 32 + 40 * 4
    assert sizes["w.int4-block32:scales"] == 40 * 2 * 2
    assert sum(sizes.values()) < len(DATA)


def test_custom_and_flex_ops_are_told_apart() -> None:
    model = schema.ModelT.InitFromPackedBuf(bytearray(DATA), 0)
    for name in ("FlexErf", "MyOp"):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = name, 1
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs = operator.outputs = np.array([0], np.int32)
        model.subgraphs[0].operators.append(operator)
    for buffer in model.buffers:
        buffer.offset = buffer.size = 0
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    read_model = read(bytes(builder.Output()))
    assert read_model.flex_ops == ("FlexErf",)
    assert read_model.custom_ops == ("MyOp",)
    assert "MyOp" not in dict(read_model.op_versions)


def test_missing_names_are_errors_that_list_what_there_is() -> None:
    model = read(DATA)
    with pytest.raises(ArtifactError, match="first, second"):
        model.signature("third")
    with pytest.raises(ArtifactError, match="no tensor 'w'"):
        model.tensor("w")
    with pytest.raises(ArtifactError, match="0 bytes"):
        weight_values(model, model.signature("first").inputs["x"])


@pytest.mark.parametrize("data", [b"", b"TFL3", b"PK\x03\x04 something else", b"\x00" * 100, b"\x10\x00\x00\x00TFL4" + b"\x00" * 50])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"no \.tflite model"):
        read(data)


@pytest.mark.parametrize("keep", np.linspace(8, len(DATA) - 1, 60).astype(int).tolist())
def test_truncated_files_are_refused(keep: int) -> None:
    with pytest.raises(ArtifactError, match="truncated or corrupt"):
        read(DATA[:keep])


def look_at_everything(model: TfliteModel) -> None:
    model.bytes_by_weight()
    for tensor in (tensor for subgraph in model.tensors for tensor in subgraph):
        try:
            weight_values(model, tensor)
        except ArtifactError:
            continue


ROOT_BYTES = DATA.index(np.ascontiguousarray(WEIGHT).tobytes()[:64])  # the first large buffer ends the root table


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(8, ROOT_BYTES), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupt_files_are_read_or_refused_but_never_crash(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for position, value in changes:
        data[position] = value
    try:
        look_at_everything(read(bytes(data)))
    except ArtifactError as error:
        assert "corrupt" in error.what


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.integers(0, ROOT_BYTES // 4), st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0]))
def test_hostile_offsets_and_lengths_never_crash(word: int, value: int) -> None:
    data = bytearray(DATA)
    data[word * 4 : word * 4 + 4] = value.to_bytes(4, "little")
    try:
        look_at_everything(read(bytes(data)))
    except ArtifactError as error:
        assert "corrupt" in error.what or "no .tflite" in error.what


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise_behind_the_identifier_never_crashes(noise: bytes) -> None:
    try:
        look_at_everything(read(b"\x10\x00\x00\x00TFL3" + noise))
    except ArtifactError as error:
        assert "corrupt" in error.what


def test_an_outline_says_what_the_whole_file_says() -> None:
    data = written()
    whole, short = read(data), outline(data)
    assert (short.op_versions, short.custom_ops) == (whole.op_versions, ())
    assert [signature.name for signature in short.signatures] == ["first", "second"]
    for ours, theirs in zip(short.signatures, whole.signatures, strict=True):
        for named, wanted in ((ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs)):
            assert {n: (t.name, t.shape, t.dtype) for n, t in named.items()} == {n: (t.name, t.shape, t.dtype) for n, t in wanted.items()}
