"""What XNNPACK takes, asked of both runtimes with graphs of one op, against the lists of `edgelm.validate.delegation`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgelm.spec import Encoding
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import quantize
from edgelm.tflite.reader import read
from edgelm.tflite.writer import GraphBuilder, ModelBuilder
from edgelm.validate.delegation import delegation, delegation_table

MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
ASK = """
import importlib, json, pathlib, sys
answers = {}
for path in sorted(pathlib.Path(sys.argv[2]).glob("*.tflite")):
    try:
        interpreter = importlib.import_module(sys.argv[1]).Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        answers[path.stem] = any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
    except (ValueError, RuntimeError):
        answers[path.stem] = None
print(json.dumps(answers))
"""
Build = Callable[[GraphBuilder, Tensor], Tensor]


def dense(encoding: Encoding) -> Build:
    return lambda g, x: g.fully_connected(x, g.weight("w", quantize(np.ones((16, 64), np.float32), encoding)))


def slice_of(sizes: tuple[int, int]) -> Build:
    """A SLICE whose sizes are written as they are."""

    def build(g: GraphBuilder, x: Tensor) -> Tensor:
        begins, lengths = g.constant(np.zeros(2, np.int32)), g.constant(np.array(sizes, np.int32))
        return g._op("SLICE", [x, begins, lengths], (1, 32), schema.SliceOptionsT())

    return build


GRAPHS: dict[str, Build] = {
    "ADD": lambda g, x: g.add(x, 1.0),
    "SUB": lambda g, x: g.sub(x, 1.0),
    "MUL": lambda g, x: g.mul(x, 2.0),
    "MAXIMUM": lambda g, x: g.maximum(x, 0.5),
    "MINIMUM": lambda g, x: g.minimum(x, 0.5),
    "SQUARED_DIFFERENCE": lambda g, x: g.squared_difference(x, 0.5),
    "RSQRT": lambda g, x: g.rsqrt(x),
    "SQUARE": lambda g, x: g.square(x),
    "NEG": lambda g, x: g.neg(x),
    "LOGISTIC": lambda g, x: g.logistic(x),
    "TANH": lambda g, x: g.tanh(x),
    "RELU": lambda g, x: g.relu(x),
    "GELU": lambda g, x: g.gelu(x),
    "SOFTMAX": lambda g, x: g.softmax(x),
    "MEAN": lambda g, x: g.mean(x, -1),
    "SUM": lambda g, x: g.sum(x, -1),
    "RESHAPE": lambda g, x: g.reshape(x, (8, 8)),
    "SLICE": slice_of((1, 32)),
    "SLICE open ended": slice_of((-1, 32)),
    "CONCATENATION of 2": lambda g, x: g.concatenate([x, x]),
    "CONCATENATION of 4": lambda g, x: g.concatenate([x] * 4),
    "CONCATENATION of 5": lambda g, x: g.concatenate([x] * 5),
    "CONCATENATION of 6": lambda g, x: g.concatenate([x] * 6),
    "TRANSPOSE": lambda g, x: g.transpose(x, (1, 0)),
    "BATCH_MATMUL": lambda g, x: g.batch_matmul(x, x, transpose_b=True),
    "FULLY_CONNECTED float32": dense(Encoding.FLOAT32),
    "FULLY_CONNECTED int8": dense(Encoding.INT8),
    "FULLY_CONNECTED int4": dense(Encoding.INT4),
    "FULLY_CONNECTED int4-block32": dense(Encoding.INT4_BLOCK32),
    "GATHER": lambda g, x: g.gather(x, g.constant(np.zeros(1, np.int32)), 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file for each graph."""
    folder = tmp_path_factory.mktemp("one_op")
    for name, build in GRAPHS.items():
        builder = ModelBuilder()
        g = builder.subgraph("step")
        g.output("y", build(g, g.input("x", (1, 64))))
        (folder / f"{name}.tflite").write_bytes(builder.finish())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("runtime", list(MODULES))
def test_the_lists_are_what_the_runtimes_do(folder, runtime):
    command = [sys.executable, "-c", ASK, MODULES[runtime], str(folder)]  # a process of its own: a runtime may crash
    answers = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    for name in GRAPHS:
        model = read((folder / f"{name}.tflite").read_bytes())
        # None: the runtime refuses the op's version, which preflight finds
        assert delegation(model.ops[0], model, runtime).taken is bool(answers[name]), name
    assert any(answers.values())
    assert (None in answers.values()) is (runtime == "tflite-runtime")


def test_an_app_without_the_delegate_gets_nothing():
    builder = ModelBuilder()
    g = builder.subgraph("step")
    g.output("y", g.tanh(g.tanh(g.input("x", (1, 64)))))
    model = read(builder.finish())
    assert delegation_table(model, "ai-edge-litert", "xnnpack").rows == (("TANH", "1", "2", "yes", ""),)
    assert delegation_table(model, "ai-edge-litert", "none").rows == (("TANH", "1", "2", "no", "the profile's app uses no delegate"),)


def test_the_modules_asked_are_those_of_the_runtimes():
    for module in MODULES.values():
        assert hasattr(importlib.import_module(module), "Interpreter")
