"""Grids: what a weight may be while it is trained, as TF-MOT quantizers; importing this module imports TensorFlow and TF-MOT.

A grid maps the float weight that the optimizer moves to the value that is shipped, and lets the gradient through (straight-through,
Bengio et al. 2013). All grids work on canonical matrices (out, in); blocks are runs of columns of a row.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.quantization.keras.quantizers import Quantizer

from edgelm.spec import Encoding

Tensor = Any
Variables = Mapping[str, Any]

BLOCK_COLUMNS = 32
SMALLEST_SCALE = {Encoding.INT8: 2.0**-100, Encoding.INT4: 2.0**-100, Encoding.INT4_BLOCK32: 2.0**-14}
"""Runtimes refuse scales that are zero or subnormal; those of blocks are float16."""

LARGEST = {Encoding.INT8: 127, Encoding.INT4: 7, Encoding.INT4_BLOCK32: 7}
"""Encoding -> its largest integer; grids are symmetric."""


class Grid(Quantizer):  # type: ignore[misc]
    """A set of values for one matrix.

    Attributes:
        encoding: How a matrix on this grid is stored.
        transpose: The Keras variable is (in, out); `edgelm.compress.constrained` sets it.
        start: The matrix (out, in) training begins with; `edgelm.compress.constrained` sets it before `build`.
    """

    encoding: Encoding
    transpose: bool = False
    start: NDArray[np.float32]

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Makes the variables of the grid; most have none."""
        return {}

    @abc.abstractmethod
    def snap(self, weight: Tensor, variables: Variables) -> tuple[Tensor, Tensor]:
        """The nearest point of the grid.

        Args:
            weight: (rows, columns) float32.
            variables: What `build` made.

        Returns:
            Codes (rows, columns), whole numbers as float32, and scales (rows, blocks); the weight shipped is their product.
        """

    def pass_through(self, weight: Tensor, variables: Variables) -> Tensor:
        """The snapped weight, with the gradient of `weight` itself."""
        return straight_through(times(*self.snap(weight, variables)), weight)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # there is nothing to convert, and it warns that it cannot
    def __call__(self, inputs: Tensor, training: bool, weights: Variables, **options: Any) -> Tensor:
        """TF-MOT's entry: the Keras variable in, what the layer computes with out, both of the same shape."""
        weight = tf.transpose(inputs) if self.transpose else inputs  # (rows, columns)
        shipped = self.pass_through(weight, weights)
        return tf.transpose(shipped) if self.transpose else shipped

    def get_config(self) -> dict[str, Any]:
        """Nothing: grids live as long as a training."""
        return {}


class IntegerGrid(Grid):
    """The grid that post-training rounding uses: every row or block is scaled to its largest weight.

    Args:
        encoding: int8, int4 or int4-block32.
        mask: (rows, columns), 0 where weights stay zero (PQAT); None for no mask.
    """

    def __init__(self, encoding: Encoding, mask: NDArray[np.float32] | None = None) -> None:
        self.encoding, self.mask = encoding, mask

    def snap(self, weight: Tensor, variables: Variables) -> tuple[Tensor, Tensor]:
        """Scales are max |w| / largest; those of blocks are bfloat16 numbers, as kernels read them."""
        weight = weight if self.mask is None else weight * self.mask
        blocked = in_blocks(weight, self.encoding)  # (rows, blocks, columns of a block)
        scales = shippable(tf.reduce_max(tf.abs(blocked), axis=2) / LARGEST[self.encoding], self.encoding)
        return codes_of(blocked, scales, LARGEST[self.encoding], weight), scales


class LearnedGrid(Grid):
    """Scales are learned with the weights (LSQ, Esser et al. 2020), as logarithms, so that a step changes them by a share.

    Args:
        encoding: How it is stored.
        largest: Largest code: 7 for 4 bits, 1 for ternary weights, whose threshold of half a scale is learned with it.
        mask: As of `IntegerGrid`.
        scales: (rows, blocks) to begin with; None for those of the least squared rounding error.
        frozen: Codes stay as they are in the beginning; only scales are learned.
    """

    def __init__(
        self,
        encoding: Encoding,
        largest: int,
        mask: NDArray[np.float32] | None = None,
        scales: NDArray[np.float32] | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        self.encoding, self.largest, self.mask, self.scales, self.frozen = encoding, largest, mask, scales, frozen
        self.codes: NDArray[np.int8] | None = None  # (rows, columns), of a frozen grid

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """One log-scale a row or block, (rows, blocks)."""
        scales = least_error_scales(self.start, self.encoding, self.largest) if self.scales is None else self.scales
        start = np.log(np.maximum(scales, SMALLEST_SCALE[self.encoding]))
        if self.frozen:
            ratio = self.start.reshape(*start.shape, -1) / np.exp(start)[:, :, None]
            self.codes = np.clip(np.rint(ratio), -self.largest, self.largest).astype(np.int8).reshape(self.start.shape)
        return {"log_scale": layer.add_weight(name + "_log_scale", start.shape, initializer=tf.constant_initializer(start))}

    def snap(self, weight: Tensor, variables: Variables) -> tuple[Tensor, Tensor]:
        """Rounds to the nearest code within [-largest, largest]."""
        weight = weight if self.mask is None else weight * self.mask
        scales = shippable(tf.exp(variables["log_scale"]), self.encoding)
        if self.codes is not None:
            return tf.constant(self.codes, tf.float32), scales
        return codes_of(in_blocks(weight, self.encoding), scales, self.largest, weight), scales

    def pass_through(self, weight: Tensor, variables: Variables) -> Tensor:
        """Weights get the gradient as it is; a scale gets code - w / scale of every weight in range, and the code of those beyond."""
        codes, scales = self.snap(weight, variables)
        if self.codes is not None:
            exact = tf.exp(variables["log_scale"])
            return times(codes, straight_through(scales, exact))
        exact = tf.exp(variables["log_scale"])[:, :, None]  # (rows, blocks, 1)
        ratio = in_blocks(weight, self.encoding) / exact
        slope = tf.where(tf.abs(ratio) <= self.largest, in_blocks(codes, self.encoding) - ratio, in_blocks(codes, self.encoding))
        moved = tf.reshape((exact - tf.stop_gradient(exact)) * tf.stop_gradient(slope), tf.shape(weight))
        return straight_through(times(codes, scales), weight) + moved


class BinaryGrid(Grid):
    """The sign of a weight times the mean magnitude of its row or block (XNOR-Net, Rastegari et al. 2016).

    Args:
        encoding: How it is stored.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding

    def snap(self, weight: Tensor, variables: Variables) -> tuple[Tensor, Tensor]:
        """Codes are -1 and 1."""
        blocked = in_blocks(weight, self.encoding)
        scales = shippable(tf.reduce_mean(tf.abs(blocked), axis=2), self.encoding)
        return tf.reshape(tf.where(blocked < 0, -1.0, 1.0), tf.shape(weight)), scales


def straight_through(value: Tensor, weight: Tensor) -> Tensor:
    """Exactly `value`, with the gradient of `weight`."""
    return tf.stop_gradient(value) + (weight - tf.stop_gradient(weight))


def in_blocks(weight: Tensor, encoding: Encoding) -> Tensor:
    """(rows, columns) -> (rows, blocks, columns of a block); one block a row unless the encoding has blocks."""
    rows, columns = weight.shape
    return tf.reshape(weight, (rows, columns // BLOCK_COLUMNS if encoding is Encoding.INT4_BLOCK32 else 1, -1))


def times(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes (rows, columns) times scales (rows, blocks)."""
    rows, blocks = scales.shape
    return tf.reshape(tf.reshape(codes, (rows, blocks, -1)) * scales[:, :, None], codes.shape)


def shippable(scales: Tensor, encoding: Encoding) -> Tensor:
    """Scales that a file can hold: not below the smallest, and bfloat16 numbers where they belong to blocks."""
    scales = tf.maximum(scales, SMALLEST_SCALE[encoding])
    return tf.cast(tf.cast(scales, tf.bfloat16), tf.float32) if encoding is Encoding.INT4_BLOCK32 else scales


def codes_of(blocked: Tensor, scales: Tensor, largest: int, weight: Tensor) -> Tensor:
    """Blocks (rows, blocks, columns of a block) as whole numbers in the shape of `weight`."""
    codes = tf.clip_by_value(tf.round(blocked / scales[:, :, None]), -largest, largest)
    return tf.reshape(codes, weight.shape)


def least_error_scales(weight: NDArray[np.float32], encoding: Encoding, largest: int) -> NDArray[np.float32]:
    """(rows, blocks) scales of the least squared rounding error, out of 40 shares of the largest weight.

    Example:
        >>> least_error_scales(np.array([[1, 1, -1, 0]], np.float32), Encoding.INT4, largest=1)
        array([[1.]], dtype=float32)
    """
    rows, columns = weight.shape
    blocked = weight.reshape(rows, columns // BLOCK_COLUMNS if encoding is Encoding.INT4_BLOCK32 else 1, -1)
    peak = np.maximum(np.abs(blocked).max(axis=2), SMALLEST_SCALE[encoding] * largest)  # (rows, blocks)
    best, least = peak / largest, np.full(peak.shape, np.inf, np.float32)
    for share in np.linspace(1.0, 0.025, 40, dtype=np.float32):
        scale = peak * share / largest
        rounded = np.clip(np.rint(blocked / scale[:, :, None]), -largest, largest) * scale[:, :, None]
        error = np.square(rounded - blocked).sum(axis=2)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    scales: NDArray[np.float32] = np.maximum(best, SMALLEST_SCALE[encoding]).astype(np.float32)
    return scales
