"""The frame that moves with the rain: a pattern that only moves does not change there."""

import numpy as np
import pytest

from convlstm.data import LogRain, find_windows
from convlstm.nowcast.motion import advect
from convlstm.nowcast.moving_batches import MovingBatches, MovingValidation, MovingWindows
from convlstm.nowcast.moving_frame import (
    Rectangle,
    future_frames,
    past_frames,
    to_grid,
    whole_frame,
    with_absent_frames,
    with_known,
)

GRID = (40, 50)
SPEED = (2, -3)  # cells down and right per step of 300 s


@pytest.fixture
def motion():
    return np.broadcast_to(np.array(SPEED, np.float32).reshape(2, 1, 1) / 300, (2, *GRID)).copy()


@pytest.fixture
def moving_pattern():
    """Frames (time, channel, height, width) of a random pattern that moves by SPEED, at steps −3 to 4."""
    pattern = np.random.default_rng(0).random((120, 120)).astype(np.float32)
    steps = range(-3, 5)
    frames = [pattern[40 - SPEED[0] * n : 80 - SPEED[0] * n, 35 - SPEED[1] * n : 85 - SPEED[1] * n] for n in steps]
    return np.stack(frames)[:, None], np.array(steps) * 300.0, pattern


def test_a_pattern_that_only_moves_is_the_same_in_every_frame(motion, moving_pattern):
    frames, seconds, pattern = moving_pattern
    part = Rectangle(-8, -12, 56, 74)
    expected = pattern[40 - 8 : 40 - 8 + 56, 35 - 12 : 35 - 12 + 74]
    past = past_frames(frames[:4], motion, seconds[:4], part)
    future = future_frames(frames[4:], motion, seconds[4:], part)
    for frame in (*past, *future):
        known = np.isfinite(frame[0])
        assert known.sum() > 0.5 * GRID[0] * GRID[1]
        np.testing.assert_allclose(frame[0][known], expected[known], atol=2e-5)
    # the last input frame is the grid itself, and nothing is known outside it
    inside = np.zeros(past[-1, 0].shape, bool)
    inside[8:48, 12:62] = True
    np.testing.assert_array_equal(np.isfinite(past[-1, 0]), inside)


def test_rain_that_will_enter_the_grid_is_a_target_outside_it(motion, moving_pattern):
    frames, seconds, _ = moving_pattern
    future = future_frames(frames[4:], motion, seconds[4:], Rectangle(-8, -12, 56, 74))
    # after one step, cells two rows above the grid and three columns to its right have entered it
    assert np.isfinite(future[0, 0, 6, 20])
    assert np.isnan(future[0, 0, 5, 20])


def test_a_forecast_moved_to_the_grid_equals_the_advected_frame(motion, moving_pattern):
    frames, seconds, _ = moving_pattern
    leads = seconds[4:]
    part = whole_frame(motion, leads[-1], GRID, 4)
    still = np.repeat(past_frames(frames[3:4], motion, np.zeros(1), part), len(leads), axis=0)
    moved = to_grid(np.nan_to_num(still), motion, leads, part, Rectangle(0, 0, *GRID))[:, 0]
    expected = advect(frames[3, 0], motion, leads)
    for step, (one, other) in enumerate(zip(moved, expected, strict=True), start=1):
        inner = (slice(SPEED[0] * step, None), slice(None, SPEED[1] * step))
        np.testing.assert_allclose(one[inner], other[inner], atol=2e-5)


def test_the_frame_has_the_margin_of_the_longest_way_and_whole_patches(motion):
    part = whole_frame(motion, 1200, GRID, 4)
    assert (part.top, part.left) == (-8, -12)
    assert part.height % 4 == part.width % 4 == 0
    assert part.height >= GRID[0] + 16
    assert whole_frame(motion * 100, 1200, GRID, 4).top == -GRID[0]


def test_the_last_channel_says_where_all_values_are_known():
    values = np.array([[1.0, np.nan], [np.nan, 2.0]], np.float32).reshape(1, 2, 1, 2)
    values[0, 1, 0, 0] = 3
    np.testing.assert_array_equal(with_known(values).reshape(3, 2), [[1, 0], [3, 2], [1, 0]])


@pytest.fixture
def windows(rain_frames):
    starts = find_windows(rain_frames.seconds, 7, time_step=rain_frames.time_step)
    return MovingWindows(rain_frames, LogRain(), 3, 4), starts


def batches(windows, **options):
    settings = {"batch_size": 2, "crop": 16, "augment": True, "intensity": 0.2, "seed": 0} | options
    return MovingBatches(windows[0], windows[1], **settings)


def test_a_batch_follows_from_the_seed_and_the_step_alone(windows):
    first, again = batches(windows).batch(5), batches(windows).batch(5)
    for name in ("inputs", "targets", "weight"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (batches(windows, seed=1).batch(5).targets != first.targets).any()
    assert first.inputs.shape == (2, 3, 2, 16, 16)
    assert first.targets.shape == first.weight.shape == (2, 4, 1, 16, 16)


def test_rows_of_a_batch_are_those_of_the_whole_batch(windows):
    whole = batches(windows, batch_size=3).batch(5)
    parts = [batches(windows, batch_size=3).batch(5, rows) for rows in (slice(0, 2), slice(2, 3))]
    for name in ("inputs", "targets", "weight"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_a_batch_without_augmentation_holds_the_moved_values_of_the_file(windows):
    batch = batches(windows, augment=False, intensity=0.0).batch(0)
    values = np.unique(windows[0].frames.read(slice(None)))
    targets = LogRain().inverse(batch.targets[batch.weight > 0])
    nearest = values[np.searchsorted(values, targets).clip(1, len(values) - 1)]
    before = values[np.searchsorted(values, targets).clip(1, len(values) - 1) - 1]
    assert np.minimum(np.abs(targets - nearest), np.abs(targets - before)).max() < 1e-4
    assert np.isin(batch.inputs[:, :, 1], (0, 1)).all()


def test_validation_windows_are_whole_grids_in_order(windows):
    validation = MovingValidation(windows[0], windows[1][:5], 2)
    assert len(validation) == 3
    assert validation.batch(2).inputs.shape[0] == 1
    assert validation.batch(0).targets.shape[-2:] == windows[0].frames.shape[2:]


def test_an_absent_frame_is_the_nearest_one_in_the_moving_frame():
    past = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    is_there = np.array([False, False, True, False, True])
    assert with_absent_frames(past, is_there).ravel().tolist() == [2, 2, 2, 4, 4]
    for same in (np.ones(5, bool), np.zeros(5, bool)):
        assert with_absent_frames(past, same) is past
