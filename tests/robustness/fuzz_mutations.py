"""Ways to damage a file: its bytes, the values of its JSON, the fields of its protobuf message."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

NUMBERS = [0, -1, 1, 2, 3, 7, 64, 255, 10**6, 2**31 - 1, 2**31, 2**40, 2**62]
VALUES = [*NUMBERS, 10**30, -0.5, 1e300, float("nan"), None, True, "", "x", "BF16", "F64", [], {}, [None], [0, 0], [2**40, 2**40], {"a": 1}]
SHAPES = ["Reshape", "Transpose", "Concat", "Split", "Slice", "Expand", "Tile", "Range", "ConstantOfShape", "Shape", "Squeeze", "Unsqueeze"]
SUMS = ["Add", "MatMul", "Gemm", "Softmax", "LayerNormalization", "CumSum", "ReduceSum", "Conv", "Einsum", "LSTM", "GRU", "RNN", "Resize"]
PLACES = ["Gather", "GatherElements", "ScatterND", "OneHot", "TopK", "NonZero", "Where", "Trilu", "Pad", "Cast", "If", "Loop", "Scan"]
OPERATIONS = [*SHAPES, *SUMS, *PLACES, "Identity", "Nothing"]


def damaged_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """One to three places flipped, cut out, put in, doubled, or blown up to a long varint."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(len(changed) + 1))
        length = int(2 ** random.uniform(0, 8))
        match int(random.integers(6)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(random.integers(8))
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = random.bytes(length)
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at : at + 1] = b"\xff" * int(random.integers(1, 10)) + b"\x7f"
            case _:
                del changed[at:]
    return bytes(changed)


def damaged_json(content: bytes, random: np.random.Generator) -> bytes:
    """One value replaced, left out, or renamed."""
    changed, parent, place = copy_with_place(json.loads(content), random)
    last = place[-1]
    choice = int(random.integers(len(VALUES) + 6))
    if choice < len(VALUES):
        parent[last] = VALUES[choice]
    elif choice < len(VALUES) + 3 and isinstance(parent, dict):
        parent[f"{last}x"] = parent.pop(last)
    else:
        del parent[last]
    return json.dumps(changed).encode()


Place = tuple[Any, ...]
"""Keys and indices that lead to a value."""


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every value of a JSON value, containers included."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*at, key)
        yield from places(child, (*at, key))


def copy_with_place(plain: Any, random: np.random.Generator) -> tuple[Any, Any, Place]:
    """A copy of a JSON value, and in it the container and the place of one value drawn from all."""
    known = list(places(plain))
    place = known[random.integers(len(known))]
    changed = copy.deepcopy(plain)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    return changed, parent, place


def damaged_proto(content: bytes, random: np.random.Generator) -> bytes:
    """One to three fields of an ONNX model changed: what stays is a whole message with a wrong value somewhere."""
    import onnx

    model = onnx.load_model_from_string(content)
    for _ in range(int(random.integers(1, 4))):
        messages = list(_messages(model))
        _change(messages[random.integers(len(messages))], random)
    return bytes(model.SerializeToString())


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in value if isinstance(value, list) or hasattr(value, "append") or hasattr(value, "add") else [value]:
                yield from _messages(child)


def _change(message: Any, random: np.random.Generator) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = fields[random.integers(len(fields))]
    several = hasattr(value, "extend")
    if field.type == field.TYPE_MESSAGE:
        if several and random.random() < 0.5:
            del value[int(random.integers(len(value)))]
        elif several:
            value.append(copy.deepcopy(value[int(random.integers(len(value)))]))
        else:
            message.ClearField(field.name)
        return
    new = _value(field, value[0] if several else value, random)
    if several and random.random() < 0.7:
        value[int(random.integers(len(value)))] = new
    elif several:
        value.extend([new])
    else:
        setattr(message, field.name, new)


def _value(field: Any, old: Any, random: np.random.Generator) -> Any:
    if field.type == field.TYPE_STRING:
        choices = [OPERATIONS[random.integers(len(OPERATIONS))], "", "x", "ids", "table", "com.microsoft"]
        return choices[0] if field.name == "op_type" else choices[random.integers(len(choices))]
    if field.type == field.TYPE_BYTES:
        return damaged_bytes(old, random)
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return float(random.choice([0.0, -1.0, 1e30, np.nan, np.inf]))
    if field.type == field.TYPE_ENUM:
        return int(random.choice([value.number for value in field.enum_type.values]))
    narrow = field.type in (field.TYPE_INT32, field.TYPE_UINT32)
    numbers = [number for number in NUMBERS if number < (1 << 31 if narrow else 1 << 63) and (number >= 0 or not narrow)]
    return int(numbers[random.integers(len(numbers))])
