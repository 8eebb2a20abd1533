"""Lowers an `OpaqueGraph` with TFLiteConverter, in a process of its own.

The converter can crash, exhaust memory or run without end on models it does not like; none of that reaches the caller but as a
`ConversionError` with cause and fix. `edgelm.lower.graph_worker` is what runs in that process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgelm.errors import ConversionError, UnsupportedModelError
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

_FAILURES: tuple[tuple[str, str, str], ...] = (
    (
        r"edgelm\.errors\.\w+: (?P<what>.*)",
        "{what}",
        "convert the model on the machine where it was trained",
    ),
    (
        r"HashTable|LookupTable|StringSplit|StringLower|RegexReplace|DT_STRING|tf\.Lookup\w*",
        "the model handles text itself (TextVectorization, StringLookup), which TFLite builtins cannot",
        "save the model without its text layer, so that it takes token ids, and put tokenizer.json beside it",
    ),
    (
        r"TensorList(?P<what>\w*)",
        "a loop keeps a list of tensors whose shape is not known (TensorList{what})",
        "give the model a fixed length, Input((64,)), or its recurrent layers unroll=True",
    ),
    (
        r"'tf\.(?P<what>\w+)' op is neither a custom op nor a flex op|(?:Flex|SELECT_TF_OPS)[^\n]*?\btf\.(?P<more>\w+)",
        "the TensorFlow op {what} has no TFLite builtin, and ops of the Flex delegate are not in an app's runtime",
        "replace the layer that uses it",
    ),
    (
        r"SELECT_TF_OPS|Flex ops|failed to legalize operation '(?P<what>[\w.]+)'",
        "an op of the model has no TFLite builtin {what}",
        "replace the layer that uses it",
    ),
    (
        r"(?:[Dd]ynamic|unknown|None) (?:shape|dimension|rank)s?",
        "a shape inside the model is not known before it runs",
        "give the model a fixed length, Input((64,)), and no data-dependent shapes",
    ),
    (
        r"MemoryError|bad_alloc|ResourceExhausted|Cannot allocate memory",
        "there is not enough memory to convert the model",
        "use a machine with more memory; the converter takes about 7 times the size of the float weights",
    ),
    (
        r"No module named '(?P<what>[\w.]+)'",
        "{what} is not installed",
        "pip install 'edgelm[keras]' keras",
    ),
)
"""Pattern in the converter's messages, cause, fix; the first that matches is used."""

_SIGNALS: Mapping[int, tuple[str, str]] = {
    signal.SIGKILL: ("the system stopped it, most likely for want of memory", "use a machine with more memory"),
    signal.SIGSEGV: ("it crashed (segmentation fault)", "convert with the recipe float32, or replace unusual layers"),
    signal.SIGABRT: ("it aborted on an internal check", "convert with the recipe float32, or replace unusual layers"),
}


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
        ConversionError: the converter failed, crashed or did not end.

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
        task = {"path": str(graph.path.resolve()), "format": graph.format, "time": graph.time, "vocab_size": graph.vocab_size}
        _run(graph, {**task, "encoding": encoding.value, "output": str(output)}, timeout)
        if not output.is_file():
            raise ConversionError(f"TFLiteConverter ended without a result for {graph.name!r}", fix="convert with the recipe float32")
        return output.read_bytes()


def _run(graph: OpaqueGraph, task: Mapping[str, object], timeout: float) -> None:
    """Runs the worker; raises what went wrong."""
    paths = os.pathsep.join(path for path in sys.path if path)
    quiet = {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    legacy = {"TF_USE_LEGACY_KERAS": "1"} if graph.origin and graph.origin.framework.startswith("tf_keras") else {}
    command = [sys.executable, "-m", "edgelm.lower.graph_worker", json.dumps(task)]
    try:
        done = subprocess.run(
            command, env={**os.environ, **quiet, **legacy}, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConversionError(
            f"TFLiteConverter did not finish {graph.name!r} within {timeout:.0f} s",
            fix="give the model a fixed, shorter length: Input((64,))",
        ) from error
    if done.returncode < 0:
        cause, fix = _SIGNALS.get(-done.returncode, (f"it was stopped by signal {-done.returncode}", "try again"))
        raise ConversionError(f"TFLiteConverter failed on {graph.name!r}: {cause}", fix=fix)
    if done.returncode:
        cause, fix = explain(done.stderr)
        raise ConversionError(f"TFLiteConverter failed on {graph.name!r}: {cause}", fix=fix)


def explain(messages: str) -> tuple[str, str]:
    """Cause and fix of a failed conversion.

    Args:
        messages: everything the converter's process wrote.

    Example:
        >>> explain("ValueError: ... error: 'tf.Betainc' op is neither a custom op nor a flex op")[0]
        "the TensorFlow op Betainc has no TFLite builtin, and ops of the Flex delegate are not in an app's runtime"
    """
    for pattern, cause, fix in _FAILURES:
        match = re.search(pattern, messages)
        if match:
            what = next((text for text in match.groupdict().values() if text), "")
            return cause.format(what=what).strip(), fix
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return (
        lines[-1][:300] if lines else "it wrote no message"
    ), "replace unusual layers, or save the model with a fixed length: Input((64,))"
