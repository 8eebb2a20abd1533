"""What happens to attention scores before the softmax: scale and mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_graph import Array
from edgelm_converters.onnx_transformer_maps import Core
from edgelm_converters.onnx_transformer_trace import Trace, constants_behind

_HIDDEN = -1e3  # exp of it is 0; models write -inf, the lowest float, -1e9 or -1e4
_LONGEST = 4100  # positions to look for a window in: the square of it is computed


def scores_scale(trace: Trace, core: Core) -> float:
    """What the products of queries and keys are multiplied with, once it is clear that the attention is causal.

    Raises:
        UnsupportedModelError: Positions see later ones.
        NotLiftable: Scores are capped or biased, or earlier positions are hidden.
    """
    if core.fused:
        added, scale = _fused_mask(trace, core), _fused_scale(trace, core)
    else:
        added, once, twice = (_masked(trace, core, number, trace.time) for number in (0.0, 1.0, 2.0))
        seen = added > _HIDDEN
        change, double = once[seen] - added[seen], twice[seen] - added[seen]
        if not change.size or not np.allclose(change, change[0], rtol=1e-4) or not np.allclose(double, 2 * change, rtol=1e-4):
            raise NotLiftable(f"the scores of attention {core.node.name!r} are capped or otherwise worked on")
        product = trace.graph.producer_of(core.product)
        scale = float(change.mean()) * (float(product.attributes.get("alpha", 1.0)) if product is not None else 1.0)
        scale = float(f"{scale:.6g}") if abs(scale - float(f"{scale:.6g}")) < 1e-7 * abs(scale) else scale
    _check_causal(trace, core, added)
    return scale


def window_of(trace: Trace, core: Core, limit: int) -> int:
    """How many positions up to its own each position sees; `limit` where all up to that many.

    Windows leave no mark in a short mask. Where its arithmetic knows a number between the trace's length and the limit, longer masks
    are looked at.
    """
    constants = list(mask_constants(trace, core))
    for square in (value for value in constants if value.ndim > 1 and value.shape[-1] == value.shape[-2] > trace.time):
        if not _is_triangle((square.swapaxes(-1, -2) if core.transposed else square).reshape(-1, *square.shape[-2:])):
            raise NotLiftable(f"the mask of attention {core.node.name!r} hides earlier positions")
    numbers = {int(abs(value.item())) for value in constants if value.size == 1 and np.isfinite(value.item())}
    for number in sorted(number for number in numbers if trace.time < number < min(limit, _LONGEST - 2)):
        longer = trace.resized(number + 2)
        if longer.time != number + 2:
            return limit
        added = _fused_mask(longer, core) if core.fused else _masked(longer, core, 0.0, longer.time)
        hidden = int(np.sum(added.reshape(-1, *added.shape[-2:])[0, -1] <= _HIDDEN))
        if hidden:
            return longer.time - hidden
    return limit


def _masked(trace: Trace, core: Core, score: float, time: int) -> NDArray[np.float64]:
    """The softmax's operand (..., time, time) where every product is `score`."""
    lead = (1,) * (len(trace.shape(core.product)) - 2) if time > 64 else trace.shape(core.product)[:-2]
    added = np.asarray(trace.run(core.node.inputs[0], {core.product: np.full((*lead, time, time), score)}), np.float64)
    return added.swapaxes(-1, -2) if core.transposed else added


def _fused_mask(trace: Trace, core: Core) -> NDArray[np.float64]:
    """What Attention adds to its scores (..., time, time)."""
    added = np.zeros((trace.time, trace.time))
    name = core.node.inputs[3] if len(core.node.inputs) > 3 else ""
    if name in trace.live:
        raise NotLiftable(f"the mask of attention {core.node.name!r} depends on the tokens")
    if name:
        mask = trace.value(name)
        added = added + (np.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else np.asarray(mask, np.float64))
    if core.node.attributes.get("is_causal", 0):
        added = added + np.where(np.tri(trace.time, dtype=bool), 0.0, -np.inf)
    return added


def _fused_scale(trace: Trace, core: Core) -> float:
    if core.node.attributes.get("softcap"):
        raise NotLiftable(f"the scores of attention {core.node.name!r} are capped (softcap)")
    shape = trace.shape(core.q)
    head_dim = shape[-1] // int(core.node.attributes["q_num_heads"]) if len(shape) == 3 else shape[-1]
    return float(str(np.float32(core.node.attributes.get("scale", head_dim**-0.5))))  # the file has 32 bits of it


def _check_causal(trace: Trace, core: Core, added: NDArray[np.float64]) -> None:
    time = trace.time
    if added.shape[-2:] != (time, time) or time < 2:
        raise NotLiftable(f"attention {core.node.name!r} is over {added.shape[-2:]} positions in a call of {time} tokens")
    masks = added.reshape(-1, time, time)
    seen, past = masks > _HIDDEN, np.tri(time, dtype=bool)
    if np.any(seen & ~past):
        raise UnsupportedModelError(
            f"attention {core.node.name!r} lets positions see later ones: it is not causal",
            allowed="a lower triangular mask (nn.Transformer.generate_square_subsequent_mask, is_causal=True)",
            fix="export the model with its causal mask",
        )
    if not np.array_equal(seen, np.broadcast_to(past, seen.shape)):
        raise NotLiftable(f"the mask of attention {core.node.name!r} hides earlier positions")
    own = np.einsum("hii->hi", masks)[:, :, None]  # what all scores of a row have in common changes nothing
    bias = np.where(past, masks - own, 0)[:, past]  # (heads, pairs)
    if np.any(np.abs(bias) > 1e-6):
        distance = np.subtract.outer(np.arange(time), np.arange(time))[past]
        slopes = bias[:, 1:2] / distance[1]
        kind = "linear biases (ALiBi)" if np.allclose(bias, slopes * distance, rtol=1e-3, atol=1e-6) else "a position bias"
        raise NotLiftable(f"attention {core.node.name!r} adds {kind} to its scores")


def mask_constants(trace: Trace, core: Core) -> Iterator[Array]:
    """The constants that the mask is computed from."""
    between = [] if core.fused else trace.between(core.product, core.node.inputs[0])
    return constants_behind(trace, [*core.node.inputs[3:4]] if core.fused else [name for node in between for name in node.inputs])


def _is_triangle(squares: Array) -> bool:
    """Every square has one value on and below its diagonal and another above it."""
    past = np.tri(squares.shape[-1], dtype=bool)
    return bool(np.all(squares[:, past] == squares[0, 0, 0]) and np.all(squares[:, ~past] == squares[0, 0, 1]))
