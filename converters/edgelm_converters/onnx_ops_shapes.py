"""ONNX operations that move, select or make values: numpy evaluation as https://onnx.ai/onnx/operators defines it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgelm_converters.lift import NotLiftable
from edgelm_converters.onnx_node import Array, OnnxNode
from edgelm_converters.onnx_operands import Compute, Operands, axes_of, dtype_of, ints, required, within_limit


def _cast(node: OnnxNode, x: Operands) -> Array:
    return required(x, 0).astype(dtype_of(node.attributes["to"]))


def _cast_like(node: OnnxNode, x: Operands) -> Array:
    return required(x, 0).astype(required(x, 1).dtype)


def _concat(node: OnnxNode, x: Operands) -> Array:
    parts = [part for part in x if part is not None]
    return np.concatenate(parts, axis=node.attributes["axis"])


def _constant_of_shape(node: OnnxNode, x: Operands) -> Array:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(within_limit(ints(required(x, 0))), value.reshape(-1)[0], value.dtype)


def _expand(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    return np.broadcast_to(data, within_limit(np.broadcast_shapes(data.shape, ints(required(x, 1)))))


def _eye_like(node: OnnxNode, x: Operands) -> Array:
    rows, columns = required(x, 0).shape
    dtype = dtype_of(node.attributes["dtype"]) if "dtype" in node.attributes else required(x, 0).dtype
    return np.eye(rows, columns, k=node.attributes.get("k", 0), dtype=dtype)


def _flatten(node: OnnxNode, x: Operands) -> Array:
    data, axis = required(x, 0), node.attributes.get("axis", 1)
    axis += data.ndim if axis < 0 else 0
    return data.reshape(math.prod(data.shape[:axis]), -1)


def _gather(node: OnnxNode, x: Operands) -> Array:
    data, index, axis = required(x, 0), required(x, 1), node.attributes.get("axis", 0)
    within_limit((*index.shape, *data.shape[:axis], *data.shape[axis:][1:]))
    if index.size and (index.min() < -data.shape[axis] or index.max() >= data.shape[axis]):
        raise NotLiftable(f"node {node.name!r} looks up what its table does not have")
    return np.take(data, index, axis=axis)


def _gather_elements(node: OnnxNode, x: Operands) -> Array:
    data, index, axis = required(x, 0), required(x, 1), node.attributes.get("axis", 0)
    return np.take_along_axis(data, np.where(index < 0, index + data.shape[axis], index), axis)


def _gather_nd(node: OnnxNode, x: Operands) -> Array:
    data, index, batch = required(x, 0), required(x, 1), node.attributes.get("batch_dims", 0)
    if batch == 0:
        return np.asarray(data[tuple(np.moveaxis(index, -1, 0))])
    leading = np.indices(index.shape[:-1])[:batch]
    return np.asarray(data[(*leading, *np.moveaxis(index, -1, 0))])


def _non_zero(node: OnnxNode, x: Operands) -> Array:
    return np.array(np.nonzero(required(x, 0)), np.int64)


def _one_hot(node: OnnxNode, x: Operands) -> Array:
    index, values, axis = required(x, 0), required(x, 2), node.attributes.get("axis", -1)
    depth = int(required(x, 1).reshape(-1)[0])
    within_limit((*index.shape, depth))
    index = index.astype(np.int64)
    hot = np.where(index < 0, index + depth, index)[..., None] == np.arange(depth)
    return np.moveaxis(np.where(hot, values[1], values[0]), -1, axis)


def _pad(node: OnnxNode, x: Operands) -> Array:
    data, mode = required(x, 0), node.attributes.get("mode", "constant")
    pads = ints(required(x, 1)) if "pads" not in node.attributes else list(node.attributes["pads"])
    axes = [axis % data.ndim for axis in ints(x[3])] if len(x) > 3 and x[3] is not None else list(range(data.ndim))
    if mode != "constant" or min(pads, default=0) < 0:
        raise NotLiftable(f"node {node.name!r} pads with mode {mode!r} or cuts")
    fill = x[2].reshape(-1)[0] if len(x) > 2 and x[2] is not None else node.attributes.get("value", 0)
    widths = [(0, 0)] * data.ndim
    for number, axis in enumerate(axes):
        widths[axis] = (pads[number], pads[number + len(axes)])
    within_limit([size + sum(width) for size, width in zip(data.shape, widths, strict=True)])
    return np.pad(data, widths, constant_values=fill)


def _range(node: OnnxNode, x: Operands) -> Array:
    start, stop, step = (required(x, number).reshape(-1)[0] for number in range(3))
    count = max(0, math.ceil((stop.item() - start.item()) / step.item()))
    within_limit((count,))
    return np.asarray(start + np.arange(count) * step, start.dtype)


def _reshape(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    shape = ints(required(x, 1))
    if not node.attributes.get("allowzero", 0):
        shape = [data.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return data.reshape(shape)


def _scatter_elements(node: OnnxNode, x: Operands) -> Array:
    data, index, axis = required(x, 0), required(x, 1), node.attributes.get("axis", 0)
    _plain_reduction(node)
    result = data.copy()
    np.put_along_axis(result, np.where(index < 0, index + data.shape[axis], index), required(x, 2), axis)
    return result


def _scatter_nd(node: OnnxNode, x: Operands) -> Array:
    _plain_reduction(node)
    result = required(x, 0).copy()
    result[tuple(np.moveaxis(required(x, 1), -1, 0))] = required(x, 2)
    return result


def _plain_reduction(node: OnnxNode) -> None:
    if node.attributes.get("reduction", "none") != "none":
        raise NotLiftable(f"node {node.name!r} scatters with a reduction")


def _shape(node: OnnxNode, x: Operands) -> Array:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.array(required(x, 0).shape[start:end], np.int64)


def _slice(node: OnnxNode, x: Operands) -> Array:
    data = required(x, 0)
    if node.opset < 10:
        starts, ends = list(node.attributes["starts"]), list(node.attributes["ends"])
        axes, steps = list(node.attributes.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = ints(required(x, 1)), ints(required(x, 2))
        axes = ints(x[3]) if len(x) > 3 and x[3] is not None else list(range(len(starts)))
        steps = ints(x[4]) if len(x) > 4 and x[4] is not None else [1] * len(starts)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        before_first = step < 0 and end < -data.shape[axis]  # numpy would count it from the end
        index[axis] = slice(start, None if before_first else end, step)
    return data[tuple(index)]


def _split(node: OnnxNode, x: Operands) -> tuple[Array, ...]:
    data, axis = required(x, 0), node.attributes.get("axis", 0)
    sizes = ints(x[1]) if len(x) > 1 and x[1] is not None else list(node.attributes.get("split", ()))
    if not sizes:
        parts = len(node.outputs)  # num_outputs says the same
        size = -(-data.shape[axis] // parts)
        sizes = [max(0, min(size, data.shape[axis] - number * size)) for number in range(parts)]
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis))


def _squeeze(node: OnnxNode, x: Operands) -> Array:
    axes = axes_of(node, x)
    return np.squeeze(required(x, 0), None if axes is None else tuple(axes))


def _unsqueeze(node: OnnxNode, x: Operands) -> Array:
    return np.expand_dims(required(x, 0), tuple(axes_of(node, x) or ()))


def _tile(node: OnnxNode, x: Operands) -> Array:
    data, times = required(x, 0), ints(required(x, 1))
    within_limit([size * count for size, count in zip(data.shape, times, strict=True)])
    return np.tile(data, times)


def _transpose(node: OnnxNode, x: Operands) -> Array:
    return np.transpose(required(x, 0), node.attributes.get("perm"))


def _trilu(node: OnnxNode, x: Operands) -> Array:
    k = int(x[1].reshape(-1)[0]) if len(x) > 1 and x[1] is not None else 0
    keep = np.triu if node.attributes.get("upper", 1) else np.tril
    return keep(required(x, 0), k)


def _where(node: OnnxNode, x: Operands) -> Array:
    return np.where(required(x, 0), required(x, 1), required(x, 2))


SHAPES: Mapping[str, Compute] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda node, x: required(x, 0),
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": lambda node, x: np.array(required(x, 0).size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
