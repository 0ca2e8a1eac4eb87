"""The reference's own bricks: boundaries against SciPy, groups and strides against dense forms, activations by hand."""

from __future__ import annotations

from math import exp, log, log1p, tanh

import numpy as np
import pytest
from scipy import ndimage

from convlstm.errors import ShapeError
from convlstm.reference.activations import ACTIVATION_FUNCTIONS
from convlstm.reference.convolution import convolve, pad
from convlstm.spec.choices import ACTIVATIONS, DURATION_ACTIVATIONS, RECURRENT_ACTIVATIONS
from convlstm.spec.geometry import pad_widths, recurrent_pad_widths

RANDOM = np.random.default_rng(0)
SCIPY_MODES = {"zeros": "constant", "replicate": "nearest", "reflect": "mirror", "circular": "wrap"}


@pytest.mark.parametrize("boundary", SCIPY_MODES)
@pytest.mark.parametrize("kernel", [(3,), (4,), (3, 3), (2, 5), (4, 1), (3, 2, 3)], ids=str)
def test_boundaries_against_scipy(boundary: str, kernel: tuple[int, ...]) -> None:
    x, weight = RANDOM.standard_normal((5, 6, 7)[: len(kernel)]), RANDOM.standard_normal(kernel)
    ours = convolve(
        x[None, None],
        weight[None, None],
        widths=recurrent_pad_widths(kernel, (1,) * len(kernel)),
        boundary=(boundary,) * len(kernel),
    )
    origin = tuple(0 if k % 2 else -1 for k in kernel)  # SciPy centres an even kernel one point later
    theirs = ndimage.correlate(x, weight, mode=SCIPY_MODES[boundary], origin=origin)
    np.testing.assert_allclose(ours[0, 0], theirs, atol=1e-14)


def test_each_axis_has_its_own_boundary() -> None:
    x = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    padded = pad(x, ((1, 0), (2, 1)), ("reflect", "circular"))
    np.testing.assert_array_equal(padded[0, 0], [[5, 6, 4, 5, 6, 4], [2, 3, 1, 2, 3, 1], [5, 6, 4, 5, 6, 4]])
    replicated = pad(x, ((0, 1), (1, 0)), ("replicate", "zeros"))
    np.testing.assert_array_equal(replicated[0, 0], [[0, 1, 2, 3], [0, 4, 5, 6], [0, 4, 5, 6]])


def test_a_boundary_that_cannot_be_filled_names_the_axis(refused) -> None:
    with refused(ShapeError, "width"):
        pad(np.zeros((1, 1, 4, 2)), ((2, 2), (2, 2)), ("reflect", "reflect"))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups_are_blocks_of_a_dense_kernel(groups: int) -> None:
    x, weight = RANDOM.standard_normal((2, 6, 5, 4)), RANDOM.standard_normal((12, 6 // groups, 3, 3))
    dense = np.zeros((12, 6, 3, 3))
    for j in range(12):
        start = j * groups // 12 * (6 // groups)  # output channel j sees input group ⌊j·G/out⌋
        dense[j, start : start + 6 // groups] = weight[j]
    options = {"widths": ((1, 1), (1, 1)), "boundary": ("zeros", "zeros")}
    np.testing.assert_allclose(convolve(x, weight, groups=groups, **options), convolve(x, dense, **options), atol=1e-13)


@pytest.mark.parametrize(("stride", "dilation"), [((2, 1), (1, 1)), ((1, 1), (2, 3)), ((3, 2), (2, 1))])
def test_stride_skips_points_and_dilation_spreads_the_kernel(stride, dilation) -> None:
    x, weight = RANDOM.standard_normal((1, 2, 9, 10)), RANDOM.standard_normal((3, 2, 3, 2))
    spread = np.zeros((3, 2, 2 * dilation[0] + 1, dilation[1] + 1))
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    options = {"widths": ((0, 0), (0, 0)), "boundary": ("zeros", "zeros")}
    dense = convolve(x, spread, **options)[:, :, :: stride[0], :: stride[1]]
    np.testing.assert_allclose(convolve(x, weight, stride=stride, dilation=dilation, **options), dense, atol=1e-13)


def test_padding_decides_the_points_sampled_at_stride_two() -> None:
    x, weight = np.arange(6.0)[None, None], np.array([[[0.0, 1.0, 0.0]]])  # the kernel's middle copies x
    same = pad_widths((6,), (3,), (2,), (1,), "same")
    assert same == ((0, 1),)
    np.testing.assert_array_equal(convolve(x, weight, widths=same, boundary=("zeros",), stride=(2,)).ravel(), [1, 3, 5])
    half = convolve(x, weight, widths=((1, 1),), boundary=("zeros",), stride=(2,))
    np.testing.assert_array_equal(half.ravel(), [0, 2, 4])


BY_HAND = {
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "hard_sigmoid": lambda x: min(max(x / 6 + 0.5, 0), 1),
    "hard_sigmoid_keras2": lambda x: min(max(0.2 * x + 0.5, 0), 1),
    "tanh": tanh,
    "relu": lambda x: max(x, 0),
    "identity": lambda x: x,
    "softsign": lambda x: x / (1 + abs(x)),
    "elu": lambda x: x if x > 0 else exp(x) - 1,
    "softplus": lambda x: log1p(exp(x)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_activations_by_hand(name: str) -> None:
    function = ACTIVATION_FUNCTIONS[name]
    for x in (-7.0, -3.0, -2.5, -1.0, -1e-3, 0.0, 0.3, 1.0, 2.5, 2.9, 3.0, 8.0):
        assert float(function(np.array(x))) == pytest.approx(BY_HAND[name](x), abs=1e-15, rel=1e-14)


@pytest.mark.parametrize("name", BY_HAND)
def test_activations_differentiate_by_complex_step(name: str) -> None:
    function = ACTIVATION_FUNCTIONS[name]
    for x in (-7.0, -1.7, -0.4, 0.6, 2.2, 5.0):
        slope = float(np.imag(function(np.array(x + 1e-200j)))) * 1e200
        central = (BY_HAND[name](x + 1e-6) - BY_HAND[name](x - 1e-6)) / 2e-6
        assert slope == pytest.approx(central, abs=1e-8)  # the central difference's own rounding


@pytest.mark.parametrize(
    ("name", "kinks"), [("relu", [0.0]), ("hard_sigmoid", [-3.0, 3.0]), ("hard_sigmoid_keras2", [-2.5, 2.5])]
)
def test_the_subgradient_at_kinks_is_zero(name: str, kinks: list[float]) -> None:
    for x in kinks:
        assert np.imag(ACTIVATION_FUNCTIONS[name](np.array(x + 1e-200j))) == 0.0


def test_activations_do_not_overflow() -> None:
    x = np.array([-1e4, 1e4])
    np.testing.assert_array_equal(ACTIVATION_FUNCTIONS["sigmoid"](x), [0, 1])
    np.testing.assert_array_equal(ACTIVATION_FUNCTIONS["softplus"](x), [0, 1e4])
    np.testing.assert_array_equal(ACTIVATION_FUNCTIONS["elu"](x), [-1, 1e4])
    assert ACTIVATION_FUNCTIONS["softplus"](np.array(0.0)) == pytest.approx(log(2), abs=1e-16)


def test_every_word_of_the_contract_has_a_function() -> None:
    assert {*ACTIVATIONS, *RECURRENT_ACTIVATIONS, *DURATION_ACTIVATIONS, "softplus"} == set(ACTIVATION_FUNCTIONS)
