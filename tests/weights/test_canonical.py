"""Names, shapes and the seeded start of the canonical weights."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt
from zlib import crc32

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_layers import random_case
from convlstm.errors import SpecError, WeightsError
from convlstm.spec.presets import PRESETS
from convlstm.weights.canonical import canonical_shapes, check_weights, initialise, parameter_count

SPEC = ConvLSTMSpec(
    in_channels=4,
    hidden_channels=[6, 2],
    kernel_size=[(3, 5), 1],
    recurrent_kernel_size=3,
    stride=[(2, 2), (1, 1)],
    groups=[2, 1],
    direction="bidirectional",
    peephole="pixel",
    input_size=(8, 9),
    norm="layer",
    duration_strategy="mlp",
    duration_hidden=(16, 3),
    duration_features="channel",
    memory_decay=True,
)


def test_shapes_by_hand() -> None:
    layer0 = {
        "bias": (4, 6),
        "duration.0.bias": (16,),
        "duration.0.weight": (16, 1),
        "duration.1.bias": (3,),
        "duration.1.weight": (3, 16),
        "duration.2.bias": (6,),
        "duration.2.weight": (6, 3),
        "memory_decay": (6,),
        "norm_scale": (4, 6),
        "peephole": (3, 6, 4, 5),
        "weight_hh": (4, 6, 6, 3, 3),
        "weight_ih": (4, 6, 2, 3, 5),
    }
    layer1 = {
        **layer0,
        "bias": (4, 2),
        "duration.2.bias": (2,),
        "duration.2.weight": (2, 3),
        "memory_decay": (2,),
        "norm_scale": (4, 2),
        "peephole": (3, 2, 4, 5),
        "weight_hh": (4, 2, 2, 3, 3),
        "weight_ih": (4, 2, 12, 1, 1),  # two directions of 6 channels, concatenated
    }
    expected = {
        f"layers.{index}.{direction}.{name}": shape
        for index, layer in enumerate((layer0, layer1))
        for direction in ("forward", "reverse")
        for name, shape in layer.items()
    }
    shapes = canonical_shapes(SPEC)
    assert shapes == expected
    assert list(shapes) == sorted(shapes)
    assert parameter_count(SPEC) == sum(prod(shape) for shape in expected.values())


def test_reverse_layer_has_no_forward_weights() -> None:
    spec = ConvLSTMSpec(
        in_channels=1, hidden_channels=2, kernel_size=1, bias=False, direction="reverse", duration_strategy="scalar"
    )
    assert canonical_shapes(spec) == {
        "layers.0.reverse.duration.weight": (),
        "layers.0.reverse.weight_hh": (4, 2, 2, 1, 1),
        "layers.0.reverse.weight_ih": (4, 2, 1, 1, 1),
    }


def test_the_forecasters_first_layer_has_no_input() -> None:
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=[3, 5], kernel_size=3, memory_decay=True)
    spec = ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2)
    shapes = canonical_shapes(spec)
    assert "forecaster.layers.0.forward.weight_ih" not in shapes
    assert "forecaster.layers.0.forward.memory_decay" not in shapes
    assert shapes["encoder.layers.0.forward.memory_decay"] == (3,)
    assert shapes["forecaster.layers.1.forward.weight_ih"] == (4, 5, 3, 3, 3)
    assert shapes["head.weight"] == (8, 8, 1, 1)
    assert shapes["head.bias"] == (8,)
    even = replace(stack, memory_decay=False)
    feedback = canonical_shapes(replace(spec, encoder=even, rollout="feedback", head_bias=False))
    assert feedback["head.weight"] == (8, 5, 1, 1)
    assert not [key for key in feedback if key.startswith("forecaster.") or key == "head.bias"]


def shi_count(widths: list[int], k_in: int, k_h: int) -> int:
    """Return the parameters of Shi et al. (2015), Table 1, from its prose: 4×4 patches, 3 peepholes a channel."""
    total, below = 0, 16
    for index, width in enumerate(widths):
        own = k_h**2 * width * 4 * width + 4 * width + 3 * width
        inward = k_in**2 * below * 4 * width
        total += own + inward  # encoder
        total += own + (inward if index else 0)  # forecaster, whose first layer has no input
        below = width
    return total + 16 * sum(widths) + 16


@pytest.mark.parametrize(
    ("name", "widths", "k_in", "k_h", "published"),
    [
        ("shi2015-5x5-256", [256], 5, 5, 13_524_496),
        ("shi2015-5x5-128-128", [128, 128], 5, 5, 10_042_896),
        ("shi2015-5x5-128-64-64", [128, 64, 64], 5, 5, 7_585_296),
        ("shi2015-1x1-128-128", [128, 128], 9, 1, 11_550_224),
        ("shi2015-1x1-128-64-64", [128, 64, 64], 9, 1, 8_830_480),
    ],
)
def test_counts_published_by_shi(name: str, widths: list[int], k_in: int, k_h: int, published: int) -> None:
    assert shi_count(widths, k_in, k_h) == published
    assert parameter_count(PRESETS[name]) == published


@pytest.mark.parametrize(
    ("name", "hidden", "channels", "patch", "count"),
    [
        ("openstl-mmnist-s", 128, 1, 4, 11_675_648),
        ("openstl-mmnist-l", 192, 1, 4, 26_115_072),
        ("openstl-mmnist-cifar-s", 128, 3, 4, 12_089_344),
        ("openstl-kth", 128, 1, 2, 11_520_512),
        ("openstl-kitticaltech", 128, 3, 2, 11_623_936),
        ("openstl-taxibj", 128, 2, 2, 11_572_224),
    ],
)
def test_counts_of_openstl_without_its_unused_layers(
    name: str, hidden: int, channels: int, patch: int, count: int
) -> None:
    frame = channels * patch**2
    cells = sum(25 * (below + hidden) * 4 * hidden for below in (frame, hidden, hidden, hidden))
    assert cells + hidden * frame == count
    assert parameter_count(PRESETS[name]) == count


def test_every_preset_is_named_in_a_count() -> None:
    assert len(PRESETS) == 5 + 6


def test_each_array_draws_from_its_own_stream() -> None:
    key = "layers.0.forward.weight_ih"
    array = initialise(SPEC, 7)[key]
    bound = sqrt(6 / (2 * 15 + 6 * 15 / 2))
    random = np.random.Generator(np.random.PCG64([7, crc32(key.encode())]))
    np.testing.assert_array_equal(array, random.uniform(-bound, bound, array.shape))


@pytest.mark.parametrize(
    "option",
    [
        {"peephole": "channel"},
        {"norm": "layer"},
        {"memory_decay": True},
        {"duration_strategy": "mlp"},
        {"direction": "bidirectional", "merge": "sum"},
        {"forget_bias": 3.0},
        {"boundary": "circular", "dropout": 0.5},
    ],
    ids=str,
)
def test_adding_an_option_changes_no_other_array(option: dict) -> None:
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=[3, 3], kernel_size=3)
    plain, more = initialise(spec, 5), initialise(replace(spec, **option), 5)
    for key, array in plain.items():
        if key.endswith("bias") and "forget_bias" in option:
            continue
        np.testing.assert_array_equal(more[key], array, err_msg=key)


@pytest.mark.parametrize("seed", range(25))
def test_start_values(seed: int) -> None:
    spec = random_case(seed).spec
    arrays = initialise(spec, seed)
    check_weights(spec, arrays)
    for key, array in arrays.items():
        assert array.dtype == np.float64
        layer = spec.layers[int(key.split(".")[1])]
        name = key.split(".", 3)[3]
        if name == "weight_hh":
            for gate in array.reshape(4, layer.hidden_channels, -1):
                np.testing.assert_allclose(gate @ gate.T, np.eye(len(gate)), atol=1e-13)  # rounding of QR
        elif name == "weight_ih":
            points = prod(layer.kernel_size)
            fans = layer.in_channels / layer.groups * points + layer.hidden_channels / layer.groups * points
            assert np.abs(array).max() <= sqrt(6 / fans)
        elif name == "bias":
            np.testing.assert_array_equal(array[1], spec.forget_bias)
            assert not array[[0, 2, 3]].any()
        elif name == "norm_scale":
            assert (array == 1).all()
        elif name == "memory_decay":
            assert (array == -3).all()
        elif name == f"duration.{len(spec.duration_hidden)}.weight" or "weight" not in name or not array.shape:
            assert not array.any(), name  # peepholes, biases, the exponent, the network's last affine map
        else:
            outputs, inputs = array.shape
            assert 0 < np.abs(array).max() <= sqrt(6 / (inputs + outputs)), name


def test_glorot_fills_its_range() -> None:
    spec = ConvLSTMSpec(in_channels=16, hidden_channels=32, kernel_size=3)
    array = initialise(spec, 0)["layers.0.forward.weight_ih"]
    bound = sqrt(6 / (16 * 9 + 32 * 9))
    # uniform on ±bound has variance bound²/3; 18 432 draws know it to about 1 %
    assert np.var(array) == pytest.approx(bound**2 / 3, rel=0.03)
    assert abs(np.mean(array)) < 0.02 * bound
    assert np.abs(array).max() > 0.999 * bound


def test_signs_of_the_orthonormal_rows_follow_from_the_gaussian() -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=3, kernel_size=3)
    key = "layers.0.forward.weight_hh"
    random = np.random.Generator(np.random.PCG64([0, crc32(key.encode())]))
    gaussian = random.standard_normal((3, 27))
    first_gate = initialise(spec, 0)[key][0].reshape(3, 27)
    # Gram-Schmidt on the rows, which is QR with a positive diagonal
    rows: list[np.ndarray] = []
    for row in gaussian:
        rest = row - sum(((row @ r) * r for r in rows), np.zeros(27))
        rows.append(rest / np.linalg.norm(rest))
    np.testing.assert_allclose(first_gate, np.stack(rows), atol=1e-12)


def test_seeds_differ_and_repeat(refused) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    key = "layers.0.forward.weight_ih"
    np.testing.assert_array_equal(initialise(spec, 3)[key], initialise(spec, 3)[key])
    assert (initialise(spec, 3)[key] != initialise(spec, 4)[key]).all()
    for seed in (-1, 0.5, "a", True):
        with refused(SpecError, "seed"):
            initialise(spec, seed)  # type: ignore[arg-type]


def test_arrays_that_do_not_fit_are_refused_by_name(refused) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    arrays = initialise(spec, 0)
    key = "layers.0.forward.bias"
    with refused(WeightsError, key):
        check_weights(spec, {k: v for k, v in arrays.items() if k != key})
    with refused(WeightsError, "layers.0.forward.peephole"):
        check_weights(spec, arrays | {"layers.0.forward.peephole": np.zeros((3, 2))})
    with refused(WeightsError, key):
        check_weights(spec, arrays | {key: arrays[key].T})
