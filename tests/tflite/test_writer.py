from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tflite_runtimes import BOTH, LITERT, interpreter, run

from edgelm.spec import Encoding
from edgelm.tflite.quantize import integer_values, quantize
from edgelm.tflite.reader import read, weight_values
from edgelm.tflite.versions import op_version
from edgelm.tflite.writer import ModelBuilder

RANDOM = np.random.default_rng(2)


def step_model(signatures: tuple[str, ...] = ("step",), encoding: Encoding = Encoding.INT8, rows: int = 300, columns: int = 64) -> bytes:
    """A tied table as embedding and head around one recurrent product: token, h -> logits, h."""
    table = quantize(np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32), encoding)
    recurrent = quantize(np.random.default_rng(4).standard_normal((columns, columns)).astype(np.float32), encoding)
    model = ModelBuilder()
    for signature in signatures:
        g = model.subgraph(signature)
        token, h = g.input("token", (1,), "int32"), g.input("h", (1, columns))
        x = g.embedding_lookup(token, g.weight("embedding.weight", table))
        h = g.tanh(g.add(x, g.fully_connected(h, g.weight("recurrent.weight", recurrent))))
        g.output("logits", g.fully_connected(h, g.weight("embedding.weight", table)))
        g.output("h", h)
    return model.finish({"note": b"hello"})


@pytest.mark.slow
def test_equal_calls_give_equal_bytes() -> None:
    assert step_model() == step_model()
    script = (
        f"import sys, hashlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_writer\n"
        "print(hash('a'), hashlib.sha256(test_writer.step_model()).hexdigest())"
    )
    command = [sys.executable, "-c", script]
    repository = Path(__file__).parents[2]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository).stdout.split() for _ in range(2)]
    assert runs[0][0] != runs[1][0]  # string hashes differ between processes: an order that hangs on them would show
    assert runs[0][1] == runs[1][1]


def test_finish_twice_gives_the_same_file() -> None:
    model = ModelBuilder()
    g = model.subgraph("main")
    g.output("y", g.relu(g.input("x", (1, 4))))
    assert model.finish({"a": b"1"}) == model.finish({"a": b"1"})


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.INT4])
def test_a_tied_table_and_all_signatures_share_one_buffer(encoding: Encoding) -> None:
    one, four = step_model(("a",), encoding), step_model(("a", "b", "c", "d"), encoding)
    weights = (300 * 64 + 64 * 64) * encoding.bits // 8
    assert len(one) < weights + 12 * 364 + 4096  # scales and zero points of each row, and the graph
    assert len(four) - len(one) < 3 * 1600  # three more signatures cost their ops and names, no weight and no scale
    shared = {tensor.buffer for graph in read(four).tensors for tensor in graph if tensor.name.startswith("embedding.weight")}
    assert len(shared) == 1


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.INT8, Encoding.INT4_BLOCK32])
def test_only_equal_weights_share_a_buffer(encoding: Encoding) -> None:
    base = RANDOM.standard_normal((64, 64)).astype(np.float32)
    base[:, 0] = 4  # the largest of its row and block: scales stay when another value changes
    late = base.copy()
    late[-1, -1] += 2  # the files' first 4032 values stay the same
    scaled = base * 2  # the same integers under other scales
    weights = {"base": base, "equal": base.copy(), "late": late, "scaled": scaled}
    model = ModelBuilder()
    g = model.subgraph("step")
    x = g.input("x", (1, 64))
    for name, weight in weights.items():
        g.output(name, g.fully_connected(x, g.weight(name, quantize(weight, encoding))))
    stored = read(model.finish({}))
    tensors = {tensor.name: tensor for tensor in stored.tensors[0] if tensor.name in weights}
    assert tensors["base"].buffer == tensors["equal"].buffer
    assert len({tensors[name].buffer for name in weights}) == 3
    for name, weight in weights.items():
        wanted = quantize(weight, encoding)
        values, scales = weight_values(stored, tensors[name])
        np.testing.assert_array_equal(values, weight if wanted.scales is None else integer_values(wanted))
        np.testing.assert_array_equal(scales, wanted.scales)


def test_scales_of_a_keyboard_model_are_stored_once() -> None:
    data = step_model(("step", "forward"), rows=10_000, columns=96)
    weights = 10_000 * 96 + 96 * 96
    # 4 bytes of scale a row, and 8 of zero point: runtimes refuse fewer zero points than scales
    assert len(data) - weights < 12 * 10_096 + 4096


def test_a_signature_with_the_same_ops_takes_its_own_list_of_tensors_alone() -> None:
    """Ops, tensors and lists of ops are stored once: what a signature adds are its tables and one reference a tensor."""

    def size(signatures: int) -> int:
        model = ModelBuilder()
        for number in range(signatures):
            g = model.subgraph(f"step_{number}")
            x = g.input("x", (1, 4))
            for _ in range(40):
                x = g.relu(x)
            g.output("y", x)
        return len(model.finish())

    assert size(3) - size(2) < 4 * 41 + 128  # a subgraph, a signature and a name; the list of 40 ops would be 164 bytes more


@pytest.mark.parametrize("runtime", BOTH)
def test_ops_that_differ_in_options_alone_are_kept_apart(runtime: str) -> None:
    """Four signatures with the same ops and tensors, but for the axis and for the order of the inputs."""
    model = ModelBuilder()
    for axis in (0, 1):
        for names in (("a", "b"), ("b", "a")):
            g = model.subgraph(f"axis_{axis}_{names[0]}")
            tensors = {name: g.input(name, (2, 2)) for name in names}
            g.output("y", g.concatenate(list(tensors.values()), axis=axis))
    data = model.finish()
    values = {name: RANDOM.standard_normal((2, 2)).astype(np.float32) for name in ("a", "b")}
    for axis in (0, 1):
        for names in (("a", "b"), ("b", "a")):
            got = run(runtime, data, values, f"axis_{axis}_{names[0]}")["y"]
            np.testing.assert_array_equal(got, np.concatenate([values[name] for name in names], axis=axis))


def test_tensors_inside_the_graph_share_a_name_and_outputs_have_their_own() -> None:
    (tensors,) = read(step_model()).tensors
    inside = [tensor.name for tensor in tensors if not tensor.buffer and tensor.name not in ("token", "h")]
    assert set(inside) == {"t", "logits:out", "h:out"}
    assert inside.count("t") == 3


def test_large_buffers_lie_aligned_after_the_root_table() -> None:
    data = step_model()
    model = read(data)
    base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    places = [buffer.__array_interface__["data"][0] - base for buffer in model.buffers if buffer.nbytes >= 1024]
    assert len(places) == 2
    assert all(place % 64 == 0 for place in places)
    small = [buffer.__array_interface__["data"][0] - base for buffer in model.buffers if 0 < buffer.nbytes < 1024]
    assert all(place % 16 == 0 for place in small)


@pytest.mark.parametrize("runtime", BOTH)
def test_both_runtimes_read_files_from_disk_and_from_memory(runtime: str, tmp_path: Path) -> None:
    data = step_model(encoding=Encoding.FLOAT32)
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    if runtime == LITERT:
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    inputs = {"token": np.array([5], np.int32), "h": RANDOM.standard_normal((1, 64)).astype(np.float32)}
    mapped = Interpreter(model_path=str(path)).get_signature_runner("step")(**inputs)
    assert np.array_equal(mapped["logits"], run(runtime, data, inputs, "step")["logits"])


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.INT4])
def test_a_step_is_right_and_feeds_its_state_back(encoding: Encoding) -> None:
    data = step_model(encoding=encoding)
    model = read(data)

    def stored(name: str) -> np.ndarray:
        values, scales = weight_values(model, model.tensor(name))
        return values.astype(np.float32) * (1 if scales is None else scales[:, None])

    table, recurrent = stored("embedding.weight"), stored("recurrent.weight")
    step = interpreter(LITERT, data).get_signature_runner("step")
    h = wanted = np.zeros((1, 64), np.float32)
    for token in (3, 299, 0):
        outputs = step(token=np.array([token], np.int32), h=h)
        h = outputs["h"]
        wanted = np.tanh(table[[token]] + wanted @ recurrent.T)
    # saturated units: the rounding of h to 8 bits moves a pre-activation of about 8 by up to 0.1
    assert np.abs(h - wanted).mean() < (1e-4 if encoding in ("float32", "float16") else 0.03)
    assert np.corrcoef(outputs["logits"], wanted @ table.T)[0, 1] > 0.999


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.INT4])
def test_a_step_can_be_resized_to_a_batch(encoding: Encoding) -> None:
    data = step_model(encoding=encoding)
    tokens, h = RANDOM.integers(0, 300, 64).astype(np.int32), RANDOM.standard_normal((64, 64)).astype(np.float32)
    litert = interpreter(LITERT, data)
    signature = read(data).signature("step")
    litert.resize_tensor_input(signature.inputs["token"].index, [64])
    litert.resize_tensor_input(signature.inputs["h"].index, [64, 64])
    litert.allocate_tensors()
    litert.set_tensor(signature.inputs["token"].index, tokens)
    litert.set_tensor(signature.inputs["h"].index, h)
    litert.invoke()
    batch = litert.get_tensor(signature.outputs["logits"].index)
    single = run(LITERT, data, {"token": tokens[:1], "h": h[:1]}, "step")["logits"]
    assert batch.shape == (64, 300)
    assert np.allclose(batch[:1], single, atol=1e-3)


@pytest.mark.parametrize("runtime", BOTH)
def test_slices_reshapes_and_concatenations_follow_a_resize(runtime: str) -> None:
    model = ModelBuilder()
    g = model.subgraph("main")
    x = g.input("x", (1, 6))
    heads = g.reshape(x, (-1, 2, 3))
    g.output("y", g.concatenate([g.slice(heads, 1, 1, 1), g.slice(heads, 1, 0, 1)], 1))
    runner = interpreter(runtime, model.finish())
    runner.resize_tensor_input(0, [5, 6])
    runner.allocate_tensors()
    values = np.arange(30, dtype=np.float32).reshape(5, 6)
    runner.set_tensor(0, values)
    runner.invoke()
    assert np.array_equal(runner.get_tensor(runner.get_output_details()[0]["index"]), values.reshape(5, 2, 3)[:, ::-1])


def test_declared_versions_are_the_true_ones() -> None:
    versions = dict(read(step_model()).op_versions)
    assert versions == {"EMBEDDING_LOOKUP": 4, "FULLY_CONNECTED": 12, "ADD": 1, "TANH": 1}
    assert dict(read(step_model(encoding=Encoding.INT4)).op_versions)["FULLY_CONNECTED"] == 12
    floats = dict(read(step_model(encoding=Encoding.FLOAT16)).op_versions)
    assert floats == {"GATHER": 4, "BITCAST": 1, "DEQUANTIZE": 3, "FULLY_CONNECTED": 5, "ADD": 1, "TANH": 1}
    assert op_version("FULLY_CONNECTED", ("float32", "int8")) == 5
    assert op_version("SLICE", ("float32", "int32", "int32"), rank=5) == 5


def test_names_must_be_distinct() -> None:
    model = ModelBuilder()
    g = model.subgraph("main")
    x = g.input("x", (1, 4))
    g.output("x", g.neg(x))  # a state has one name on both sides
    with pytest.raises(ValueError, match="two inputs"):
        g.input("x", (1, 4))
    with pytest.raises(ValueError, match="two outputs"):
        g.output("x", x)
    with pytest.raises(ValueError, match="two signatures"):
        model.subgraph("main")
    g.weight("w", quantize(np.ones((2, 4), np.float32), Encoding.INT8))
    for graph in (g, model.subgraph("other")):
        with pytest.raises(ValueError, match="two different weights"):
            graph.weight("w", quantize(np.full((2, 4), 2, np.float32), Encoding.INT8))  # the same integers with other scales
    tensors = [tensor.name for tensor in read(model.finish()).tensors[0]]
    assert len(tensors) == len(set(tensors))


def test_equal_constants_share_a_buffer() -> None:
    model = ModelBuilder()
    values = np.arange(500, dtype=np.float32)
    for name in ("a", "b"):
        g = model.subgraph(name)
        x = g.add(g.input("x", (500,)), g.constant(values))
        g.output("y", g.add(x, g.constant(values.copy())))
    data = model.finish()
    assert len(data) < 2000 + 2500
    assert np.array_equal(run(LITERT, data, {"x": values}, "b")["y"], 3 * values)


def test_metadata_entries_are_stored() -> None:
    assert read(step_model()).metadata == {"note": b"hello"}


@pytest.mark.slow
def test_135_million_weights_are_written_in_seconds() -> None:
    weight = np.ones((49_152, 576), np.float32)
    q = quantize(weight, Encoding.INT8)
    assert q.scales is not None
    tracemalloc.start()
    start = time.process_time()
    model = ModelBuilder()
    g = model.subgraph("main")
    x = g.input("x", (1, 576))
    for i in range(5):  # 142 M weights in all
        other = dataclasses.replace(q, scales=q.scales * np.float32(i + 1))  # equal weights would share one buffer
        g.output(f"y{i}", g.fully_connected(x, g.weight(f"w{i}", other)))
    data = model.finish()
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 5  # it takes 0.4 s; the whole conversion may take 5
    assert 142e6 - 1e6 < len(data) < peak < 160e6  # the file exists once
