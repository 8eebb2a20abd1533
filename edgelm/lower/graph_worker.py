"""The process in which `edgelm.lower.graph` runs the converters: `python -m edgelm.lower.graph_worker '{"path": ..., ...}'`.

It loads the model with the framework that wrote it (ONNX graphs with onnx2tf), wraps it as `forward(ids)` and writes the .tflite.
Failures end it with a traceback, which the caller translates.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import ConversionError
from edgelm.lower.graph_onnx import tensorflow_call
from edgelm.model import GraphCall
from edgelm.spec import Encoding
from edgelm_converters.keras_files import keras_version
from edgelm_converters.keras_open import open_model, open_signature

SIGNATURE = "forward"


def main(task: str) -> None:
    """Converts one model.

    Args:
        task: JSON object with `path`, `format`, `time`, `vocab_size`, `last_only`, `encoding` and `output`, for ONNX `call` besides.

    Raises:
        ConversionError: The model has no output (.., vocab_size), or onnx2tf's graph computes something else.
    """
    wanted = json.loads(task)
    with tempfile.TemporaryDirectory(prefix="edgelm-") as folder:
        forward = _onnx_forward(wanted, Path(folder)) if wanted["format"] == "onnx" else _keras_forward(wanted)
        Path(wanted["output"]).write_bytes(_tflite(forward, wanted, Path(folder)))


def _tflite(forward: Callable[[Any], dict[str, Any]], wanted: Mapping[str, Any], folder: Path) -> bytes:
    """TFLiteConverter on one signature."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def constant(ids: Any) -> dict[str, Any]:
        (scores,) = frozen(ids)
        return {"scores": scores}

    ids = tf.TensorSpec((1, wanted["time"]), tf.int32, name="ids")
    # the converter leaves the variables of Keras 3 outside of the file, so they become constants first
    frozen = convert_variables_to_constants_v2(
        tf.function(forward, input_signature=[ids]).get_concrete_function(), lower_control_flow=False
    )
    module = tf.Module()
    module.frozen = frozen
    place = str(folder / "saved_model")
    tf.saved_model.save(module, place, signatures={SIGNATURE: tf.function(constant, input_signature=[ids])})
    converter = tf.lite.TFLiteConverter.from_saved_model(place, signature_keys=[SIGNATURE])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if wanted["encoding"] != Encoding.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if wanted["encoding"] == Encoding.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def _onnx_forward(wanted: Mapping[str, Any], folder: Path) -> Callable[[Any], dict[str, Any]]:
    plain = wanted["call"]
    with np.load(plain["values"]) as values:  # arr_0, arr_1, ...
        held = dict(zip(plain["held"], values.values(), strict=True))
    call = GraphCall(plain["ids"], tuple(plain["ids_shape"]), plain["scores"], held)
    scores = tensorflow_call(Path(wanted["path"]), call, wanted["vocab_size"], folder)
    return lambda ids: {"scores": scores(ids)[:, -1] if wanted["last_only"] else scores(ids)}


def _keras_forward(wanted: Mapping[str, Any]) -> Callable[[Any], dict[str, Any]]:
    call, shape, dtype = _source(Path(wanted["path"]), wanted["format"])

    import tensorflow as tf

    def forward(ids: Any) -> dict[str, Any]:
        given = tf.one_hot(ids, shape[2], dtype=dtype) if len(shape) == 3 else tf.cast(ids, dtype)
        return {"scores": _scores(call(given), wanted["time"], wanted["vocab_size"])}

    return forward


def _source(path: Path, file_format: str) -> tuple[Callable[[Any], Any], tuple[int | None, ...], str]:
    """The call, and shape and dtype of its input."""
    if file_format == "saved-model":
        signature = open_signature(path)
        (key, spec), *_ = signature.structured_input_signature[1].items()
        return lambda given: signature(**{key: given}), tuple(spec.shape.as_list()), spec.dtype.name
    # what may run was decided when the model was imported
    model, _ = open_model(path, keras_version(path, file_format), trust=True)
    given = model.inputs[0]
    return lambda values: model(values, training=False), tuple(given.shape), getattr(given.dtype, "name", given.dtype)


def _scores(result: Any, time: int, vocab_size: int) -> Any:
    """The output that holds the scores; the states of recurrent layers may be outputs too."""
    outputs = list(result.values()) if isinstance(result, dict) else list(result) if isinstance(result, list | tuple) else [result]
    for output in outputs:
        if output.shape[-1] == vocab_size and (len(output.shape) == 2 or output.shape[1] in (time, None)):
            return output
    raise ConversionError(f"the model has no output of {vocab_size} scores", fix="save the model again")


if __name__ == "__main__":
    main(sys.argv[1])
