"""Lowers an `OpaqueGraph` with TFLiteConverter (ONNX: onnx2tf before it), in a process of its own.

The converters can crash, exhaust memory or run without end on models they do not like; none of that reaches the caller but as a
`ConversionError` with cause and fix. `edgelm.lower.graph_worker` is what runs in that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgelm.errors import ConversionError, UnsupportedModelError
from edgelm.lower.graph_failures import failure, timed_out
from edgelm.model import OpaqueGraph
from edgelm.spec import Encoding

SIGNATURE = "forward"
TIMEOUT = 1800.0
"""Seconds; TFLiteConverter takes 35 s for 135 million parameters."""

ENCODINGS: Mapping[Encoding, str] = {
    Encoding.FLOAT32: "weights as they are",
    Encoding.FLOAT16: "weights as float16, computed in float32",
    Encoding.INT8: "dynamic range: weights as int8, activations quantized on the fly",
}
"""What TFLiteConverter can do to a graph whose weights edgelm does not know by name."""


def convert_opaque(graph: OpaqueGraph, encoding: Encoding, *, timeout: float = TIMEOUT) -> bytes:
    """Converts a graph as it is.

    Args:
        graph: the model; it was checked or trusted when it was imported.
        encoding: of all weights: float32, float16 or int8 (dynamic range).
        timeout: seconds.

    Returns:
        A .tflite of builtin ops with one signature: `forward(ids (1, time) int32) -> scores`, float32, (1, time, vocab) or, where the
        model scores the last position only, (1, vocab). The scores are what the model gives: logits or probabilities.

    Raises:
        UnsupportedModelError: the encoding needs a lifted model.
        ConversionError: the converter failed, crashed or did not end, or onnx2tf's graph computes something else.
        MissingDependencyError: a package that converts this format is not installed.

    Example:
        >>> Path("model.tflite").write_bytes(convert_opaque(graph, Encoding.INT8))
    """
    if encoding not in ENCODINGS:
        why = graph.origin.why if graph.origin else "it was not recognised"
        raise UnsupportedModelError(
            f"{encoding.value} cannot be done to {graph.name!r}: TFLiteConverter has no such weights, and edgelm writes them only for "
            f"models it recognises ({why})",
            allowed=", ".join(ENCODINGS),
            fix="use the recipe int8",
        )
    with tempfile.TemporaryDirectory(prefix="edgelm-") as folder:
        output = Path(folder) / "model.tflite"
        _run(graph, {**_task(graph, Path(folder)), "encoding": encoding.value, "output": str(output)}, timeout)
        if not output.is_file():
            raise ConversionError(f"TFLiteConverter ended without a result for {graph.name!r}", fix="convert with the recipe float32")
        return output.read_bytes()


def _task(graph: OpaqueGraph, folder: Path) -> dict[str, object]:
    """The graph, for the worker; arrays go into a file in `folder`."""
    task = {name: getattr(graph, name) for name in ("format", "time", "vocab_size", "last_only")} | {"path": str(graph.path.resolve())}
    if graph.call is None:
        return task
    values = folder / "held.npz"
    np.savez(values, *graph.call.held.values())
    call = {"ids": graph.call.ids, "ids_shape": graph.call.ids_shape, "scores": graph.call.scores, "held": list(graph.call.held)}
    return task | {"call": call | {"values": str(values)}}


def _run(graph: OpaqueGraph, task: Mapping[str, object], timeout: float) -> None:
    """Runs the worker; raises what went wrong."""
    paths = os.pathsep.join(path for path in sys.path if path)
    quiet = {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    old = graph.format == "onnx" or (graph.origin and graph.origin.framework.startswith("tf_keras"))  # onnx2tf builds a tf_keras model
    legacy = {"TF_USE_LEGACY_KERAS": "1"} if old else {}
    command = [sys.executable, "-m", "edgelm.lower.graph_worker", json.dumps(task)]
    try:
        done = subprocess.run(
            command, env={**os.environ, **quiet, **legacy}, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise timed_out(graph.name, graph.format, timeout) from error
    if done.returncode:
        raise failure(graph.name, graph.format, done.returncode, done.stderr, done.stdout)
