"""Runs written models on the runtimes under test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.tflite.versions import LITERT_2_1, TFLITE_RUNTIME_2_14

LITERT, OLD = LITERT_2_1, TFLITE_RUNTIME_2_14
BOTH = (LITERT, OLD)


def interpreter(runtime: str, model: bytes) -> Any:
    if runtime == LITERT:
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter(model_content=model, num_threads=1)


def run(runtime: str, model: bytes, inputs: Mapping[str, NDArray[Any]], signature: str = "main") -> dict[str, NDArray[Any]]:
    outputs: dict[str, NDArray[Any]] = interpreter(runtime, model).get_signature_runner(signature)(**inputs)
    return {name: np.array(value) for name, value in outputs.items()}
