"""Small graphs that each show one figure of the latency model: what `host_calibration` measures.

None of them is a model anyone uses: chains of products of some total size, attention over a cache of some length, functions, lookups,
and a few steps of tiny language models for the cost of an op among others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgelm.lower import direct
from edgelm.model import LanguageModel
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.graph import Tensor
from edgelm.tflite.quantize import quantize
from edgelm.tflite.writer import GraphBuilder, ModelBuilder

CALL = "step"
SEED = 20
MODEL_WEIGHT = 3.0
WIDTH = 512
FLOAT_WIDTH = 256
"""Columns of matrices of four bytes a weight, so that streams of float32 come in as small steps as others."""
RAGGED_WIDTH = 480
STREAM_MB: Mapping[Encoding, tuple[float, ...]] = {
    Encoding.FLOAT32: (0.5, 1, 1.5, 1.8, 2.2, 3, 4, 6, 12, 18, 24, 40, 80),
    Encoding.INT8: (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 36, 60),
    Encoding.INT4_BLOCK32: (0.3, 0.6, 1, 1.4, 2, 3, 6, 10, 16, 24),
    Encoding.INT4: (0.5, 2, 6),
}
"""Total weights of chains of products with one row, MB: from sets that fit the second level to such that fit none."""
ROWS = (16, 32, 64)
ATTENTION = ((4, 1, 96, 48), (2, 4, 320, 64), (8, 1, 400, 32), (4, 32, 160, 48), (4, 64, 320, 32))
"""kv_heads, queries for each, slots, head_dim."""
SMALL_MODELS: Mapping[str, tuple[ModelSpec, tuple[Encoding, ...]]] = {
    "small LSTM": (
        RecurrentSpec(1500, 48, "lstm", (80,), hidden=(DenseLayer(48),), tied_head=True),
        (Encoding.FLOAT32, Encoding.INT8, Encoding.INT4_BLOCK32),
    ),
    "three GRUs": (RecurrentSpec(3000, 64, "gru", (160, 160, 160)), (Encoding.INT8,)),
    "two LSTMs": (RecurrentSpec(2000, 128, "lstm", (256, 192)), (Encoding.FLOAT32, Encoding.INT8)),
    "small GPT": (
        TransformerSpec(3000, 256, 2, 8, 8, 32, 1024, 128, position="learned", norm="layer", activation="gelu", gated=False),
        (Encoding.INT8, Encoding.INT4_BLOCK32),
    ),
    "small transformer": (
        TransformerSpec(2500, 160, 3, 5, 5, 32, 480, 320),
        (Encoding.FLOAT32, Encoding.INT8, Encoding.INT4_BLOCK32),
    ),
    "grouped attention": (
        TransformerSpec(1200, 224, 5, 7, 1, 32, 448, 192, norm="layer", gated=False, activation="gelu"),
        (Encoding.INT8,),
    ),
}


@dataclass(frozen=True)
class Graph:
    """A file to time: each of its signatures is one measured call.

    Attributes:
        label: For people.
        write: Makes the file.
        weight: How much it counts: ops of a step cost more among others than in a chain of their like, and steps are to be predicted.
    """

    label: str
    write: Callable[[], bytes]
    weight: float = 1.0


def graphs() -> Iterator[Graph]:
    """All of them; written, they are about 600 MB."""
    for encoding, sizes in STREAM_MB.items():
        for size in sizes:
            yield Graph(f"{encoding.value} stream of {size:g} MB", partial(_chain, encoding, _count(encoding, size), 1, _width(encoding)))
    for encoding in STREAM_MB:
        for rows in ROWS:
            yield Graph(f"{encoding.value} products of {rows} rows", partial(_chain, encoding, 3, rows))
    for rows in (1, 32):
        yield Graph(f"int8 products of {rows} rows and {RAGGED_WIDTH} columns", partial(_chain, Encoding.INT8, 2, rows, RAGGED_WIDTH))
    for shape in ATTENTION:
        yield Graph(f"scores {shape}", partial(_attention, *shape, scores=True))
        yield Graph(f"mixtures {shape}", partial(_attention, *shape, scores=False))
    for name, (op, rows) in _ELEMENTWISE.items():
        yield Graph(name, partial(_repeated, op, rows))
    for encoding in (Encoding.FLOAT32, Encoding.INT8):
        for rows in (1, 48):
            yield Graph(f"{encoding.value} lookups of {rows} rows", partial(_lookups, encoding, rows))
    for name, (spec, encodings) in SMALL_MODELS.items():
        for encoding in encodings:
            yield Graph(f"{name}, {encoding.value}", partial(_small_model, spec, encoding), MODEL_WEIGHT)


def _width(encoding: Encoding) -> int:
    return FLOAT_WIDTH if encoding is Encoding.FLOAT32 else WIDTH


def _count(encoding: Encoding, megabytes: float) -> int:
    bits = 4.5 if encoding is Encoding.INT4_BLOCK32 else encoding.bits
    return max(1, round(megabytes * 8e6 / (bits * _width(encoding) ** 2)))


def _weights(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    return rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)


def _chain(encoding: Encoding, count: int, rows: int, width: int = WIDTH) -> bytes:
    """`count` square products, one after the other."""
    rng = np.random.default_rng(SEED)
    builder = ModelBuilder()
    g = builder.subgraph(CALL)
    x = g.input("x", (rows, width))
    for index in range(count):
        x = g.fully_connected(x, g.weight(f"w{index}", quantize(_weights(rng, width, width), encoding)))
    g.output("y", x)
    return builder.finish()


def _attention(heads: int, queries: int, slots: int, head_dim: int, *, scores: bool) -> bytes:
    """Six products with caches, as scores with keys (heads, slots, head_dim) or as mixtures of values."""
    builder = ModelBuilder()
    g = builder.subgraph(CALL)
    q = g.input("q", (1, heads, queries, head_dim if scores else slots))
    for index in range(6):
        cache = g.input(f"k_{index}", (1, heads, slots, head_dim))
        g.output(f"y_{index}", g.batch_matmul(q, cache, transpose_b=scores))
    return builder.finish()


def _norm(g: GraphBuilder, x: Tensor) -> Tensor:
    return g.mul(x, g.rsqrt(g.add(g.mean(g.square(x), -1), 1e-5)))


def _cut(g: GraphBuilder, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return g.concatenate([g.slice(x, 1, half, half, resizable=False), g.slice(x, 1, 0, half, resizable=False)])


def _gate(g: GraphBuilder, x: Tensor) -> Tensor:
    a, b = g.split(x, 2)
    return g.concatenate([g.mul(g.logistic(a), b), g.add(a, b)])


_ELEMENTWISE: Mapping[str, tuple[Callable[[GraphBuilder, Tensor], Tensor], int]] = {
    "tanh of a row": (lambda g, x: g.tanh(x), 1),
    "tanh of 48 rows": (lambda g, x: g.tanh(x), 48),
    "softmax of 48 rows": (lambda g, x: g.softmax(x), 48),
    "gelu of 48 rows": (lambda g, x: g.gelu(x), 48),
    "sums of 48 rows": (lambda g, x: g.add(x, x), 48),
    "norms of a row": (_norm, 1),
    "norms of 48 rows": (_norm, 48),
    "cuts of a row": (_cut, 1),
    "cuts of 48 rows": (_cut, 48),
    "gates of a row": (_gate, 1),
    "gates of 48 rows": (_gate, 48),
}


def _repeated(op: Callable[[GraphBuilder, Tensor], Tensor], rows: int) -> bytes:
    builder = ModelBuilder()
    g = builder.subgraph(CALL)
    x = g.input("x", (rows, WIDTH))
    for _ in range(8):
        x = op(g, x)
    g.output("y", x)
    return builder.finish()


def _lookups(encoding: Encoding, rows: int) -> bytes:
    """Five lookups with a sum behind each, so that XNNPACK has to stop and start again."""
    rng = np.random.default_rng(SEED)
    builder = ModelBuilder()
    g = builder.subgraph(CALL)
    ids, x = g.input("ids", (rows,), "int32"), g.input("x", (rows, WIDTH))
    for index in range(5):
        x = g.add(x, g.embedding_lookup(ids, g.weight(f"w{index}", quantize(_weights(rng, 300, WIDTH), encoding))))
    g.output("y", x)
    return builder.finish()


def _small_model(spec: ModelSpec, encoding: Encoding) -> bytes:
    rng, shapes = np.random.default_rng(SEED), weight_shapes(spec)
    weights = {name: _weights(rng, *shape) if len(shape) == 2 else np.ones(shape, np.float32) for name, shape in shapes.items()}
    encodings = {name: encoding for name, shape in shapes.items() if len(shape) == 2}
    return direct.lower(LanguageModel(spec, weights, encodings=encodings)).tflite
