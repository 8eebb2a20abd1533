"""Opens an ONNX file that edgelm wrote, in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RuntimeFailure, optional_package
from edgelm.runtime.states import States, StateSession, zeros

IDS = "input_ids"

AS_WRITTEN = {"session.disable_quant_qdq": "1"}
"""onnxruntime takes DequantizeLinear at its word. By default it fuses it into integer products, which round activations to 8 bits for
4-bit weights, and which its version 1.23 gets wrong on CPUs with AMX for 32 rows and more (onnxruntime issue 26324)."""

QUIET = 3
"""Errors only."""


def open_onnx(
    model: bytes, *, as_written: bool = True, threads: int = 1, max_positions: int | None = None, prefills: bool = True
) -> StateSession:
    """Loads an ONNX model with states.

    Args:
        model: Bytes of a file whose first input is `input_ids`, whose others are states, and whose outputs are the logits and the new
            states in the order of the inputs.
        as_written: Compute every op as ONNX defines it; False lets onnxruntime fuse as it does by default.
        threads: Threads of onnxruntime's pool.
        max_positions: Tokens a text may have.
        prefills: Give several tokens in one call.

    Raises:
        RuntimeFailure: onnxruntime refuses the file, or fails while running it.
        MissingDependencyError: It is not installed.
    """
    onnxruntime = optional_package("onnxruntime", "running ONNX", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, QUIET
    for key, value in (AS_WRITTEN if as_written else {}).items():
        options.add_session_config_entry(key, value)
    runtime = f"onnxruntime {onnxruntime.__version__}"
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own without a common base
        raise RuntimeFailure(f"{runtime} refuses the file: {error}") from error
    shapes = {each.name: each.shape for each in session.get_inputs() if each.name != IDS}

    def advance(ids: NDArray[np.int64], states: States) -> tuple[NDArray[np.float32], States]:
        try:
            outputs: list[Any] = session.run(None, {IDS: ids, **states})
        except Exception as error:  # as above
            raise RuntimeFailure(f"{runtime} failed: {error}") from error
        return outputs[0], dict(zip(states, outputs[1:], strict=True))

    vocab_size = session.get_outputs()[0].shape[-1]
    return StateSession(runtime, advance, zeros(shapes), vocab_size, max_positions, prefills=prefills)
