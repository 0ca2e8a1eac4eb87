"""Windows hold no gap, and no frame is in two splits."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm.data import find_windows, split_days, windows_within
from convlstm.errors import ConfigError, DataError


def test_windows_stop_at_gaps():
    seconds = np.array([0, 300, 600, 900, 1800, 2100, 2400, 9000.0])
    np.testing.assert_array_equal(find_windows(seconds, 3, time_step=300), [0, 1, 4])
    np.testing.assert_array_equal(find_windows(seconds, 4, time_step=300), [0])
    np.testing.assert_array_equal(find_windows(seconds, 5, time_step=300), [])
    np.testing.assert_array_equal(find_windows(seconds, 1, time_step=300), np.arange(8))


def test_the_step_is_held_within_one_percent():
    seconds = np.array([0, 302.9, 605.8, 910, 1214.0])
    np.testing.assert_array_equal(find_windows(seconds, 2, time_step=300), [0, 1])


def test_uneven_steps_are_allowed_up_to_a_gap():
    days = np.array([0, 5, 15, 25, 225, 230]) * 86400.0
    np.testing.assert_array_equal(find_windows(days, 3, time_step=5 * 86400), [])
    np.testing.assert_array_equal(find_windows(days, 3, time_step=5 * 86400, max_gap=10 * 86400), [0, 1])


def test_stride_counts_anew_after_a_gap():
    seconds = np.concatenate([np.arange(7), 100 + np.arange(5)]) * 60.0
    np.testing.assert_array_equal(find_windows(seconds, 3, time_step=60, stride=2), [0, 2, 4, 7, 9])


@settings(deadline=None)
@given(
    gaps=st.lists(st.sampled_from([300.0, 300.0, 300.0, 600.0, 3600.0]), max_size=40),
    length=st.integers(1, 6),
    stride=st.integers(1, 4),
    max_gap=st.sampled_from([None, 600.0]),
)
def test_every_window_is_whole_and_none_is_left_out(gaps, length, stride, max_gap):
    seconds = np.concatenate([[0], np.cumsum(gaps)])
    joined = [gap <= max_gap if max_gap else gap == 300 for gap in gaps]
    starts = find_windows(seconds, length, time_step=300, max_gap=max_gap, stride=stride)
    whole = [at for at in range(len(seconds) - length + 1) if all(joined[at : at + length - 1])]
    assert set(starts) <= set(whole)
    assert (np.diff(starts) > 0).all()
    if stride == 1:
        assert starts.tolist() == whole


@pytest.mark.parametrize(
    ("option", "value"), [("length", 0), ("stride", 0), ("time_step", 0), ("time_step", np.nan), ("max_gap", -1)]
)
def test_senseless_options_are_refused(option, value):
    with pytest.raises(ConfigError, match=option):
        find_windows(np.arange(5.0), **{"length": 2, "time_step": 1.0, option: value})


def hours(*days):
    """Every sixth hour of some days."""
    dates = [np.datetime64(day) + np.timedelta64(hour, "h") for day in days for hour in (0, 6, 12, 18)]
    return xr.DataArray(np.array(dates, "datetime64[ns]"), dims="time")


FIVE = hours("2018-05-10", "2018-05-13", "2018-05-14", "2018-05-19", "2018-05-20")


def frames(mask):
    return np.flatnonzero(mask).tolist()


def test_the_last_days_are_for_the_test():
    split = split_days(FIVE, validation=1, test=2)
    assert frames(split["train"]) == [*range(8)]
    assert frames(split["validation"]) == [*range(8, 12)]
    assert frames(split["test"]) == [*range(12, 20)]


def test_days_by_name_and_by_number_go_together():
    split = split_days(FIVE, validation=("2018-05-13",), test=1)
    assert frames(split["validation"]) == [*range(4, 8)]
    assert frames(split["test"]) == [*range(16, 20)]
    split = split_days(FIVE, validation=1, test=("2018-05-20", "2018-05-10"))
    assert frames(split["validation"]) == [*range(12, 16)]
    assert frames(split["test"]) == [0, 1, 2, 3, 16, 17, 18, 19]
    split = split_days(FIVE, validation=("2018-05-20",), test=1)
    assert frames(split["test"]) == [*range(12, 16)]
    assert frames(split_days(FIVE, validation=0, test=0)["train"]) == [*range(20)]


def test_a_calendar_of_360_days():
    time = xr.date_range("1860-02-29", periods=4, freq="D", calendar="360_day", use_cftime=True)
    split = split_days(xr.DataArray(time, dims="time"), validation=("1860-02-30",), test=1)
    assert frames(split["validation"]) == [1]
    assert frames(split["test"]) == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test": 6},
            "split by day: expected at least 8 days: 1 for validation, 6 for test, 1 for training, got 5",
        ),
        ({"test": -1}, "test days: expected 0 to 5, got -1"),
        (
            {"validation": 4, "test": 1},
            "split by day: expected at least 6 days: 4 for validation, 1 for test, 1 for training, got 5",
        ),
        ({"validation": ("2018-05-11",)}, "validation days: expected days of the data, got 2018-05-11. Choose from"),
        ({"validation": ("2018-05-10",), "test": ("2018-05-10",)}, "2018-05-10, which is also in the other split"),
    ],
)
def test_days_that_cannot_be_had(options, message):
    with pytest.raises(DataError, match=message):
        split_days(FIVE, **options)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=3, max_size=8),
    length=st.integers(1, 8),
    validation=st.integers(0, 1),
    test=st.integers(0, 1),
)
def test_no_frame_is_in_windows_of_two_splits(counts, length, validation, test):
    times = [
        np.datetime64("2018-05-10T00:00") + np.timedelta64(1440 * d + 5 * n, "m")
        for d, k in enumerate(counts)
        for n in range(k)
    ]
    time = xr.DataArray(np.array(times, "datetime64[ns]"), dims="time")
    split = split_days(time, validation=validation, test=test)
    assert np.sum([*split.values()], axis=0).tolist() == [1] * len(times)
    # gaps of days are allowed here, so that windows would cross from split to split if they could
    seconds = (time.values - time.values[0]) / np.timedelta64(1, "s")
    starts = find_windows(seconds, length, time_step=300, max_gap=1e9)
    seen = {
        name: {at + n for at in windows_within(starts, length, mask) for n in range(length)}
        for name, mask in split.items()
    }
    assert seen["train"].isdisjoint(seen["validation"] | seen["test"])
    assert seen["validation"].isdisjoint(seen["test"])
    for name, mask in split.items():
        assert seen[name] <= set(frames(mask))
