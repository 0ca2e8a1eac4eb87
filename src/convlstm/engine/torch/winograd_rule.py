"""The layers for which Winograd's convolution is faster on a CPU; the engine and the memory estimate both use it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from convlstm.engine import winograd
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.types import Size

ROWS = winograd.ROWS
KERNELS = winograd.KERNELS
PRODUCT_VALUES = 3 << 20
"""Values of the products that are computed at a time."""
_MIN_SAVED_PER_VALUE = 250
"""Least number of saved products per value of z that repays the transforms."""
_MIN_SAVED_PER_STEP = 1 << 29
"""Least number of saved products per step that repays its twenty or so operator calls."""
_MIN_SAVED_PER_FIXED_STEP = 1 << 28
"""The same where the filter transform is kept (see `fixed_weights`)."""
_MIN_POSITIONS = 2048
"""Least number of points of all grids and steps that repays the filter transform."""
_CHANNEL_BLOCK = 16
"""The channels of an input must be a multiple of this: oneDNN computes as many at a time."""


def points(layer: LayerSpec) -> int:
    """Return the number of points of the polynomials for the recurrent kernel."""
    return ROWS + layer.recurrent_kernel_size[0] - 1


def is_joint(layer: LayerSpec, size: Sequence[int]) -> bool:
    """Return whether x of this size is convolved together with h: both convolutions must have the same form."""
    return (
        layer.in_channels > 0
        and layer.in_channels % _CHANNEL_BLOCK == 0
        and tuple(layer.kernel_size) == tuple(layer.recurrent_kernel_size)
        and set(layer.stride) == set(layer.dilation) == {1}
        and pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding) == layer.recurrent_widths
    )


def channels(layer: LayerSpec, size: Sequence[int]) -> list[int]:
    """Return the channels of the arrays that are convolved together: of x if `is_joint`, and of h."""
    return [layer.in_channels, layer.hidden_channels] if is_joint(layer, size) else [layer.hidden_channels]


def samples(layer: LayerSpec, grid: Sequence[int]) -> int:
    """Return how many samples of a grid are computed at a time, so that the products stay in the cache."""
    return max(1, PRODUCT_VALUES * ROWS // (points(layer) * 4 * layer.hidden_channels * prod(grid)))


def is_faster(layer: LayerSpec, steps: int, batch: int, size: Size, *, has_fixed_weights: bool = False) -> bool:
    """Return whether Winograd's convolution supports a standard cell in float32, and is faster for such inputs.

    The filter transform of fixed weights is kept, so that any number of points repays it.
    """
    kernel, grid = layer.recurrent_kernel_size, layer.grid(size)
    if not layer.has_dense_recurrence:
        return False
    if len(kernel) != 2 or kernel[0] not in KERNELS or kernel[1] % 2 == 0 or layer.hidden_channels % _CHANNEL_BLOCK:
        return False
    saved = sum(channels(layer, size)) * kernel[1] * (kernel[0] - points(layer) / ROWS)
    values = batch * 4 * layer.hidden_channels * prod(grid)
    return (
        grid[0] % ROWS == 0
        and saved >= _MIN_SAVED_PER_VALUE
        and saved * values >= (_MIN_SAVED_PER_FIXED_STEP if has_fixed_weights else _MIN_SAVED_PER_STEP)
        and (has_fixed_weights or steps * batch * prod(grid) >= _MIN_POSITIONS)
    )
