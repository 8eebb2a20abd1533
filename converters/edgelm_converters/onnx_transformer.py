"""Lifts decoder-only transformers out of ONNX graphs, whichever exporter wrote them.

The graph is read at one fixed length (`onnx_transformer_trace`), where all that does not depend on the tokens is a number. What is left
is a frame of linear maps, residual sums and attentions (`onnx_transformer_maps`); the functions between them are recognised by what they
compute (`onnx_transformer_functions`, `onnx_attention`), not by how they are spelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgelm.models.reference import sinusoidal_table
from edgelm.spec import FloatArray, Position, TransformerSpec
from edgelm_converters.lift import Lift, NotLiftable, check_classes, same_table
from edgelm_converters.model_parts import Affine, FeedForward, Norm
from edgelm_converters.onnx_attention import OnnxAttention
from edgelm_converters.onnx_calls import find_call
from edgelm_converters.onnx_graph import Array, OnnxGraph, OnnxNode
from edgelm_converters.onnx_node import DAMAGE
from edgelm_converters.onnx_transformer_blocks import Stack, stack_of
from edgelm_converters.onnx_transformer_embedding import Embedding, embedding_of, longest_context
from edgelm_converters.onnx_transformer_fused import unfused
from edgelm_converters.onnx_transformer_maps import PASSIVE, Frame
from edgelm_converters.onnx_transformer_masks import window_of
from edgelm_converters.onnx_transformer_trace import Trace

__all__ = ["Lift", "lift_transformer"]

_LONGEST_WRITTEN, _TRIALS = 1024, 12


@dataclass(frozen=True)
class _Parts:
    """A transformer in the spec's terms: attention and feed-forward layer of each block, norms by canonical name."""

    embedding: Embedding
    attentions: list[OnnxAttention]
    feeds: list[FeedForward]
    norms: Mapping[str, Norm]
    pre: bool
    parallel: bool
    head: Affine


@dataclass(frozen=True)
class _Head:
    """The linear map whose outputs are the scores, the tensor it reads, and whether they are given as probabilities."""

    layer: Affine
    input: str
    probabilities: bool


def lift_transformer(graph: OnnxGraph) -> Lift:
    """Rebuilds a decoder-only transformer.

    Args:
        graph: The model, folded or not. Caches among its inputs are taken as empty, masks as hiding nothing.

    Returns:
        The lift; prove it before using it.

    Raises:
        UnsupportedModelError: Its attention is not causal, or it scores another vocabulary than it reads.
        NotLiftable: It is no transformer, or one with parts that the spec has no place for.

    Example:
        >>> lift_transformer(folded(read_graph(Path("gpt2.onnx")))).spec.layers
        12
    """
    try:
        return _lift(_frame(unfused(graph)))
    except DAMAGE as error:  # attributes or shapes of another form than any exporter writes
        raise NotLiftable(f"the graph is damaged ({type(error).__name__}: {error})") from error


def _lift(frame: Frame) -> Lift:
    output = _scores_output(frame.trace)
    head = _head(frame, output)
    stack = stack_of(frame, head.input)
    parts = _parts(stack, embedding_of(frame, stack), head.layer)
    limit = longest_context(frame, parts.attentions, parts.embedding)
    positions = min(window_of(frame.trace, attention.core, limit) for attention in parts.attentions)
    spec = _spec(parts, positions)
    notes = (f"Each position sees {positions} positions, itself included, so its context ends there",) if positions < limit else ()
    last_only = frame.trace.time > 1 and frame.trace.value(output).size == spec.vocab_size
    return Lift(spec, _weights(spec, parts), head.probabilities, last_only, one_hot=False, notes=notes)


def _frame(graph: OnnxGraph) -> Frame:
    """The graph's frame at a length, and in an order of batch and time, that it computes.

    torch's older exporter writes the example's length into reshapes of attention, whatever the input's shape says.
    """
    shape = find_call(graph).ids.shape
    time_first = len(shape) == 2 and shape[1] == 1 and (shape[0] or 1) > 1
    trace = Trace(graph, time_first=time_first)
    output = _scores_output(trace)
    if not trace.computes(output):
        others = (Trace(graph, time, time_first=first, fixed=True) for first in (False, True) for time in _written_lengths(graph))
        trace = next((other for other in others if other.computes(output)), trace)
    trace.value(output)  # says what it does not compute
    frame = Frame(trace)
    if not frame.cores:
        hybrid = any("conv" in given.name.lower() for given in graph.inputs) or any("Conv" in node.op for node in graph.nodes)
        raise NotLiftable("no attention in the graph" + (": its layers, or some of them, are convolutions" if hybrid else ""))
    core = next(iter(frame.cores.values()))
    if len(shape) == 2 and trace.shape(core.q)[-1 if core.transposed else -2] == 1 < trace.time:  # a call of (1, time) is taken for a batch
        frame = Frame(Trace(graph, trace.time, time_first=True, fixed=trace.fixed and not shape[0]))
    return frame


def _written_lengths(graph: OnnxGraph) -> list[int]:
    """Numbers in the graph's shapes that may be the length it was exported with, the most frequent first."""
    shapes = [value for value in graph.constants.values() if value.dtype == np.int64 and value.ndim < 2 and value.size < 8]
    sizes = [int(size) for shape in shapes for size in shape.flat]
    counts = Counter(size for size in sizes if 2 <= size <= _LONGEST_WRITTEN)
    return [size for size, _ in counts.most_common(_TRIALS)]


def _scores_output(trace: Trace) -> str:
    live = [name for name in trace.graph.outputs if name in trace.live]
    named = [name for name in live if "logit" in name.lower()]
    if not live:
        raise NotLiftable("no output depends on the tokens")
    return (named or live)[0]


def _head(frame: Frame, tensor: str) -> _Head:
    """The head's linear map, with what is done to its outputs."""
    scale, bias, probabilities = 1.0, np.zeros(1, np.float32), False
    while tensor not in frame.linears:
        node, tensor, other = _above(frame, tensor)
        if node.op in ("Softmax", "LogSoftmax") and scale == 1 and not bias.any():
            probabilities = node.op == "Softmax"
        elif node.op in ("Mul", "Div") and other is not None and other.size == 1 and node.inputs[0] == tensor:
            scale *= float(other.item()) if node.op == "Mul" else 1 / float(other.item())
        elif node.op == "Add" and other is not None and other.size == other.shape[-1]:
            bias = bias + scale * other.reshape(-1)
        elif node.op == "Tanh":
            raise NotLiftable(f"the scores are capped (node {node.name!r}, a softcap)")
        elif node.op not in PASSIVE or node.inputs[0] != tensor:
            raise NotLiftable(f"the scores come from node {node.name!r} ({node.op}), not from a linear map")
    linear = frame.linears[tensor]
    changed = scale != 1 or bias.any()
    return _Head(linear.layer.scaled(np.asarray(scale, np.float32), bias) if changed else linear.layer, linear.input, probabilities)


def _above(frame: Frame, tensor: str) -> tuple[OnnxNode, str, Array | None]:
    """The node that makes a tensor, its live input, and the value of its one other input."""
    node = frame.graph.producer_of(tensor)
    live = frame.trace.live_inputs(node) if node is not None else []
    if node is None or len(live) != 1:
        raise NotLiftable(f"the scores come from {tensor!r}, not from a linear map")
    others = [name for name in node.inputs if name and name not in frame.trace.live]
    return node, live[0], frame.trace.value(others[0]) if len(others) == 1 else None


def _parts(stack: Stack, embedding: Embedding, head: Affine) -> _Parts:
    bodies = [body for sublayer in stack.sublayers for body in sublayer.body]
    attentions = [body for body in bodies if isinstance(body, OnnxAttention)]
    feeds = [body for body in bodies if isinstance(body, FeedForward)]
    parallel = all(len(sublayer.body) == 2 for sublayer in stack.sublayers)
    if [type(body) for body in bodies] != [OnnxAttention, FeedForward] * len(attentions) or len({len(s.body) for s in stack.sublayers}) > 1:
        raise NotLiftable("its blocks are no chain of one attention and one feed-forward layer each")
    norms, pre = _norms(stack)
    if parallel and not pre:
        raise NotLiftable("its blocks are parallel, with norms behind their sums")
    outer = {"embedding_norm": embedding.norm} if embedding.norm is not None else {}
    norms = outer | norms
    _check_alike(attentions, feeds, list(norms.values()), embedding)
    return _Parts(embedding, attentions, feeds, norms, pre, parallel, head)


def _norms(stack: Stack) -> tuple[dict[str, Norm], bool]:
    """Norms by canonical name, and whether they lie before the layers."""
    before = [norm for sublayer in stack.sublayers for norm in sublayer.norms]
    after = [*stack.after, *stack.final[:1]]
    names = [f"layers.{number // 2}.{('attention', 'ffn')[number % 2]}_norm" for number in range(len(before))]
    if all(before) and not any(stack.after) and len(stack.final) < 2:
        return dict(zip(names, (norm for norm in before if norm), strict=True)) | _final(stack.final), True
    if not any(before) and len(after) == len(before) and all(after):
        return dict(zip(names, (norm for norm in after if norm), strict=True)) | _final(stack.final[1:]), False
    raise NotLiftable("its norms are neither all before the layers nor all behind the residual sums")


def _final(norms: Sequence[Norm]) -> dict[str, Norm]:
    return {"final_norm": norms[0]} if norms else {}


def _check_alike(attentions: Sequence[OnnxAttention], feeds: Sequence[FeedForward], norms: Sequence[Norm], embedding: Embedding) -> None:
    heads = {(each.heads, each.kv_heads, each.head_dim, each.q_norm is None) for each in attentions}
    forms = {(feed.activation, feed.gate is None, len(feed.up.weight)) for feed in feeds}
    if len(heads) > 1 or len(forms) > 1 or len({norm.kind for norm in norms}) > 1:
        raise NotLiftable("its blocks have different heads, feed-forward sizes, activations or norms")
    if len({each.rotary for each in attentions}) > 1:
        raise NotLiftable("its blocks have different rotary positions")
    if not np.allclose([norm.eps for norm in norms], norms[0].eps, rtol=1e-2) or not np.allclose(
        [each.scale for each in attentions], attentions[0].scale, rtol=1e-4
    ):
        raise NotLiftable("its blocks have norms or attention scales with different constants")
    if attentions[0].rotary is not None and embedding.positions is not None:
        raise NotLiftable("it has both rotary positions and positions added to its embeddings")


def _spec(parts: _Parts, max_positions: int) -> TransformerSpec:
    attention, feed, embedding = parts.attentions[0], parts.feeds[0], parts.embedding
    vocab, width = embedding.table.shape
    check_classes(vocab, len(parts.head.weight))
    first = next(iter(parts.norms.values()))
    rotary = attention.rotary
    usual = abs(attention.scale / attention.head_dim**-0.5 - 1) < 1e-5
    return TransformerSpec(
        vocab_size=vocab,
        width=width,
        layers=len(parts.attentions),
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        ffn_size=len(feed.up.weight),
        max_positions=max_positions,
        position="rotary" if rotary else _position_kind(embedding),
        rope_theta=rotary.theta if rotary else 10_000.0,
        rotary_dim=rotary.size if rotary and rotary.size != attention.head_dim else 0,
        norm=first.kind,
        norm_position="pre" if parts.pre else "post",
        norm_eps=first.eps,
        final_norm="final_norm" in parts.norms,
        activation=feed.activation,
        gated=feed.gate is not None,
        qkv_bias=any(layer.bias is not None for each in parts.attentions for layer in (each.q, each.k, each.v)),
        output_bias=any(each.o.bias is not None for each in parts.attentions),
        ffn_bias=any(layer.bias is not None for each in parts.feeds for layer in (each.up, each.down, each.gate) if layer is not None),
        tied_head=same_table(parts.head.weight, embedding.table),
        head_bias=parts.head.bias is not None,
        embedding_scale=embedding.scale,
        embedding_norm=embedding.norm is not None,
        attention_scale=0.0 if usual else attention.scale,
        qk_norm=attention.q_norm is not None,
        parallel_residual=parts.parallel,
    )


def _position_kind(embedding: Embedding) -> Position:
    """`sinusoidal` where the table is that one, so that it need not be stored."""
    table = embedding.positions
    if table is None:
        return "none"
    count, width = table.shape
    plain = TransformerSpec(1, width, 1, 1, 1, width, width, count, position="sinusoidal")
    # float32 angles of later positions are off by about 1e-5
    return "sinusoidal" if np.allclose(table, sinusoidal_table(plain, np.arange(count)), atol=1e-4) else "learned"


def _weights(spec: TransformerSpec, parts: _Parts) -> dict[str, FloatArray]:
    weights: dict[str, FloatArray] = {"embedding.weight": parts.embedding.table}
    if spec.position == "learned" and parts.embedding.positions is not None:
        weights["positions.weight"] = parts.embedding.positions[: spec.max_positions]
    for number, (attention, feed) in enumerate(zip(parts.attentions, parts.feeds, strict=True)):
        weights |= _block_weights(spec, f"layers.{number}", attention, feed)
    for name, norm in parts.norms.items():
        weights[f"{name}.weight"] = norm.weight
        if spec.norm == "layer":
            weights[f"{name}.bias"] = norm.bias
    if not spec.tied_head:
        weights["head.weight"] = parts.head.weight
    if parts.head.bias is not None:
        weights["head.bias"] = parts.head.bias
    return {name: np.asarray(weight, np.float32) for name, weight in weights.items()}


def _block_weights(spec: TransformerSpec, at: str, attention: OnnxAttention, feed: FeedForward) -> dict[str, FloatArray]:
    layers = {"q": attention.q, "k": attention.k, "v": attention.v, "o": attention.o, "up": feed.up, "down": feed.down}
    if feed.gate is not None:
        layers["gate"] = feed.gate
    biased = {"o": spec.output_bias} | dict.fromkeys("qkv", spec.qkv_bias) | dict.fromkeys(("gate", "up", "down"), spec.ffn_bias)
    weights = {f"{at}.{name}.weight": layer.weight for name, layer in layers.items()}
    weights |= {f"{at}.{name}.bias": layer.bias_or_zero() for name, layer in layers.items() if biased[name]}
    if attention.q_norm is not None and attention.k_norm is not None:
        weights |= {f"{at}.q_norm.weight": attention.q_norm, f"{at}.k_norm.weight": attention.k_norm}
    return weights
