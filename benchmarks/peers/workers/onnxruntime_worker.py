"""onnxruntime: LSTMs as its own LSTM operator, transformers by onnxruntime-genai's model builder, one past/present buffer, IOBinding.

Forms: `float32`; `int8`, what `quantize_dynamic` makes of it; `int8-block32` and `int4-block32`, the builder's MatMulNBits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import job as jobs
import numpy as np
from job import Job


def convert(job: Job) -> None:
    job.artifact.mkdir(parents=True, exist_ok=True)
    if job.family == "recurrent":
        write_lstm(job)
    elif job.form == "int8":
        with tempfile.TemporaryDirectory(dir=job.artifact) as folder:
            build(job, Path(folder), "fp32")
            quantize(Path(folder) / "model.onnx", job.artifact / "model.onnx")
    else:
        build(job, job.artifact, {"float32": "fp32", "int8-block32": "int8", "int4-block32": "int4"}[job.form])


def build(job: Job, folder: Path, precision: str) -> None:
    """The model builder; the head computes the last token's logits only, and 8-bit and 4-bit weights come in blocks of 32."""
    options = ["prune_lm_head=true", "block_size=32", "accuracy_level=4", *(["shared_embeddings=false"] if precision == "fp32" else [])]
    words = ["-i", job.source, "-o", folder, "-p", precision, "-e", "cpu", "-c", folder / "cache", "--extra_options", *options]
    subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", *words], check=True)


def quantize(source: Path, target: Path) -> None:
    """8 bits a weight, a scale for each output channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=True,
        op_types_to_quantize=["MatMul", "Gather"],
    )


def write_lstm(job: Job) -> None:
    """Gather, LSTMs (gates i o f c), linear layers, MatMul with the transposed embedding; states are inputs and outputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weights, nodes, constants, states = jobs.lstm_tensors(job.source), [], [], []
    table = weights["embedding.weight"]

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def gates(value: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(value, 4)
        return np.concatenate([i, o, f, g])

    def linear(x: str, name: str, weight: np.ndarray, bias: np.ndarray | None, out: str) -> None:
        product = out if bias is None else f"{out}_product"
        nodes.append(helper.make_node("MatMul", [x, constant(name, weight.T)], [product]))
        if bias is not None:
            nodes.append(helper.make_node("Add", [product, constant(f"{name}_bias", bias)], [out]))

    nodes.append(helper.make_node("Gather", [constant("embedding", table), "token"], ["x0"]))
    layers = jobs.recurrent_layers(weights)
    for n in range(layers):
        units = weights[f"layers.{n}.recurrent.weight"].shape[1]
        w, r = (constant(f"{kind}{n}", gates(weights[f"layers.{n}.{kind}.weight"])[None]) for kind in ("input", "recurrent"))
        bias = gates(weights[f"layers.{n}.input.bias"])
        b = constant(f"bias{n}", np.concatenate([bias, np.zeros_like(bias)])[None])
        inputs, outputs = [f"x{n}", w, r, b, "", f"h{n}", f"c{n}"], [f"y{n}", f"h{n}_out", f"c{n}_out"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=units))
        nodes.append(helper.make_node("Squeeze", [f"y{n}", constant(f"axis{n}", np.array([1], np.int64))], [f"x{n + 1}"]))
        states += [(f"h{n}", units), (f"c{n}", units)]
    x = f"x{layers}"
    for n, (weight, bias) in enumerate(jobs.linear_layers(weights)):
        linear(x, f"linear{n}", weight, bias, f"hidden{n}")
        x = f"hidden{n}"
    linear(x, "head", table, weights.get("head.bias"), "logits")
    value = helper.make_tensor_value_info
    given = [value("token", TensorProto.INT64, [1, 1]), *(value(name, TensorProto.FLOAT, [1, 1, units]) for name, units in states)]
    returned = [value("logits", TensorProto.FLOAT, [1, 1, len(table)])]
    returned += [value(f"{name}_out", TensorProto.FLOAT, [1, 1, units]) for name, units in states]
    graph = helper.make_graph(nodes, job.model, given, returned, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    target = job.artifact / "model.onnx"
    if job.form == "float32":
        onnx.save(model, target)
        return
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "float32.onnx")
        quantize_dynamic(Path(folder) / "float32.onnx", target, weight_type=QuantType.QInt8)


def open_session(job: Job) -> jobs.Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = job.threads, 1, 3
    session = onnxruntime.InferenceSession(str(job.artifact / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return Recurrent(session) if job.family == "recurrent" else Transformer(session, cache_shape(job))


class Recurrent:
    """Two sets of state buffers, bound in turn."""

    def __init__(self, session: Any) -> None:
        self.session, self.token = session, np.zeros((1, 1), np.int64)
        states = [i for i in session.get_inputs() if i.name != "token"]
        self.buffers = [{i.name: value(np.zeros(i.shape, np.float32)) for i in states} for _ in range(2)]
        self.logits = value(np.zeros(session.get_outputs()[0].shape, np.float32))
        self.bindings = [self.bind(0), self.bind(1)]
        self.turn = 0

    def bind(self, turn: int) -> Any:
        """States of one set in, of the other out."""
        binding = self.session.io_binding()
        binding.bind_ortvalue_output("logits", self.logits)
        for name, buffer in self.buffers[turn].items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(f"{name}_out", self.buffers[1 - turn][name])
        return binding

    def reset(self) -> None:
        """See `job.Session`."""
        for buffer in self.buffers[self.turn].values():
            buffer.update_inplace(np.zeros(buffer.shape(), np.float32))

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        for token in ids:
            self.token[0, 0] = token
            binding = self.bindings[self.turn]
            binding.bind_cpu_input("token", self.token)
            self.session.run_with_iobinding(binding)
            self.turn = 1 - self.turn
        return np.asarray(self.logits.numpy())


def cache_shape(job: Job) -> tuple[int, int, int, int]:
    """(1, kv heads, slots, head size)."""
    config = json.loads((job.source / "config.json").read_text())
    return 1, config["num_key_value_heads"], job.context, config["head_dim"]


class Transformer:
    """The builder's graph over one cache buffer a tensor, written in place."""

    def __init__(self, session: Any, shape: tuple[int, ...]) -> None:
        self.session, self.position, context = session, 0, shape[2]
        self.binding = session.io_binding()
        self.inputs = {i.name for i in session.get_inputs()}
        self.mask = np.ones((1, context), np.int64)
        self.places = np.arange(context, dtype=np.int64)[None]
        for i in session.get_inputs():
            if i.name.startswith("past_key_values"):
                buffer = value(np.zeros(shape, np.float32))
                self.binding.bind_ortvalue_input(i.name, buffer)
                self.binding.bind_ortvalue_output(i.name.replace("past_key_values", "present"), buffer)
        self.logits = value(np.zeros((1, 1, session.get_outputs()[0].shape[-1]), np.float32))

    def reset(self) -> None:
        """See `job.Session`."""
        self.position = 0

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        end = self.position + len(ids)
        self.binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        self.binding.bind_cpu_input("attention_mask", np.ascontiguousarray(self.mask[:, :end]))
        if "position_ids" in self.inputs:
            self.binding.bind_cpu_input("position_ids", np.ascontiguousarray(self.places[:, self.position : end]))
        self.binding.bind_ortvalue_output("logits", self.logits)
        self.session.run_with_iobinding(self.binding)
        self.position = end
        return np.asarray(self.logits.numpy())[0, -1]


def value(array: np.ndarray) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)


if __name__ == "__main__":
    jobs.run(convert, open_session)
