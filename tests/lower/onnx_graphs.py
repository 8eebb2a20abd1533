"""Small ONNX language models in no family of edgelm, written by hand and by torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.model import GraphCall, OpaqueGraph

VOCAB, WIDTH, HEADS, TIME = 40, 16, 2, 8


def handmade(*nodes: Any, constants: dict[str, np.ndarray] | None = None, domains: tuple[str, ...] = ()) -> Any:
    """A model of `nodes` between an embedding that makes `x` and a head that reads `y`; ids are (batch, time) int64."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(3)
    weights = {"table": random.normal(size=(VOCAB, WIDTH)), "head": random.normal(size=(WIDTH, VOCAB))}
    arrays = {**{name: array.astype(np.float32) for name, array in weights.items()}, **(constants or {})}
    first = helper.make_node("Gather", ["table", "ids"], ["x"], "embed")
    last = helper.make_node("MatMul", ["y", "head"], ["logits"], "project")
    graph = helper.make_graph(
        [first, *nodes, last],
        "lm",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", VOCAB])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in ("", *domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def opaque(path: Path, call: GraphCall | None = None, time: int = TIME, vocab_size: int = VOCAB) -> OpaqueGraph:
    """The graph in `path` as `edgelm_converters.onnx` hands it over."""
    return OpaqueGraph(path, "onnx", time, vocab_size, False, False, path.stem, call=call or GraphCall("ids", (1, time), "logits"))


def onnx_scores(path: Path, call: GraphCall) -> Callable[[np.ndarray], np.ndarray]:
    """The source: ids (1, time) -> (1, time, vocab) in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray) -> np.ndarray:
        window = np.zeros(int(np.prod(call.ids_shape)), np.int64)
        window[: ids.shape[1]] = ids[0]  # a causal model does not see what follows
        (scores,) = session.run([call.scores], {call.ids: window.reshape(call.ids_shape), **call.held})
        return np.asarray(scores, np.float32).reshape(1, len(window), -1)[:, : ids.shape[1]]

    return run


def torch_models(torch: Any) -> dict[str, Any]:
    """Name -> (module, example inputs): gated convolution, linear biases of distance (ALiBi) over a cache, a recurrent odd one."""
    nn = torch.nn

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
            self.layers = nn.ModuleList(nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=2) for _ in range(2))

        def forward(self, ids: Any) -> Any:
            x = self.table(ids).transpose(1, 2)
            for layer in self.layers:
                value, gate = layer(x)[..., :-2].chunk(2, 1)
                x = x + torch.tanh(value) * torch.sigmoid(gate)
            return self.head(x.transpose(1, 2))

    class Alibi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head, self.norm = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, ids: Any, past_k: Any, past_v: Any) -> Any:
            x = self.table(ids)
            batch, time, _ = x.shape
            q, k, v = (
                part.view(batch, time, HEADS, WIDTH // HEADS).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)
            )  # (batch, heads, time, head size)
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
            at = torch.arange(k.shape[2])
            distance = (at[None] - at[-time:, None]).float()  # (time, keys)
            slopes = torch.tensor([0.25, 0.0625])[:, None, None]
            weights = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + slopes * distance
            weights = torch.softmax(weights.masked_fill(distance > 0, -1e4), -1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, time, WIDTH))
            return self.head(x + torch.relu(x) ** 2), k, v

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
            self.lstm, self.gate = nn.LSTM(WIDTH, WIDTH, 2), nn.Linear(WIDTH, WIDTH)

        def forward(self, ids: Any, h: Any, c: Any) -> Any:
            y, (h, c) = self.lstm(self.table(ids), (h, c))  # (time, batch, width)
            return self.head(torch.sin(y * torch.sigmoid(self.gate(y)))).view(-1, VOCAB), h, c

    torch.manual_seed(0)
    ids = torch.randint(0, VOCAB, (1, TIME + 3))
    cache, state = torch.zeros(1, HEADS, 2, WIDTH // HEADS), torch.zeros(2, 1, WIDTH)
    return {
        "convolution": (Convolution(), {"ids": ids}),
        "alibi": (Alibi(), {"ids": ids, "past_k": cache, "past_v": cache.clone()}),
        "recurrent": (Recurrent(), {"ids": ids.T, "h": state, "c": state.clone()}),
    }


AXES: dict[str, dict[str, dict[int, str]]] = {
    "convolution": {"ids": {0: "batch", 1: "time"}},
    "alibi": {"ids": {0: "batch", 1: "time"}, "past_k": {2: "past"}, "past_v": {2: "past"}},
    "recurrent": {"ids": {0: "time", 1: "batch"}},
}
CACHE = np.zeros((1, HEADS, 0, WIDTH // HEADS), np.float32)
CALLS: dict[str, GraphCall] = {
    "convolution": GraphCall("ids", (1, TIME), "logits"),
    "alibi": GraphCall("ids", (1, TIME), "logits", {"past_k": CACHE, "past_v": CACHE}),
    "recurrent": GraphCall("ids", (TIME, 1), "logits", {name: np.zeros((2, 1, WIDTH), np.float32) for name in ("h", "c")}),
}


def export(torch: Any, kind: str, path: Path) -> None:
    """Writes one of `torch_models` with the TorchScript exporter, for any length."""
    model, inputs = torch_models(torch)[kind]
    outputs = ["logits", *(f"new_{name}" for name in list(inputs)[1:])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and its files are everywhere
        torch.onnx.export(
            model.eval(), tuple(inputs.values()), path, input_names=list(inputs), output_names=outputs, dynamic_axes=AXES[kind],
            opset_version=17, dynamo=False,
        )  # fmt: skip
