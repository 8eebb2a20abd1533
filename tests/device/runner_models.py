"""The bundled models as int8 .tflite files, and the native runner, for the tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgelm import source
from edgelm.device.cache import cache_folder
from edgelm.device.runner import BLOCKS_VERSION, host_runner
from edgelm.errors import MissingDependencyError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.runtime.base import Session
from edgelm.spec import Encoding, ModelSpec, weight_shapes

BUNDLED = ("keyboard-lstm", "chat-transformer")


def built_runner() -> Path:
    """The runner in edgelm's cache, where one build serves every test run; skips where no compiler is installed."""
    try:
        return host_runner(cache_folder())
    except MissingDependencyError as error:
        pytest.skip(f"the native runner cannot be built: {error}")


def runner_for_blocks() -> Path:
    """The runner with the LiteRT whose C library loads 4-bit blocks; skips where pip cannot fetch that."""
    folder = cache_folder() / f"litert-{BLOCKS_VERSION}"
    library = folder / "ai_edge_litert" / "libLiteRt.so"
    if not library.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"ai-edge-litert=={BLOCKS_VERSION}"]
        if subprocess.run(command, check=False).returncode:
            pytest.skip(f"pip cannot fetch ai-edge-litert {BLOCKS_VERSION}")
    try:
        return host_runner(cache_folder(), library=library, version=BLOCKS_VERSION)
    except MissingDependencyError as error:
        pytest.skip(f"the native runner cannot be built: {error}")


def random_ids(session: Session, count: int) -> list[int]:
    """Tokens of the session's vocabulary."""
    drawn: list[int] = np.random.default_rng(1).integers(0, session.vocab_size, count).tolist()
    return drawn


def write_int8(name: str, folder: Path) -> Path:
    """A bundled model with int8 matrices, `folder/NAME.tflite`."""
    return write_model(name, folder, Encoding.INT8)


def write_model(name: str, folder: Path, encoding: Encoding) -> Path:
    """A bundled model with matrices of one encoding, `folder/NAME.tflite`."""
    model = source.load(name).model
    assert isinstance(model, LanguageModel)
    return _written(model, folder / f"{name}.tflite", encoding)


def write_random(spec: ModelSpec, folder: Path) -> Path:
    """A model with random int8 matrices, `folder/random.tflite`."""
    draw, shapes = np.random.default_rng(0).standard_normal, weight_shapes(spec)
    weights = {name: np.ones(shape, np.float32) if "norm" in name else draw(shape, np.float32) for name, shape in shapes.items()}
    return _written(LanguageModel(spec, weights), folder / "random.tflite", Encoding.INT8)


def _written(model: LanguageModel, path: Path, encoding: Encoding) -> Path:
    encodings = {key: encoding for key, weight in model.weights.items() if weight.ndim == 2}
    path.write_bytes(lower(model.replace(encodings=encodings)).tflite)
    return path
