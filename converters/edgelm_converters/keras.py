"""Imports Keras models: `.keras`, whole-model `.h5`, SavedModel.

The file is read as data (`keras_files`, `saved_model`), the lifter recognises a family in it, and the proof runs the source in its own
framework beside the lifted model. What is not recognised or not proven becomes an `OpaqueGraph` that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import SourceError, UnsafeModelError, UnsupportedModelError
from edgelm.model import Imported, LanguageModel, OpaqueGraph, Origin
from edgelm_converters.keras_files import keras_version, looks_like, read_h5, read_keras
from edgelm_converters.keras_graph import KerasGraph, LayerNode
from edgelm_converters.keras_source import as_source, load
from edgelm_converters.lift import NotLiftable, proven
from edgelm_converters.saved_model import check_safe_graph, is_saved_model, read_saved_model

_LARGEST = 1 << 24  # ids: no vocabulary comes near it

_READERS: Mapping[str, Callable[[Path], KerasGraph | None]] = {"keras": read_keras, "keras-h5": read_h5, "saved-model": read_saved_model}


def read(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Imports a Keras language model.

    Args:
        path: A `.keras` or `.h5` file, or a SavedModel folder.
        trust: Lets Keras run code that the file brings along or names (Lambda layers, custom classes); such models are converted as
            they are.
        name: For reports; by default the file's name without its ending.

    Returns:
        A `LanguageModel` with its proof, or an `OpaqueGraph` whose `origin.why` says what was not recognised; with the source itself as a
        function. Tokenizer and hash are left to the caller.

    Raises:
        SourceError: Missing, damaged, weights only, of another kind, or its framework cannot load it.
        UnsafeModelError: Loading it would run code, and `trust` is False.
        UnsupportedModelError: It is no language model.
        MissingDependencyError: h5py, TensorFlow, keras or tf_keras is not installed.

    Example:
        >>> imported = read(Path("chat.keras"))
        >>> imported.model.origin.way, imported.model.origin.proof
        ('lifted', LiftProof(tokens=96, max_abs_difference=2.4e-07, top1_agreement=1.0))
    """
    file_format = _format(path)
    graph, reason = _graph(path, file_format, trust)
    vocabularies = _vocabularies(graph) if graph else frozenset()
    version = graph.keras_version if graph else keras_version(path, file_format)
    title = name or path.stem
    claim = _claim(graph, title) if graph else reason  # before TensorFlow is loaded: it refuses what is no language model
    source = as_source(load(path, file_format, version, trust=trust), vocabularies)
    model = claim if isinstance(claim, str) else proven(claim.model, source, file_format, claim.lowest, claim.notes)
    if isinstance(model, LanguageModel):
        return Imported(model, source.logits)
    origin = Origin(file_format, source.framework, "graph", model)
    opaque = OpaqueGraph(
        path, file_format, source.call_time, source.vocab_size, source.probabilities, source.last_only, name=title, origin=origin
    )
    return Imported(opaque, source.logits)


def _format(path: Path) -> str:
    """By content, since old Keras wrote HDF5 under any name."""
    if path.is_dir():
        if is_saved_model(path):
            return "saved-model"
        raise SourceError(f"{path} is a folder, but no SavedModel: saved_model.pb is not in it", allowed=".keras, .h5, a SavedModel folder")
    if looks_like(path) == "an HDF5 file":
        return "keras-h5"
    return "keras-h5" if path.suffix.lower() in (".h5", ".hdf5") else "keras"


def _graph(path: Path, file_format: str, trust: bool) -> tuple[KerasGraph | None, str]:
    """The model as data; without it, why the model has to go as it is."""
    if file_format == "saved-model" and not trust:
        check_safe_graph(path)
    try:
        return _READERS[file_format](path), "a SavedModel without Keras metadata does not say what its layers are"
    except NotLiftable as verdict:
        return None, verdict.reason
    except UnsafeModelError as error:
        if not trust:
            raise
        return None, f"{error.what}; it was trusted"


def _vocabularies(graph: KerasGraph) -> frozenset[int]:
    """Sizes the input vocabulary may have: rows of the embeddings, depths of the one-hot layers, width of a one-hot input.

    Raises:
        UnsupportedModelError: The model reads no tokens.
    """
    inputs = {node.name for node in graph.nodes if node.kind == "InputLayer"}
    shapes = [node.config.get("batch_shape") for node in graph.nodes if node.kind == "InputLayer"]
    sizes = {size for node in graph.nodes if inputs & set(node.inputs) and (size := _input_size(node))}
    sizes = sizes or {size for node in graph.nodes if (size := _input_size(node))}
    if not sizes and len(shapes) == 1 and isinstance(shapes[0], list) and len(shapes[0]) == 3 and isinstance(shapes[0][2], int):
        sizes = {shapes[0][2]}
    if not sizes:
        raise UnsupportedModelError(
            "no language model: no Embedding or one-hot layer reads its input",
            allowed="models that read token ids (batch, time) or one-hot rows (batch, time, vocabulary)",
        )
    return frozenset(sizes)


def _input_size(node: LayerNode) -> int | None:
    """How many different ids an embedding or one-hot node takes; None for other nodes."""
    key = {"Embedding": "input_dim", "ReversibleEmbedding": "input_dim", "CategoryEncoding": "num_tokens", "OneHot": "num_classes"}.get(
        node.kind
    )
    value = node.config.get(key) if key else node.arguments.get("depth") if node.config.get("function") == "one_hot" else None
    return value if type(value) is int and 1 < value < _LARGEST else None


@dataclass(frozen=True)
class _Claim:
    """A lifted model that is not proven yet.

    Attributes:
        model: The model.
        lowest: Smallest id that the source reads like any other; 1 where token 0 is masked.
        notes: What the lift leaves out.
    """

    model: LanguageModel
    lowest: int
    notes: tuple[str, ...]


def _claim(graph: KerasGraph, title: str) -> _Claim | str:
    """The lifted model, or why there is none."""
    from edgelm_converters.keras_lift import lift

    try:
        found = lift(graph)
    except NotLiftable as verdict:
        return verdict.reason
    try:
        model = LanguageModel(found.spec, found.weights, name=title)
    except UnsupportedModelError as error:
        return f"taken for a {found.spec.family} model, but {error.what}"
    masked = any(node.config.get("mask_zero") for node in graph.nodes)
    return _Claim(model, 1 if masked else 0, found.notes)
