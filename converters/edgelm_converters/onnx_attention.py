"""Reads the attentions of a transformer's graph in the canonical form of the spec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm.spec import FloatArray
from edgelm_converters.lift import NotLiftable
from edgelm_converters.model_parts import Affine, Attention
from edgelm_converters.onnx_transformer_heads import CLOSE, HeadReader, Heads, Index, Rotary, Values
from edgelm_converters.onnx_transformer_maps import Core, Frame, Linear
from edgelm_converters.onnx_transformer_masks import scores_scale


@dataclass(frozen=True)
class OnnxAttention(Attention):
    """Attention with all that a graph can say of it, norms (head_dim,).

    Attributes:
        inputs: Tensors that q, k and v are made from.
        q_source: Tensor of the linear map that queries come from.
        core: Where it mixes values.
    """

    scale: float
    rotary: Rotary | None
    q_norm: FloatArray | None
    k_norm: FloatArray | None
    inputs: tuple[str, ...]
    q_source: str
    core: Core


def attention_of(frame: Frame, core: Core, output: Linear) -> OnnxAttention:
    """The attention that ends in the linear map `output`.

    Args:
        frame: The graph.
        core: Where it mixes values.
        output: What reads the mixed values.

    Raises:
        NotLiftable: Its queries, keys or values are not plain functions of linear maps, or it is of a form the family lacks.
    """
    reader = HeadReader(frame, core)
    q, k, v = reader.heads("q"), reader.heads("k"), reader.heads("v")
    if q.rows.shape[1] != v.rows.shape[1]:
        raise NotLiftable(f"attention {core.node.name!r} has values of {v.rows.shape[1]} columns and keys of {q.rows.shape[1]}")
    if v.normed or v.rotary or q.rotary != k.rotary or q.normed != k.normed:
        raise NotLiftable(f"attention {core.node.name!r} treats its queries and keys differently, or norms or turns its values")
    order, kv_heads = _grouping(core, k, v)
    columns = reader.columns(output)[order].reshape(-1)  # the column of `output` for each of the mixed values
    o = Affine(output.layer.weight[:, columns], output.layer.bias)
    turn = q.rotary.halves(q.rows.shape[1]) if q.rotary else np.arange(q.rows.shape[1])
    first = np.arange(kv_heads) * (len(order) // kv_heads)  # a query head of each group
    q, k, v = _chosen(q, order, turn), _chosen(k, order[first], turn), _chosen(v, order[first], np.arange(len(turn)))
    product = scores_scale(frame.trace, core)
    q_norm, q_scale = _norm_or_scale(q)
    k_norm, k_scale = _norm_or_scale(k)
    scale = product * q_scale * k_scale
    if q_norm is not None and k_norm is not None:  # exporters put the scale on queries and keys, half of it each
        extra = np.float32(np.sqrt(scale * q.rows.shape[1] ** 0.5))
        q_norm, k_norm, scale = q_norm * extra, k_norm * extra, q.rows.shape[1] ** -0.5
    return OnnxAttention(
        heads=len(order),
        kv_heads=kv_heads,
        head_dim=q.rows.shape[1],
        q=_rows(q, 1.0),
        k=_rows(k, 1.0),
        v=_rows(v, v.scale.reshape(-1)),
        o=o,
        scale=scale,
        rotary=q.rotary,
        q_norm=q_norm,
        k_norm=k_norm,
        inputs=(q.linear.input, k.linear.input, v.linear.input),
        q_source=q.linear.output,
        core=core,
    )


def _grouping(core: Core, k: Heads, v: Heads) -> tuple[Index, int]:
    """The order of query heads in which those that share a key/value head are neighbours, and how many of these there are."""
    shared = {tuple(rows): number for number, rows in reversed(list(enumerate(k.rows.tolist())))}
    owner = np.array([shared[tuple(rows)] for rows in k.rows.tolist()])
    kinds, counts = np.unique(owner, return_counts=True)
    same_values = {(int(a), tuple(rows)) for a, rows in zip(owner, v.rows.tolist(), strict=True)}
    if len(set(counts.tolist())) > 1 or len(same_values) != len(kinds):
        raise NotLiftable(f"attention {core.node.name!r} shares its keys and values unevenly among its heads")
    return np.argsort(owner, kind="stable"), len(kinds)


def _chosen(heads: Heads, order: Index, turn: Index) -> Heads:
    return Heads(heads.linear, heads.rows[order][:, turn], heads.scale[order][:, turn], heads.normed, heads.rotary)


def _norm_or_scale(heads: Heads) -> tuple[FloatArray | None, float]:
    """The weight of the heads' norm, or the one number they are multiplied with."""
    if heads.normed:
        if not np.allclose(heads.scale, heads.scale[:1], rtol=CLOSE):
            raise NotLiftable("the norm of q and k has weights of its own for each head")
        return np.asarray(heads.scale[0], np.float32), 1.0
    factor = float(heads.scale[0, 0])
    if not np.allclose(heads.scale, factor, rtol=CLOSE):
        raise NotLiftable("queries or keys are multiplied with a number for each column")
    return None, factor


def _rows(heads: Heads, scale: Values | float) -> Affine:
    layer, rows = heads.linear.layer, heads.rows.reshape(-1)
    plain = isinstance(scale, float) or bool(np.all(scale == 1))
    same = plain and len(rows) == len(layer.weight) and np.array_equal(rows, np.arange(len(rows)))
    picked = layer if same else Affine(layer.weight[rows], None if layer.bias is None else layer.bias[rows])
    return picked if plain else picked.scaled(np.asarray(scale, np.float32))
