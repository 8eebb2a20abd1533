"""TFLite's fused UNIDIRECTIONAL_SEQUENCE_LSTM with int8 weights, a step a call, its state inside: written by LiteRT's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import job as jobs
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from job import Job

TANH = 4
OPERATOR, TENSOR = schema.BuiltinOperator, schema.TensorType


class Graph:
    """One subgraph under construction."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.operatorCodes, self.model.buffers = 3, [], [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "main"
        self.model.subgraphs = [self.graph]

    def tensor(self, shape: Sequence[int], kind: int = TENSOR.FLOAT32, data: np.ndarray | None = None, scales: Any = None) -> int:
        """Adds a tensor, constant with `data`, quantized with `scales`; its index."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.hasRank, tensor.buffer = np.array(shape, np.int32), kind, True, 0
        tensor.name = f"t{len(self.graph.tensors)}"
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(data).view(np.uint8).ravel()
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def int8(self, value: np.ndarray, *, rows: bool) -> int:
        """A constant in int8, with a scale for each row or one for all."""
        largest = np.abs(value).max(1, keepdims=True) if rows else np.abs(value).max().reshape(1, 1)
        scales = largest / 127
        data = np.clip(np.rint(value / scales), -127, 127).astype(np.int8)
        return self.tensor(value.shape, TENSOR.INT8, data, scales.ravel())

    def operator(self, code: int, version: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, kind: int = 0) -> int:
        """Adds an operator; its first output."""
        known = schema.OperatorCodeT()
        known.builtinCode, known.deprecatedBuiltinCode, known.version = code, min(code, 127), version
        self.model.operatorCodes.append(known)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        operator.builtinOptions, operator.builtinOptionsType = options, kind
        self.graph.operators.append(operator)
        return outputs[0]

    def reshape(self, source: int, shape: Sequence[int]) -> int:
        """Adds a RESHAPE."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        wanted = self.tensor([len(shape)], TENSOR.INT32, options.newShape)
        return self.operator(OPERATOR.RESHAPE, 1, [source, wanted], [self.tensor(shape)], options, schema.BuiltinOptions.ReshapeOptions)

    def lstm(self, x: int, weights: dict[str, np.ndarray], layer: int) -> int:
        """Adds a fused layer over a sequence of one step."""
        kernel, recurrent, bias = (
            np.split(weights[f"layers.{layer}.{part}"], 4) for part in ("input.weight", "recurrent.weight", "input.bias")
        )
        units = len(bias[0])
        constants = [self.int8(part, rows=False) for part in (*kernel, *recurrent)]
        biases = [self.tensor([units], data=part) for part in bias]
        states = [self.tensor([1, units]), self.tensor([1, units])]
        for state in states:
            self.graph.tensors[state].isVariable = True
        options = schema.UnidirectionalSequenceLSTMOptionsT()
        options.fusedActivationFunction, options.cellClip, options.timeMajor = TANH, 0.0, False
        inputs = [x, *constants, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
        kind = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
        return self.operator(OPERATOR.UNIDIRECTIONAL_SEQUENCE_LSTM, 3, inputs, [self.tensor([1, 1, units])], options, kind)

    def dense(self, x: int, weight: int, rows: int, bias: np.ndarray | None) -> int:
        """Adds a FULLY_CONNECTED over an int8 constant of so many rows."""
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        offset = -1 if bias is None else self.tensor([rows], data=bias)
        kind = schema.BuiltinOptions.FullyConnectedOptions
        return self.operator(OPERATOR.FULLY_CONNECTED, 12, [x, weight, offset], [self.tensor([1, rows])], options, kind)

    def bytes(self) -> bytes:
        """The file."""
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def convert(job: Job) -> None:
    """Embedding, fused layers, linear ones, tied head."""
    weights = jobs.lstm_tensors(job.source)
    graph = Graph()
    token = graph.tensor([1], TENSOR.INT32)
    table = graph.int8(weights["embedding.weight"], rows=True)
    vocabulary, size = weights["embedding.weight"].shape
    x = graph.operator(OPERATOR.EMBEDDING_LOOKUP, 3, [token, table], [graph.tensor([1, size])])
    x = graph.reshape(x, [1, 1, size])
    layers = jobs.recurrent_layers(weights)
    for layer in range(layers):
        x = graph.lstm(x, weights, layer)
    x = graph.reshape(x, [1, weights[f"layers.{layers - 1}.recurrent.weight"].shape[1]])
    for weight, bias in jobs.linear_layers(weights):
        x = graph.dense(x, graph.int8(weight, rows=True), len(weight), bias)
    logits = graph.dense(x, table, vocabulary, weights.get("head.bias"))
    graph.graph.inputs, graph.graph.outputs = np.array([token], np.int32), np.array([logits], np.int32)
    job.artifact.write_bytes(graph.bytes())


class Session:
    """LiteRT's interpreter."""

    def __init__(self, job: Job) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(job.artifact), num_threads=job.threads)
        self.interpreter.allocate_tensors()
        self.token = self.interpreter.tensor(self.interpreter.get_input_details()[0]["index"])
        self.logits = self.interpreter.tensor(self.interpreter.get_output_details()[0]["index"])

    def reset(self) -> None:
        """See `job.Session`."""
        self.interpreter.reset_all_variables()

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        for token in ids:
            self.token()[0] = token
            self.interpreter.invoke()
        return self.logits()[0].copy()


if __name__ == "__main__":
    jobs.run(convert, Session)
