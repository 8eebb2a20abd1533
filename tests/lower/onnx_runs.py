"""How exported ONNX files are run on onnxruntime, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgelm.runtime.onnx_session import AS_WRITTEN


class OnnxRun:
    """A text, or several side by side, in an exported model; every op computed as ONNX defines it."""

    def __init__(self, onnx: bytes, batch: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        for key, value in AS_WRITTEN.items():
            options.add_session_config_entry(key, value)
        self.session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self.outputs = [each.name for each in self.session.get_outputs()]
        sizes = {"batch": batch, "past": 0}
        self.states: dict[str, NDArray[Any]] = {
            each.name: np.zeros([sizes.get(size, size) for size in each.shape], np.float32) for each in self.session.get_inputs()[1:]
        }

    def __call__(self, ids: NDArray[Any]) -> NDArray[np.float32]:
        """Ids (batch, time) -> logits (batch, time, vocab); the states go on."""
        found = dict(zip(self.outputs, self.session.run(None, {"input_ids": ids.astype(np.int64), **self.states}), strict=True))
        self.states = {name: found[f"present.{name.removeprefix('past_key_values.')}"] for name in self.states}
        return found["logits"]


def step_by_step(onnx: bytes, ids: NDArray[Any]) -> NDArray[np.float32]:
    """Logits (batch, time, vocab) of ids (batch, time), one token a call."""
    run = OnnxRun(onnx, len(ids))
    return np.concatenate([run(ids[:, time : time + 1]) for time in range(ids.shape[1])], axis=1)
