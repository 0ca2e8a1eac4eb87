"""The lines that a command prints about its data, with the counts worked by hand."""

import numpy as np
import pytest

from convlstm.data import LogRain, Standard, open_frames
from convlstm.data import frames as frames_module
from convlstm.data.summary import summarise, summary_lines


@pytest.fixture
def spoilt(rain_dataset, save_netcdf):
    """Rain of 1 to 5 mm in five minutes, with one infinite value and three missing ones of 120."""
    values = np.repeat(np.arange(1.0, 6), 24).reshape(5, 4, 6)
    values[0, 0, 0], values[1:4, 1, 1] = np.inf, np.nan
    return open_frames(save_netcdf(rain_dataset(values, attrs={"units": "mm"})), accumulated=False)


def test_the_lines_name_unit_factor_reason_range_and_missing_values(spoilt):
    days = {"test": ["2018-05-13"], "train": [f"2018-05-0{n}" for n in range(1, 7)], "validation": []}
    assert summary_lines(summarise(spoilt), LogRain(), days) == [
        ("data", "5 frames of 4 × 6 cells every 5 min, 2018-05-10 00:00 to 2018-05-10 00:20"),
        ("rain", "mm over one time step, × 12 to mm/h; rain by its name"),
        ("", "12 to 60 mm/h, 3.33% missing (1 infinite), in all frames"),
        ("transform", "log_rain(scale=10, ceiling=100, top=1)"),
        ("days", "train 6 from 2018-05-01 to 2018-05-06; validation none; test 2018-05-13"),
    ]


def test_the_statistics_are_those_of_a_window(spoilt):
    channel = summarise(spoilt, slice(3, 5)).channels[0]
    assert (channel.minimum, channel.maximum, channel.infinite) == (48, 60, 0)
    assert channel.missing == pytest.approx(1 / 48)


def test_a_large_sequence_is_sampled_and_the_lines_say_so(rain_dataset, save_netcdf, monkeypatch):
    counts = np.zeros((40, 2, 2), np.int16)
    frames = open_frames(save_netcdf(rain_dataset(counts, seconds=np.arange(40) * 86400)))
    monkeypatch.setattr(frames_module, "_SAMPLE_VALUES", 1)
    lines = summary_lines(summarise(frames))
    assert " every 1 days, " in lines[0][1]
    assert lines[2] == ("", "0 to 0 mm/h, 0.00% missing, in a sample of 16 frames")


def test_each_variable_has_its_own_lines(rain_dataset, save_netcdf):
    dataset = rain_dataset(np.full((5, 4, 6), 7.0), attrs={"units": "K"}).rename(rain="t")
    dataset["a"] = dataset["t"].copy().assign_attrs(units="")
    lines = summary_lines(summarise(open_frames(save_netcdf(dataset), variables=("t", "a"))), Standard((1, 2), (3, 4)))
    assert lines[1:] == [
        ("t", "K; no rain by its unit"),
        ("", "7 to 7 K, 0.00% missing, in all frames"),
        ("a", "no unit; no rain: it has no unit, standard name or name of rain"),
        ("", "7 to 7, 0.00% missing, in all frames"),
        ("transform", "standard(mean=(1, 2), std=(3, 4))"),
    ]
