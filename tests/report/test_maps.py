"""Frames, their times, and which maps stand where."""

import base64
import io
import zlib

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
    player = atlas.player(30.0).data
    assert player["leads"] == [-10, -5, 0, 5, 15, 30, 60]
    assert player["labels"] == ["−10 min", "−5 min", "0 min", "+5 min", "+15 min", "+30 min", "+60 min"]
    assert (player["inputs"], player["first"]) == (3, 5)
    assert player["panels"] == ["Observation", "ConvLSTM", "Optical flow", "Persistence"]
    assert [case["label"] for case in player["choices"]] == [
        "Case 1: start 2018-05-18 14:05 UTC",
        "Case 2: start 2018-05-19 23:45 UTC",
    ]
    assert player["choices"][0]["times"][0] == "2018-05-18 13:55 UTC"
    assert player["choices"][1]["times"][-1] == "2018-05-20 00:45 UTC"


def test_every_sheet_has_the_values_and_colours_of_its_own_method_and_lead_time(atlas):
    """Each frame of each panel of each case, decoded by hand: within half a step, and in the same class of colour."""
    player, cases = atlas.player(30.0), atlas.results.cases
    values = player.roundings[0][0].values
    for k, case in enumerate(player.data["choices"]):
        observed = np.concatenate([cases["inputs"][k], cases["observation"][k]])
        forecasts = [cases["forecast"].sel({"method": m})[k].values for m in atlas.results.methods]
        for sheet, frames in zip(case["sheets"], [observed, *forecasts], strict=True):
            data = np.frombuffer(zlib.decompress(base64.b64decode(sheet)), np.uint8).astype(int)
            codes = (256 * data[: frames.size] + data[frames.size :]).reshape(frames.shape)
            decoded = values[codes - 1]
            assert np.abs(decoded - frames).max() <= 0.05  # above 10 mm/h; below it 0.01
            assert np.abs(decoded - frames)[frames < 9.9].max() <= 0.01
            assert np.array_equal(atlas.scale.classify(decoded), atlas.scale.classify(frames))
            firsts = player.data["scales"][0]["firsts"]
            assert np.array_equal(np.searchsorted(firsts, codes, side="right"), atlas.scale.classify(frames))


def test_the_reason_of_a_case_is_in_its_label(make_results, synthetic_cases):
    cases = synthetic_cases.assign_coords(reason=("case", ["best CSI", "worst CSI"]))
    assert Atlas(make_results(cases=cases)).case_label(1) == "Case 2: start 2018-05-19 23:45 UTC (worst CSI)"


def test_still_maps_and_errors_of_each_method_and_lead_time(atlas):
    second = atlas.case_maps()[1]
    assert second.leads == ["5 min", "15 min", "30 min", "60 min"]
    assert list(second.fields) == ["Observation", "ConvLSTM", "Optical flow", "Persistence"]
    assert list(second.errors) == ["ConvLSTM", "Optical flow", "Persistence"]
    cases = atlas.results.cases
    error = cases["forecast"].sel({"method": "persistence"})[1, 2] - cases["observation"][1, 2]
    colours = np.array([rgb(colour) for colour in atlas.error_scale.palette()])
    still = second.errors["Persistence"][2]
    assert np.array_equal(decode(still.image.source), colours[atlas.error_scale.classify(error.values)])
    assert still.alt == "Persistence minus observation: map of rain rate, lead time 30 minutes"


def test_missing_data_is_grey_in_maps_and_errors(make_results, synthetic_cases):
    synthetic_cases["observation"][0, 2, 0, 0] = np.nan
    atlas = Atlas(make_results(cases=synthetic_cases))
    maps = atlas.case_maps()[0]
    for still in (maps.fields["Observation"][2], maps.errors["ConvLSTM"][2]):
        assert decode(still.image.source)[0, 0].tolist() == list(rgb("#b4b8bb"))
    assert decode(maps.fields["ConvLSTM"][2].image.source)[0, 0].tolist() != list(rgb("#b4b8bb"))


def test_times_of_other_calendars(make_results, synthetic_cases):
    times = [cftime.Datetime360Day(2001, 2, 29, 23, 50), cftime.Datetime360Day(2001, 3, 1)]
    atlas = Atlas(make_results(cases=synthetic_cases.assign_coords(init_time=("case", times))))
    assert atlas.player(30.0).data["choices"][0]["times"][-1] == "2001-02-30 00:50 UTC"


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
