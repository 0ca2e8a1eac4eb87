"""The forecaster's definition against numbers and loops worked apart from it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.reference import recurrence as reference
from convlstm.reference.forecaster import depth_to_space, forecast, space_to_depth
from convlstm.weights.canonical import initialise


def random_weights(spec: ForecasterSpec, scale: float = 0.5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {key: scale * random.standard_normal(a.shape) for key, a in initialise(spec, 0).items()}


def part(weights: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: a for key, a in weights.items() if key.startswith(prefix)}


def test_patches_by_hand() -> None:
    frames = np.arange(2 * 4 * 6).reshape(2, 4, 6)
    folded = space_to_depth(frames, 2)
    assert folded.shape == (8, 2, 3)
    for c in range(2):
        for dy in range(2):
            for dx in range(2):
                np.testing.assert_array_equal(folded[c * 4 + dy * 2 + dx], frames[c, dy::2, dx::2])
    np.testing.assert_array_equal(depth_to_space(folded, 2), frames)
    np.testing.assert_array_equal(space_to_depth(frames, 1), frames)


def test_the_encoder_s_states_start_the_forecaster() -> None:
    """An encoder of zero weights keeps half of c; the forecaster is written out in scalars."""
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, activation="identity")
    spec = ForecasterSpec(encoder=stack)
    weights = {key: np.zeros_like(a) for key, a in initialise(spec, 0).items()}
    weights["encoder.layers.0.forward.weight_ih"][2] = 1.0  # g = x
    weights["forecaster.layers.0.forward.bias"][2] = 0.25  # g = 1/4 at every lead time
    weights["head.weight"][...] = 10.0
    weights["head.bias"][...] = 3.0
    frames = np.array([2.0, 4.0]).reshape(1, 2, 1, 1, 1)
    c = 0.5 * 2.0
    c = 0.5 * c + 0.5 * 4.0
    expected = []
    for _ in range(3):
        c = 0.5 * c + 0.5 * 0.25
        expected.append(3.0 + 10.0 * 0.5 * c)
    np.testing.assert_allclose(forecast(spec, weights, frames, 3).ravel(), expected, rtol=1e-15)
    with_residual = forecast(replace(spec, residual=True), weights, frames, 3)
    np.testing.assert_allclose(with_residual.ravel(), [4.0 + e for e in expected], rtol=1e-15)


def test_the_head_sees_all_forecaster_layers() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[2, 3], kernel_size=3)
    spec = ForecasterSpec(encoder=stack, patch_size=2)
    weights = random_weights(spec)
    frames = np.random.default_rng(1).standard_normal((2, 3, 1, 6, 4))
    _, states = reference.stack(stack, part(weights, "encoder."), space_to_depth(frames, 2))
    upper, _ = reference.stack(spec.forecaster, part(weights, "forecaster."), None, states, steps=2)
    one = ConvLSTMSpec(in_channels=0, hidden_channels=2, kernel_size=3)
    lower, _ = reference.stack(one, part(weights, "forecaster."), None, states[:1], steps=2)
    hidden = np.concatenate([lower, upper], axis=2)
    patches = np.einsum("oc,btcyx->btoyx", weights["head.weight"][:, :, 0, 0], hidden)
    patches += weights["head.bias"][:, None, None]
    expected = np.empty((2, 2, 1, 6, 4))
    for dy in range(2):
        for dx in range(2):
            expected[:, :, 0, dy::2, dx::2] = patches[:, :, 2 * dy + dx]
    np.testing.assert_allclose(forecast(spec, weights, frames, 2), expected, atol=1e-13)


def test_feedback_takes_its_own_frames() -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    spec = ForecasterSpec(encoder=stack, rollout="feedback", residual=True)
    weights = random_weights(spec)
    frames = np.random.default_rng(1).standard_normal((1, 3, 1, 4, 4))
    fed, wanted = frames, []
    for _ in range(4):
        output, _ = reference.stack(stack, part(weights, "encoder."), fed)
        last = output[:, -1]
        head = (
            np.einsum("oc,bcyx->boyx", weights["head.weight"][:, :, 0, 0], last) + weights["head.bias"][:, None, None]
        )
        wanted.append(head + fed[:, -1])
        fed = np.concatenate([fed, wanted[-1][:, None]], axis=1)
    np.testing.assert_allclose(forecast(spec, weights, frames, 4), np.stack(wanted, axis=1), atol=1e-13)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
@pytest.mark.parametrize("residual", [False, True])
def test_the_horizon_is_free(rollout: str, residual: bool) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    spec = ForecasterSpec(encoder=stack, rollout=rollout, residual=residual, output_activation="softplus")
    weights, frames = random_weights(spec), np.random.default_rng(1).standard_normal((1, 2, 1, 4, 4))
    long = forecast(spec, weights, frames, 6)
    np.testing.assert_array_equal(forecast(spec, weights, frames, 2), long[:, :2])
    assert residual or (long > 0).all()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_the_last_valid_frame_is_the_one_added(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1)
    spec = ForecasterSpec(encoder=stack, rollout=rollout, residual=True)
    weights = {key: np.zeros_like(a) for key, a in initialise(spec, 0).items()}
    frames = np.array([[1.0, 2.0, np.nan], [np.nan, np.nan, np.nan]]).reshape(2, 3, 1, 1, 1)
    mask = np.array([[True, True, False], [False, False, False]])
    assert forecast(spec, weights, frames, 2, mask=mask).ravel().tolist() == [2.0, 2.0, 0.0, 0.0]


def test_lead_durations_drive_the_forecaster() -> None:
    stack = ConvLSTMSpec(
        in_channels=1, hidden_channels=1, kernel_size=1, activation="identity", duration_strategy="linear"
    )
    spec = ForecasterSpec(encoder=stack)
    weights = {key: np.zeros_like(a) for key, a in initialise(spec, 0).items()}
    weights["forecaster.layers.0.forward.bias"][2] = 1.0
    weights["head.weight"][...] = 1.0
    given: dict[str, Any] = {"durations": np.ones((1, 1)), "lead_durations": np.array([[1.0, 3.0, 0.0]])}
    c, expected = 0.0, []
    for duration in (1.0, 3.0, 0.0):
        c = 0.5 * c + 0.5 * duration
        expected.append(0.5 * c)
    assert forecast(spec, weights, np.ones((1, 1, 1, 1, 1)), 3, **given).ravel().tolist() == expected


def test_memory_decay_acts_in_the_encoder_only() -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, memory_decay=True)
    spec = ForecasterSpec(encoder=stack)
    weights = random_weights(spec)
    frames = np.random.default_rng(1).standard_normal((1, 3, 1, 2, 2))
    near, far = (forecast(spec, weights, frames, 2, gaps=np.array([[1.0, 1.0, q]])) for q in (1.0, 9.0))
    assert np.abs(near - far).max() > 1e-3
    assert not [key for key in weights if key.startswith("forecaster.") and "memory" in key]


def silu(x: float) -> float:
    return x / (1.0 + math.exp(-x))


def silu_of(x: np.ndarray) -> np.ndarray:
    return np.vectorize(silu)(x)


def convolve_with_loops(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Cross-correlate x (channel, height, width) point by point, with zeros around it."""
    side, (_, height, width) = kernel.shape[-1], x.shape
    edge = side // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    result = np.empty((len(kernel), height, width))
    for channel in range(len(kernel)):
        for row in range(height):
            for column in range(width):
                window = padded[:, row : row + side, column : column + side]
                result[channel, row, column] = (kernel[channel] * window).sum() + bias[channel]
    return result


def enlarge_with_interp(x: np.ndarray, factor: int) -> np.ndarray:
    """Interpolate x (height, width) between the centres of its cells, which lie at (n + 1/2) · factor − 1/2."""
    for axis in (0, 1):
        centres = (np.arange(x.shape[axis]) + 0.5) * factor - 0.5
        points = np.arange(x.shape[axis] * factor)
        x = np.apply_along_axis(lambda values, c=centres, p=points: np.interp(p, c, values), axis, x)
    return x


def test_logits_by_hand() -> None:
    """The head's outputs are its biases: softplus(0) = log 2, and softplus(log(e² − 1)) = 2."""
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=1, kernel_size=1)
    spec = ForecasterSpec(encoder=stack, patch_size=2, thresholds=(0.1, 1.0, 5.0))
    weights = {key: np.zeros_like(a) for key, a in initialise(spec, 0).items()}
    two = math.log(math.exp(2) - 1)
    outputs = np.array(
        [[1.0, 2.0, 3.0, 4.0], [0.0, two, 0.0, two], [two, two, 0.0, 0.0]]
    )  # threshold, point of a patch
    weights["head.bias"][...] = outputs.ravel()
    logits = forecast(spec, weights, np.ones((1, 1, 1, 4, 2)), 2)
    once = math.log(2)
    expected = [
        [[1.0, 2.0], [3.0, 4.0]],
        [[1.0 - once, 0.0], [3.0 - once, 2.0]],
        [[-1.0 - once, -2.0], [3.0 - 2 * once, 2.0 - once]],
    ]
    assert logits.shape == (1, 2, 3, 4, 2)
    for lead in range(2):
        for patch in (slice(0, 2), slice(2, 4)):
            np.testing.assert_allclose(logits[0, lead, :, patch], expected, rtol=0, atol=1e-14)


# two patches of 2×2 pixels side by side, whose hidden states are 1 and 3 at the first lead time
PIXELS = [[8.0, -1.0, 24.0, 0.5], [0.0, 2.0, -0.5, 1.0]]
ENLARGED = [1.0, 1.5, 2.5, 3.0]  # of 1 and 3: the first and last pixel lie outside the centres of the patches


@pytest.mark.parametrize("thresholds", [(), (0.1, 1.0)])
def test_an_output_at_full_resolution_by_hand(thresholds: tuple[float, ...]) -> None:
    """Each gate is 1/2, so that h is x / 8 of the first pixel of a patch at the first lead time, then half of it."""
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=1, kernel_size=1, activation="identity")
    spec = ForecasterSpec(
        encoder=stack, patch_size=2, detail_channels=1, detail_frames=2, detail_kernel=1, thresholds=thresholds
    )
    weights = {key: np.zeros_like(a) for key, a in initialise(spec, 0).items()}
    weights["encoder.layers.0.forward.weight_ih"][2, 0, 0] = 1.0  # g is the first pixel of the patch
    weights["detail.0.weight"][0, :, 0, 0] = 7.0, 1.0  # of the absent frame, and of the only one
    weights["detail.0.bias"][...] = 0.5
    weights["detail.1.weight"][...] = 2.0
    weights["detail.1.bias"][...] = -1.0
    weights["head.weight"][:, 0, 0, 0] = 1.0, 9.0, -0.5, 0.25, 3.0, 0.0  # three gains, three offsets
    weights["head.bias"][...] = 0.0, 0.0, 1.0, -2.0, 0.0, 0.125
    weights["output.weight"][0, :, 0, 0] = 2.0, 10.0, 0.5
    weights["output.bias"][0] = -3.0
    if thresholds:
        weights["output.weight"][1, :, 0, 0] = 0.0, 0.0, 1.0
    result = forecast(spec, weights, np.array(PIXELS).reshape(1, 1, 1, 2, 4), 2)
    assert result.shape == (1, 2, len(thresholds) or 1, 2, 4)
    for lead, row, column in np.ndindex(2, 2, 4):
        x, h = PIXELS[row][column], ENLARGED[column] / 2**lead
        convolved = silu(x + 0.5)
        convolved += silu(2.0 * convolved - 1.0)
        first = convolved * (1.0 + h) + (0.25 * h - 2.0)
        absent = 3.0 * h  # a frame of zeros has an offset only
        last = x * (1.0 + 1.0 - 0.5 * h) + 0.125
        expected = [2.0 * silu(first) + 10.0 * absent + 0.5 * last - 3.0]
        if thresholds:
            expected.append(expected[0] - math.log1p(math.exp(last)))
        np.testing.assert_allclose(result[0, lead, :, row, column], expected, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"residual": True, "output_activation": "softplus"}, {"head_bias": False}])
def test_an_output_at_full_resolution_with_loops(options: dict[str, Any]) -> None:
    stack = ConvLSTMSpec(in_channels=18, hidden_channels=[2, 3], kernel_size=3)
    spec = ForecasterSpec(
        encoder=stack, frame_channels=2, patch_size=3, detail_channels=4, detail_frames=2, detail_kernel=5, **options
    )
    weights = random_weights(spec)
    frames = np.random.default_rng(1).standard_normal((2, 3, 2, 6, 9))
    mask = np.array([[True, True, True], [True, True, False]])
    frames[1, 2] = np.nan
    _, states = reference.stack(stack, part(weights, "encoder."), space_to_depth(frames, 3), mask=mask)
    upper, _ = reference.stack(spec.forecaster, part(weights, "forecaster."), None, states, steps=2)
    lower_stack = ConvLSTMSpec(in_channels=0, hidden_channels=2, kernel_size=3)
    lower, _ = reference.stack(lower_stack, part(weights, "forecaster."), None, states[:1], steps=2)
    hidden = np.concatenate([lower, upper], axis=2)
    result = forecast(spec, weights, frames, 2, mask=mask)
    for sample, last_valid in enumerate((2, 1)):
        last = np.where(mask[sample, 1:, None, None, None], frames[sample, 1:], 0.0).reshape(4, 6, 9)
        first = silu_of(convolve_with_loops(last, weights["detail.0.weight"], weights["detail.0.bias"]))
        second = silu_of(convolve_with_loops(first, weights["detail.1.weight"], weights["detail.1.bias"]))
        features = [*(first + second), *last]
        for lead in range(2):
            coarse = np.tensordot(weights["head.weight"][:, :, 0, 0], hidden[sample, lead], 1)
            coarse += weights.get("head.bias", np.zeros(16))[:, None, None]
            fine = [enlarge_with_interp(channel, 3) for channel in coarse]
            modulated = [
                feature * (1 + gain) + offset
                for feature, gain, offset in zip(features, fine[:8], fine[8:], strict=True)
            ]
            parts = [*(silu_of(channel) for channel in modulated[:4]), *modulated[4:]]
            expected = np.tensordot(weights["output.weight"][:, :, 0, 0], np.stack(parts), 1)
            expected += weights["output.bias"][:, None, None]
            if options.get("residual"):
                expected = np.log1p(np.exp(expected)) + frames[sample, last_valid]
            np.testing.assert_allclose(result[sample, lead], expected, atol=1e-12)
