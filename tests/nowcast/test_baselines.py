"""Persistence and optical flow against motions that are known because the test made them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from convlstm.data.sample import sample_path
from convlstm.errors import DataError, ShapeError
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.motion import advect, estimate_motion

HEIGHT, WIDTH = 80, 96
STEP = 300.0  # seconds between two scans


def blob(row, column, *, height=HEIGHT, width=WIDTH, peak=10.0, radius=6.0):
    y, x = np.mgrid[:height, :width]
    return (peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * radius**2))).astype(np.float32)


def moving(seconds, speed=(2.0 / STEP, -3.0 / STEP), start=(30.0, 60.0)):
    """A blob at the given times: (time, channel, height, width)."""
    return np.stack([blob(start[0] + speed[0] * t, start[1] + speed[1] * t)[None] for t in seconds])


def centre(frame):
    y, x = np.indices(frame.shape)
    return np.array([(y * frame).sum(), (x * frame).sum()]) / frame.sum()


def rmse(a, b):
    return float(np.sqrt(np.square(a - b).mean()))


def test_persistence_repeats_the_last_frame():
    inputs = np.arange(2 * 1 * 2 * 3, dtype=np.float32).reshape(2, 1, 2, 3)
    result = persistence(inputs, [5.0, 10.0, 60.0])
    assert result.dtype == np.float32
    assert_array_equal(result, np.stack([inputs[1]] * 3))


def test_persistence_takes_the_latest_known_value_of_each_pixel():
    inputs = np.array([[[1, 2], [np.nan, 4]], [[5, np.nan], [np.nan, 8]], [[np.nan, np.nan], [np.nan, 12]]])
    result = persistence(inputs[:, None], [1.0])
    assert_array_equal(result[0, 0], [[5, 2], [np.nan, 12]])


def test_a_moving_blob_arrives_at_the_right_place():
    inputs = moving(np.arange(4) * STEP)
    leads = np.arange(1, 7) * STEP
    truth = moving(3 * STEP + leads)
    forecast = optical_flow(inputs, np.arange(4) * STEP, leads)
    assert forecast.shape == truth.shape
    for predicted, true in zip(forecast[:, 0], truth[:, 0], strict=True):
        assert_allclose(centre(predicted), centre(true), atol=0.5)
    assert rmse(forecast, truth) < 0.1 * rmse(persistence(inputs, leads), truth)


def test_uneven_times_are_read_as_times():
    seconds, leads = np.array([0.0, 250.0, 700.0]), np.array([100.0, 900.0, 1300.0])
    forecast = optical_flow(moving(seconds), seconds, leads)
    for predicted, true in zip(forecast[:, 0], moving(seconds[-1] + leads)[:, 0], strict=True):
        assert_allclose(centre(predicted), centre(true), atol=0.5)


def test_a_missing_last_scan_is_bridged():
    seconds, leads = np.array([0.0, STEP, 2 * STEP, 4 * STEP]), np.array([STEP, 3 * STEP])
    inputs = moving(seconds)
    inputs[3] = np.nan
    forecast = optical_flow(inputs, seconds, leads)
    for predicted, true in zip(forecast[:, 0], moving(seconds[-1] + leads)[:, 0], strict=True):
        assert_allclose(centre(predicted), centre(true), atol=0.5)


def test_motion_is_in_pixels_per_second_down_and_right():
    seconds = np.array([0.0, STEP])
    motion = estimate_motion(moving(seconds)[:, 0], seconds)
    here = motion[:, 32, 57] * STEP
    assert_allclose(here, (2.0, -3.0), atol=0.1)
    # The empty pixels around must move along, or the blob would run into a wall.
    assert_allclose(motion.reshape(2, -1).mean(axis=1) * STEP, (2.0, -3.0), atol=0.3)


def test_channels_move_apart():
    seconds, leads = np.array([0.0, STEP]), np.array([4 * STEP])
    left = moving(seconds)
    down = moving(seconds, speed=(4.0 / STEP, 0.0))
    forecast = optical_flow(np.concatenate([left, down], axis=1), seconds, leads)[0]
    assert_allclose(centre(forecast[0]), (30 + 10, 60 - 15), atol=0.5)
    assert_allclose(centre(forecast[1]), (30 + 20, 60), atol=0.5)


def test_other_variables_than_rain():
    """A temperature field, far from zero and on both sides of its median, moves just as well."""
    rng = np.random.default_rng(7)
    waves = rng.normal(size=(12, 4))

    def temperature(t):
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        y, x = y - 2.0 * t / STEP, x + 3.0 * t / STEP
        parts = [a * np.sin(0.15 * (b * y + c * x) + 3 * d) for a, b, c, d in waves]
        return (280 + np.sum(parts, axis=0)).astype(np.float32)

    seconds, leads = np.array([0.0, STEP]), np.array([2 * STEP])
    inputs = np.stack([temperature(t) for t in seconds])[:, None]
    forecast = optical_flow(inputs, seconds, leads)[0, 0]
    inside = np.s_[16:-16, 16:-16]
    truth = temperature(seconds[-1] + leads[0])
    assert rmse(forecast[inside], truth[inside]) < 0.1 * rmse(inputs[-1, 0][inside], truth[inside])
    assert forecast.min() >= inputs.min()
    assert forecast.max() <= inputs.max()


def test_without_motion_it_is_persistence():
    inputs = moving([0.0, 0.0, 0.0])
    result = optical_flow(inputs, np.arange(3) * STEP, [STEP, 5 * STEP])
    assert_allclose(result, persistence(inputs, [1, 2]), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_nothing_to_see_stays_as_it_is(value):
    inputs = np.full((6, 1, 40, 44), value, np.float32)
    assert_array_equal(optical_flow(inputs, np.arange(6) * STEP, [STEP]), inputs[:1])


def test_one_frame_is_persistence():
    inputs = moving([0.0])
    assert_allclose(optical_flow(inputs, [0.0], [STEP]), inputs, atol=1e-6)


def test_missing_pixels_are_bridged():
    """A radar's blind sector next to the blob neither stops the motion nor leaves a hole."""
    seconds, leads = np.arange(3) * STEP, np.array([2 * STEP])
    inputs = moving(seconds)
    inputs[:, :, :, :20] = np.nan
    inputs[-1, :, 40:44, 40:44] = np.nan
    forecast = optical_flow(inputs, seconds, leads)
    assert np.isfinite(forecast).all()
    assert_allclose(centre(forecast[0, 0]), (38.0, 48.0), atol=0.5)


def test_only_a_channel_without_any_value_stays_missing():
    inputs = moving([0.0, STEP])
    inputs = np.concatenate([inputs, np.full_like(inputs, np.nan)], axis=1)
    forecast = optical_flow(inputs, [0.0, STEP], [STEP])
    assert np.isfinite(forecast[:, 0]).all()
    assert np.isnan(forecast[:, 1]).all()


def test_rain_stays_within_what_was_seen_and_is_the_same_each_time():
    rng = np.random.default_rng(3)
    inputs = np.where(rng.random((3, 1, 50, 50)) > 0.8, rng.gamma(0.5, 8.0, (3, 1, 50, 50)), 0).astype(np.float32)
    first, again = (optical_flow(inputs, np.arange(3) * STEP, [STEP, 20 * STEP]) for _ in range(2))
    assert first.min() >= 0
    assert first.max() <= inputs[-1].max()
    assert_array_equal(first, again)


def test_inflow_is_the_nearest_edge():
    frame = np.tile(np.arange(6.0), (4, 1))
    right = np.stack([np.zeros((4, 6)), np.full((4, 6), 0.5)])
    assert_allclose(advect(frame, right, [2.0, 4.0])[:, 1], [[0, 0, 1, 2, 3, 4], [0, 0, 0, 1, 2, 3]])


def test_trajectories_bend_with_a_rotating_motion():
    """A quarter turn of a rigid rotation brings a blob from the right of the centre to below it."""
    size, turn = 81, 90.0
    y, x = np.mgrid[:size, :size] - 40.0
    rate = np.pi / 2 / turn
    rotation = np.stack([rate * x, -rate * y])
    moved = advect(blob(40, 60, height=size, width=size, radius=3), rotation, [turn / 2, turn])
    assert_allclose(centre(moved[1]), (60, 40), atol=0.1)
    assert_allclose(centre(moved[0]), (40 + 20 * np.sqrt(0.5), 40 + 20 * np.sqrt(0.5)), atol=0.1)


def test_real_rain_is_forecast_better_than_by_persistence():
    """Half an hour ahead on wet hours of the shipped sample, in CSI at 1 mm/h and in RMSE."""
    import netCDF4

    with netCDF4.Dataset(sample_path()) as file:
        variable = next(v for v in file.variables.values() if v.ndim == 3)
        rain = np.ma.filled(variable[:48].astype(np.float32), np.nan)[:, None]
    seconds, lead = np.arange(6) * STEP, [6 * STEP]
    starts = range(5, 42, 6)
    truth = np.stack([rain[t + 6, 0] for t in starts])
    flow = np.stack([optical_flow(rain[t - 5 : t + 1], seconds, lead)[0, 0] for t in starts])
    still = np.stack([persistence(rain[t - 5 : t + 1], lead)[0, 0] for t in starts])

    def csi(forecast):
        return ((forecast >= 1) & (truth >= 1)).sum() / ((forecast >= 1) | (truth >= 1)).sum()

    assert csi(flow) > csi(still) + 0.05
    assert np.nanmean((flow - truth) ** 2) < np.nanmean((still - truth) ** 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: persistence(np.zeros((3, 8, 8)), [1]), ShapeError, "inputs"),
        (lambda: optical_flow(np.zeros((3, 1, 8, 1)), [0, 1, 2], [1]), ShapeError, "inputs"),
        (lambda: optical_flow(np.zeros((3, 1, 8, 8)), [0, 1], [1]), DataError, "input_seconds"),
        (lambda: optical_flow(np.zeros((2, 1, 8, 8)), [0, 0], [1]), DataError, "input_seconds"),
        (lambda: optical_flow(np.zeros((2, 1, 8, 8)), [0, 1], [2, 1]), DataError, "lead_seconds"),
        (lambda: optical_flow(np.zeros((2, 1, 8, 8)), [0, 1], [-1, 1]), DataError, "lead_seconds"),
        (lambda: optical_flow(np.zeros((2, 1, 8, 8)), [0, 1], []), DataError, "lead_seconds"),
        (lambda: advect(np.zeros((4, 4)), np.zeros((2, 4, 5)), [1]), ShapeError, "motion"),
        (lambda: advect(np.zeros((4, 4)), np.full((2, 4, 4), np.nan), [1]), DataError, "motion"),
    ],
)
def test_a_bad_argument_is_named(call, error, words):
    with pytest.raises(error, match=f"^{words}: expected"):
        call()
