"""Convolutions with fewer products on a CPU: Winograd's F(4, k) along the rows, as in `engine.winograd`.

The convolution along the columns is TensorFlow's own at each point, and so are both gradients. Transforms are products
of matrices, so that everything can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import tensorflow as tf

from convlstm.engine.tensorflow.convolution import Convolution
from convlstm.engine.winograd import KERNELS, ROWS, transforms

Tensor = Any

_MIN_SAVED_PER_VALUE = 400
"""Least number of saved products per value of z that repays the transforms."""
_MIN_SAVED_PER_STEP = 1 << 28
"""Least number of saved products per step that repays its thirty or so operator calls."""
_MIN_POSITIONS = 1024
"""Least number of points of all grids that repays the filter transform and the sum of its gradients."""
_MAX_PRODUCTS = 1 << 25
"""Most values of the products of a step, which take up to 128 MiB twice."""
_UNKNOWN_BATCH = 4
"""Samples that a batch of unknown size counts as for the time; one sample then is not slower either."""
_LARGE_BATCH = 32
"""Samples that a batch of unknown size counts as for the memory: the batch of Keras's `fit` by default."""


def is_faster(convolution: Convolution, dtype: tf.DType) -> bool:
    """Return whether Winograd's algorithm can compute a convolution, and is faster."""
    batch, *grid, _ = convolution.shape
    *taps, inner, out = convolution.kernel
    is_dense = set(convolution.stride) == {1} and convolution.padding == "SAME"
    if dtype != tf.float32 or not is_dense or not all(isinstance(n, int) for n in grid):
        return False
    if len(taps) != 2 or taps[0] not in KERNELS or taps[1] % 2 == 0 or grid[0] % ROWS:
        return False
    if tf.config.list_physical_devices("GPU"):
        return False
    least, most = (batch, batch) if isinstance(batch, int) else (_UNKNOWN_BATCH, _LARGE_BATCH)
    positions = least * prod(grid)
    points_per_row = (ROWS + taps[0] - 1) / ROWS
    saved = inner * taps[1] * (taps[0] - points_per_row)
    return (
        positions >= _MIN_POSITIONS
        and saved >= _MIN_SAVED_PER_VALUE
        and saved * out * positions >= _MIN_SAVED_PER_STEP
        and points_per_row * out * most * prod(grid) <= _MAX_PRODUCTS
    )


@dataclass(frozen=True)
class WinogradGates:
    """The convolution of four gates with SAME padding, and both its gradients, with the methods of `DirectGates`."""

    convolution: Convolution

    def filters(self, kernel: Tensor) -> list[Tensor]:
        """Return the filter transform G·W at each point (1, columns, in, out)."""
        rows, *rest = self.convolution.kernel
        transformed = tf.matmul(self._matrices(kernel)[1], tf.reshape(kernel, (rows, -1)))
        return list(tf.unstack(tf.reshape(transformed, (self._points, 1, *rest))))

    def gates(self, x: Tensor, filters: Sequence[Tensor]) -> list[Tensor]:
        """Return W ∗ x, gate by gate."""
        pairs = zip(self._input_transform(x), filters, strict=True)
        products = tf.stack([self._along_columns(x_point, w_point) for x_point, w_point in pairs])
        return self._output_transform(products)

    def data_gradient(self, dz_gates: Sequence[Tensor], filters: Sequence[Tensor]) -> Tensor:
        """Return the gradient of x."""
        pairs = zip(self._output_transform_gradient(dz_gates), filters, strict=True)
        gradients = [self._along_columns.data_gradient(dz_point, w_point) for dz_point, w_point in pairs]
        return self._input_transform_gradient(tf.stack(gradients))

    def kernel_gradient(self, x: Tensor, dz_gates: Sequence[Tensor]) -> Tensor:
        """Return the gradient of the transformed filters; `kernel_of_sum` makes the kernel's of the sum over steps."""
        pairs = zip(self._input_transform(x), self._output_transform_gradient(dz_gates), strict=True)
        return tf.stack([self._along_columns.kernel_gradient(x_point, dz_point) for x_point, dz_point in pairs])

    @property
    def sum_shape(self) -> tuple[int, ...]:
        """The shape of `kernel_gradient`."""
        return (self._points, 1, *self.convolution.kernel[1:])

    def kernel_of_sum(self, total: Tensor) -> Tensor:
        """Return the gradient of the kernel from the sum over the steps."""
        kernel = tf.matmul(self._matrices(total)[1], tf.reshape(total, (self._points, -1)), transpose_a=True)
        return tf.reshape(kernel, self.convolution.kernel)

    @property
    def _points(self) -> int:
        return ROWS + self.convolution.kernel[0] - 1

    @cached_property
    def _along_columns(self) -> Convolution:
        batch, rows, columns, inner = self.convolution.shape
        shape = (batch, rows // ROWS, columns, inner)
        return Convolution((1, 1), "SAME", shape, (1, *self.convolution.kernel[1:]))

    def _matrices(self, like: Tensor) -> list[Tensor]:
        """Return A, G and B in the type of an array."""
        return [tf.constant(matrix, like.dtype) for matrix in transforms(self.convolution.kernel[0])]

    def _input_transform(self, x: Tensor) -> list[Tensor]:
        """Return B·x at each point (batch, windows, columns, in)."""
        batch, rows, columns, inner = self.convolution.shape
        windows, edge, extra = rows // ROWS, self.convolution.kernel[0] // 2, self._points - ROWS
        padded = tf.pad(x, [(0, 0), (edge, ROWS - edge), (0, 0), (0, 0)])
        blocks = tf.reshape(padded, (batch, windows + 1, ROWS, columns * inner))
        blocks = tf.transpose(blocks, (2, 0, 1, 3))
        x_windows = tf.concat([blocks[:, :, :-1], blocks[:extra, :, 1:]], axis=0)
        transformed = tf.matmul(self._matrices(x)[2], tf.reshape(x_windows, (self._points, -1)))
        return list(tf.unstack(tf.reshape(transformed, (self._points, batch, windows, columns, inner))))

    def _input_transform_gradient(self, d_transformed: Tensor) -> Tensor:
        """Return Bᵀ·d_transformed, added where the windows overlap."""
        batch, rows, columns, inner = self.convolution.shape
        windows, edge, extra = rows // ROWS, self.convolution.kernel[0] // 2, self._points - ROWS
        d_windows = tf.matmul(
            self._matrices(d_transformed)[2], tf.reshape(d_transformed, (self._points, -1)), transpose_a=True
        )
        d_windows = tf.reshape(d_windows, (self._points, batch, windows, columns * inner))
        first = tf.pad(d_windows[:ROWS], [(0, 0), (0, 0), (0, 1), (0, 0)])
        last = tf.pad(d_windows[ROWS:], [(0, ROWS - extra), (0, 0), (1, 0), (0, 0)])
        padded = tf.transpose(first + last, (1, 2, 0, 3))
        padded = tf.reshape(padded, (batch, rows + ROWS, columns, inner))
        return padded[:, edge : edge + rows]

    def _output_transform(self, products: Tensor) -> list[Tensor]:
        """Return Aᵀ·products, gate by gate."""
        batch, rows, columns, _ = self.convolution.shape
        hidden = self.convolution.kernel[-1] // 4
        z = tf.matmul(self._matrices(products)[0], tf.reshape(products, (self._points, -1)), transpose_a=True)
        z = tf.transpose(tf.reshape(z, (ROWS, batch, rows // ROWS, columns * 4 * hidden)), (1, 2, 0, 3))
        return list(tf.split(tf.reshape(z, (batch, rows, columns, 4 * hidden)), 4, axis=-1))

    def _output_transform_gradient(self, dz_gates: Sequence[Tensor]) -> list[Tensor]:
        """Return A·dz at each point (batch, windows, columns, out)."""
        batch, rows, columns, _ = self.convolution.shape
        out = self.convolution.kernel[-1]
        dz = tf.reshape(tf.concat(dz_gates, axis=-1), (batch, rows // ROWS, ROWS, columns * out))
        d_products = tf.matmul(self._matrices(dz)[0], tf.reshape(tf.transpose(dz, (2, 0, 1, 3)), (ROWS, -1)))
        return list(tf.unstack(tf.reshape(d_products, (self._points, batch, rows // ROWS, columns, out))))
