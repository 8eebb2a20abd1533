"""Tiny graphs with the signatures of edgelm's models, written op by op, and their numpy oracles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm.spec import Encoding
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import quantize
from edgelm.tflite.writer import GraphBuilder, ModelBuilder

VOCAB, WIDTH = 17, 8
Matrix = NDArray[np.float32]


def weights(seed: int = 0) -> dict[str, Matrix]:
    rng = np.random.default_rng(seed)
    shapes = {"table": (VOCAB, WIDTH), "mix": (WIDTH, WIDTH), "head": (VOCAB, WIDTH), "places": (64, WIDTH)}
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def recurrent_bytes(w: dict[str, Matrix]) -> bytes:
    """h' = tanh(table[token] + mix h), logits = head h'."""
    model = ModelBuilder()
    g = model.subgraph("step")
    token, h = g.input("token", (1,), "int32"), g.input("h_0", (1, WIDTH))
    new = g.tanh(g.add(g.embedding_lookup(token, stored(g, "table", w)), g.fully_connected(h, stored(g, "mix", w))))
    g.output("logits", g.fully_connected(new, stored(g, "head", w)))
    g.output("h_0", new)
    return model.finish()


def recurrent_logits(w: dict[str, Matrix], ids: NDArray[np.int32]) -> Matrix:
    """ids (batch, time) -> (batch, time, vocab)."""
    h = np.zeros((len(ids), WIDTH), np.float32)
    rows = []
    for column in ids.T:
        h = np.tanh(w["table"][column] + h @ w["mix"].T)
        rows.append(h @ w["head"].T)
    return np.stack(rows, axis=1)


def transformer_bytes(
    w: dict[str, Matrix], ladder: tuple[int, ...], prefill: tuple[tuple[int, int], ...] = (), *, transposed: bool = False
) -> bytes:
    """One attention layer with one head; `prefill` lists (tokens a call, cache slots)."""
    model = ModelBuilder()
    for slots in ladder:
        g = model.subgraph(f"decode_{slots}")
        g.output("logits", head(g, _attend(g, w, g.input("token", (1,), "int32"), slots, transposed), w))
    for time, slots in prefill:
        g = model.subgraph(f"prefill_{time}")
        rows = _attend(g, w, g.input("tokens", (time,), "int32"), slots, transposed)  # (time, width)
        g.output("logits", head(g, g.gather(rows, g.input("last", (1,), "int32")), w))
    return model.finish()


def _attend(g: GraphBuilder, w: dict[str, Matrix], tokens: Tensor, slots: int, transposed: bool) -> Tensor:
    (time,) = tokens.shape
    position, mask = g.input("position", (1,), "int32"), g.input("mask", (1, 1, 1, slots))
    keys = g.input("k_0", (1, 1, slots, WIDTH))
    values = g.input("v_0", (1, 1, WIDTH, slots) if transposed else (1, 1, slots, WIDTH))
    places = g.gather(g.constant(w["places"]), g.add(position, g.constant(np.arange(time, dtype=np.int32))))
    x = g.add(g.embedding_lookup(tokens, stored(g, "table", w)), places)  # (time, width)
    q = g.reshape(x, (1, 1, time, WIDTH))
    k = g.reshape(g.fully_connected(x, stored(g, "mix", w)), (1, 1, time, WIDTH))
    causal = g.constant(np.triu(np.full((1, 1, time, time), -1e9, np.float32), 1))
    past = g.add(g.batch_matmul(q, keys, transpose_b=True), mask)  # (1, 1, time, slots)
    share = g.softmax(g.concatenate([past, g.add(g.batch_matmul(q, k, transpose_b=True), causal)]))
    seen = g.batch_matmul(g.slice(share, 3, 0, slots), values, transpose_b=transposed)
    seen = g.add(seen, g.batch_matmul(g.slice(share, 3, slots, time), q))
    g.output("k_0", k)
    g.output("v_0", g.transpose(q, (0, 1, 3, 2)) if transposed else g.add(q, 0.0))
    return g.reshape(seen, (time, WIDTH))


def transformer_logits(w: dict[str, Matrix], ids: NDArray[np.int32]) -> Matrix:
    """ids (batch, time) -> (batch, time, vocab)."""
    time = ids.shape[1]
    x = w["table"][ids] + w["places"][:time]  # (batch, time, width)
    scores = x @ (x @ w["mix"].T).transpose(0, 2, 1) + np.triu(np.full((time, time), -1e9), 1)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return ((powers / powers.sum(-1, keepdims=True)) @ x @ w["head"].T).astype(np.float32)


def forward_bytes(w: dict[str, Matrix], time: int, *, last_only: bool, probabilities: bool) -> bytes:
    """logits = head mean(table[ids]) of the last three of the window (`last_only`), or of each token alone."""
    model = ModelBuilder()
    g = model.subgraph("forward")
    ids = g.input("ids", (1, time), "int32")
    rows = g.embedding_lookup(g.reshape(ids, (-1,)), stored(g, "table", w))  # (time, width)
    if last_only:
        rows = g.mean(g.slice(rows, 0, time - 3, 3), 0)
    scores = head(g, rows, w)
    scores = g.softmax(scores) if probabilities else scores
    g.output("scores", scores if last_only else g.reshape(scores, (1, time, VOCAB)))
    return model.finish()


def head(g: GraphBuilder, rows: Tensor, w: dict[str, Matrix]) -> Tensor:
    return g.fully_connected(rows, stored(g, "head", w))


def stored(g: GraphBuilder, name: str, w: dict[str, Matrix]) -> Tensor:
    return g.weight(name, quantize(w[name], Encoding.FLOAT32))
