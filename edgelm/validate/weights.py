"""Which weights fill a .tflite, and what other recipes would make of them by arithmetic alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgelm import recipe as recipes
from edgelm.compress.encoding_choice import chosen_encoding
from edgelm.device.cost import TABLES, encoding_of, scale_bytes, step_cost, stored_bytes
from edgelm.device.latency import predict
from edgelm.device.profile import DeviceProfile
from edgelm.recipe import Recipe
from edgelm.recipe_steps import Quantize
from edgelm.spec import Encoding
from edgelm.tflite.reader import TensorInfo, TfliteModel

MB = 1e6
BLOCK_COLUMNS = 32
ZERO_POINT_BYTES = 8
"""A file states a zero point (int64) for each row scale; weights with as many rows share them."""
FLOATS = (Encoding.FLOAT32, Encoding.FLOAT16)
FORMS: Mapping[str, str] = {"ai-edge-litert": "litert", "tflite-runtime": "tflite-2.14"}
"""Runtime -> the form of graph a recipe has to be in for it; float32 runs on both."""


@dataclass(frozen=True)
class StoredWeight:
    """One stored tensor.

    Attributes:
        tensor: The first one that uses its buffer.
        nbytes: Bytes in the file, scales included.
        looked_up: Rows are looked up in it (an embedding).
        multiplied: A FULLY_CONNECTED multiplies by it; a tied table is both.
    """

    tensor: TensorInfo
    nbytes: int
    looked_up: bool
    multiplied: bool

    @property
    def title(self) -> str:
        """For people: `embedding and head table` when it is both, else its name."""
        return "embedding and head table" if self.looked_up and self.multiplied else self.name

    @property
    def name(self) -> str:
        """The tensor's, without the suffix that tells views of one buffer apart."""
        return self.tensor.name.partition(":")[0]

    @property
    def encoding(self) -> str:
        """Such as `int8` or `int4-block32`; the dtype where it is no weight encoding."""
        encoding = encoding_of(self.tensor)
        return encoding.value if encoding else self.tensor.dtype


@dataclass(frozen=True)
class Prediction:
    """What a recipe would give, from bits per weight and the latency model; quality is not predicted.

    Attributes:
        recipe: Its name.
        size_mb: Of the file, MB.
        ms_per_token: Central estimate on the device, ms.
        low: Lower end of its interval, ms.
        high: Upper end of its interval, ms.
    """

    recipe: str
    size_mb: float
    ms_per_token: float
    low: float
    high: float


def stored_weights(model: TfliteModel) -> tuple[StoredWeight, ...]:
    """Every stored tensor once, the largest first; scales of blocks count with the weight they belong to."""
    scales = {
        model.tensors[t.subgraph][t.quantization.block_scales].buffer
        for t in _tensors(model)
        if t.quantization and t.quantization.block_size
    }
    looked_up = {model.tensors[op.subgraph][op.inputs[TABLES[op.name]]].buffer for op in model.ops if op.name in TABLES}
    multiplied = _multiplied(model)
    found: dict[int, StoredWeight] = {}
    for tensor in _tensors(model):
        if tensor.nbytes and tensor.buffer not in scales:
            nbytes = tensor.nbytes + scale_bytes(model, tensor)
            if tensor.buffer not in found or found[tensor.buffer].nbytes < nbytes:  # one of several views may carry the scales
                found[tensor.buffer] = StoredWeight(tensor, nbytes, tensor.buffer in looked_up, tensor.buffer in multiplied)
    return tuple(sorted(found.values(), key=lambda weight: (-weight.nbytes, weight.tensor.name)))


def by_layer(weights: Iterable[StoredWeight]) -> dict[str, tuple[StoredWeight, ...]]:
    """Weights by the layer they belong to, the largest layer first; what has no weight's name counts as `constants`.

    Example:
        `layers.0.q.weight` and `layers.0.o.weight` belong to `layers.0`, `embedding.weight` to a layer of its own.
    """
    layers: dict[str, list[StoredWeight]] = {}
    for weight in weights:
        numbered = re.match(r"(?:layers|hidden)\.\d+", weight.name)
        layer = "constants" if weight.name.startswith("constant_") else numbered.group() if numbered else weight.title
        layers.setdefault(layer, []).append(weight)
    sizes = {layer: sum(weight.nbytes for weight in members) for layer, members in layers.items()}
    return {layer: tuple(layers[layer]) for layer in sorted(layers, key=lambda layer: -sizes[layer])}


def _tensors(model: TfliteModel) -> tuple[TensorInfo, ...]:
    return tuple(tensor for graph in model.tensors for tensor in graph)


def _multiplied(model: TfliteModel) -> set[int]:
    """Buffers of FULLY_CONNECTED weights, also behind a DEQUANTIZE."""
    behind = {(op.subgraph, op.outputs[0]): model.tensors[op.subgraph][op.inputs[0]].buffer for op in model.ops if op.name == "DEQUANTIZE"}
    products = [(op.subgraph, op.inputs[1]) for op in model.ops if op.name == "FULLY_CONNECTED"]
    return {behind.get(place, model.tensors[place[0]][place[1]].buffer) for place in products} - {0}


def predictions(model: TfliteModel, signature: str, profile: DeviceProfile) -> tuple[Prediction, ...]:
    """What each shipped recipe that the profile's runtime can run would give, the largest file first.

    Args:
        model: The present file.
        signature: What is called once a token.
        profile: The device.
    """
    found = []
    for name in recipes.shipped():
        recipe = recipes.load(name)
        step = recipe.steps[-1]
        if isinstance(step, Quantize) and not recipe.wants_data and _possible(recipe, model, profile):
            encodings, size = _repacked(model, step)
            estimate = predict(step_cost(model, signature, encodings), profile)
            found.append(Prediction(name, size / MB, estimate.ms_per_token, estimate.low, estimate.high))
    return tuple(sorted(found, key=lambda prediction: -prediction.size_mb))


def _possible(recipe: Recipe, model: TfliteModel, profile: DeviceProfile) -> bool:
    kinds = {kind for step in recipe.steps if isinstance(step, Quantize) for kind in (step.weights, step.embedding, step.head)}
    if any(signature.name == "forward" for signature in model.signatures) and not kinds <= {*FLOATS, Encoding.INT8}:
        return False
    return kinds == {Encoding.FLOAT32} or recipe.form == FORMS[profile.runtime.name]


def _repacked(model: TfliteModel, step: Quantize) -> tuple[dict[str, Encoding], int]:
    """Tensor name -> encoding under a recipe, and the size the file would have, bytes."""
    encodings: dict[str, Encoding] = {}
    before: set[int] = set()
    after: set[int] = set()
    size = model.nbytes
    for weight in stored_weights(model):
        tensor = weight.tensor
        if len(tensor.shape) == 2 and (weight.multiplied or (weight.looked_up and weight.name.endswith(".weight"))):
            encoding = _encoding(weight, step)
            encodings[tensor.name] = encoding
            size += stored_bytes(tensor.shape, encoding) - weight.nbytes
            before |= {tensor.shape[0]} if tensor.quantization and tensor.quantization.scales.size > 1 else set()
            after |= {tensor.shape[0]} if encoding in (Encoding.INT8, Encoding.INT4) else set()
    return encodings, size + ZERO_POINT_BYTES * (sum(after) - sum(before))


def _encoding(weight: StoredWeight, step: Quantize) -> Encoding:
    """What the lowering makes of a weight: 4-bit forms that its shape does not allow become int8."""
    name, columns = weight.name, weight.tensor.shape[-1]
    wanted = chosen_encoding(name, step)
    blocks = wanted is Encoding.INT4_BLOCK32 and columns % BLOCK_COLUMNS
    halves = wanted is Encoding.INT4 and columns % 2
    return Encoding.INT8 if blocks or halves else wanted
