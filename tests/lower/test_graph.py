"""Models that are not recognised: converted as they are, in a process of their own, and equal to their source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import ConversionError, MissingDependencyError, UnsupportedModelError
from edgelm.lower import graph as lowering
from edgelm.lower.graph import convert_opaque
from edgelm.lower.graph_failures import explain
from edgelm.model import Imported, OpaqueGraph, Origin
from edgelm.spec import Encoding
from edgelm_converters import keras as importer

VOCAB, WIDTH = 60, 24
OPAQUE = OpaqueGraph(
    Path("m.keras"), "keras", 8, VOCAB, False, False, "conv", origin=Origin("keras", "keras 3", "graph", "it has a Conv1D")
)


def conv_model(keras: Any, path: Path) -> Imported:
    """A causal convolution language model: no family of edgelm."""
    kl = keras.layers
    ids = kl.Input((None,), dtype="int32", name="ids")
    x = kl.Conv1D(2 * WIDTH, 3, padding="causal", activation="relu")(kl.Embedding(VOCAB, WIDTH)(ids))
    model = keras.Model(ids, kl.Dense(VOCAB)(x))
    random = np.random.default_rng(5)
    model.set_weights([random.normal(0, 0.3, array.shape).astype(np.float32) for array in model.get_weights()])
    model.save(path)
    return importer.read(path, name="conv")


def scores(content: bytes, ids: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner("forward")
    return np.asarray(runner(ids=ids)["scores"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "ending", "encoding", "limit"),
    [
        ("keras", ".keras", Encoding.FLOAT32, 1e-5),  # float32 sums in another order
        ("keras", ".keras", Encoding.INT8, 0.03),  # a step of int8 is 1/127 of a row's largest weight, and two layers add up
        ("tf_keras", ".h5", Encoding.FLOAT16, 2e-3),  # float16 has 11 bits
    ],
)
def test_the_file_equals_its_source(tmp_path: Path, framework: str, ending: str, encoding: Encoding, limit: float) -> None:
    imported = conv_model(pytest.importorskip(framework), tmp_path / f"conv{ending}")
    graph = imported.model
    assert isinstance(graph, OpaqueGraph)
    ids = np.random.default_rng(6).integers(0, VOCAB, (1, graph.time), dtype=np.int32)
    wanted = imported.source_logits(ids)
    given = scores(convert_opaque(graph, encoding), ids)
    assert given.shape == (1, graph.time, VOCAB)
    assert np.abs(given - wanted).max() < limit * np.ptp(wanted)
    assert encoding is Encoding.FLOAT32 or np.abs(given - wanted).max() > 0  # it was quantized


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.INT4_BLOCK32])
def test_int4_is_refused_by_name(encoding: Encoding) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{encoding.value} cannot be done to 'conv'.*it has a Conv1D"):
        convert_opaque(OPAQUE, encoding)


def test_a_missing_file_is_a_conversion_error_of_the_worker(tmp_path: Path) -> None:
    graph = OpaqueGraph(tmp_path / "gone.keras", "keras", 8, VOCAB, False, False, "gone")
    with pytest.raises(ConversionError, match=r"failed on 'gone': .*gone\.keras cannot be read"):
        convert_opaque(graph, Encoding.FLOAT32)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "segmentation fault"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "want of memory"),
        ("import time; time.sleep(60)", "did not finish 'conv' within 2 s"),
        ("pass", "without a result"),
        ("raise MemoryError", "not enough memory"),
    ],
)
def test_whatever_happens_to_the_worker_is_explained(monkeypatch: pytest.MonkeyPatch, code: str, cause: str) -> None:
    run = subprocess.run

    def instead(command: list[str], **options: Any) -> Any:
        return run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(lowering.subprocess, "run", instead)
    with pytest.raises(ConversionError, match=cause) as caught:
        convert_opaque(OPAQUE, Encoding.FLOAT32, timeout=2)
    assert caught.value.fix


def test_a_missing_framework_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    code = "raise ModuleNotFoundError(\"No module named 'tensorflow'\")"
    monkeypatch.setattr(lowering.subprocess, "run", lambda command, **options: run([sys.executable, "-c", code], **options))
    with pytest.raises(MissingDependencyError, match="'conv' needs tensorflow, which is not installed") as caught:
        convert_opaque(OPAQUE, Encoding.FLOAT32)
    assert caught.value.fix == "pip install 'edgelm[keras]' keras"


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("loc(...): error: 'tf.Betainc' op is neither a custom op nor a flex op\nTraceback", "TensorFlow op Betainc has no TFLite builtin"),
        (
            "Some ops are not supported by the native TFLite runtime, you can enable TF kernels fallback using SELECT_TF_OPS",
            "no TFLite builtin",
        ),
        ("error: failed to legalize operation 'tf.TensorListReserve' that was explicitly marked illegal", "list of tensors"),
        ("'tf.LookupTableFindV2' op is neither a custom op nor a flex op", "handles text itself"),
        ("edgelm.errors.SourceError: keras 3.15 cannot load m.keras: bad\n  next: save it again", "keras 3.15 cannot load m.keras: bad"),
        ("Traceback (most recent call last):\nOddError: it is odd\n", "OddError: it is odd"),
        ("", "no message"),
    ],
)
def test_known_messages_are_translated(message: str, cause: str) -> None:
    explained, fix = explain(message)
    assert cause in explained
    assert fix
