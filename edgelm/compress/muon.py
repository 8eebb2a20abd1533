"""Muon (Jordan et al. 2024): the step of a matrix is its momentum made orthogonal, so that all directions learn at one speed.

Kernels go that way; tables, vectors, and the scales and codes of grids stay with AdamW. As Liu et al. 2025 ("Muon is scalable") put
it, a step is scaled to the size of AdamW's, so that one learning rate serves both. Importing this module imports tf_keras.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras

Tensor = Any

MOMENTUM = 0.95
ADAMW_RMS = 0.2
"""Root mean square of AdamW's steps, in learning rates."""
ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: singular values between 0.002 and 1 come near 1 (0.7 to 1.2) in five."""


class Muon(tf_keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW, but for kernels."""

    def update_step(self, gradient: Tensor, variable: Any) -> None:
        """Moves one variable; a kernel's first moment is its momentum, and its second stays 0."""
        if not is_kernel(variable):
            super().update_step(gradient, variable)
            return
        momentum = self._momentums[self._index_dict[self._var_key(variable)]]
        momentum.assign(MOMENTUM * momentum + (1 - MOMENTUM) * gradient)
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient  # Nesterov
        size = ADAMW_RMS * max(variable.shape) ** 0.5
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * size * orthogonal(ahead))


def is_kernel(variable: Any) -> bool:
    """A matrix that inputs are multiplied with: Keras' `kernel` and `recurrent_kernel`, wrapped by TF-MOT or not."""
    name = variable.name.split("/")[-1].split(":")[0]
    return len(variable.shape) == 2 and name in ("kernel", "recurrent_kernel")


def orthogonal(matrix: Tensor) -> Tensor:
    """Near U V^T of the singular value decomposition U S V^T, of the same shape (rows, columns).

    Example:
        >>> np.linalg.svd(orthogonal(np.diag([3.0, 0.5])))[1].round(1)
        array([1.1, 0.8])
    """
    rows, columns = matrix.shape
    x = tf.transpose(matrix) if rows > columns else matrix  # the shorter side first: the products below are of its size
    x = x / (tf.norm(x) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(ITERATIONS):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * square + c * tf.matmul(square, square), x)
    return tf.transpose(x) if rows > columns else x
