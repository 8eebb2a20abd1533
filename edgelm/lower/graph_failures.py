"""What it means when TFLiteConverter, onnx2tf or onnxruntime fail: their messages translated to a cause and what to try."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping

from edgelm.errors import ConversionError, EdgeLMError, MissingDependencyError

Row = tuple[str, str, str]
"""Pattern in the messages, cause, fix; the first that matches is used."""

_OWN = re.compile(r"edgelm\.errors\.\w+: (?P<what>.*)(?:\n  allowed: .*)?(?:\n  next: (?P<fix>.*))?")
"""The worker's own errors, which say both."""

_TFLITE: tuple[Row, ...] = (
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
)

_ONNX: tuple[Row, ...] = (
    (
        r"NOT_IMPLEMENTED : Could not find an implementation for (?P<op>[\w.:]+)\((?P<version>\d+)\) node with name '(?P<node>[^']*)'",
        "onnxruntime has no {op} of opset {version} (node {node!r})",
        "export the model with opset_version=18",
    ),
    (
        r"No Op registered for (?P<op>\S+)|(?P<more>\S+)\([^)]*\) is not a registered function/op",
        "onnxruntime does not know the operation {op}{more}",
        "export the model without custom operations",
    ),
    (
        r"exceeded maximum protobuf size|ModelProto exceeds|larger than 2GB|exceeds maximum protobuf size of 2GB",
        "its weights take over 2 GB, which ONNX tools cannot handle in one piece",
        "export the model with float16 weights, or a smaller one",
    ),
    (
        r"ONNXRuntimeError\][ :\d]*(?P<kind>[A-Z_]+) : (?P<what>[^\n]{1,300})",
        "onnxruntime cannot prepare it for one window of tokens: {what}",
        "export the model with dynamic axes for batch and time: torch.onnx.export(..., dynamic_axes={{'ids': {{0: 'batch', 1: 'time'}}}})",
    ),
    (
        r"TensorList(?P<what>\w*)|(?:[Dd]ynamic|unknown|None) (?:shape|dimension|rank)s?",
        "a shape inside the model is not known before it runs",
        "export the model without data-dependent shapes, loops and branches",
    ),
    (
        r"'tf\.(?P<what>\w+)' op is neither a custom op nor a flex op|(?:Flex|SELECT_TF_OPS)[^\n]*?\btf\.(?P<more>\w+)",
        "onnx2tf makes the TensorFlow op {what}{more} of it, which has no TFLite builtin",
        "replace the layer that uses it, and export the model again",
    ),
)

_TRY: Mapping[str, str] = {
    "If": "export the model without branches: torch.onnx.export of a model whose forward has no if on tensors",
    "Loop": "export the model without loops over tensors: for a fixed length, or with nn.LSTM / nn.GRU instead of a hand-written loop",
    "Scan": "export the model without loops over tensors: for a fixed length, or with nn.LSTM / nn.GRU instead of a hand-written loop",
    "Trilu": "make the causal mask once in the model's __init__ (register_buffer) instead of in forward",
    "Einsum": "write the einsum as matmul and transpose, and export the model again",
    "Attention": "compute attention by matmul and softmax, or export with opset_version=18",
}
"""Operation -> what helps when onnx2tf fails on it."""

_TRY_OTHERS = "replace the layer that makes this node, or export the model with another opset_version"

_SIGNALS: Mapping[int, tuple[str, str]] = {
    signal.SIGKILL: ("the system stopped it, most likely for want of memory", "use a machine with more memory"),
    signal.SIGSEGV: ("it crashed (segmentation fault)", "convert with the recipe float32, or replace unusual layers"),
    signal.SIGFPE: ("it crashed (division by zero)", "convert with the recipe float32, or replace unusual layers"),
    signal.SIGABRT: ("it aborted on an internal check", "convert with the recipe float32, or replace unusual layers"),
}

_CONVERTERS: Mapping[str, str] = {"onnx": "onnx2tf"}
_INSTALL: Mapping[str, str] = {"onnx": "pip install 'edgelm[onnx]'"}
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def failure(name: str, file_format: str, code: int, messages: str, log: str = "") -> EdgeLMError:
    """The error for a worker that failed.

    Args:
        name: The model's.
        file_format: Of the model: `onnx`, `keras`, ...
        code: Of the process; negative for a signal.
        messages: What it wrote to standard error.
        log: What it wrote to standard output; onnx2tf says there which node it failed on.
    """
    converter = _CONVERTERS.get(file_format, "TFLiteConverter")
    if code < 0:
        cause, fix = _SIGNALS.get(-code, (f"it was stopped by signal {-code}", "try again"))
    elif missing := _MISSING.search(messages):
        return MissingDependencyError(
            f"converting {name!r} needs {missing['module']}, which is not installed",
            fix=_INSTALL.get(file_format, "pip install 'edgelm[keras]' keras"),
        )
    else:
        cause, fix = (failed_node(log) if file_format == "onnx" else None) or explain(messages, file_format)
    return ConversionError(f"{converter} failed on {name!r}: {cause}", fix=fix)


def timed_out(name: str, file_format: str, seconds: float) -> ConversionError:
    """The error for a worker that was stopped because it took too long."""
    fix = "export" if file_format == "onnx" else "save"
    return ConversionError(
        f"{_CONVERTERS.get(file_format, 'TFLiteConverter')} did not finish {name!r} within {seconds:.0f} s",
        fix=f"{fix} the model with a fixed, shorter length",
    )


def explain(messages: str, file_format: str = "keras") -> tuple[str, str]:
    """Cause and fix of a failed conversion.

    Args:
        messages: Everything the converter's process wrote to standard error.
        file_format: Of the model.

    Example:
        >>> explain("ValueError: ... error: 'tf.Betainc' op is neither a custom op nor a flex op")[0]
        "the TensorFlow op Betainc has no TFLite builtin, and ops of the Flex delegate are not in an app's runtime"
    """
    if own := _OWN.search(messages):
        return own["what"], own["fix"] or "convert the model on the machine where it was trained"
    for pattern, cause, fix in (*_ONNX, *_TFLITE) if file_format == "onnx" else _TFLITE:
        match = re.search(pattern, messages)
        if match:
            groups = {key: text or "" for key, text in match.groupdict().items()}
            return cause.format(**{"what": "", **groups}).strip(), fix.format()
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it wrote no message"
    return last, _TRY_OTHERS if file_format == "onnx" else "replace unusual layers, or save the model with a fixed length: Input((64,))"


def failed_node(log: str) -> tuple[str, str] | None:
    r"""The node that onnx2tf failed on, and what to try; None when it failed elsewhere.

    Args:
        log: What onnx2tf printed: each node before it is converted, and a traceback where that failed.

    Example:
        >>> failed_node("INFO: onnx_op_type: Trilu onnx_op_name: /mask\nERROR: The trace log is below.\nValueError: rank")[0]
        "it cannot convert node '/mask' (Trilu): ValueError: rank"
    """
    plain = _COLOURS.sub("", log)
    at = plain.rfind("The trace log is below")
    nodes = list(re.finditer(r"onnx_op_type: (\S+) onnx_op_name: ([^\n]*)", plain[: max(at, 0)]))
    if not nodes:
        return None
    operation, node = nodes[-1].groups()
    raised = re.findall(r"^(?:[\w.]+(?:Error|Exception|Exit)\b[^\n]*)", plain[at:], re.MULTILINE)
    why = f": {raised[-1][:200]}" if raised else ""
    return f"it cannot convert node {node!r} ({operation}){why}", _TRY.get(operation, _TRY_OTHERS)
