"""A `LanguageModel` as a TensorFlow SavedModel with its states as inputs and outputs.

    serving_default  ids int32 (batch, time)  ->  logits float32 (batch, time, vocab), from empty states
    step             recurrent models: token int32 (batch,), h_0 float32 (batch, units), ...  ->  logits (batch, vocab), h_0, ...
    forward          transformers: ids int32 (batch, time), k_i and v_i float32 (batch, kv_heads, past, head_dim)
                     ->  logits (batch, time, vocab), k_i and v_i (batch, kv_heads, past + time, head_dim)

`step` is the .tflite's; `forward` is its `decode` and `prefill` in one, since TensorFlow's shapes are free: caches grow instead of being
masked. Weights are float32: TensorFlow has no products for the others. A compressed model's are its rounded ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import optional_package
from edgelm.lower.rounded import rounded
from edgelm.lower.store import WeightStore
from edgelm.model import LanguageModel
from edgelm.native_output import silenced
from edgelm.spec import Encoding, RecurrentSpec, TransformerSpec

SERVING, STEP, FORWARD = "serving_default", "step", "forward"


@dataclass(frozen=True)
class WrittenSavedModel:
    """A model written as a SavedModel.

    Attributes:
        files: Name, with folders -> content.
        rounded: The model it computes.
        notes: What to know of it, one sentence each.
    """

    files: Mapping[str, bytes]
    rounded: LanguageModel
    notes: tuple[str, ...]


def write_saved_model(model: LanguageModel) -> WrittenSavedModel:
    """Writes a model as a SavedModel.

    Args:
        model: What to write; weights with encodings are rounded to them first, ranges are left out.

    Raises:
        UnsupportedModelError: A weight cannot be stored as its encoding says.
        MissingDependencyError: TensorFlow is not installed.

    Example:
        >>> for name, content in write_saved_model(model).files.items():
        ...     (folder / name).write_bytes(content)
        >>> tf.saved_model.load(folder).signatures["step"]
    """
    tf = tensorflow_package()
    store = WeightStore(model, "litert")
    plain = rounded(store).replace(ranges={})
    with silenced(), tempfile.TemporaryDirectory(prefix="edgelm-") as place:
        module, signatures = _signatures(tf, plain)
        tf.saved_model.save(module, place, signatures=signatures)
        folder = Path(place)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return WrittenSavedModel(files, plain, _notes(model, store))


def _notes(model: LanguageModel, store: WeightStore) -> tuple[str, ...]:
    kinds = sorted({encoding.value for encoding in store.encodings.values()} - {Encoding.FLOAT32.value})
    stored = (f"weights rounded to {', '.join(kinds)} are stored as float32: the file is not smaller",) if kinds else ()
    floating = ("activations are float32: the int8 ranges of the model are left out",) if model.ranges else ()
    return (*store.notes, *stored, *floating)


def _signatures(tf: Any, model: LanguageModel) -> tuple[Any, dict[str, Any]]:
    """The module, and its signatures as concrete functions."""
    from edgelm.lower.tf_graphs import RecurrentGraph, TransformerGraph

    if isinstance(model.spec, RecurrentSpec):
        graph = RecurrentGraph(model, model.spec)
        return graph, _recurrent_signatures(tf, graph, model.spec)
    decoder = TransformerGraph(model, model.spec)
    return decoder, _transformer_signatures(tf, decoder, model.spec)


def _recurrent_signatures(tf: Any, graph: Any, spec: RecurrentSpec) -> dict[str, Any]:
    names = spec.state_names

    def step(token: Any, **states: Any) -> dict[str, Any]:
        logits, new = graph(token[:, None], [states[name] for name in names])
        return {"logits": logits[:, 0], **dict(zip(names, new, strict=True))}

    def serve(ids: Any) -> dict[str, Any]:
        logits, _ = graph(ids, [tf.zeros([tf.shape(ids)[0], spec.state_size(name)]) for name in names])
        return {"logits": logits}

    shapes = {name: tf.TensorSpec((None, spec.state_size(name)), tf.float32, name=name) for name in names}
    token = tf.TensorSpec((None,), tf.int32, name="token")
    return {STEP: tf.function(step).get_concrete_function(token, **shapes), SERVING: _served(tf, serve)}


def _transformer_signatures(tf: Any, graph: Any, spec: TransformerSpec) -> dict[str, Any]:
    names = [f"{kind}_{layer}" for layer in range(spec.layers) for kind in "kv"]

    def forward(ids: Any, **caches: Any) -> dict[str, Any]:
        logits, new = graph(ids, [caches[name] for name in names])
        return {"logits": logits, **dict(zip(names, new, strict=True))}

    def serve(ids: Any) -> dict[str, Any]:
        empty = tf.zeros([tf.shape(ids)[0], spec.kv_heads, 0, spec.head_dim])
        return {"logits": graph(ids, [empty] * len(names))[0]}

    size = (None, spec.kv_heads, None, spec.head_dim)
    shapes = {name: tf.TensorSpec(size, tf.float32, name=name) for name in names}
    ids = tf.TensorSpec((None, None), tf.int32, name="ids")
    return {FORWARD: tf.function(forward).get_concrete_function(ids, **shapes), SERVING: _served(tf, serve)}


def _served(tf: Any, serve: Any) -> Any:
    return tf.function(serve).get_concrete_function(tf.TensorSpec((None, None), tf.int32, name="ids"))


def tensorflow_package() -> Any:
    """The `tensorflow` package, imported without a word on stderr.

    Raises:
        MissingDependencyError: It, or tf_keras, is not installed.
    """
    with silenced():
        optional_package("tf_keras", "writing a SavedModel", "keras")  # the cells are its layers
        return optional_package("tensorflow", "writing a SavedModel", "keras")
