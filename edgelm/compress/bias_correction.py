"""The mean error that rounded matrices make on calibration text goes into the biases (Nagel et al. 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.compress.calibration import matrix_inputs
from edgelm.model import LanguageModel
from edgelm.spec import RecurrentSpec


def corrected(model: LanguageModel, rounded: LanguageModel, windows: Sequence[NDArray[np.int32]]) -> LanguageModel:
    """`rounded` with every bias b raised by the mean of (W - W') x of the matrices that are added to it.

    Models without biases, such as Llama-like ones, stay as they are.

    Args:
        model: Before rounding.
        rounded: The same spec, on grids.
        windows: Calibration text; the inputs x are those of the rounded model.
    """
    sources = {name: matrices_of(rounded, name) for name in rounded.weights if name.endswith(".bias")}
    if not any(sources.values()):
        return rounded
    inputs = matrix_inputs(rounded, windows)
    weights = dict(rounded.weights)
    for bias, matrices in sources.items():
        for name in matrices:
            error = (model.float32(name) - rounded.float32(name)) @ inputs[name].mean  # (rows,)
            weights[bias] = (weights[bias] + error).astype(np.float32)
    return rounded.replace(weights=weights)


def matrices_of(model: LanguageModel, bias: str) -> tuple[str, ...]:
    """The matrices whose products a bias is added to; none for the biases of norms.

    The recurrent matrix of a GRU that resets before its product has no mean input: the candidate's rows see other states than the gates'.

    Example:
        >>> matrices_of(lstm, "layers.0.input.bias")
        ('layers.0.input.weight', 'layers.0.recurrent.weight')
    """
    spec, path = model.spec, bias.removesuffix(".bias")
    if bias == "head.bias" and spec.tied_head:
        return ("embedding.weight",)
    names = [f"{path}.weight"]
    if isinstance(spec, RecurrentSpec) and path.endswith(".input"):
        recurrent = path.replace(".input", ".recurrent")
        if f"{recurrent}.bias" not in model.weights and not (spec.cell == "gru" and not spec.reset_after):
            names.append(f"{recurrent}.weight")
    return tuple(name for name in names if name in model.weights and model.weights[name].ndim == 2)
