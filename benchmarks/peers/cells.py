"""What is timed: every cell is a model in one peer's format, and how its processes are started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgelm.spec import ModelSpec, weight_shapes
from peers.environments import HOME
from peers.models import CHAT, KEYBOARD, M1, M2, M3, SHAPES

OURS = "edgelm"
OURS_NATIVE = "edgelm, native host"
ONNXRUNTIME, LLAMA, LITERT_TORCH, LITERT_LM = "onnxruntime", "llama.cpp", "litert-torch", "LiteRT-LM"
EXECUTORCH, TORCH, TFLITE_CONVERTER, FUSED = "ExecuTorch", "PyTorch", "TFLiteConverter", "TFLite fused LSTM"

WORKER = {
    OURS: "edgelm_worker",
    OURS_NATIVE: "edgelm_worker",
    ONNXRUNTIME: "onnxruntime_worker",
    LLAMA: "llama_worker",
    LITERT_TORCH: "litert_torch_worker",
    LITERT_LM: "litert_lm_worker",
    EXECUTORCH: "executorch_worker",
    TORCH: "torch_worker",
    TFLITE_CONVERTER: "tensorflow_worker",
    FUSED: "fused_lstm_worker",
}
ENVIRONMENT = {
    OURS_NATIVE: "litert",
    ONNXRUNTIME: "onnxruntime",
    LLAMA: "llama",
    LITERT_TORCH: "litert_torch",
    LITERT_LM: "litert_lm",
    EXECUTORCH: "executorch",
    TORCH: "torch",
}
"""Peers that are not named run in edgelm's own environment: TensorFlow and LiteRT are dependencies of edgelm. The native host links another
LiteRT, whose C library loads weights in 4-bit blocks."""

MAKER = {OURS_NATIVE: OURS, LITERT_LM: LITERT_TORCH}
"""Peers that run what another one made."""

BITS = {"float32": 32.0, "F16": 16.0, "int8": 8.0, "Q8_0": 8.5, "int8-block32": 8.5, "dynamic-int8": 8.0, "8da4w": 4.5, "Q4_0": 4.5}
BITS |= {"Q4_0-pure": 4.5, "int4-block32": 4.5, "int4-block32-plain": 4.5, "int4": 4.0}
"""Bits a weight of the body takes, scales of blocks included."""

HEAD_BITS = {"int4-block32": 8.0}
"""Where the embedding, which is the head too, has other bits: (peer, form) is looked up by form, and only edgelm's differs."""


@dataclass(frozen=True)
class Cell:
    """A model in one peer's format.

    Attributes:
        model: `m1`, `m2`, `m3`, or a bundled one.
        peer: Who runs it.
        form: How the weights are stored, in the peer's words.
        nominal: 32, 16, 8 or 4 bits: cells of the same number are compared.
        host: The kind of process: `native` or `python`.
        main: In the main run; others are for `--all`, or named.
        speaks: Its logits can be read; LiteRT-LM's cannot, which runs litert-torch's file.
    """

    model: str
    peer: str
    form: str
    nominal: int
    host: str = "python"
    main: bool = True
    speaks: bool = True

    @property
    def name(self) -> str:
        """Such as `m2/llama.cpp/Q8_0`."""
        return f"{self.model}/{self.peer.replace(', ', '-').replace(' ', '-')}/{self.form}"

    @property
    def spec(self) -> ModelSpec:
        """The model's shape."""
        return SHAPES[self.model].spec

    @property
    def source(self) -> Path:
        """The folder it is converted from."""
        return HOME / "models" / self.model / "source"

    @property
    def artifact(self) -> Path:
        """What the peer loads; both of edgelm's hosts load the same file."""
        maker = MAKER.get(self.peer, self.peer)
        suffix = {OURS: ".tflite", LLAMA: ".gguf", TFLITE_CONVERTER: ".tflite", FUSED: ".tflite", EXECUTORCH: ".pte"}.get(maker, "")
        return HOME / "models" / self.model / f"{maker.replace(' ', '-')}-{self.form}{suffix}"

    @property
    def maker(self) -> Cell:
        """The cell whose conversion makes the artifact."""
        return dataclasses.replace(self, peer=MAKER[self.peer], host="python", speaks=True) if self.peer in MAKER else self

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights and scales that one token reads: all of them, as the head is tied to the embedding."""
        return streamed_bytes(self.spec, self.form, ours=self.peer in (OURS, OURS_NATIVE))


def streamed_bytes(spec: ModelSpec, form: str, *, ours: bool) -> float:
    """Bytes of all matrices in a form.

    Example: 1,000 x 100 weights in `int8` are 104,000 bytes: one each and a float32 scale a row.
    """
    total = 0.0
    for name, shape in weight_shapes(spec).items():
        if len(shape) != 2:
            continue
        bits = HEAD_BITS.get(form, BITS[form]) if ours and name == "embedding.weight" else BITS[form]
        total += shape[0] * shape[1] * bits / 8 + (4 * shape[0] if bits == 8.0 else 0)
    return total


def cells_of(model: str, *rows: tuple[str, str, int, str, bool]) -> list[Cell]:
    return [Cell(model, peer, form, nominal, host, main, peer != LITERT_LM) for peer, form, nominal, host, main in rows]


TRANSFORMERS = (
    (OURS_NATIVE, "int8", 8, "native", True),
    (OURS_NATIVE, "int4-block32", 4, "native", True),
    (OURS_NATIVE, "int4-block32-plain", 4, "native", True),
    (LLAMA, "Q8_0", 8, "native", True),
    (LLAMA, "Q4_0", 4, "native", False),
    (LLAMA, "Q4_0-pure", 4, "native", True),
    (LLAMA, "F16", 16, "native", False),
    (ONNXRUNTIME, "float32", 32, "python", False),
    (ONNXRUNTIME, "int8", 8, "python", True),
    (ONNXRUNTIME, "int8-block32", 8, "python", False),
    (ONNXRUNTIME, "int4-block32", 4, "python", True),
    (LITERT_TORCH, "dynamic-int8", 8, "python", True),
    (LITERT_LM, "dynamic-int8", 8, "native", True),
    (EXECUTORCH, "8da4w", 4, "python", True),
    (OURS, "float32", 32, "python", False),
    (OURS, "int8", 8, "python", False),
    (OURS, "int4-block32", 4, "python", True),
    (OURS, "int4-block32-plain", 4, "python", True),
)
LSTMS = (
    (OURS, "int8", 8, "python", True),
    (OURS_NATIVE, "int8", 8, "native", True),
    (OURS, "float32", 32, "python", False),
    (OURS, "int4-block32", 4, "python", False),
    (ONNXRUNTIME, "float32", 32, "python", False),
    (ONNXRUNTIME, "int8", 8, "python", True),
    (FUSED, "int8", 8, "python", True),
    (TFLITE_CONVERTER, "int8", 8, "python", True),
    (TORCH, "dynamic-int8", 8, "python", True),
    (TORCH, "float32", 32, "python", False),
)
CELLS = [
    *cells_of(M1, *LSTMS),
    *cells_of(M2, *TRANSFORMERS),
    *cells_of(M3, *TRANSFORMERS),
    *cells_of(KEYBOARD, *LSTMS),
    *cells_of(CHAT, *TRANSFORMERS),
]
BY_NAME = {cell.name: cell for cell in CELLS}


def chosen(words: list[str], everything: bool = False) -> list[Cell]:
    """Cells whose names contain one of the words; without words the main ones, or all.

    Example: `["m2/llama", "m1"]` are M2 by llama.cpp and everything of M1.

    Raises:
        SystemExit: No cell has such a name.
    """
    if not words:
        return [cell for cell in CELLS if cell.main or everything]
    found = [cell for cell in CELLS if any(word in cell.name for word in words)]
    if not found:
        raise SystemExit(f"no cell is named like {' '.join(words)}; there are: {', '.join(BY_NAME)}")
    return found
