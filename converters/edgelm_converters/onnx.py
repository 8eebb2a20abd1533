"""Imports ONNX models: exports of torch, tf2onnx, Keras and others.

The file is read as data (`onnx_graph`), the lifters recognise a family in it, and the proof runs the source in onnxruntime beside the
lifted model: whole sequences, and token by token where the model has states. What is not recognised or not proven becomes an `OpaqueGraph`
that says why.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm.model import Imported, LanguageModel, LiftProof, OpaqueGraph, Origin
from edgelm_converters.lift import NotLiftable, proven
from edgelm_converters.onnx_calls import find_call
from edgelm_converters.onnx_graph import OnnxGraph, folded, read_graph
from edgelm_converters.onnx_node import DAMAGE
from edgelm_converters.onnx_session import open_session
from edgelm_converters.onnx_source import OnnxSource, as_source

FORMAT = "onnx"


def read(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Imports an ONNX language model.

    Args:
        path: A `.onnx` file; external data lies in its folder.
        trust: Not needed: nothing in an ONNX file can execute but operations that onnxruntime knows.
        name: For reports; by default the file's name without its ending.

    Returns:
        A `LanguageModel` with its proof, or an `OpaqueGraph` whose `origin.why` says what was not recognised; with the source itself as a
        function. Tokenizer and hash are left to the caller.

    Raises:
        SourceError: Missing, truncated, damaged, without weights, external data missing.
        UnsupportedModelError: Opset too new, custom operations, or no causal language model.
        MissingDependencyError: onnx or onnxruntime is not installed.

    Example:
        >>> imported = read(Path("lstm.onnx"))
        >>> imported.model.origin.way, imported.model.origin.proof
        ('lifted', LiftProof(tokens=192, max_abs_difference=1.8e-07, top1_agreement=1.0))
    """
    del trust
    title = name or path.stem
    plain = read_graph(path)
    _require_weights(path, plain)
    graph = folded(plain)
    call = find_call(graph)
    claim = _claim(graph, title)  # before the runtime is loaded: it refuses what is no language model
    source = as_source(open_session(path), call)
    model = claim if isinstance(claim, str) else _proven(claim, source)
    if isinstance(model, LanguageModel):
        return Imported(model, source.whole.logits)
    return Imported(_opaque(path, title, source, model), source.whole.logits)


def _require_weights(path: Path, graph: OnnxGraph) -> None:
    """Raises where weights are missing: exporters can leave them out or make inputs of them."""
    if any(array.ndim >= 2 and array.dtype.kind in "fiu" for array in graph.constants.values()):
        return
    given = [f"{each.name} {tuple(each.shape)}" for each in graph.inputs if len(each.shape) == 2 and None not in each.shape]
    where = f"; {given[0]} is an input" if given else ""
    raise SourceError(
        f"{path} holds no weights{where}",
        allowed="ONNX files with their weights, or with external data in the same folder",
        fix="export with export_params=True",
    )


@dataclass(frozen=True)
class _Claim:
    """A lifted model that is not proven yet, with what the lift leaves out."""

    model: LanguageModel
    notes: tuple[str, ...]


def _claim(graph: OnnxGraph, title: str) -> _Claim | str:
    """The lifted model, or why there is none."""
    from edgelm_converters.onnx_recurrent import has_recurrence, lift_recurrent
    from edgelm_converters.onnx_transformer import lift_transformer

    try:
        found = lift_recurrent(graph) if has_recurrence(graph) else lift_transformer(graph)
    except NotLiftable as verdict:
        return verdict.reason
    except DAMAGE as error:
        return f"a node has other attributes or weights than its operation takes ({type(error).__name__}: {error})"
    try:
        return _Claim(LanguageModel(found.spec, found.weights, name=title), found.notes)
    except UnsupportedModelError as error:
        return f"taken for a {found.spec.family} model, but {error.what}"


def _proven(claim: _Claim, source: OnnxSource) -> LanguageModel | str:
    """The model with the proof on whole sequences and, where the source has states, token by token."""
    whole = proven(claim.model, source.whole, FORMAT, notes=claim.notes)
    if isinstance(whole, str) or source.stepped is None:
        return whole
    stepped = proven(claim.model, source.stepped, FORMAT, notes=[*claim.notes, "Its states were fed back token by token, too"])
    if isinstance(stepped, str):
        return f"with its states fed back token by token: {stepped}"
    proofs = [model.origin.proof for model in (whole, stepped) if model.origin and model.origin.proof]
    both = LiftProof(
        sum(proof.tokens for proof in proofs),
        max(proof.max_abs_difference for proof in proofs),
        min(proof.top1_agreement for proof in proofs),
    )
    return stepped.replace(origin=stepped.origin and dataclasses.replace(stepped.origin, proof=both))


def _opaque(path: Path, title: str, source: OnnxSource, why: str) -> OpaqueGraph:
    """The model as it is.

    Raises:
        UnsupportedModelError: It cannot be run on one window of tokens.
    """
    if source.call is None:
        raise UnsupportedModelError(
            f"{path} was not recognised ({why}), and does not take one window of token ids (1, time), so it cannot be converted as it is",
            allowed="models of token ids (batch, time) with free or fixed time",
            fix="export the model for whole sequences of one window",
        )
    whole = source.whole
    origin = Origin(FORMAT, whole.framework, "graph", why)
    return OpaqueGraph(
        path, FORMAT, whole.call_time, whole.vocab_size, whole.probabilities, whole.last_only, name=title, origin=origin, call=source.call
    )
