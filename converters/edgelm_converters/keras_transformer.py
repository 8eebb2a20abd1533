"""Takes decoder-only transformers out of Keras graphs.

The graph is walked from the scores back to the embedding, from one residual sum to the next; names of layers play no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgelm.models.reference import sinusoidal_table
from edgelm.spec import FloatArray, Position, TransformerSpec
from edgelm_converters.keras_blocks import ATTENTION, body_of, norm_of
from edgelm_converters.keras_dense import SOFTMAX, activation_of, dense_of, scaling_of
from edgelm_converters.keras_graph import LayerNode
from edgelm_converters.keras_values import constant_of, input_length, table_length
from edgelm_converters.keras_wiring import Wiring, operation, takes_last, weight_of
from edgelm_converters.lift import Lift, NotLiftable, check_classes, check_head_activation, same_table
from edgelm_converters.model_parts import Affine, Attention, FeedForward, Norm

__all__ = ["ATTENTION", "lift_transformer"]

UNBOUNDED_CONTEXT = 1024
"""Longest context of a model that has no position table and takes inputs of any length."""


@dataclass(frozen=True)
class _Sublayer:
    body: Attention | FeedForward
    norm: Norm
    pre: bool


@dataclass
class _Head:
    """What lies between the residual stream and the output."""

    layer: Affine | None = None
    scale: FloatArray = field(default_factory=lambda: np.ones((), np.float32))
    softmax: str = "linear"
    last_only: bool = False
    final_norm: Norm | None = None


@dataclass
class _Embedding:
    """What lies between the input and the residual stream."""

    table: FloatArray | None = None  # (vocab, width)
    positions: FloatArray | None = None  # (max_positions, width)
    scale: float = 1.0
    norm: Norm | None = None


def lift_transformer(wiring: Wiring, output: str) -> Lift:
    """Rebuilds a decoder-only transformer.

    Args:
        wiring: The model.
        output: Name of the node that makes the logits or probabilities.

    Raises:
        UnsupportedModelError: Its attention is not causal, or it scores another vocabulary than it reads.
        NotLiftable: Its blocks are of a form the spec has no place for.
    """
    head, stream = _read_head(wiring, wiring.node(output))
    sublayers, stream = _read_blocks(wiring, head, stream)
    embedding = _Embedding(norm=norm_of(stream))
    _read_embedding(wiring, stream if embedding.norm is None else wiring.source(stream), embedding, scale=1.0)
    return _assemble(wiring, head, sublayers, embedding)


def _read_head(wiring: Wiring, node: LayerNode) -> tuple[_Head, LayerNode]:
    """Peels off softmax, scaling, the last-position slice and the head's dense layer."""
    head = _Head()
    while True:
        activation, scaling = activation_of(node), scaling_of(wiring, node)
        dense = dense_of(wiring, node) if head.layer is None else None
        if takes_last(node):
            head.last_only = True
        elif head.layer is None and activation in SOFTMAX and head.softmax == "linear" and float(head.scale) == 1.0:
            head.softmax = str(activation)
        elif dense is not None:
            head.layer = dense
        elif head.layer is None and scaling is not None and not np.any(scaling[1]) and scaling[0].ndim == 0:
            head.scale = head.scale * scaling[0]
        elif activation != "linear":
            break
        node = wiring.source(node)
    if head.layer is None:
        raise NotLiftable(f"the scores come from {node.name!r} ({operation(node)}), not from a dense layer")
    if head.layer.activation != "linear":
        if head.softmax != "linear" or float(head.scale) != 1.0:
            raise NotLiftable("the scores are worked on after their softmax")
        head.softmax = check_head_activation(head.layer.activation)
    return head, node


def _read_blocks(wiring: Wiring, head: _Head, stream: LayerNode) -> tuple[list[_Sublayer], LayerNode]:
    """The sublayers, first to last, and the node that feeds the first one."""
    if norm_of(stream) is not None and _sublayer(wiring, stream) is None:
        head.final_norm, stream = norm_of(stream), wiring.source(stream)
        if takes_last(stream):
            head.last_only, stream = True, wiring.source(stream)
    found: list[_Sublayer] = []
    step = _sublayer(wiring, stream)
    while step is not None:
        found.append(step[0])
        stream = step[1]
        step = _sublayer(wiring, stream)
    found.reverse()
    kinds = [type(sublayer.body) for sublayer in found]
    if not found or kinds != [Attention, FeedForward] * (len(found) // 2) or len({sublayer.pre for sublayer in found}) > 1:
        raise NotLiftable(f"no chain of attention and feed-forward blocks with norms all before or all after, in front of {stream.name!r}")
    return found, stream


def _sublayer(wiring: Wiring, node: LayerNode) -> tuple[_Sublayer, LayerNode] | None:
    """(sublayer, the residual stream before it) of x + f(norm(x)) or norm(x + f(x)); None for any other node."""
    after = norm_of(node)
    total = node if after is None else wiring.source(node)
    operands = wiring.operands(total)
    if operation(total) != "Add" or len(operands) != 2 or not all(isinstance(operand, str) for operand in operands):
        return None
    first, second = (wiring.node(str(operand)) for operand in operands)
    for branch, skip in ((second, first), (first, second)):
        found = body_of(wiring, branch)
        if found is None:
            continue
        body, root = found
        if after is not None and root.name == skip.name:
            return _Sublayer(body, after, pre=False), skip
        before = norm_of(root)
        if after is None and before is not None and wiring.source(root).name == skip.name:
            return _Sublayer(body, before, pre=True), skip
    return None


def _read_embedding(wiring: Wiring, node: LayerNode, parts: _Embedding, scale: float) -> None:
    """Reads the sum of tokens and positions, all of it multiplied by `scale`."""
    kind, scaling = operation(node), scaling_of(wiring, node)
    if kind == "Add":
        for operand in wiring.operands(node):
            table = None if parts.positions is not None else _position_table(wiring, operand)
            if table is not None:
                parts.positions = table * np.float32(scale)
            elif isinstance(operand, str):
                _read_embedding(wiring, wiring.node(operand), parts, scale)
            else:
                raise NotLiftable(f"{node.name!r} adds a constant that is no position table")
    elif scaling is not None and scaling[0].ndim == 0 and not np.any(scaling[1]):
        _read_embedding(wiring, wiring.source(node), parts, scale * float(scaling[0]))
    elif kind in ("Embedding", "ReversibleEmbedding") and parts.table is None and wiring.source(node).kind == "InputLayer":
        parts.table, parts.scale = weight_of(node, "embeddings"), scale
    else:
        raise NotLiftable(f"layer {node.name!r} ({kind}) between the input and the first block")


def _position_table(wiring: Wiring, operand: str | FloatArray) -> FloatArray | None:
    """(positions, width) of an operand that depends on no token."""
    time = input_length(wiring) or (table_length(wiring, operand) if isinstance(operand, str) else None)
    if time is None and isinstance(operand, str):
        time = UNBOUNDED_CONTEXT
    value = constant_of(wiring, operand, time or 0)
    if value is None or value.ndim < 2 or value.size != value.shape[-1] * value.shape[-2]:
        return None
    return np.asarray(value, np.float32).reshape(value.shape[-2:])


def _assemble(wiring: Wiring, head: _Head, sublayers: Sequence[_Sublayer], embedding: _Embedding) -> Lift:
    if embedding.table is None or head.layer is None:
        raise NotLiftable("no token embedding in front of the first block")
    check_classes(embedding.table.shape[0], head.layer.weight.shape[0])
    top = head.layer.scaled(head.scale)
    attentions = [sublayer.body for sublayer in sublayers if isinstance(sublayer.body, Attention)]
    feeds = [sublayer.body for sublayer in sublayers if isinstance(sublayer.body, FeedForward)]
    norms = _norms(sublayers, embedding.norm, head.final_norm)
    _check_alike(attentions, feeds, list(norms.values()))
    spec = TransformerSpec(
        vocab_size=embedding.table.shape[0],
        width=embedding.table.shape[1],
        layers=len(attentions),
        heads=attentions[0].heads,
        kv_heads=attentions[0].kv_heads,
        head_dim=attentions[0].head_dim,
        ffn_size=len(feeds[0].up.weight),
        max_positions=(input_length(wiring) or UNBOUNDED_CONTEXT) if embedding.positions is None else len(embedding.positions),
        position=_position_kind(embedding),
        norm=sublayers[0].norm.kind,
        norm_position="pre" if sublayers[0].pre else "post",
        norm_eps=sublayers[0].norm.eps,
        final_norm=head.final_norm is not None,
        activation=feeds[0].activation,
        gated=feeds[0].gate is not None,
        qkv_bias=any(layer.bias is not None for each in attentions for layer in (each.q, each.k, each.v)),
        output_bias=any(each.o.bias is not None for each in attentions),
        ffn_bias=any(layer.bias is not None for each in feeds for layer in (each.up, each.down, each.gate) if layer is not None),
        tied_head=same_table(top.weight, embedding.table),
        head_bias=top.bias is not None,
        embedding_scale=embedding.scale,
        embedding_norm=embedding.norm is not None,
    )
    weights = _outer_weights(spec, embedding, top) | _block_weights(spec, attentions, feeds) | _norm_weights(spec, norms)
    return Lift(spec, weights, head.softmax == "softmax", head.last_only, one_hot=False)


def _check_alike(attentions: Sequence[Attention], feeds: Sequence[FeedForward], norms: Sequence[Norm]) -> None:
    shapes = {(attention.heads, attention.kv_heads, attention.head_dim) for attention in attentions}
    forms = {(feed.activation, feed.gate is None, len(feed.up.weight)) for feed in feeds}
    if len(shapes) > 1 or len(forms) > 1 or len({(norm.kind, norm.eps) for norm in norms}) > 1:
        raise NotLiftable("blocks of different heads, feed-forward sizes, activations or norms")


def _position_kind(embedding: _Embedding) -> Position:
    """`sinusoidal` where the table is that one, so that it need not be stored."""
    table = embedding.positions
    if table is None:
        return "none"
    count, width = table.shape
    plain = TransformerSpec(1, width, 1, 1, 1, width, width, count, position="sinusoidal")
    # float32 angles of later positions are off by about 1e-5
    return "sinusoidal" if np.allclose(table, sinusoidal_table(plain, np.arange(count)), atol=1e-4) else "learned"


def _outer_weights(spec: TransformerSpec, embedding: _Embedding, head: Affine) -> dict[str, FloatArray]:
    found = {
        "embedding.weight": embedding.table,
        "positions.weight": embedding.positions if spec.position == "learned" else None,
        "head.weight": None if spec.tied_head else head.weight,
        "head.bias": head.bias,
    }
    return {name: weight for name, weight in found.items() if weight is not None}


def _block_weights(spec: TransformerSpec, attentions: Sequence[Attention], feeds: Sequence[FeedForward]) -> dict[str, FloatArray]:
    weights: dict[str, FloatArray] = {}
    for i, (attention, feed) in enumerate(zip(attentions, feeds, strict=True)):
        layers = {"q": attention.q, "k": attention.k, "v": attention.v, "o": attention.o, "up": feed.up, "down": feed.down}
        if feed.gate is not None:
            layers["gate"] = feed.gate
        biased = {"o": spec.output_bias} | dict.fromkeys("qkv", spec.qkv_bias) | dict.fromkeys(("gate", "up", "down"), spec.ffn_bias)
        for name, layer in layers.items():
            weights[f"layers.{i}.{name}.weight"] = layer.weight
            if biased[name]:
                weights[f"layers.{i}.{name}.bias"] = layer.bias_or_zero()
    return weights


def _norms(sublayers: Sequence[_Sublayer], first: Norm | None, last: Norm | None) -> dict[str, Norm]:
    """Canonical name -> norm."""
    inner = {f"layers.{i // 2}.{('attention', 'ffn')[i % 2]}_norm": sublayer.norm for i, sublayer in enumerate(sublayers)}
    outer = {"embedding_norm": first, "final_norm": last}
    return {name: norm for name, norm in (inner | outer).items() if norm is not None}


def _norm_weights(spec: TransformerSpec, norms: Mapping[str, Norm]) -> dict[str, FloatArray]:
    weights = {f"{name}.weight": norm.weight for name, norm in norms.items()}
    return weights | ({f"{name}.bias": norm.bias for name, norm in norms.items()} if spec.norm == "layer" else {})
