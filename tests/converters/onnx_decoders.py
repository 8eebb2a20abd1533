"""Writes tiny decoder transformers as ONNX files, with the fused operations of onnxruntime and of opset 23 and with parts no family has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from handmade_onnx import Writer
from onnx import TensorProto

VOCAB, WIDTH, FFN, POSITIONS, LAYERS = 29, 64, 24, 48, 2
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16  # onnxruntime turns heads of a multiple of 16 columns
EPS = 1e-5


@dataclass(frozen=True)
class Form:
    """What a decoder is made of.

    Attributes:
        attention: A function name of `_ATTENTIONS`.
        norm: Operation: LayerNormalization, SimplifiedLayerNormalization or RMSNormalization.
        skip: Residual sums and the norms behind them are Skip... operations.
        feed: A function name of `_FEEDS`.
        positions: Learned positions; else the attention turns its queries and keys.
        parallel: Attention and feed-forward layer read the block's input.
        embedding_norm: A norm right behind the embeddings.
        end: What is done to the logits: "", "softmax", "log_softmax", "scaled" or "softcap".
        mask: Of attention by hand: "causal", "full", "window", "alibi", "tokens".
        product: How the head and the feed-forward layer multiply: "matmul", "gemm", "fused" (FusedMatMul) or "einsum".
    """

    attention: str = "by_hand"
    norm: str = "LayerNormalization"
    skip: bool = False
    feed: str = "gelu"
    positions: bool = True
    parallel: bool = False
    embedding_norm: bool = False
    end: str = ""
    mask: str = "causal"
    product: str = "matmul"
    opset: int = 20


class Decoder(Writer):
    """A writer with the parts of a decoder; `ids` is (batch, time)."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.rms = form.norm != "LayerNormalization"
        self.ids = self.input("input_ids", TensorProto.INT64, "batch", "time")
        self.size = self.add("Shape", self.ids)
        self.time = self.add("Gather", self.size, self.const(1, np.int64))  # a number
        self.range = self.add("Range", self.const(0, np.int64), self.time, self.const(1, np.int64))

    def linear(self, x: str, rows: int, columns: int = WIDTH, *, bias: bool = True) -> str:
        weight = self.random(columns, rows) / math.sqrt(columns) * 1.6
        added = self.const(self.random(rows)) if bias else ""
        if self.form.product == "gemm" and bias:
            flat = self.add("Reshape", x, self.const([-1, columns], np.int64))
            y = self.add("Gemm", flat, self.const(weight.T), added, transB=1)
            return str(self.add("Reshape", y, self.const([1, -1, rows], np.int64)))
        if self.form.product == "fused":
            y = self.add("FusedMatMul", x, self.const(weight.T / 2), domain="com.microsoft", transB=1, alpha=2.0)
        elif self.form.product == "einsum":
            y = self.add("Einsum", x, self.const(weight), equation="btc,cr->btr")
        else:
            y = self.add("MatMul", x, self.const(weight))
        return str(self.add("Add", added, y)) if bias else str(y)

    def norm(self, x: str) -> str:
        weight = self.const(1 + self.random(WIDTH) / 2)
        inputs = (x, weight) if self.rms else (x, weight, self.const(self.random(WIDTH)))
        return str(self.add(self.form.norm, *inputs, epsilon=EPS))

    def summed(self, x: str, branch: str) -> tuple[str, str]:
        """(the sum, its norm)."""
        if not self.form.skip:
            total = self.add("Add", x, branch)
            return total, self.norm(total)
        weight, bias = self.const(1 + self.random(WIDTH) / 2), self.const(self.random(WIDTH))
        inputs = (branch, x, weight) if self.rms else (branch, x, weight, bias, self.const(self.random(WIDTH)))
        op = "SkipSimplifiedLayerNormalization" if self.rms else "SkipLayerNormalization"
        normal, _, _, total = self.add(op, *inputs, outputs=4, domain="com.microsoft", epsilon=EPS)
        return total, normal

    def rotary_tables(self) -> tuple[str, str]:
        frequencies = 1 / 10_000 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = np.outer(np.arange(POSITIONS), frequencies)
        return self.const(np.cos(angles), np.float32), self.const(np.sin(angles), np.float32)

    def mask_input(self) -> str:
        """(batch, total) ones; the same at every call."""
        return self._once("attention_mask", "total")

    def positions_input(self) -> str:
        """(batch, time)."""
        return self._once("position_ids", "time")

    def _once(self, name: str, length: str) -> str:
        known = any(given.name == name for given in self.inputs)
        return name if known else self.input(name, TensorProto.INT64, "batch", length)

    def cache(self, kind: str, layer: int) -> str:
        return self.input(f"past_key_values.{layer}.{kind}", TensorProto.FLOAT, "batch", KV_HEADS, "past", HEAD_DIM)


def decoder(form: Form) -> Decoder:
    """A decoder of two blocks."""
    self = Decoder(form)
    x = self.add("Gather", self.const(self.random(VOCAB, WIDTH)), self.ids)
    if form.positions:
        x = self.add("Add", x, self.add("Gather", self.const(self.random(POSITIONS, WIDTH)), self.range))
    if form.embedding_norm:
        x = self.norm(x)
    attend, feed = _ATTENTIONS[form.attention], _FEEDS[form.feed]
    normal = self.norm(x)
    for layer in range(LAYERS):
        if form.parallel:
            branches = self.add("Add", attend(self, normal, layer), feed(self, self.norm(x)))
            x = self.add("Add", branches, x)
            normal = self.norm(x)
        else:
            x, normal = self.summed(x, attend(self, normal, layer))
            x, normal = self.summed(x, feed(self, normal))
    self.output(_end(self, self.linear(normal, VOCAB, bias=False)), "logits")
    return self


def _end(self: Decoder, logits: str) -> str:
    half = self.const(0.5, np.float32)
    if self.form.end == "scaled":
        return str(self.add("Mul", logits, half))
    if self.form.end == "softcap":
        return str(self.add("Mul", self.add("Tanh", self.add("Div", logits, half)), half))
    ends = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
    return str(self.add(ends[self.form.end], logits, axis=-1)) if self.form.end else logits


# Attention


def _split_heads(self: Decoder, x: str, heads: int) -> str:
    apart = self.add("Reshape", x, self.const([0, 0, heads, HEAD_DIM], np.int64))
    return str(self.add("Transpose", apart, perm=[0, 2, 1, 3]))


def _mask(self: Decoder) -> str:
    """(1, 1, time, time), or (1, heads, time, time)."""
    column, row = (self.add("Unsqueeze", self.range, self.const([axis], np.int64)) for axis in (1, 0))
    seen = self.add("LessOrEqual", row, column)
    if self.form.mask == "window":
        near = self.add("Greater", row, self.add("Sub", column, self.const(20, np.int64)))
        seen = self.add("And", seen, near)
    if self.form.mask == "tokens":
        padding = self.add("Equal", self.ids, self.const(0, np.int64))
        seen = self.add("And", seen, self.add("Not", padding))
    added = self.add("Where", seen, self.const(0, np.float32), self.const(-1e9, np.float32))
    if self.form.mask == "full":
        added = self.add("Mul", added, self.const(0, np.float32))
    if self.form.mask == "alibi":
        distance = self.add("Cast", self.add("Sub", row, column), to=TensorProto.FLOAT)
        slopes = self.const(2.0 ** -np.arange(1, HEADS + 1).reshape(1, HEADS, 1, 1), np.float32)
        added = self.add("Add", added, self.add("Mul", distance, slopes))
    return str(added)


def _by_hand(self: Decoder, x: str, layer: int) -> str:
    """Query heads 0, 2 share key head 0, and 1, 3 key head 1: keys are tiled, not repeated."""
    q = _split_heads(self, self.linear(x, HEADS * HEAD_DIM), HEADS)
    k, v = (_split_heads(self, self.linear(x, KV_HEADS * HEAD_DIM), KV_HEADS) for _ in "kv")
    k, v = (self.add("Tile", part, self.const([1, HEADS // KV_HEADS, 1, 1], np.int64)) for part in (k, v))
    scores = self.add("MatMul", q, self.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = self.add("Add", self.add("Mul", scores, self.const(0.4, np.float32)), _mask(self))
    y = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
    joined = self.add("Reshape", self.add("Transpose", y, perm=[0, 2, 1, 3]), self.const([0, 0, WIDTH], np.int64))
    return self.linear(joined, WIDTH)


def _einsum(self: Decoder, x: str, layer: int) -> str:
    q, k, v = (self.add("Reshape", self.linear(x, WIDTH), self.const([0, 0, HEADS, HEAD_DIM], np.int64)) for _ in "qkv")
    scores = self.add("Einsum", self.add("Mul", q, self.const(HEAD_DIM**-0.5, np.float32)), k, equation="bqhd,bkhd->bhqk")
    weights = self.add("Softmax", self.add("Add", scores, _mask(self)), axis=-1)
    y = self.add("Einsum", weights, v, equation="bhqk,bkhd->bqhd")
    return self.linear(self.add("Reshape", y, self.const([0, 0, WIDTH], np.int64)), WIDTH)


def _microsoft_attention(self: Decoder, x: str, layer: int) -> str:
    weights, bias = self.const(self.random(WIDTH, 3 * WIDTH)), self.const(self.random(3 * WIDTH))
    y = self.add("Attention", x, weights, bias, domain="com.microsoft", num_heads=HEADS, unidirectional=1)
    return self.linear(y, WIDTH)


def _multi_head(self: Decoder, x: str, layer: int) -> str:
    parts = [self.linear(x, WIDTH, bias=False) for _ in "qkv"]
    bias = self.const(self.random(3 * WIDTH))
    return self.linear(self.add("MultiHeadAttention", *parts, bias, domain="com.microsoft", num_heads=HEADS, unidirectional=1), WIDTH)


def _group_query(self: Decoder, x: str, layer: int, *, packed: bool = False, inside: bool = True, interleaved: int = 0) -> str:
    sizes = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)
    q, k, v = (self.linear(x, sum(sizes)), "", "") if packed else (self.linear(x, size, bias=False) for size in sizes)
    tables = self.rotary_tables()
    if not inside:
        positions = self.positions_input()
        q, k = (
            self.add("RotaryEmbedding", part, positions, *tables, domain="com.microsoft", num_heads=heads)
            for part, heads in ((q, HEADS), (k, KV_HEADS))
        )
    length = self.add("ReduceSum", self.mask_input(), self.const([1], np.int64), keepdims=0)  # as onnxruntime-genai writes it
    lengths = self.add("Cast", self.add("Sub", length, self.const(1, np.int64)), to=TensorProto.INT32)  # (batch,)
    total = self.add("Cast", self.add("Gather", self.add("Shape", self.mask_input()), self.const(1, np.int64)), to=TensorProto.INT32)
    y, *new = self.add(
        "GroupQueryAttention",
        *(q, k, v, self.cache("key", layer), self.cache("value", layer), lengths, total),
        *(tables if inside else ()),
        outputs=3,
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
        do_rotary=int(inside),
        rotary_interleaved=interleaved,
    )
    for kind, tensor in zip(("key", "value"), new, strict=True):
        self.output(tensor, f"present.{layer}.{kind}")
    return self.linear(y, WIDTH, bias=False)


def _opset_23(self: Decoder, x: str, layer: int, *, flat: bool, kv_heads: int = HEADS) -> str:
    q = self.linear(x, HEADS * HEAD_DIM, bias=False)
    k, v = (self.linear(x, kv_heads * HEAD_DIM, bias=False) for _ in "kv")
    position = self.add("Unsqueeze", self.range, self.const([0], np.int64))
    cos, sin = self.rotary_tables()
    if not flat:
        q, k, v = _split_heads(self, q, HEADS), _split_heads(self, k, kv_heads), _split_heads(self, v, kv_heads)
    counts = (HEADS, kv_heads) if flat else (0, 0)
    turned = [
        self.add("RotaryEmbedding", part, cos, sin, position, interleaved=1, **({"num_heads": count} if count else {}))
        for part, count in zip((q, k), counts, strict=True)
    ]
    heads = {"q_num_heads": HEADS, "kv_num_heads": kv_heads} if flat else {}
    y = self.add("Attention", *turned, v, is_causal=1, scale=0.3, **heads)
    if not flat:
        y = self.add("Reshape", self.add("Transpose", y, perm=[0, 2, 1, 3]), self.const([0, 0, WIDTH], np.int64))
    return self.linear(y, WIDTH, bias=False)


_ATTENTIONS = {
    "by_hand": _by_hand,
    "einsum": _einsum,
    "microsoft": _microsoft_attention,
    "multi_head": _multi_head,
    "group_query": _group_query,
    "group_query_packed": lambda self, x, layer: _group_query(self, x, layer, packed=True),
    "group_query_interleaved": lambda self, x, layer: _group_query(self, x, layer, interleaved=1),
    "rotary_apart": lambda self, x, layer: _group_query(self, x, layer, inside=False),
    "opset_23": lambda self, x, layer: _opset_23(self, x, layer, flat=False),
    "opset_23_flat": lambda self, x, layer: _opset_23(self, x, layer, flat=True),
    "opset_23_grouped": lambda self, x, layer: _opset_23(self, x, layer, flat=False, kv_heads=KV_HEADS),
}


# Feed-forward layers


def _biased(self: Decoder, x: str, op: str) -> str:
    product = self.linear(x, FFN, bias=False)
    inner = self.add(op, product, self.const(self.random(FFN)), domain="com.microsoft")
    return self.linear(inner, WIDTH, FFN)


def _single(self: Decoder, x: str, op: str, **attributes: object) -> str:
    domain = "com.microsoft" if op == "QuickGelu" else ""
    return self.linear(self.add(op, self.linear(x, FFN), domain=domain, **attributes), WIDTH, FFN)


def _gated(self: Decoder, x: str, *, packed: bool) -> str:
    if packed:
        gate, up = self.add("Split", self.linear(x, 2 * FFN, bias=False), outputs=2, axis=-1, num_outputs=2)
    else:
        up, gate = self.linear(x, FFN, bias=False), self.linear(x, FFN, bias=False)
    inner = self.add("Mul", self.add("Mul", gate, self.add("Sigmoid", gate)), up)
    return self.linear(inner, WIDTH, FFN, bias=False)


_FEEDS = {
    "gelu": lambda self, x: _single(self, x, "Gelu"),
    "relu": lambda self, x: _single(self, x, "Relu"),
    "leaky": lambda self, x: _single(self, x, "LeakyRelu", alpha=0.2),
    "bias_gelu": lambda self, x: _biased(self, x, "BiasGelu"),
    "fast_gelu": lambda self, x: _biased(self, x, "FastGelu"),
    "quick_gelu": lambda self, x: _single(self, x, "QuickGelu"),
    "gated": lambda self, x: _gated(self, x, packed=False),
    "gated_packed": lambda self, x: _gated(self, x, packed=True),
}
