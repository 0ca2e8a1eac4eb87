"""Frames, their times, and which maps stand where."""

import base64
import zlib

import cftime
import numpy as np
import pytest

from convlstm.report.maps import Atlas, pick_leads

METHODS = {"ConvLSTM": "convlstm", "Optical flow": "optical flow", "Persistence": "persistence"}


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


@pytest.mark.parametrize("case", [0, 1])
def test_still_maps_and_errors_of_each_method_and_lead_time(atlas, shows, case):
    maps, cases = atlas.case_maps()[case], atlas.results.cases.isel(case=case)
    assert maps.leads == ["5 min", "15 min", "30 min", "60 min"]
    assert list(maps.fields) == ["Observation", *METHODS]
    assert list(maps.errors) == list(METHODS)
    observed = cases["observation"].values
    for place, minutes in enumerate((5, 15, 30, 60)):
        assert shows(maps.fields["Observation"][place].image, observed[place], atlas.scale)
        for name, method in METHODS.items():
            forecast = cases["forecast"].sel({"method": method}).values[place]
            field, error = maps.fields[name][place], maps.errors[name][place]
            assert shows(field.image, forecast, atlas.scale)
            assert field.alt == f"{name}: map of rain rate, lead time {minutes} minutes"
            assert shows(error.image, forecast - observed[place], atlas.error_scale)
            assert error.alt == f"{name} minus observation: map of rain rate, lead time {minutes} minutes"


def test_without_scripts_the_first_case_is_shown_at_the_nearest_lead_time(atlas):
    fields = atlas.case_maps()[0].fields
    assert atlas.stills(33.0) == [stills[2] for stills in fields.values()]
    assert atlas.stills(33.0) != [stills[3] for stills in fields.values()]


def test_missing_data_is_grey_in_maps_and_errors(make_results, synthetic_cases, shows):
    synthetic_cases["observation"][0, 2, 0, 0] = np.nan
    atlas = Atlas(make_results(cases=synthetic_cases))
    maps = atlas.case_maps()[0]
    cases = atlas.results.cases.isel(case=0, lead_time=2)
    observed, forecast = cases["observation"].values, cases["forecast"].sel({"method": "convlstm"}).values
    assert np.isnan(observed).sum() == 1
    assert shows(maps.fields["Observation"][2].image, observed, atlas.scale)
    assert shows(maps.errors["ConvLSTM"][2].image, forecast - observed, atlas.error_scale)
    assert shows(maps.fields["ConvLSTM"][2].image, forecast, atlas.scale)
    assert np.isfinite(forecast).all()
    assert {scale.palette()[-1] for scale in (atlas.scale, atlas.error_scale)} == {"#b4b8bb"}


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
