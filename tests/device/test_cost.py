"""What a call costs, read off graphs that are small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgelm.device.cost import encoding_of, step_cost, stored_bytes
from edgelm.errors import ArtifactError
from edgelm.spec import Encoding
from edgelm.tflite.quantize import quantize
from edgelm.tflite.reader import read
from edgelm.tflite.writer import ModelBuilder

VOCAB, WIDTH = 40, 32
RANDOM = np.random.default_rng(3)


def weights(rows: int, columns: int) -> np.ndarray:
    return RANDOM.standard_normal((rows, columns)).astype(np.float32)


def tied_step(encoding: Encoding) -> bytes:
    """token -> row of a table (40, 32) -> tanh -> product with the same table."""
    builder = ModelBuilder()
    g = builder.subgraph("step")
    token = g.input("token", (1,), "int32")
    table = g.weight("embedding.weight", quantize(weights(VOCAB, WIDTH), encoding))
    g.output("logits", g.fully_connected(g.tanh(g.embedding_lookup(token, table)), table))
    return builder.finish()


def test_a_tied_int8_step_by_hand():
    cost = step_cost(read(tied_step(Encoding.INT8)), "step")
    lookup, tanh, product = cost.ops
    assert [op.name for op in cost.ops] == ["EMBEDDING_LOOKUP", "TANH", "FULLY_CONNECTED"]
    assert lookup.weight_bytes == WIDTH + 4  # one row and its scale
    assert (lookup.macs, lookup.functions, lookup.own_kernel) == (0, 2 * WIDTH, True)  # each value is turned to float
    assert (tanh.functions, tanh.weight_bytes, tanh.activation_bytes, tanh.own_kernel) == (WIDTH, 0, 2 * 4 * WIDTH, False)
    assert (product.macs, product.multiplied, product.rows) == (VOCAB * WIDTH, "int8", 1)
    assert product.ragged  # 32 columns do not fill a tile of 64
    assert product.weight_bytes == VOCAB * WIDTH + 4 * VOCAB
    assert product.activation_bytes == 4 * (WIDTH + VOCAB)
    assert cost.tokens == 1
    # the table once, the token, and the activations of the product: the row it reads and the logits
    assert cost.working_set_bytes == VOCAB * WIDTH + 4 * VOCAB + 4 + 4 * (WIDTH + VOCAB)


@pytest.mark.parametrize(
    ("encoding", "bytes_read", "multiplied"),
    [
        (Encoding.FLOAT32, VOCAB * WIDTH * 4, "float"),
        (Encoding.FLOAT16, VOCAB * WIDTH * 4, "float"),  # becomes float32 when the file is loaded
        (Encoding.INT8, VOCAB * (WIDTH + 4), "int8"),
        (Encoding.INT4, VOCAB * (WIDTH // 2 + 4), "int4"),
        (Encoding.INT4_BLOCK32, VOCAB * (WIDTH // 2 + 2), "int4_block"),
    ],
)
def test_a_product_reads_what_its_encoding_stores(encoding, bytes_read, multiplied):
    builder = ModelBuilder()
    g = builder.subgraph("step")
    w = g.weight("w", quantize(weights(VOCAB, WIDTH), encoding))
    g.output("y", g.fully_connected(g.input("x", (1, WIDTH)), w))
    cost = step_cost(read(builder.finish()), "step")
    (product,) = (op for op in cost.ops if op.name == "FULLY_CONNECTED")
    assert product.weight_bytes == bytes_read
    assert (product.macs, product.multiplied) == (VOCAB * WIDTH, multiplied)
    assert product.ragged == (encoding is Encoding.INT8)


def test_columns_that_fill_tiles_are_not_ragged():
    builder = ModelBuilder()
    g = builder.subgraph("step")
    g.output("y", g.fully_connected(g.input("x", (1, 128)), g.weight("w", quantize(weights(VOCAB, 128), Encoding.INT8))))
    assert not step_cost(read(builder.finish()), "step").ops[0].ragged


@pytest.mark.parametrize("encoding", list(Encoding))
def test_stored_bytes_is_what_the_writer_stores(encoding):
    q = quantize(weights(VOCAB, 2 * WIDTH), encoding)
    assert stored_bytes((VOCAB, 2 * WIDTH), encoding) == q.nbytes


@pytest.mark.parametrize("target", [Encoding.INT8, Encoding.INT4])
def test_other_encodings_cost_what_they_would_when_written(target):
    asked = step_cost(read(tied_step(Encoding.FLOAT32)), "step", {"embedding.weight": target})
    written = step_cost(read(tied_step(target)), "step")
    assert asked == written


def test_several_rows_cost_as_many_products_but_one_read():
    builder = ModelBuilder()
    g = builder.subgraph("prefill_8")
    ids = g.input("tokens", (8,), "int32")
    table = g.weight("embedding.weight", quantize(weights(VOCAB, WIDTH), Encoding.INT8))
    g.output("logits", g.fully_connected(g.embedding_lookup(ids, table), table))
    cost = step_cost(read(builder.finish()), "prefill_8")
    assert cost.tokens == 8
    assert (cost.ops[1].macs, cost.ops[1].rows) == (8 * VOCAB * WIDTH, 8)
    assert cost.ops[1].weight_bytes == VOCAB * (WIDTH + 4)


def test_attention_over_a_cache_counts_its_slots():
    builder = ModelBuilder()
    g = builder.subgraph("decode_16")
    q, k = g.input("q", (1, 2, 3, 8)), g.input("k_0", (1, 2, 16, 8))
    g.output("scores", g.batch_matmul(q, k, transpose_b=True))
    cost = step_cost(read(builder.finish()), "decode_16")
    (product,) = cost.ops
    assert (product.macs, product.multiplied, product.rows) == (2 * 3 * 16 * 8, None, 3)
    assert product.packed_bytes == 4 * 2 * 16 * 8  # the keys, which are no constant
    assert product.state_bytes == 4 * (2 * 3 * 8 + 2 * 16 * 8)  # both are inputs of the signature
    assert product.activation_bytes == 4 * 2 * 3 * 16  # the scores
    assert cost.working_set_bytes == product.state_bytes + product.activation_bytes + product.packed_bytes
    assert cost.weight_bytes == 0


def test_signatures_are_counted_apart():
    builder = ModelBuilder()
    w = quantize(weights(VOCAB, WIDTH), Encoding.INT8)
    for name, tanhs in (("decode_1", 1), ("decode_2", 2)):
        g = builder.subgraph(name)
        x = g.input("x", (1, WIDTH))
        for _ in range(tanhs):
            x = g.tanh(x)
        g.output("y", g.fully_connected(x, g.weight("w", w)))
    model = read(builder.finish())
    assert len(step_cost(model, "decode_1").ops) == 2
    assert len(step_cost(model, "decode_2").ops) == 3


def test_an_unknown_signature_is_refused():
    with pytest.raises(ArtifactError, match="no signature 'forward'"):
        step_cost(read(tied_step(Encoding.INT8)), "forward")


def test_encodings_are_told_apart():
    model = read(tied_step(Encoding.INT4))
    assert encoding_of(model.tensor("embedding.weight")) is Encoding.INT4
    assert encoding_of(model.tensor("token")) is None
