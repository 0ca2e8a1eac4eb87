"""Batches hold the right numbers, follow from seed and step alone, and look where it rains."""

import dataclasses

import numpy as np
import pytest

from convlstm.data import (
    Batches,
    Identity,
    LogRain,
    Standard,
    find_windows,
    open_frames,
    sample_path,
    split_days,
    windows_within,
)
from convlstm.data.sampling import UniformSampler, WetSampler
from convlstm.errors import ConfigError, DataError

SIZES = {"input_length": 2, "horizon": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def sample():
    return open_frames(sample_path())


@pytest.fixture
def counted(save_netcdf, rain_counts, rain_dataset):
    """12 frames of 8 × 8 cells, unit K, each number another: 64 · frame + 8 · row + column; one is missing."""
    counts = rain_counts(12, 8, 8)
    counts[7, 1, 2] = -9999
    return open_frames(save_netcdf(rain_dataset(counts, attrs={"units": "K", "_FillValue": np.int16(-9999)})))


def test_in_order_each_window_comes_once(counted):
    batches = Batches.in_order(counted, np.arange(0, 8), Identity(), **SIZES | {"batch_size": 3})
    assert len(batches) == 3
    assert [len(batch.inputs) for batch in batches_of(batches)] == [3, 3, 2]
    batch = batches.batch(1)
    expected = 64 * (np.array([3, 4, 5])[:, None] + np.arange(5))[..., None, None] + np.arange(64).reshape(8, 8)
    missing = expected == 64 * 7 + 10
    together = np.concatenate([batch.inputs, batch.targets], axis=1)[:, :, 0]
    np.testing.assert_array_equal(together, np.where(missing, 0, expected))
    np.testing.assert_array_equal(batch.weight[:, :, 0], ~missing[:, 2:])
    assert missing[:, :2].sum() == 0
    assert (batch.weight == 0).sum() == 3
    for part in dataclasses.astuple(batch):
        assert part.dtype == np.float32
    with pytest.raises(IndexError, match="batch 3 of 3"):
        batches.batch(3)


def batches_of(batches):
    return [batches.batch(number) for number in range(len(batches))]


def test_a_missing_input_is_the_pixels_last_known_value(counted):
    batch = Batches.in_order(counted, np.array([6]), Standard(mean=100.0, std=2.0), **SIZES).batch(0)
    assert batch.inputs[0, 1, 0, 1, 2] == batch.inputs[0, 0, 0, 1, 2] == (64 * 6 + 10 - 100) / 2
    assert batch.inputs[0, 1, 0, 1, 3] == (64 * 7 + 11 - 100) / 2
    assert (batch.weight == 1).all()


def test_durations_are_the_gaps_of_real_times(save_netcdf, rain_dataset):
    frames = open_frames(save_netcdf(rain_dataset(seconds=np.array([0, 300, 600, 1500, 1560]))))
    starts = find_windows(frames.seconds, 4, time_step=300, max_gap=1000)
    np.testing.assert_array_equal(starts, [0, 1])
    batch = Batches.in_order(frames, starts, LogRain(), input_length=2, horizon=2, batch_size=2).batch(0)
    np.testing.assert_array_equal(batch.durations, [[300, 300], [300, 300]])
    np.testing.assert_array_equal(batch.lead_durations, [[300, 900], [900, 60]])


def test_a_crop_is_cut_out_of_one_place_in_all_frames(counted):
    batch = Batches(counted, np.arange(3), Identity(), **SIZES, crop=3, seed=1).batch(0)
    together = np.concatenate([batch.inputs, batch.targets], axis=1)[:, :, 0]
    assert together.shape == (4, 5, 3, 3)
    np.testing.assert_array_equal(together - together[:, :1, :1, :1], expected_steps(5, 3))
    corner = together[:, 0, 0, 0] % 64
    assert (corner // 8 <= 5).all()
    assert (corner % 8 <= 5).all()


def expected_steps(time, size):
    grid = 8 * np.arange(size)[:, None] + np.arange(size)
    return np.broadcast_to(64 * np.arange(time)[:, None, None] + grid, (4, time, size, size))


def test_every_place_and_window_is_drawn_evenly():
    draw, random = UniformSampler(np.array([3, 5]), grid=(4, 6), crop=(3, 3)), np.random.default_rng(0)
    drawn = [draw(random) for _ in range(4000)]
    places = {(start, rows.start, columns.start) for start, (rows, columns) in drawn}
    assert places == {(start, y, x) for start in (3, 5) for y in range(2) for x in range(4)}
    # 16 places of chance 1/16 each: 250 ± 15, and 4 standard deviations of that
    counts = np.unique([64 * s + 8 * w[0].start + w[1].start for s, w in drawn], return_counts=True)[1]
    assert np.abs(counts - 250).max() < 62


def test_augmentation_turns_and_flips_all_frames_alike(counted):
    plain = Batches.in_order(counted, np.array([0]), Identity(), **SIZES).batch(0)
    before = np.concatenate([plain.inputs, plain.targets], axis=1)[0, :, 0]
    turned = {np.rot90(before, k, axes=(1, 2)).tobytes(): (k, False) for k in range(4)}
    turned |= {np.rot90(before, k, axes=(1, 2))[..., ::-1].tobytes(): (k, True) for k in range(4)}
    assert len(turned) == 8
    batches = Batches(counted, np.array([0]), Identity(), **SIZES, augment=True, seed=0)
    seen = set()
    for step in range(30):
        batch = batches.batch(step)
        for window in np.concatenate([batch.inputs, batch.targets], axis=1)[:, :, 0]:
            seen.add(turned[window.tobytes()])
    assert len(seen) == 8


def test_augmentation_keeps_the_shape_of_an_oblong_grid(save_netcdf, rain_counts, rain_dataset):
    frames = open_frames(save_netcdf(rain_dataset(rain_counts(8, 4, 6))))
    batches = Batches(frames, np.arange(3), LogRain(), **SIZES, augment=True, seed=0)
    assert {batches.batch(step).inputs.shape for step in range(8)} == {(4, 2, 1, 4, 6)}


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True))


def test_rows_of_a_batch_are_those_of_the_whole_batch(counted):
    batches = Batches(counted, np.arange(8), Identity(), **SIZES, crop=4, augment=True, seed=0)
    whole, parts = batches.batch(5), [batches.batch(5, rows) for rows in (slice(0, 1), slice(1, 4))]
    for name in ("inputs", "targets", "weight", "durations", "lead_durations"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert len(parts[0].inputs) == 1


def test_a_batch_follows_from_seed_and_step_alone(sample):
    def fresh(seed=7):
        starts = find_windows(sample.seconds, 18, time_step=300)
        sizes = {"input_length": 6, "horizon": 12, "batch_size": 2}
        return Batches(sample, starts, LogRain(), **sizes, crop=32, augment=True, seed=seed)

    one, other = fresh(), fresh()
    forward = [one.batch(step) for step in (0, 1, 2)]
    backward = [other.batch(step) for step in (2, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert same(one.batch(1), forward[1])
    assert not same(forward[0], forward[1])
    assert not same(forward[0], fresh(seed=8).batch(0))


def test_wet_places_are_drawn_in_proportion(save_netcdf, rain_dataset):
    # 2 windows × 2 × 2 blocks of 16 cells; it rains heavily in one block of the frames that only window 1 has
    counts = np.zeros((6, 32, 32), np.int16)
    counts[5, 16:, :16] = 1000
    frames = open_frames(save_netcdf(rain_dataset(counts)))
    draw, random = WetSampler(frames, np.array([0, 1]), 5, (16, 16)), np.random.default_rng(0)
    drawn = [draw(random) for _ in range(4000)]
    starts = np.array([start for start, _ in drawn])
    wet = [window for start, window in drawn if start == 1]
    inside = np.mean([rows.start >= 16 and columns.start <= 15 for rows, columns in wet])
    # a wetness of 1 in one of 5 frames is 0.2 in one of 4 places, and the floor is 0.02 each:
    # windows (0.05 + 0.02) / (0.05 + 2 · 0.02) = 0.778, places (0.2 + 0.02) / (0.2 + 4 · 0.02) = 0.786
    assert np.mean(starts == 1) == pytest.approx(0.778, abs=0.03)
    assert inside == pytest.approx(0.786, abs=0.03)


def test_a_grid_smaller_than_a_block_is_as_wet_as_its_cells(save_netcdf, rain_dataset):
    counts = np.zeros((6, 8, 8), np.int16)
    counts[5] = 1000
    draw = WetSampler(open_frames(save_netcdf(rain_dataset(counts))), np.array([0, 1]), 5, (8, 8))
    random = np.random.default_rng(0)
    # wetness 1 in one of 5 frames: (0.2 + 0.02) / (0.2 + 2 · 0.02)
    assert np.mean([draw(random)[0] for _ in range(4000)]) == pytest.approx(0.917, abs=0.02)


def test_crops_reach_every_corner(sample):
    draw, random = WetSampler(sample, np.arange(20), 18, (80, 80)), np.random.default_rng(0)
    rows, columns = zip(*(draw(random)[1] for _ in range(3000)), strict=True)
    for parts in (rows, columns):
        assert {part.start for part in parts} == set(range(17))
        assert {part.stop - part.start for part in parts} == {80}


def test_rain_is_seen_more_often_than_it_falls(sample):
    starts = find_windows(sample.seconds, 18, time_step=300)
    sizes = {"input_length": 6, "horizon": 12, "batch_size": 8}
    shares = {}
    for prefer_wet in (True, False):
        batches = Batches(sample, starts, LogRain(), **sizes, crop=48, prefer_wet=prefer_wet, seed=0)
        rain = [LogRain().inverse(batches.batch(step).targets) for step in range(12)]
        shares[prefer_wet] = np.mean(np.stack(rain) >= 1)
    # 9.5 % of the sample has at least 1 mm/h
    assert shares[False] == pytest.approx(0.095, abs=0.03)
    assert shares[True] > 1.6 * shares[False]


def test_missing_values_count_as_dry(save_netcdf, rain_dataset):
    counts = np.full((6, 16, 16), -9999, np.int16)
    counts[5, 0, 0] = 100
    frames = open_frames(save_netcdf(rain_dataset(counts)))
    draw = WetSampler(frames, np.array([0, 1]), 5, (16, 16))
    random = np.random.default_rng(0)
    # wetness 1 in 1 of 5 · 256 pixels: (0.00078 + 0.02) against 0.02
    assert np.mean([draw(random)[0] for _ in range(400)]) == pytest.approx(0.51, abs=0.08)


def test_all_dry_windows_are_refused(save_netcdf, rain_dataset):
    counts = np.zeros((12, 8, 8), np.int16)
    counts[11] = 50
    frames = open_frames(save_netcdf(rain_dataset(counts, attrs={"units": "mm/h", "scale_factor": 0.01})))
    with pytest.raises(
        DataError, match=r"rain: expected rain above 0.1 mm/h .*, got at most 0 mm/h. Choose days with more rain"
    ):
        Batches(frames, np.arange(5), LogRain(), **SIZES, seed=0)
    # the last frame's 0.5 mm/h are seen by window 7 only, and evenly drawn windows need no rain
    Batches(frames, np.array([7]), LogRain(), **SIZES, seed=0)
    Batches(frames, np.arange(5), LogRain(), **SIZES, prefer_wet=False, seed=0)


def test_data_other_than_rain_is_drawn_evenly(counted):
    batches = Batches(counted, np.arange(8), Identity(), **SIZES, seed=0)
    starts = [int(n) // 64 for step in range(200) for n in batches.batch(step).inputs[:, 0, 0, 7, 7]]
    counts = np.unique(starts, return_counts=True)[1]
    # 800 draws of 8 windows: 100 ± 9.4 each
    assert len(counts) == 8
    assert np.abs(counts - 100).max() < 40


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"starts": np.array([], int)}, DataError, "windows: expected at least one run of 5 frames without a gap"),
        ({"starts": np.array([0, 8])}, DataError, "starts: expected first frames from 0 to 7, got 0 to 8"),
        ({"starts": np.array([-1])}, DataError, "starts: expected first frames from 0 to 7"),
        ({"crop": 9}, DataError, "crop: expected 1 to 8, because the grid is 8 × 8, got 9"),
        ({"crop": 0}, DataError, "crop: expected 1 to 8"),
        ({"batch_size": 0}, ConfigError, "batch_size: expected 1 or more"),
        ({"horizon": 0}, ConfigError, "horizon: expected 1 or more"),
        ({"input_length": 0}, ConfigError, "input_length: expected 1 or more"),
        ({"seed": -1}, ConfigError, "seed: expected 0 or more"),
    ],
)
def test_senseless_options_are_refused(options, error, message, counted):
    arguments = {"starts": np.arange(5), "seed": 0, **SIZES, **options}
    with pytest.raises(error, match=message):
        Batches(counted, transform=Identity(), **arguments)


def test_no_window_of_the_sample_leaks(sample):
    starts = find_windows(sample.seconds, 18, time_step=sample.time_step)
    parts = {name: windows_within(starts, 18, mask) for name, mask in split_days(sample.time).items()}
    assert {name: len(part) for name, part in parts.items()} == {"train": 311, "validation": 55, "test": 103}
    assert sum(map(len, parts.values())) == len(starts)
    days = {
        name: {str(day) for at in part for day in sample.time.values[at : at + 18].astype("datetime64[D]")}
        for name, part in parts.items()
    }
    assert days["validation"] == {"2018-05-19"}
    assert days["test"] == {"2018-05-20"}
    assert days["train"] == {f"2018-05-{day}" for day in (10, 13, 14, 15, 16)}
