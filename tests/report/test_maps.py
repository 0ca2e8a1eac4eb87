"""Frames, their times, and which maps stand where."""

import base64
import io

import cftime
import numpy as np
import pytest
from PIL import Image

from convlstm.report.maps import Atlas, pick_leads
from convlstm.report.scales import rgb


def decode(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))


@pytest.fixture
def atlas(make_results):
    return Atlas(make_results())


def test_frames_run_from_inputs_to_lead_times_with_valid_times(atlas):
    player = atlas.player(30.0)
    assert player["leads"] == [-10, -5, 0, 5, 15, 30, 60]
    assert player["labels"] == ["−10 min", "−5 min", "0 min", "+5 min", "+15 min", "+30 min", "+60 min"]
    assert (player["inputs"], player["first"]) == (3, 5)
    assert player["panels"] == ["Observation", "ConvLSTM", "Optical flow", "Persistence"]
    assert [case["label"] for case in player["cases"]] == [
        "Case 1: start 2018-05-18 14:05 UTC",
        "Case 2: start 2018-05-19 23:45 UTC",
    ]
    assert player["cases"][0]["times"][0] == "2018-05-18 13:55 UTC"
    assert player["cases"][1]["times"][-1] == "2018-05-20 00:45 UTC"


def test_every_sprite_shows_its_own_method_and_lead_time(atlas):
    """Each frame of each panel of each case, decoded and compared with the colours of its values."""
    player, cases = atlas.player(30.0), atlas.results.cases
    colours = np.array([rgb(colour) for colour in atlas.scale.palette()])
    for k, case in enumerate(player["cases"]):
        observed = np.concatenate([cases["inputs"][k], cases["observation"][k]])
        forecasts = [cases["forecast"].sel({"method": m})[k].values for m in atlas.results.methods]
        for sprite, frames in zip(case["sprites"], [observed, *forecasts], strict=True):
            pixels = decode(sprite["source"])
            for index, frame in enumerate(frames):
                row, column = divmod(index, sprite["columns"])
                tile = pixels[24 * row : 24 * row + 24, 24 * column : 24 * column + 24]
                assert np.array_equal(tile, colours[atlas.scale.classify(frame)])


def test_colours_are_told_by_the_words_of_their_class(atlas):
    classes = atlas.player(30.0)["classes"]
    assert classes["#ffe04a"] == "5 to 10 mm/h"
    assert classes["#b4b8bb"] == "no data"


def test_still_maps_and_errors_of_each_method_and_lead_time(atlas):
    second = atlas.case_maps()[1]
    assert second.leads == ["5 min", "15 min", "30 min", "60 min"]
    assert list(second.fields) == ["Observation", "ConvLSTM", "Optical flow", "Persistence"]
    assert list(second.errors) == ["ConvLSTM", "Optical flow", "Persistence"]
    cases = atlas.results.cases
    error = cases["forecast"].sel({"method": "persistence"})[1, 2] - cases["observation"][1, 2]
    colours = np.array([rgb(colour) for colour in atlas.error_scale.palette()])
    still = second.errors["Persistence"][2]
    assert np.array_equal(decode(still.source), colours[atlas.error_scale.classify(error.values)])
    assert still.alt == "Persistence minus observation: map of rain rate, lead time 30 minutes"


def test_missing_data_is_grey_in_maps_and_errors(make_results, synthetic_cases):
    synthetic_cases["observation"][0, 2, 0, 0] = np.nan
    atlas = Atlas(make_results(cases=synthetic_cases))
    maps = atlas.case_maps()[0]
    for still in (maps.fields["Observation"][2], maps.errors["ConvLSTM"][2]):
        assert decode(still.source)[0, 0].tolist() == list(rgb("#b4b8bb"))
    assert decode(maps.fields["ConvLSTM"][2].source)[0, 0].tolist() != list(rgb("#b4b8bb"))


def test_times_of_other_calendars(make_results, synthetic_cases):
    times = [cftime.Datetime360Day(2001, 2, 29, 23, 50), cftime.Datetime360Day(2001, 3, 1)]
    atlas = Atlas(make_results(cases=synthetic_cases.assign_coords(init_time=("case", times))))
    assert atlas.player(30.0)["cases"][0]["times"][-1] == "2001-02-30 00:50 UTC"


@pytest.mark.parametrize(
    ("lead_times", "picked"),
    [
        (np.arange(5.0, 65.0, 5.0), [5, 15, 30, 60]),
        ([10.0], [10]),
        ([10.0, 20.0, 30.0], [10, 20, 30]),
        ([10.0, 30.0, 60.0], [10, 30, 60]),
    ],
)
def test_up_to_four_lead_times_are_picked(lead_times, picked):
    assert pick_leads(np.asarray(lead_times)).tolist() == picked
