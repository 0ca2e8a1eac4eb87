"""Where Winograd's convolution is quicker on a CPU, in numbers: the engine and the count of memory both follow it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from convlstm.spec.geometry import pad_widths, recurrent_pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.types import Size

ROWS = 4
"""Rows of z that one window of h gives."""
KERNELS = (3, 5)
"""Rows of W for which there are good points."""
NEAR = 3 << 20
"""Values of the products that are computed together."""
_SAVED = 250
"""Products saved for each value of z from which the way to the points and back is worth it."""
_SAVED_A_STEP = 1 << 29
"""Products saved in a step, likewise: it takes some twenty operations."""
_SHARED_BY = 2048
"""Places of all grids and steps, likewise: so many have to share the way of the kernels."""
_BLOCK = 16
"""Channels of an input are a multiple of this: oneDNN takes so many at a time."""


def points(layer: LayerSpec) -> int:
    """Return at how many points the polynomials of the recurrent kernel are taken."""
    return ROWS + layer.recurrent_kernel_size[0] - 1


def is_joint(layer: LayerSpec, size: Sequence[int]) -> bool:
    """Return whether x of this size is convolved together with h, having the same form."""
    return (
        layer.in_channels > 0
        and layer.in_channels % _BLOCK == 0
        and tuple(layer.kernel_size) == tuple(layer.recurrent_kernel_size)
        and set(layer.stride) == set(layer.dilation) == {1}
        and pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
        == recurrent_pad_widths(layer.recurrent_kernel_size)
    )


def channels(layer: LayerSpec, size: Sequence[int]) -> list[int]:
    """Return the channels of what is convolved together: of x, if its form allows it, and of h."""
    return [*([layer.in_channels] if is_joint(layer, size) else []), layer.hidden_channels]


def samples(layer: LayerSpec, grid: Sequence[int]) -> int:
    """Return how many samples of a grid are taken together, so that the products stay near."""
    return max(1, NEAR * ROWS // (points(layer) * 4 * layer.hidden_channels * prod(grid)))


def is_quicker(layer: LayerSpec, steps: int, batch: int, size: Size) -> bool:
    """Return whether this way serves a layer of the common cell in float32, and is quicker for inputs of this size.

    Example:
        >>> from convlstm.spec.stack import ConvLSTMSpec
        >>> (layer,) = ConvLSTMSpec(in_channels=64, hidden_channels=64, kernel_size=5).layers
        >>> is_quicker(layer, 10, 8, (16, 16)), is_quicker(layer, 10, 1, (16, 16))
        (True, False)
    """
    kernel, grid = layer.recurrent_kernel_size, layer.grid(size)
    if len(kernel) != 2 or kernel[0] not in KERNELS or kernel[1] % 2 == 0 or layer.hidden_channels % _BLOCK:
        return False
    saved = sum(channels(layer, size)) * kernel[1] * (kernel[0] - points(layer) / ROWS)
    values = batch * 4 * layer.hidden_channels * prod(grid)
    return (
        grid[0] % ROWS == 0
        and saved >= _SAVED
        and saved * values >= _SAVED_A_STEP
        and steps * batch * prod(grid) >= _SHARED_BY
    )
