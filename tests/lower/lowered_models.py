"""Tiny models, and how their lowered files are run on a runtime, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ai_edge_litert.interpreter
import numpy as np
import tflite_runtime.interpreter
from numpy.typing import NDArray

from edgelm.lower.transformer import MASKED
from edgelm.model import LanguageModel
from edgelm.spec import Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

RUNTIMES: dict[str, Any] = {"litert": ai_edge_litert.interpreter.Interpreter, "tflite-2.14": tflite_runtime.interpreter.Interpreter}

INTEGERS = {Encoding.INT8: 127, Encoding.INT4: 7, Encoding.INT4_BLOCK32: 7}


def random_model(spec: ModelSpec, seed: int = 0) -> LanguageModel:
    """Normal weights; those of norms lie around 1."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(0.0, 0.3, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    return LanguageModel(spec, {name: weight + 1 if name.endswith("norm.weight") else weight for name, weight in weights.items()})


def encoded(model: LanguageModel, encoding: Encoding) -> LanguageModel:
    """The same model with every matrix in `encoding`."""
    return model.replace(encodings={name: encoding for name, weight in model.weights.items() if weight.ndim == 2})


def grid_model(spec: ModelSpec, encoding: Encoding, seed: int = 0) -> LanguageModel:
    """A model whose matrices lie on the grid of `encoding`, so that storing them loses nothing; folded norms are 1.

    Every row, and every block of 32 columns, holds the largest integer, and all rows have one scale: the grid stays the same when
    matrices are joined.
    """
    rng = np.random.default_rng(seed)
    model = random_model(spec, seed)
    weights = {}
    for name, weight in model.weights.items():
        if weight.ndim == 2 and encoding in INTEGERS:
            largest = INTEGERS[encoding]
            integers = rng.integers(-largest, largest + 1, weight.shape)
            integers[:, ::32] = largest
            scale = np.float32(2.0**-1 / largest if name == "embedding.weight" else 2.0**-2 / largest)
            weights[name] = (integers * scale).astype(np.float32)
        elif weight.ndim == 2:
            weights[name] = weight.astype(np.float16).astype(np.float32)
        else:
            weights[name] = np.ones_like(weight) if name.endswith("norm.weight") else weight
    return encoded(model.replace(weights=weights), encoding)


class Runner:
    """Calls the signatures of a file."""

    def __init__(self, tflite: bytes, runtime: str = "litert") -> None:
        self.interpreter = RUNTIMES[runtime](model_content=tflite)
        self._runners: dict[str, Callable[..., dict[str, NDArray[Any]]]] = {}

    def __call__(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if signature not in self._runners:
            self._runners[signature] = self.interpreter.get_signature_runner(signature)
        return self._runners[signature](**inputs)


def run_steps(tflite: bytes, spec: RecurrentSpec, ids: Sequence[int], runtime: str = "litert") -> NDArray[np.float32]:
    """Logits (time, vocab) of a recurrent model, token by token from zero states."""
    call = Runner(tflite, runtime)
    states = {name: np.zeros((1, spec.state_size(name)), np.float32) for name in spec.state_names}
    rows = []
    for token in ids:
        outputs = call("step", token=np.array([token], np.int32), **states)
        states = {name: outputs[name] for name in states}
        rows.append(outputs["logits"][0])
    return np.array(rows)


class TransformerRun:
    """The host's part: caches, mask and position."""

    def __init__(self, tflite: bytes, spec: TransformerSpec, slots: int, runtime: str = "litert") -> None:
        self.call = Runner(tflite, runtime)
        self.position = 0
        shape = (1, spec.kv_heads, slots, spec.head_dim)
        # Empty slots hold rubbish that a right mask hides.
        self.caches = {f"{kind}_{layer}": np.full(shape, 3.0, np.float32) for layer in range(spec.layers) for kind in "kv"}
        self.mask = np.full((1, 1, 1, slots), MASKED, np.float32)

    def decode(self, rung: int, token: int) -> NDArray[np.float32]:
        """Takes one token by `decode_<rung>` -> logits (vocab,)."""
        outputs = self.call(f"decode_{rung}", token=np.array([token], np.int32), **self._inputs(rung))
        return self._take(outputs, 1)

    def prefill(self, chunk: int, tokens: Sequence[int], slots: int | None = None) -> NDArray[np.float32]:
        """Takes up to `chunk` tokens by `prefill_<chunk>` (with `slots`, or all), padded with token 1 -> logits (vocab,)."""
        padded = np.array([*tokens, *[1] * (chunk - len(tokens))], np.int32)
        last = np.array([len(tokens) - 1], np.int32)
        outputs = self.call(f"prefill_{chunk}", tokens=padded, last=last, **self._inputs(slots or self.mask.shape[-1]))
        return self._take(outputs, len(tokens))

    def _inputs(self, slots: int) -> dict[str, NDArray[Any]]:
        caches = {name: cache[:, :, :slots] for name, cache in self.caches.items()}
        return {"position": np.array([self.position], np.int32), "mask": self.mask[..., :slots], **caches}

    def _take(self, outputs: dict[str, NDArray[Any]], count: int) -> NDArray[np.float32]:
        new = slice(self.position, self.position + count)
        room = len(range(*new.indices(self.mask.shape[-1])))
        for name, cache in self.caches.items():
            cache[:, :, new] = outputs[name][:, :, :room]
        self.mask[..., new] = 0.0
        self.position += count
        return outputs["logits"][0]


def run_decodes(
    tflite: bytes, spec: TransformerSpec, ids: Sequence[int], ladder: Sequence[int], runtime: str = "litert"
) -> NDArray[np.float32]:
    """Logits (time, vocab), token by token, each on the smallest rung that holds the past."""
    run = TransformerRun(tflite, spec, max(ladder), runtime)
    return np.array([run.decode(min(rung for rung in ladder if rung >= run.position), token) for token in ids])


def relative_error(got: NDArray[np.float32], wanted: NDArray[Any]) -> float:
    """Root mean square of the difference, relative to that of the wanted values."""
    return float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)))


def delegate_parts(tflite: bytes) -> int:
    """Into how many parts XNNPACK cuts the first signature; every part but the first costs microseconds a call."""
    interpreter = RUNTIMES["litert"](model_content=tflite)
    interpreter.allocate_tensors()
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
