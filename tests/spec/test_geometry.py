"""Sizes and padding against values worked by hand and against TensorFlow's published formula."""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.errors import ShapeError
from convlstm.spec.geometry import (
    check_boundary,
    effective_kernel,
    enlargement,
    output_size,
    pad_widths,
    recurrent_pad_widths,
)


def tensorflow_same(n: int, k: int, s: int) -> tuple[int, int, int]:
    """Return output, before and after as `tf.nn` documents them for padding SAME."""
    total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
    return ceil(n / s), total // 2, total - total // 2


@pytest.mark.parametrize(("k", "s"), list(product(range(1, 7), range(1, 5))))
def test_same_follows_tensorflow(k: int, s: int) -> None:
    for n in range(1, 12):
        size, before, after = tensorflow_same(n, k, s)
        assert pad_widths((n,), (k,), (s,), (1,), "same") == ((before, after),)
        assert output_size((n,), (k,), (s,), (1,), "same") == (size,)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "padding", "expected"),
    [
        ((8,), (3,), (1,), (1,), "valid", (6,)),
        ((8,), (3,), (2,), (1,), "valid", (3,)),
        ((8,), (3,), (1,), (3,), "valid", (2,)),  # the kernel spans 7 points
        ((8,), (4,), (1,), (1,), (2,), (9,)),  # an even kernel with k // 2 grows the grid: numbers are taken as given
        ((7, 9), (3, 2), (2, 3), (1, 1), (1, 0), (4, 3)),
        ((5, 6, 7), (1, 3, 5), (1, 1, 1), (1, 1, 1), "valid", (5, 4, 3)),
        ((8,), (4,), (1,), (2,), "same", (8,)),
    ],
)
def test_output_size_by_hand(size, kernel, stride, dilation, padding, expected) -> None:
    assert output_size(size, kernel, stride, dilation, padding) == expected


@pytest.mark.parametrize(("kernel", "widths"), [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 2)), (5, (2, 2))])
def test_the_recurrent_convolution_keeps_its_size(kernel: int, widths: tuple[int, int]) -> None:
    assert recurrent_pad_widths((kernel,), (1,)) == (widths,)
    assert sum(widths) == kernel - 1


@pytest.mark.parametrize(
    ("kernel", "dilation", "widths"), [(3, 2, (2, 2)), (2, 2, (1, 1)), (2, 3, (1, 2)), (4, 3, (4, 5)), (1, 9, (0, 0))]
)
def test_a_dilated_recurrent_convolution_keeps_its_size(kernel: int, dilation: int, widths: tuple[int, int]) -> None:
    assert recurrent_pad_widths((kernel,), (dilation,)) == (widths,)
    assert pad_widths((8,), (kernel,), (1,), (dilation,), "same") == (widths,)


def test_effective_kernel() -> None:
    assert [effective_kernel(k, d) for k, d in ((1, 5), (3, 1), (3, 2), (2, 4))] == [1, 3, 5, 5]


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "axis"),
    [
        ((2,), (3,), "valid", "width"),
        ((2, 8), (3, 3), "valid", "height"),
        ((8, 2), (3, 3), "valid", "width"),
        ((2, 8, 8), (3, 3, 3), "valid", "depth"),
        ((8, 0), (3, 3), "same", "width"),
        ((8, 2), (1, 5), (0, 1), "width"),
    ],
)
def test_empty_output_names_its_axis(size, kernel, padding, axis: str, refused) -> None:
    ones = (1,) * len(size)
    with refused(ShapeError, axis):
        output_size(size, kernel, ones, ones, padding)


def test_a_later_layer_that_runs_out_of_points_names_the_axis(refused) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=[1, 1, 1], kernel_size=(3, 1), padding="valid")
    assert spec.grids((7, 2)) == ((5, 2), (3, 2), (1, 2))
    with refused(ShapeError, "height"):
        spec.grids((6, 2))


def test_stride_gives_the_state_the_output_grid() -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=[2, 2], kernel_size=3, stride=[(2, 2), (1, 1)])
    assert spec.grids((9, 8)) == ((5, 4), (5, 4))


@pytest.mark.parametrize(("rule", "limit"), [("reflect", 3), ("circular", 4), ("replicate", None), ("zeros", None)])
def test_boundaries_up_to_their_limit(rule: str, limit: int | None, refused) -> None:
    for pad in range(1, 9):
        widths = ((0, 0), (0, pad))
        if limit is None or pad <= limit:
            check_boundary((4, 4), widths, ("zeros", rule))
        else:
            with refused(ShapeError, "width"):
                check_boundary((4, 4), widths, ("zeros", rule))


def test_enlargement_by_hand() -> None:
    thirds = [[3, 0, 0], [3, 0, 0], [2, 1, 0], [1, 2, 0], [0, 3, 0], [0, 2, 1], [0, 1, 2], [0, 0, 3], [0, 0, 3]]
    np.testing.assert_allclose(enlargement(3, 3), np.array(thirds) / 3, atol=1e-15)
    np.testing.assert_array_equal(enlargement(1, 4), np.ones((4, 1)))
    np.testing.assert_array_equal(enlargement(5, 1), np.eye(5))


def test_enlargement_keeps_a_straight_line_between_the_outer_centres() -> None:
    for size, factor in ((2, 2), (4, 3), (5, 4)):
        centres = (np.arange(size * factor) + 0.5) / factor - 0.5
        line = enlargement(size, factor) @ np.arange(size)
        np.testing.assert_allclose(line, np.clip(centres, 0, size - 1), atol=1e-12)
