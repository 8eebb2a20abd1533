"""llama2.c files: a published model against its golden logits, and files written as export.py writes them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm import source
from edgelm.errors import SourceError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models.reference import logits
from edgelm.runtime.session import open_session
from edgelm.spec import TransformerSpec
from edgelm_converters import llama2c

WIDTH, FFN, LAYERS, HEADS, KV_HEADS, VOCAB, POSITIONS, GROUP = 16, 24, 2, 4, 2, 13, 20, 8
HEAD_DIM = WIDTH // HEADS
IDS = np.random.default_rng(3).integers(0, VOCAB, POSITIONS)

Weights = dict[str, NDArray[np.float32]]


def weights(*, tied: bool) -> Weights:
    """The tensors of llama2.c's `Transformer`, for all layers."""
    rng = np.random.default_rng(0)
    shapes = {
        "tok_embeddings": (VOCAB, WIDTH), "attention_norm": (LAYERS, WIDTH), "wq": (LAYERS, WIDTH, WIDTH),
        "wk": (LAYERS, KV_HEADS * HEAD_DIM, WIDTH), "wv": (LAYERS, KV_HEADS * HEAD_DIM, WIDTH), "wo": (LAYERS, WIDTH, WIDTH),
        "ffn_norm": (LAYERS, WIDTH), "w1": (LAYERS, FFN, WIDTH), "w2": (LAYERS, WIDTH, FFN), "w3": (LAYERS, FFN, WIDTH),
        "norm": (WIDTH,), "output": (VOCAB, WIDTH),
    }  # fmt: skip
    made = {name: rng.normal(1.0 if "norm" in name else 0.0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    return made | ({"output": made["tok_embeddings"]} if tied else {})


MATRICES = ("tok_embeddings", "wq", "wk", "wv", "wo", "w1", "w2", "w3")
NORMS = ("attention_norm", "ffn_norm", "norm")


def write(path: Path, version: int, *, tied: bool) -> Weights:
    """Writes the tensors in the order of export.py; returns what the file holds, which version 2 has rounded."""
    held = weights(tied=tied)
    sizes = (WIDTH, FFN, LAYERS, HEADS, KV_HEADS)
    matrices = MATRICES if tied else (*MATRICES, "output")
    if version == 0:
        header = struct.pack("<7i", *sizes, VOCAB if tied else -VOCAB, POSITIONS)
        tables = [np.zeros((POSITIONS, HEAD_DIM // 2), np.float32)] * 2
        first = ("tok_embeddings", "attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm")
        tensors = [*(held[name] for name in first), *tables, *([] if tied else [held["output"]])]
        path.write_bytes(header + b"".join(tensor.tobytes() for tensor in tensors))
        return held
    header = struct.pack("<Ii7iB", 0x616B3432, version, *sizes, VOCAB, POSITIONS, tied)
    header += struct.pack("<i", GROUP) if version == 2 else b""
    body = b"".join(held[name].tobytes() for name in NORMS)
    if version == 1:
        body += b"".join(held[name].tobytes() for name in matrices)
    else:
        scales = {name: np.abs(held[name].reshape(-1, GROUP)).max(1) / np.float32(127) for name in matrices}
        integers = {name: np.rint(held[name].reshape(-1, GROUP) / scales[name][:, None]).astype(np.int8) for name in matrices}
        body += b"".join(integers[name].tobytes() for name in matrices) + b"".join(scales[name].tobytes() for name in matrices)
        held |= {name: (integers[name] * scales[name][:, None]).reshape(held[name].shape) for name in matrices}
    path.write_bytes(header.ljust(256, b"\0") + body)
    return held | ({"output": held["tok_embeddings"]} if tied else {})


def forward(w: Weights, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """llama2.c's model.py in numpy, with its rotation of neighbouring pairs as complex numbers: logits (time, vocab)."""
    time = len(ids)
    turns = np.exp(1j * np.arange(time)[:, None] * 10_000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))  # (time, head_dim / 2)

    def norm(x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5) * weight

    def turned(x: NDArray[Any]) -> NDArray[Any]:
        pairs = x[..., 0::2] + 1j * x[..., 1::2]  # (time, heads, head_dim / 2)
        pairs = pairs * turns[:, None]
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    x = w["tok_embeddings"][ids].astype(np.float64)
    for i in range(LAYERS):
        y = norm(x, w["attention_norm"][i])
        q, k, v = ((y @ w[name][i].T).reshape(time, -1, HEAD_DIM) for name in ("wq", "wk", "wv"))
        q, k, v = turned(q), np.repeat(turned(k), HEADS // KV_HEADS, 1), np.repeat(v, HEADS // KV_HEADS, 1)
        scores = np.einsum("thd,shd->hts", q, k) / math.sqrt(HEAD_DIM)
        scores[:, np.triu(np.ones((time, time), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hts,shd->thd", shares, v).reshape(time, -1) @ w["wo"][i].T
        y = norm(x, w["ffn_norm"][i])
        gate = y @ w["w1"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["w3"][i].T)) @ w["w2"][i].T
    return np.asarray(norm(x, w["norm"]) @ w["output"].T)


def read(path: Path) -> LanguageModel:
    model = llama2c.read(path).model
    assert isinstance(model, LanguageModel)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_logits_are_those_of_llama2c(version: int, tied: bool, tmp_path: Path) -> None:
    wanted = forward(write(tmp_path / "m.bin", version, tied=tied), IDS)
    model = read(tmp_path / "m.bin")
    assert isinstance(model.spec, TransformerSpec)
    assert (model.spec.tied_head, model.spec.max_positions, model.name) == (tied, POSITIONS, "m")
    np.testing.assert_allclose(logits(model, IDS[None])[0], wanted, atol=1e-4)  # float32 against float64 (measured: 5e-6)
    session = open_session(lower(model).tflite)
    np.testing.assert_allclose([row.copy() for row in session.stream(IDS.tolist())], wanted, atol=1e-4)


def test_the_report_says_what_became_of_int8_weights(tmp_path: Path) -> None:
    write(tmp_path / "m.bin", 2, tied=True)
    origin = source.load(tmp_path / "m.bin").model.origin
    assert origin is not None
    assert (origin.format, origin.way, origin.proof) == ("llama2.c", "lifted", None)
    assert "version 2" in origin.why
    assert "rounded anew" in origin.why


@pytest.mark.data
def test_a_published_model_gives_its_golden_logits(data_folder: Path) -> None:
    folder = data_folder / "models" / "babyllama_tok105"
    golden = np.load(folder / "golden.npz")
    got = logits(read(folder / "model5000.bin"), golden["ids"][None], dtype=np.float64)[0]
    np.testing.assert_allclose(got, golden["logits"], atol=1e-6)  # both computed in float64


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("cut", [1, 100, -1, -400])
def test_truncated_files_are_refused(version: int, cut: int, tmp_path: Path) -> None:
    write(tmp_path / "m.bin", version, tied=True)
    (tmp_path / "m.bin").write_bytes((tmp_path / "m.bin").read_bytes()[:cut])
    with pytest.raises(SourceError, match="truncated"):
        read(tmp_path / "m.bin")


def header(*sizes: int, version: int = 1, group: int = 0) -> bytes:
    return struct.pack("<Ii7iBi", 0x616B3432, version, *sizes, 1, group).ljust(256, b"\0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: it has 0 bytes"),
        (b"PK\3\4" + bytes(300), "PyTorch pickle"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF" + bytes(300), "PyTorch pickle"),
        (b"ggml" + bytes(300), "no file of llama2.c"),
        (bytes(300), "no file of llama2.c"),
        (header(16, 24, 2, 4, 2, 13, 20, version=3), "version 3"),
        (header(16, 24, 2, 4, 2, 13, 20, version=2, group=0), "groups of 0"),
        (header(16, 24, 2, 4, 2, 13, 20, version=2, group=3), "groups of 3"),
        (header(16, 24, 2, 0, 2, 13, 20), "its header would say"),
        (header(16, 24, 2, 3, 1, 13, 20), "its header would say"),
        (header(16, 24, 2, 4, 3, 13, 20), "its header would say"),
        (header(16, 24, -2, 4, 2, 13, 20), "its header would say"),
        (header(12, 24, 2, 4, 2, 13, 20), "its header would say"),  # heads of 3 columns have no pairs
        (header(1 << 24, 1 << 24, 1 << 24, 4, 2, 1 << 24, 20), "truncated: it has 256 bytes, its header asks for"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "m.bin")


def test_a_longer_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.bin", 0, tied=True)
    with (tmp_path / "m.bin").open("ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(SourceError, match="its header asks for"):
        read(tmp_path / "m.bin")
