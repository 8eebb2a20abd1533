"""From the tensors of a Hugging Face checkpoint to canonical weights: other names, and other forms of the same matrices."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm.spec import FloatArray, TransformerSpec, weight_shapes
from edgelm_converters.safetensors_files import StoredTensor

FormName = Literal["plain", "plus one", "from row 2", "conv1d", "conv1d q", "conv1d k", "conv1d v", "heads q", "heads k", "heads v"]

Names = Mapping[str, tuple[str, FormName]]
"""Our module (`layers.*.q`) -> theirs and the form its weight and bias have there."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """How a checkpoint keeps one of our weights.

    Attributes:
        stored: Our shape -> the shape in the file.
        taken: The tensor in the file -> our weight; the spec tells its heads.
    """

    stored: Callable[[Shape], Shape]
    taken: Callable[[FloatArray, TransformerSpec], FloatArray]


def _conv1d(part: int) -> Form:
    """Part 0, 1 or 2 (q, k, v) of GPT-2's fused Conv1D: weight (width, 3 * rows), bias (3 * rows,)."""

    def taken(fused: FloatArray, spec: TransformerSpec) -> FloatArray:
        return np.split(fused, 3, axis=-1)[part].T

    return Form(lambda shape: (*shape[1:], 3 * shape[0]), taken)


def _heads(part: int) -> Form:
    """Part 0, 1 or 2 (q, k, v) of GPT-NeoX's fused projection, whose rows are (heads, 3, head_dim)."""

    def taken(fused: FloatArray, spec: TransformerSpec) -> FloatArray:
        by_head = fused.reshape(spec.heads, 3, spec.head_dim, *fused.shape[1:])
        return by_head[:, part].reshape(-1, *fused.shape[1:])

    return Form(lambda shape: (3 * shape[0], *shape[1:]), taken)


def _plus_one(stored: FloatArray, spec: TransformerSpec) -> FloatArray:
    return np.asarray(stored, np.float32) + np.float32(1)


FORMS: Mapping[FormName, Form] = {
    "plain": Form(lambda shape: shape, lambda stored, spec: stored),
    "plus one": Form(lambda shape: shape, _plus_one),  # Gemma's norms multiply by 1 + weight
    "from row 2": Form(lambda shape: (shape[0] + 2, *shape[1:]), lambda stored, spec: stored[2:]),  # OPT's first position is row 2
    "conv1d": Form(lambda shape: shape[::-1], lambda stored, spec: stored.T),  # GPT-2's Conv1D: weight (columns, rows)
    "conv1d q": _conv1d(0),
    "conv1d k": _conv1d(1),
    "conv1d v": _conv1d(2),
    "heads q": _heads(0),
    "heads k": _heads(1),
    "heads v": _heads(2),
}


def canonical_weights(
    spec: TransformerSpec, tensors: Mapping[str, StoredTensor], names: Names, prefixes: Sequence[str], ignored: Sequence[str]
) -> dict[str, FloatArray]:
    """The weights of a spec, taken from a checkpoint.

    Args:
        spec: What they have to fit.
        tensors: Of the checkpoint.
        names: Our modules -> theirs.
        prefixes: What may stand before all of their names.
        ignored: Patterns of tensors that are no weights.

    Raises:
        SourceError: A tensor is missing, has another shape, or is no float of 16 or 32 bits.
        UnsupportedModelError: A tensor is left over, so that the checkpoint computes something else than the spec.
    """
    if spec.layers > len(tensors):  # a damaged config must not make a table of a billion names
        raise SourceError(f"the checkpoint has {len(tensors)} tensors, too few for the {spec.layers} layers of config.json")
    bare = {_bare(name, prefixes): tensor for name, tensor in tensors.items()}
    read = functools.lru_cache(maxsize=2)(StoredTensor.read)  # q, k and v share a fused weight and a fused bias
    weights: dict[str, FloatArray] = {}
    used: set[str] = set()
    for name, shape in weight_shapes(spec).items():
        theirs, form = _stored_name(name, names)
        weights[name] = FORMS[form].taken(read(_found(theirs, bare, FORMS[form].stored(shape))), spec)
        used.add(theirs)
    for name in bare.keys() - used:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored):
            raise UnsupportedModelError(
                f"tensor {name} of the checkpoint has no place in this architecture",
                allowed="a checkpoint that holds the architecture of its config.json and nothing else",
            )
    return weights


def _bare(name: str, prefixes: Sequence[str]) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def _stored_name(name: str, names: Names) -> tuple[str, FormName]:
    """Their name of our weight `name`: `layers.3.q.bias` -> `layers.3.self_attn.q_proj.bias`."""
    module, _, kind = name.rpartition(".")
    layer = re.match(r"layers\.(\d+)\.", module)
    theirs, form = names[re.sub(r"^layers\.\d+\.", "layers.*.", module)]
    return f"{theirs.replace('*', layer[1]) if layer else theirs}.{kind}", form


def _found(name: str, tensors: Mapping[str, StoredTensor], shape: Shape) -> StoredTensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise SourceError(f"tensor {name} is missing from the checkpoint", fix="download or save the folder again, with all its shards")
    if tensor.shape != shape:
        raise SourceError(f"{tensor.file}: tensor {name} is {tensor.shape}", allowed=f"{shape}, as config.json says")
    return tensor
