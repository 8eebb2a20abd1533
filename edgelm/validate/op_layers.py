"""Puts names to what a profiler saw: which op of the file a kernel ran, and which source layer an op came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgelm.device.cost import TABLES
from edgelm.tflite.reader import OpInfo, TensorInfo, TfliteModel
from edgelm.validate.op_profiler import KernelEvent

ANCHORS: Mapping[str, str] = {"Fully Connected": "FULLY_CONNECTED", "Batch Matrix Multiply": "BATCH_MATMUL", "Softmax": "SOFTMAX"}
"""XNNPACK's kernels that stand for one op each, and are never fused away: what lies between two of them is told apart by name."""

KERNELS: Mapping[str, tuple[str, ...]] = {
    "Add": ("ADD",),
    "Subtract": ("SUB",),
    "Multiply": ("MUL",),
    "Divide": ("DIV",),
    "Maximum": ("MAXIMUM", "RELU"),
    "Minimum": ("MINIMUM",),
    "Squared Difference": ("SQUARED_DIFFERENCE",),
    "Sigmoid": ("LOGISTIC",),
    "TanH": ("TANH",),
    "GELU": ("GELU",),
    "Approximate GELU": ("GELU",),
    "Exp": ("EXP",),
    "Cosine": ("COS",),
    "Sine": ("SIN",),
    "Square ": ("SQUARE",),
    "Reciprocal Square Root": ("RSQRT",),
    "Mean Squared": ("MEAN", "SQUARE"),
    "Mean": ("MEAN",),
    "Sum": ("SUM",),
    "Clamp": ("RELU", "RELU6", "MAXIMUM", "MINIMUM"),
    "Slice": ("SLICE", "STRIDED_SLICE", "SPLIT"),
    "Copy": ("SPLIT", "CONCATENATION", "RESHAPE"),
    "Concatenate": ("CONCATENATION",),
    "Static Reshape": ("RESHAPE",),
    "Transpose": ("TRANSPOSE",),
    "Convert": ("QUANTIZE", "DEQUANTIZE"),
}
"""Beginning of a kernel's name -> ops it may stand for."""

BEFORE = "inputs"
"""The layer of ops that no weight stands before."""


def layers(ops: Sequence[OpInfo], model: TfliteModel) -> list[str]:
    """The source layer of each op of one subgraph, in order.

    Weights keep their canonical names in the file, and the lowering writes layer by layer. An op with a weight belongs to the weight's
    layer; any other one to the layer that made the latest of its inputs, so that a norm without weights of its own counts to the layer
    before it. In graphs of other converters the name of the op's output tells.

    Example:
        FULLY_CONNECTED with `layers.0.q.weight` belongs to `layers.0`, the ADD behind it too; the product with a tied
        `embedding.weight` to `head`.
    """
    made: dict[int, int] = {}  # tensor -> number of the op that made it
    found: list[str] = []
    for number, op in enumerate(ops):
        tensors = model.tensors[op.subgraph]
        named = next((layer for index in op.inputs if index >= 0 and (layer := _of_weight(op, tensors[index]))), "")
        latest = max((made[index] for index in op.inputs if index in made), default=-1)
        foreign = _of_path(tensors[op.outputs[0]].name) if op.outputs else ""
        found.append(named or foreign or (found[latest] if latest >= 0 else BEFORE))
        made |= dict.fromkeys(op.outputs, number)
    return found


def _of_weight(op: OpInfo, tensor: TensorInfo) -> str:
    if not tensor.nbytes or tensor.name.startswith("constant_") or "/" in tensor.name:
        return ""
    name = tensor.name.partition(":")[0]
    if name == "embedding.weight" and op.name not in TABLES and op.name != "DEQUANTIZE":
        return "head"
    numbered = re.match(r"(?:layers|hidden)\.\d+", name)
    return numbered.group() if numbered else name.partition(".")[0] if "." in name else ""


def _of_path(name: str) -> str:
    """`model/dense_1` of `model/dense_1/MatMul;model/dense_1/BiasAdd`, as TensorFlow names what its layers make; else nothing."""
    return name.partition(";")[0].rpartition("/")[0]


def kernels_of_ops(ops: Sequence[OpInfo], events: Sequence[KernelEvent]) -> list[list[int]]:
    """Which events ran each op.

    TFLite's own kernels say which op they ran. XNNPACK runs ops in the order of the file, fuses some into their neighbours and makes
    several kernels of others: products, which it never fuses, are paired off first, and between two of them a kernel belongs to the next
    op that it may stand for, or else to the op that it follows.

    Args:
        ops: Of one subgraph, in order.
        events: Of one call of it, in order.

    Returns:
        For each op the places of its events; none for one that was fused.

    Example:
        ops MEAN, SQUARE, MUL with the kernels `Mean Squared`, `Multiply` give [[0], [], [1]].
    """
    found: list[list[int]] = [[] for _ in ops]
    own = {event.place for event in events if not event.in_xnnpack}
    delegated = [number for number in range(len(ops)) if number not in own]
    cursor = 0
    anchors_left = {op: [number for number in delegated if ops[number].name == op] for op in ANCHORS.values()}
    for place, event in enumerate(events):
        if not event.in_xnnpack:
            found[event.place].append(place)
            continue
        anchor = next((op for kernel, op in ANCHORS.items() if event.kernel.startswith(kernel)), "")
        if anchor and anchors_left[anchor]:
            number = anchors_left[anchor].pop(0)
        else:
            end = min((numbers[0] for numbers in anchors_left.values() if numbers), default=len(ops))
            number = _next_of(event.kernel, ops, [one for one in delegated if cursor <= one < end], max(cursor - 1, 0))
        found[number].append(place)
        cursor = max(cursor, number + 1)
    return found


def _next_of(kernel: str, ops: Sequence[OpInfo], candidates: Sequence[int], otherwise: int) -> int:
    names = next((names for start, names in KERNELS.items() if kernel.startswith(start)), ())
    return next((number for number in candidates if ops[number].name in names), otherwise)
