"""Reads the blocks of a transformer from its frame: residual sums from last to first, what they add, and the norms between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm.spec import FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, FeedForward, Norm
from edgelm_converters.onnx_attention import OnnxAttention, attention_of
from edgelm_converters.onnx_transformer_functions import Mixing, copy_between, mixing_between, norm_between, two_norms_between
from edgelm_converters.onnx_transformer_maps import Frame, Linear, ResidualSum

Body = OnnxAttention | FeedForward


@dataclass(frozen=True)
class Sublayer:
    """One addition to the residual stream.

    Attributes:
        body: What is added; attention and feed-forward layer side by side in a parallel block.
        norms: Of each body's input; None where the body reads the stream as it is.
    """

    body: tuple[Body, ...]
    norms: tuple[Norm | None, ...]


@dataclass(frozen=True)
class Stack:
    """All blocks.

    Attributes:
        sublayers: First to last.
        after: The norm that makes the stream of each sublayer's sum, the last one's left out; None where the sum is the stream.
        final: The norms between the last sum and the head.
        root: Tensor that the first sublayer adds to.
        table: Output of the token embedding.
    """

    sublayers: tuple[Sublayer, ...]
    after: tuple[Norm | None, ...]
    final: tuple[Norm, ...]
    root: str
    table: str


def stack_of(frame: Frame, top: str) -> Stack:
    """The blocks under the head's input `top`.

    Raises:
        UnsupportedModelError: Attention is not causal.
        NotLiftable: What the sums add, or what lies between them, is no part of the transformer family.
    """
    below = _only(frame, top)
    final = _final_norms(frame, below, top)
    sublayers: list[Sublayer] = []
    after: list[Norm | None] = []
    while True:
        total = frame.sums[below]
        if not total.stream:
            raise NotLiftable(f"the sum {total.output!r} adds to no residual stream")
        sublayers.insert(0, _sublayer(frame, total))
        below = _only(frame, total.stream)
        if below in frame.tables:
            return Stack(tuple(sublayers), tuple(after), final, frame.passed_on(total.stream), below)
        after.insert(0, _step(frame, below, total.stream))


def _only(frame: Frame, tensor: str) -> str:
    """The one sum or embedding that a tensor is made of."""
    origins = frame.origins(tensor)
    origin = next(iter(origins)) if len(origins) == 1 else ""
    if origin in frame.tables or origin in frame.sums:
        return origin
    made = sorted(node.op if (node := frame.graph.producer_of(name)) else name for name in origins)
    raise NotLiftable(f"tensor {tensor!r} is made of {', '.join(made) or 'nothing'}, not of one residual stream")


def _final_norms(frame: Frame, source: str, target: str) -> tuple[Norm, ...]:
    if source in frame.tables:
        raise NotLiftable("the head reads the embeddings: there is no block with a residual sum")
    copied = copy_between(frame.trace, source, target)
    if copied is not None and copied.plain:
        return ()
    norm = norm_between(frame.trace, source, target)
    if norm is not None:
        return (norm,)
    both = two_norms_between(frame.trace, source, target)
    if both is None:
        raise NotLiftable(f"between {source!r} and the head there is neither a layer norm nor a root-mean-square norm")
    return both


def _step(frame: Frame, source: str, target: str) -> Norm | None:
    """The norm between one sum and the next one's stream; None where they are the same."""
    copied = copy_between(frame.trace, source, target)
    if copied is not None and copied.plain:
        return None
    norm = norm_between(frame.trace, source, target)
    if norm is None:
        raise NotLiftable(f"the residual stream is worked on between {source!r} and {target!r}")
    return norm


def _sublayer(frame: Frame, total: ResidualSum) -> Sublayer:
    found = [_body(frame, linear) for linear in total.branches]
    found.sort(key=lambda body: not isinstance(body[0], OnnxAttention))
    kinds = [type(body) for body, _ in found]
    if len(kinds) > 1 and kinds != [OnnxAttention, FeedForward]:
        raise NotLiftable(f"the sum {total.output!r} adds {len(kinds)} branches, other than an attention and a feed-forward layer")
    stream = frame.passed_on(total.stream)
    norms: list[Norm | None] = []
    for _, inputs in found:
        read = [_step(frame, stream, name) for name in dict.fromkeys(inputs)]
        if any(not _same(norm, read[0]) for norm in read):
            raise NotLiftable(f"the maps of one layer in front of {total.output!r} read different norms")
        norms.append(read[0])
    return Sublayer(tuple(body for body, _ in found), tuple(norms))


def _same(norm: Norm | None, other: Norm | None) -> bool:
    if norm is None or other is None:
        return norm is other
    alike = (norm.kind, norm.eps) == (other.kind, other.eps)
    return alike and np.array_equal(norm.weight, other.weight) and np.array_equal(norm.bias, other.bias)


def _body(frame: Frame, output: Linear) -> tuple[Body, tuple[str, ...]]:
    """What ends in a linear map, and the tensors that its own maps read."""
    origins = frame.origins(output.input)
    if len(origins) == 1 and origins <= frame.cores.keys():
        attention = attention_of(frame, frame.cores[next(iter(origins))], output)
        return attention, attention.inputs
    maps = [linear for name, linear in frame.linears.items() if name in origins]
    if len(maps) != len(origins) or len(maps) not in (1, 2):
        extra = " with a gate of its own" if origins & frame.cores.keys() else ""
        raise NotLiftable(f"the layer that ends in {output.output!r} is neither an attention nor a feed-forward layer of the family{extra}")
    mixing = mixing_between(frame.trace, [linear.output for linear in maps], output.input)
    return _feed_forward(maps, mixing, output), tuple(linear.input for linear in maps)


def _feed_forward(maps: list[Linear], mixing: Mixing, output: Linear) -> FeedForward:
    slope, down = np.asarray(mixing.slope, np.float32), output.layer
    up = _part(maps, mixing.up)
    gate = None if mixing.gate is None else _part(maps, mixing.gate)
    if mixing.slope != 1:  # activation(slope x) / slope
        gate, up = (None, up.scaled(slope)) if gate is None else (gate.scaled(slope), up)
        down = Affine(np.asarray(down.weight / slope, np.float32), down.bias)
    return FeedForward(up, down, gate, mixing.activation)


def _part(maps: list[Linear], columns: slice) -> Affine:
    """The map whose outputs are some columns of all maps' outputs side by side."""
    if len(maps) == 2:
        return maps[0 if columns.start == 0 else 1].layer
    layer = maps[0].layer
    whole = columns == slice(0, len(layer.weight))
    bias: FloatArray | None = None if layer.bias is None else layer.bias[columns]
    return layer if whole else Affine(layer.weight[columns], bias)
