"""Exports a PyTorch module to ONNX: ids in, scores out, states as they stand before the first token."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConversionError
from edgelm_converters.torch_forward import Forward, inference
from edgelm_converters.torch_layers import exportable

OPSET = 17
"""Of the legacy exporter: the first with LayerNormalization as an op."""


def export(forward: Forward, ids: NDArray[np.int64], path: Path, *, dynamic: bool = True) -> Path:
    """Writes a module as `.onnx`; the module stays as it is.

    The legacy exporter (tracing) comes first: it is ten times faster, and keeps recurrent layers as one op with free time. What it does
    not know goes to the dynamo exporter.

    Args:
        forward: The module and how it is called.
        ids: Example (batch, time).
        path: The file to write.
        dynamic: Batch (where states leave it free) and time are free in the file.

    Raises:
        ConversionError: No exporter can write it; the message names the operator where torch does.
    """
    import torch

    stateful = bool(forward.initial(1))
    rows = forward.rows or (1 if stateful or not dynamic else 2)
    sample = np.resize(ids, (rows, ids.shape[1]))
    tokens = torch.tensor(sample.T.copy() if forward.time_first else sample)
    tokens = tokens.to(next((p.device for p in forward.module.parameters()), "cpu"))
    failures = []
    with inference(forward.module), exportable(forward.module, OPSET):
        wrapped = _scores_only(forward, rows)
        for dynamo in (False, True):
            try:
                with _quiet():
                    torch.onnx.export(wrapped, (tokens,), str(path), **_options(forward, stateful, dynamic, dynamo))
                return path
            except Exception as error:  # torch, onnxscript and the module itself raise anything here
                failures.append(error)
    raise _translated(forward.module, failures)


def _options(forward: Forward, stateful: bool, dynamic: bool, dynamo: bool) -> dict[str, Any]:
    import torch

    batch, time = (1, 0) if forward.time_first else (0, 1)
    names = {"input_names": ["ids"], "output_names": ["logits"]}
    if dynamo:
        free = {batch: torch.export.Dim.AUTO, time: torch.export.Dim.AUTO}
        return {**names, "dynamo": True, "dynamic_shapes": (free,) if dynamic else None, "verbose": False}
    axes = {"ids": {time: "time"} if stateful else {batch: "batch", time: "time"}}
    return {**names, "dynamo": False, "opset_version": OPSET, "dynamic_axes": axes if dynamic else None}


def _scores_only(forward: Forward, rows: int) -> Any:
    """The module with its beginning filled in: `forward(ids) -> scores`."""
    import torch

    if isinstance(forward.module, torch.jit.ScriptModule):
        return forward.module  # is traced already, and cannot be part of another trace
    initial = forward.initial(rows)

    class ScoresOnly(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def __init__(self) -> None:
            super().__init__()
            self.model = forward.module

        def forward(self, ids: Any) -> Any:
            return forward.call(ids, initial)[0]

    return ScoresOnly().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print whole graphs, from C++ as well, and warn by the dozen; what matters is in the exception."""
    sys.stdout.flush()
    kept, disabled = os.dup(1), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        logging.disable(disabled)


def _translated(module: Any, failures: list[Exception]) -> ConversionError:
    """One error of both exporters' messages: the operator, where one is named, and what to try."""
    legacy, dynamo = ("\n".join(_chain(error)) for error in failures)
    kind = type(module).__name__
    if "onnxscript" in dynamo and "No module named" in dynamo:
        return ConversionError(f"torch cannot export {kind}: {_line(legacy)}", fix="pip install onnxscript, for torch's other exporter")
    operator = re.search(r"operator '?([\w:.]+)'?", legacy) or re.search(r"(aten[:.]+[\w.]+)", dynamo)
    named = f"operator {operator[1]} is not supported" if operator else _line(legacy)
    return ConversionError(
        f"torch cannot export {kind} to ONNX: {named} (the other exporter: {_line(dynamo)})",
        fix="write that part of forward with other operations, or convert an .onnx file of the model",
    )


def _chain(error: BaseException | None) -> Iterator[str]:
    """Messages of an exception and its causes, the innermost first."""
    if error is not None:
        yield from _chain(error.__cause__)
        yield str(error)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
