"""Convolutions in TensorFlow, channels last: its own where they are correct and fast, matrix products elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from convlstm.engine.tensorflow.padding import sizes

Tensor = Any

# tf.nn.convolution in three dimensions has no gradient in eager mode
_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: tf.nn.conv1d,
    2: tf.nn.conv2d,
    3: lambda x, kernel, stride, padding: tf.nn.conv3d(x, kernel, [1, *stride, 1], padding, data_format="NDHWC"),
}

_ROUNDING = {tf.bfloat16: 2**-8, tf.float16: 2**-11}


def convolve(
    x: Tensor, kernel: Tensor, stride: Sequence[int], dilation: Sequence[int] | None = None, groups: int = 1
) -> Tensor:
    """Return W ∗ x (batch, *grid, out), group first, for padded x (batch, *space, in) and W (*taps, in / groups, out).

    TensorFlow's CPU kernels refuse groups in three dimensions, and in float64 a dilated convolution or the gradient
    of a grouped one: these are computed as a sum of matrix products, one per tap of the kernel. So is a convolution of
    one channel whose strides differ: oneDNN reads past its input there and is silently wrong (TensorFlow 2.21). The
    products are added in at least float32, by `tf.matmul`: `tf.einsum` in bfloat16 is wrong for odd numbers of channels
    from 3 on.
    """
    ones = (1,) * len(stride)
    *space, inner, out = kernel.shape.as_list()
    is_misread = inner == 1 and len(set(stride)) > 1
    if groups == 1 and tuple(dilation or ones) == ones and not is_misread:
        return _convolve_without_dilation(x, kernel, stride)
    wide = tf.float32 if x.dtype in (tf.bfloat16, tf.float16) else x.dtype
    batch, channels = sizes(x)[0], inner * groups
    weights = tf.cast(tf.reshape(kernel, (prod(space), inner, groups, out // groups)), wide)
    weights = tf.transpose(weights, (0, 2, 1, 3))
    total = 0.0
    for tap, window in enumerate(_windows(x, space, stride, dilation or ones)):
        grid = sizes(window)[1:-1]
        points = batch * prod(grid)
        by_group = tf.reshape(tf.cast(window, wide), (points, groups, channels // groups))
        total += tf.matmul(tf.transpose(by_group, (1, 0, 2)), weights[tap])
    return tf.cast(tf.reshape(tf.transpose(total, (1, 0, 2)), (batch, *grid, out)), x.dtype)


def _convolve_without_dilation(x: Tensor, kernel: Tensor, stride: Sequence[int]) -> Tensor:
    """Return W ∗ x by TensorFlow's own convolution, with at least two output columns under a stride.

    On processors with AMX, oneDNN reads outside the input of a bfloat16 convolution, and of its weight gradient. This
    happens where the stride along the last axis is above 1 and the output has one point there (TensorFlow 2.21). It
    happens in float32 too, where oneDNN's environment variables allow bfloat16. A second column is
    computed and dropped. For a width that is not known yet, this is done in bfloat16 alone.
    """
    columns, taps, step = x.shape[-2], kernel.shape.as_list()[:-2], stride[-1]
    has_one_column = x.dtype == tf.bfloat16 if columns is None else (columns - taps[-1]) // step == 0
    has_one_column = has_one_column and step > 1
    if has_one_column:
        x = tf.pad(x, [(0, 0)] * len(stride) + [(0, step), (0, 0)])
    wide = _wide_type(x.dtype, len(stride))
    z = _CONVOLUTIONS[len(stride)](tf.cast(x, wide), tf.cast(kernel, wide), list(stride), "VALID")
    z = tf.cast(z, x.dtype)
    z = z if x.shape[0] else _shaped(z, sizes(x), kernel.shape.as_list(), stride)
    return z[..., :-1, :] if has_one_column else z


def _wide_type(dtype: tf.DType, axes: int) -> tf.DType:
    """Return the type in which TensorFlow's own convolution over that many axes is computed for arrays of `dtype`."""
    return tf.float32 if axes == 3 and dtype in (tf.bfloat16, tf.float16) and _rounds_its_sums(dtype) else dtype


@cache
def _rounds_its_sums(dtype: tf.DType) -> bool:
    """Return whether `conv3d` here adds the products in `dtype`, as it does on a CPU where oneDNN does not compute it.

    The error is then ten times that of sums in float32, and the time ten times that of a convolution in float32
    (TensorFlow 2.21). This depends on processor, device and environment variables, so a convolution tells it.
    """
    random = np.random.default_rng(0)
    with tf.init_scope():
        x, kernel = (tf.constant(random.standard_normal(n), dtype) for n in ((1, 4, 4, 4, 32), (3, 3, 3, 32, 4)))
        exact = _CONVOLUTIONS[3](tf.cast(x, tf.float32), tf.cast(kernel, tf.float32), [1, 1, 1], "VALID")
        rounded = tf.cast(_CONVOLUTIONS[3](x, kernel, [1, 1, 1], "VALID"), tf.float32)
        error = tf.reduce_max(tf.abs(rounded - exact)) / tf.reduce_max(tf.abs(exact))
        return bool(error > 2 * _ROUNDING[dtype])


def _shaped(
    z: Tensor, shape: Sequence[Any], kernel: Sequence[int], stride: Sequence[int], padding: str = "VALID"
) -> Tensor:
    """Return the result in its right shape: for an empty batch oneDNN returns that of the input (TensorFlow 2.21)."""
    taps = [1] * len(stride) if padding == "SAME" else kernel[:-2]
    grid = ((n - k) // s + 1 for n, k, s in zip(shape[1:-1], taps, stride, strict=True))
    return tf.reshape(z, (shape[0], *grid, kernel[-1]))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def convolve_state(h: Tensor, kernel: Tensor) -> Tensor:
    """Return W ∗ h with stride 1, for padded h (batch, *space, in), with a gradient that is fast under XLA.

    XLA on CPU computes the weight gradient of a convolution inside a loop forty times slower than the convolution
    itself. One matrix product per tap is as fast as the convolution, and so is the data gradient as a convolution.
    Both can be differentiated again.
    """
    taps = kernel.shape.as_list()[:-2]
    ones = (1,) * len(taps)

    def gradient(dz: Tensor) -> tuple[Tensor, Tensor]:
        flipped = tf.linalg.matrix_transpose(tf.reverse(kernel, list(range(len(taps)))))
        widths = [(0, 0), *((k - 1, k - 1) for k in taps), (0, 0)]
        dh = convolve_state(tf.pad(dz, widths), flipped)
        dz_rows = tf.reshape(dz, (-1, dz.shape[-1]))
        h_rows = (tf.reshape(window, (-1, window.shape[-1])) for window in _windows(h, taps, ones, ones))
        dw = tf.stack([tf.matmul(rows, dz_rows, transpose_a=True) for rows in h_rows])
        return dh, tf.reshape(dw, kernel.shape)

    return convolve(h, kernel, ones), gradient


@dataclass(frozen=True)
class Convolution:
    """TensorFlow's own convolution in two or three dimensions, and both its gradients, for frames of one shape.

    Sizes of `shape` (batch, *space, channels) are tensors where they are known only when the graph runs.
    """

    stride: tuple[int, ...]
    padding: str
    shape: tuple[Any, ...]
    kernel: tuple[int, ...]

    def __call__(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Return W ∗ x (batch, *grid, out); the kernel may have fewer outputs than `self.kernel`, such as one gate."""
        wide = _wide_type(x.dtype, len(self.stride))
        z = _CONVOLUTIONS[len(self.stride)](tf.cast(x, wide), tf.cast(kernel, wide), list(self.stride), self.padding)
        z = tf.cast(z, x.dtype)
        return z if x.shape[0] else _shaped(z, self.shape, kernel.shape.as_list(), self.stride, self.padding)

    def data_gradient(self, dz: Tensor, kernel: Tensor) -> Tensor:
        """Return the gradient of x."""
        operator = tf.raw_ops.Conv2DBackpropInput if len(self.stride) == 2 else tf.raw_ops.Conv3DBackpropInputV2
        wide = _wide_type(dz.dtype, len(self.stride))
        arrays = {"filter": tf.cast(kernel, wide), "out_backprop": tf.cast(dz, wide)}
        dx = operator(input_sizes=self.shape, **arrays, **self._options)
        return tf.reshape(tf.cast(dx, dz.dtype), self.shape)

    def kernel_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """Return the gradient of the kernel."""
        operator = tf.raw_ops.Conv2DBackpropFilter if len(self.stride) == 2 else tf.raw_ops.Conv3DBackpropFilterV2
        wide = _wide_type(x.dtype, len(self.stride))
        arrays = {"input": tf.cast(x, wide), "out_backprop": tf.cast(dz, wide)}
        return tf.cast(operator(filter_sizes=self.kernel, **arrays, **self._options), x.dtype)

    @property
    def _options(self) -> dict[str, Any]:
        return {"strides": [1, *self.stride, 1], "padding": self.padding}


@dataclass(frozen=True)
class DirectGates:
    """The convolution of four gates by TensorFlow's own operators, and both its gradients."""

    convolution: Convolution

    def filters(self, kernel: Tensor) -> list[Tensor]:
        """Return the kernel of each gate; `gates` and `data_gradient` take them."""
        return list(tf.split(kernel, 4, axis=-1))

    def gates(self, x: Tensor, filters: Sequence[Tensor]) -> list[Tensor]:
        """Return W ∗ x, gate by gate."""
        return [self.convolution(x, kernel) for kernel in filters]

    def data_gradient(self, dz_gates: Sequence[Tensor], filters: Sequence[Tensor]) -> Tensor:
        """Return the gradient of x, computed gate by gate: TensorFlow runs the four in parallel."""
        pairs = zip(dz_gates, filters, strict=True)
        return tf.add_n([self.convolution.data_gradient(dz, kernel) for dz, kernel in pairs])

    def kernel_gradient(self, x: Tensor, dz_gates: Sequence[Tensor]) -> Tensor:
        """Return the gradient of the kernel, of all gates together."""
        return self.convolution.kernel_gradient(x, tf.concat(dz_gates, axis=-1))

    @property
    def sum_shape(self) -> tuple[int, ...]:
        """The shape of `kernel_gradient`."""
        return self.convolution.kernel

    def kernel_of_sum(self, total: Tensor) -> Tensor:
        """Return the gradient of the kernel from the sum of `kernel_gradient` over the steps."""
        return total


def _windows(x: Tensor, taps: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Iterator[Tensor]:
    """Yield the points of x that each tap of the kernel multiplies (batch, *grid, channels), tap by tap."""
    for tap in product(*(range(k) for k in taps)):
        index = [slice(None)]
        for n, k, t, s, d in zip(sizes(x)[1:-1], taps, tap, stride, dilation, strict=True):
            index.append(slice(t * d, n - (k - 1 - t) * d, s))
        yield x[(*index, slice(None))]
