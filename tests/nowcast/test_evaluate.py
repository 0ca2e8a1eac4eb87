"""Evaluation: which cases, against what, and every number of the files it leaves."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.data import Standard
from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.nowcast import evaluate as evaluate_module
from convlstm.nowcast import evaluation_details
from convlstm.nowcast import evaluation_forecasts as forecasts_module
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.evaluate import _check_compared, evaluate
from convlstm.nowcast.evaluation_cases import Selection, choose_cases, choose_days
from convlstm.nowcast.fit import fit
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.run_folder import RunFolder
from convlstm.report import write_report
from convlstm.report.headline import make_headline
from convlstm.report.results import read_results
from convlstm.verification import score_forecasts
from convlstm.verification.evaluation_folder import FILES, METHODS

ALL_WET = Selection(min_wet=0.0)
# the last inputs of the windows of 3 + 4 frames within the last of four days of 14 frames
ENDS = [*range(3 * 14 + 2, 3 * 14 + 10)]


@pytest.fixture
def evaluation(tmp_path, make_nowcaster, rain_frames):
    """An evaluation of a model that was never trained, and its folder."""
    folder = tmp_path / "evaluation"
    scores = evaluate(make_nowcaster(), rain_frames, folder, ALL_WET, facts={"Command": "convlstm evaluate"})
    return folder, scores


def by_hand(nowcaster, frames, ends):
    """Forecast each case by each method, one by one."""
    leads = np.arange(1, 5) * 300.0
    forecast, observation = [], []
    for end in ends:
        inputs, seconds = frames.read(slice(end - 2, end + 1)), frames.seconds[end - 2 : end + 1]
        one = nowcaster.predict(inputs[None], seconds[None], leads)[0]
        forecast.append([one[:, 0], optical_flow(inputs, seconds, leads)[:, 0], persistence(inputs, leads)[:, 0]])
        observation.append(frames.read(slice(end + 1, end + 5))[:, 0])
    coords = {"lead_time": leads / 60}
    dims = ("init_time", "lead_time", "y", "x")
    arrays = np.stack(forecast, axis=1)
    named = xr.DataArray(arrays, dims=("method", *dims), coords=coords | {"method": list(METHODS)})
    return named, xr.DataArray(np.stack(observation), dims=dims, coords=coords)


def test_differences_are_those_between_the_rows_of_the_table(evaluation) -> None:
    folder, scores = evaluation
    table = pd.read_csv(folder / "differences.csv")
    assert set(table["method"]) == {"convlstm"}
    assert set(table["other"]) == {"optical flow", "persistence"}
    values = scores.fillna({"threshold": -1.0}).set_index(["method", "lead_time", "score", "threshold"])["value"]
    for row in table.fillna({"threshold": -1.0}).dropna(subset="difference").itertuples():
        key = (row.lead_time, row.score, row.threshold)
        assert row.difference == pytest.approx(values[("convlstm", *key)] - values[(row.other, *key)], abs=1e-9)
    assert len(table) == len(scores) * 2 / 3


def test_the_table_is_that_of_every_held_back_case(evaluation, make_nowcaster, rain_frames):
    folder, scores = evaluation
    expected = score_forecasts(*by_hand(make_nowcaster(), rain_frames, ENDS), thresholds=(0.1, 1.0, 5.0))
    expected = expected.astype(dict.fromkeys(expected.columns[4:], "float64"))
    assert len(expected) == 3 * 4 * (7 * 3 + 3)
    written = pd.read_csv(folder / "scores.csv")
    for table in (scores, written):
        pd.testing.assert_frame_equal(table.astype(expected.dtypes), expected, check_dtype=False, rtol=1e-5)


def test_the_rows_of_persistence_by_hand(make_nowcaster, rain_frames, tmp_path):
    scores = evaluate(
        make_nowcaster(), rain_frames, tmp_path / "e", Selection(max_cases=1, min_wet=0.0, thresholds=(2.0,))
    )
    last = rain_frames.read(slice(44, 45))[0, 0].astype(float)
    for lead, truth in enumerate(rain_frames.read(slice(45, 49))[:, 0].astype(float), start=1):
        rows = scores[(scores["method"] == "persistence") & (scores["lead_time"] == 5.0 * lead)].set_index("score")
        assert rows.loc["rmse", "value"] == pytest.approx(np.sqrt(((last - truth) ** 2).mean()), rel=1e-6)
        assert rows.loc["mae", "value"] == pytest.approx(abs(last - truth).mean(), rel=1e-6)
        hits = int(((last >= 2) & (truth >= 2)).sum())
        misses, false_alarms = int((truth >= 2).sum()) - hits, int((last >= 2).sum()) - hits
        assert rows.loc["csi", ["hits", "misses", "false_alarms"]].tolist() == [hits, misses, false_alarms]
        assert rows.loc["csi", "value"] == pytest.approx(hits / (hits + misses + false_alarms))
        assert rows.loc["csi", ["cases", "pixels"]].tolist() == [1, 22 * 18]
    assert misses + false_alarms > 0


def test_a_perfect_forecast_scores_perfectly(make_nowcaster, make_rain, read, tmp_path):
    dataset = make_rain()
    dataset["rain"][:] = dataset["rain"][20].values
    scores = evaluate(make_nowcaster(still=True), read(dataset), tmp_path / "e", ALL_WET).set_index("score")
    assert (scores.loc[["csi", "pod", "fss"], "value"] == 1).all()
    assert scores.loc["far", "value"].tolist() == [0.0] * 36
    assert scores.loc["rmse", "value"].max() < 1e-4


@pytest.mark.parametrize(
    ("days", "chosen", "ends"),
    [
        ((), ["2020-06-04"], ENDS),
        (("2020-06-02",), ["2020-06-02"], range(16, 24)),
        (("2020-06-03", "2020-06-01"), ["2020-06-03", "2020-06-01"], [*range(2, 10), *range(30, 38)]),
    ],
)
def test_days(make_nowcaster, rain_frames, tmp_path, days, chosen, ends):
    nowcaster = make_nowcaster()
    selection = Selection(days=days, min_wet=0.0, allow_training_days=True)
    mask, received = choose_days(nowcaster, rain_frames, selection)
    assert received == chosen
    assert choose_cases(nowcaster, rain_frames, mask, selection).tolist() == list(ends)


def test_data_of_other_days_is_evaluated_whole_and_seen_days_never_by_default(
    make_nowcaster, make_rain, read, tmp_path, refused
):
    nowcaster = make_nowcaster()
    later = make_rain()
    later["time"] = later["time"] + np.timedelta64(365, "D")
    assert choose_days(nowcaster, read(later), ALL_WET)[1] == [f"2021-06-0{n}" for n in range(1, 5)]
    mixed = make_rain()
    mixed["time"] = mixed["time"] - np.timedelta64(3, "D")
    # of the days from 29 May to 1 June the model saw the last
    assert choose_days(nowcaster, read(mixed), ALL_WET)[1] == ["2020-05-29", "2020-05-30", "2020-05-31"]
    # a file that has grown since is still judged on the days kept for it
    assert choose_days(nowcaster, read(make_rain(days=6)), ALL_WET)[1] == ["2020-06-04"]
    seen = read(make_rain(days=3))
    with refused(DataError, "evaluation days"):
        evaluate(nowcaster, seen, tmp_path / "e")
    with refused(DataError, "--day"):
        evaluate(nowcaster, seen, tmp_path / "e", Selection(days=("2020-06-04",)))
    assert not (tmp_path / "e").exists()


def test_days_of_the_training_are_refused_or_said_in_the_headline(make_nowcaster, rain_frames, tmp_path, refused):
    nowcaster = make_nowcaster()
    for day in ("2020-06-02", "2020-06-03"):  # of the training, and of the validation
        with refused(DataError, "evaluation days"):
            evaluate(nowcaster, rain_frames, tmp_path / "e", Selection(days=(day,), min_wet=0.0))
    chosen = Selection(days=("2020-06-02", "2020-06-04"), min_wet=0.0, max_cases=2, allow_training_days=True)
    evaluate(nowcaster, rain_frames, tmp_path / "e", chosen)
    caveat = make_headline(read_results(tmp_path / "e")).caveat
    assert caveat.startswith("The model was trained or validated on 2020-06-02, so that its scores are too good.")


def test_an_evaluation_is_replaced_only_if_asked(make_nowcaster, rain_frames, tmp_path, refused):
    nowcaster, few = make_nowcaster(), Selection(min_wet=0.0, max_cases=1)
    evaluate(nowcaster, rain_frames, tmp_path / "e", few)
    before = {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()}
    with refused(OutputError, str(tmp_path / "e")):
        evaluate(nowcaster, rain_frames, tmp_path / "e", ALL_WET)
    assert {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()} == before
    evaluate(nowcaster, rain_frames, tmp_path / "e", ALL_WET, overwrite=True)
    assert (tmp_path / "e" / "scores.csv").read_bytes() != before["scores.csv"]


def test_only_cases_that_begin_wet_are_chosen(make_nowcaster, make_rain, read, tmp_path, refused):
    dataset = make_rain()
    share = np.zeros(56)
    dataset["rain"][:] = 0.0
    for n, end in enumerate(ENDS):
        dataset["rain"][end, 0, :n] = 1.0
        share[end] = n / (22 * 18)
    frames = read(dataset)
    nowcaster = make_nowcaster()
    mask = choose_days(nowcaster, frames, Selection())[0]
    chosen = choose_cases(nowcaster, frames, mask, Selection(min_wet=4.5 / (22 * 18)))
    assert chosen.tolist() == ENDS[5:]
    assert choose_cases(nowcaster, frames, mask, Selection(min_wet=4.5 / 396, max_cases=2)).tolist() == [
        ENDS[5],
        ENDS[7],
    ]
    assert choose_cases(nowcaster, frames, mask, ALL_WET).tolist() == ENDS
    with refused(DataError, "evaluation days"):
        evaluate(nowcaster, frames, tmp_path / "e", Selection(min_wet=0.5))


def test_cases_are_spread_over_the_days(make_nowcaster, rain_frames):
    nowcaster = make_nowcaster()
    mask = np.ones(56, dtype=bool)
    chosen = choose_cases(nowcaster, rain_frames, mask, Selection(min_wet=0.0, max_cases=4))
    every = [day * 14 + n for day in range(4) for n in range(2, 10)]
    assert chosen.tolist() == [every[0], every[10], every[20], every[31]]


def test_days_too_short_for_a_case_are_refused(make_nowcaster, make_rain, read, tmp_path, refused):
    frames = read(make_rain(frames=6))
    with refused(DataError, "evaluation days"):
        evaluate(make_nowcaster(), frames, tmp_path / "e", ALL_WET)


@pytest.mark.parametrize(
    ("selection", "kind", "argument"),
    [
        (Selection(thresholds=(float("nan"),)), ConfigError, "--threshold"),
        (Selection(fss_window=19), ConfigError, "--fss-window"),
        (Selection(fss_window=0), ConfigError, "--fss-window"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_forecast(
    make_nowcaster, rain_frames, tmp_path, monkeypatch, refused, selection, kind, argument
):
    monkeypatch.setattr(evaluate_module, "Work", None)
    with refused(kind, argument):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", selection)


def test_a_case_that_does_not_fit_into_memory_is_refused(make_nowcaster, rain_frames, tmp_path, monkeypatch, refused):
    # three methods and the observation, in four bytes each
    monkeypatch.setattr(forecasts_module, "_MAX_BYTES", 4 * 4 * 4 * 22 * 18 - 1)
    with refused(DataError, "grid"):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", ALL_WET)
    monkeypatch.setattr(forecasts_module, "_MAX_BYTES", 4 * 4 * 4 * 22 * 18)
    evaluate(make_nowcaster(), rain_frames, tmp_path / "e", Selection(min_wet=0.0, max_cases=2))


def test_thresholds_are_scored_once_and_in_order(make_nowcaster, rain_frames, tmp_path):
    scores = evaluate(
        make_nowcaster(), rain_frames, tmp_path / "e", Selection(min_wet=0, thresholds=(2.0, 0.5, 2.0), max_cases=2)
    )
    assert list(scores["threshold"].dropna().unique()) == [0.5, 2.0]
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["thresholds"] == [0.5, 2.0]


def test_the_files_say_what_was_run_and_make_a_page(evaluation, rain_frames, make_nowcaster, tmp_path):
    folder, _ = evaluation
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    said = json.loads((folder / "evaluation.json").read_text())
    assert said["title"] == "Rain rate: forecasts for 2020-06-04"
    assert (said["units"], said["variable"], said["rain"], said["fss_window"]) == ("mm/h", "rain", True, 10)
    assert said["methods"] == list(METHODS)
    assert said["attribution"] == "Nobody"
    assert said["facts"]["Trained on"] == "2020-06-01, 2020-06-02"
    assert said["facts"]["Command"] == "convlstm evaluate"
    assert said["facts"]["Task"] == "3 frames in, 4 frames out, 5 minutes apart"
    with xr.open_dataset(folder / "cases.nc", decode_timedelta=False) as cases:
        cases.load()
    # the best and the worst case, or two of the eight cases in a row that do not overlap
    assert 2 <= cases.sizes["case"] <= 4
    forecast, observation = by_hand(make_nowcaster(), rain_frames, ENDS)
    places = [list(rain_frames.time.values[ENDS]).index(time) for time in cases["init_time"].values]
    assert places == sorted(set(places))
    shown = cases["forecast"].values
    np.testing.assert_allclose(
        shown, np.where(np.isnan(shown), np.nan, forecast.values[:, places]), rtol=1e-5, atol=1e-6
    )
    # in the maps alone, the optical flow is missing where it comes from outside the grid
    methods_with_gaps = [
        m for m, values in zip(cases["forecast_method"].values, shown, strict=True) if np.isnan(values).any()
    ]
    assert methods_with_gaps == ["optical flow"]
    np.testing.assert_array_equal(cases["observation"], observation.values[places])
    np.testing.assert_array_equal(
        cases["inputs"][0], rain_frames.read(slice(*(ENDS[places[0]] + n for n in (-2, 1))))[:, 0]
    )
    assert cases["input_time"].values.tolist() == [-10, -5, 0]
    assert cases["lead_time"].values.tolist() == [5, 10, 15, 20]
    results = read_results(folder)
    assert results.evaluation.facts["Cases"].startswith("8 forecasts")
    page = write_report(folder, tmp_path / "report.html").read_text()
    assert "Rain rate: forecasts for 2020-06-04" in page


def test_missing_pixels_count_nowhere_and_cases_without_a_value_do_no_harm(make_nowcaster, make_rain, read, tmp_path):
    dataset = make_rain()
    dataset["rain"][:, 2:5, 3:7] = np.nan
    dataset["rain"][52:] = np.nan
    scores = evaluate(make_nowcaster(), read(dataset), tmp_path / "e", ALL_WET)
    rmse = scores[(scores["score"] == "rmse") & (scores["method"] == "persistence")]
    # frames 45 to 51 can be scored: of the cases from 44 on, seven at the first lead time, four at the last
    assert rmse["pixels"].tolist() == [count * (22 * 18 - 12) for count in (7, 6, 5, 4)]
    assert np.isfinite(rmse["value"].astype(float)).all()
    write_report(tmp_path / "e", tmp_path / "report.html")


@pytest.mark.parametrize("lat", [False, True])
def test_what_is_no_rain_is_evaluated_too(make_nowcaster, make_rain, read, tmp_path, train, tiny, lat):
    dataset = make_rain(step=3600)
    air = (280 + dataset["rain"]).assign_attrs(units="K")
    dataset = dataset.drop_vars("rain").assign(air=air)
    if lat:
        dataset = dataset.rename(y="lat", x="lon")
        dataset["lat"].attrs["units"], dataset["lon"].attrs["units"] = "degrees_north", "degrees_east"
    frames = read(dataset)
    nowcaster = load_nowcaster(train(frames=frames).path)
    assert isinstance(nowcaster.pipeline.transform, Standard)
    scores = evaluate(nowcaster, frames, tmp_path / "e")
    assert len(scores["threshold"].dropna().unique()) == len(nowcaster.pipeline.thresholds)
    assert scores["lead_time"].unique().tolist() == [60, 120, 180, 240]
    said = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (said["units"], said["rain"], said["facts"]["Task"]) == (
        "K",
        False,
        "3 frames in, 4 frames out, 60 minutes apart",
    )
    assert "mm/h" not in write_report(tmp_path / "e", tmp_path / "report.html").read_text()


def test_a_folder_that_cannot_be_written_is_refused_before_any_forecast(
    make_nowcaster, rain_frames, tmp_path, monkeypatch, refused
):
    monkeypatch.setattr(evaluate_module, "Work", None)
    (tmp_path / "file").write_text("x")
    with refused(OutputError, str(tmp_path / "file" / "scores.csv")):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "file", ALL_WET)
    (tmp_path / "folder" / "cases.nc").mkdir(parents=True)
    with refused(OutputError, str(tmp_path / "folder" / "cases.nc")):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "folder", ALL_WET)


def test_probabilities_of_the_model_are_scored_and_shown(make_nowcaster, rain_frames, tmp_path, monkeypatch):
    forecast = forecasts_module.Methods.forecast

    def with_probabilities(*arguments):
        case = forecast(*arguments)
        chance = np.stack([np.where(case.observation >= t, 0.75, 0.25) for t in (0.1, 1.0)], axis=1)
        given = forecasts_module.Probabilities((0.1, 1.0), chance.astype(np.float16))
        return replace(case, probabilities={"convlstm": given}, means={"convlstm": case.forecast[0] + 0.5})

    plain = evaluate(make_nowcaster(), rain_frames, tmp_path / "e", ALL_WET)
    assert not {"brier", "bss"} & set(plain["score"])
    assert pd.read_csv(tmp_path / "e" / "reliability.csv").empty
    assert "probabilities-title" not in write_report(tmp_path / "e", tmp_path / "report.html").read_text()

    monkeypatch.setattr(forecasts_module.Methods, "forecast", with_probabilities)
    scores = evaluate(make_nowcaster(), rain_frames, tmp_path / "e", ALL_WET, overwrite=True)
    brier = scores[scores["score"] == "brier"].set_index(["method", "threshold"])["value"]
    assert brier["convlstm"][[0.1, 1.0]].tolist() == [0.0625] * 8
    # the errors are those of the means, which are half a millimetre per hour higher than the field
    errors = [table[(table["score"] == "mean_error") & (table["method"] == "convlstm")] for table in (scores, plain)]
    assert (errors[0]["value"].to_numpy() - errors[1]["value"].to_numpy()).tolist() == pytest.approx([0.5] * 4)
    events = scores[(scores["score"] == "csi") & (scores["method"] == "convlstm") & (scores["threshold"] == 5.0)]
    wrong = (events["misses"] + events["false_alarms"]) / events["pixels"]
    assert brier[("convlstm", 5.0)].tolist() == pytest.approx(wrong.tolist())
    points = pd.read_csv(tmp_path / "e" / "reliability.csv")
    assert len(points) == 4 * 2 * 10
    filled = points[points["pixels"] > 0]
    assert set(zip(filled["probability"], filled["frequency"], strict=True)) == {(0.25, 0.0), (0.75, 1.0)}
    assert "probabilities-title" in write_report(tmp_path / "e", tmp_path / "report.html").read_text()


def test_a_model_of_events_is_scored_by_its_field_its_means_and_its_probabilities(
    event_nowcaster, rain_frames, tmp_path
):
    scores = evaluate(event_nowcaster, rain_frames, tmp_path / "e", ALL_WET)
    leads = np.arange(1, 5) * 300.0
    squares, hits, either = [], 0, 0
    for end in ENDS:
        window = slice(end - 2, end + 1)
        inputs, seconds = rain_frames.read(window)[None], rain_frames.seconds[None, window]
        probability = event_nowcaster.predict_probability(inputs, seconds, leads)[0, 0]
        observed = rain_frames.read(slice(end + 1, end + 2))[0, 0]
        flow = optical_flow(inputs[0], seconds[0], leads)[0, 0]
        mean = event_nowcaster.rules.mean(probability[None], flow[None], np.array([1]))[0]
        squares.append((mean - observed) ** 2)
        cut = event_nowcaster.rules.cuts[0]
        event = (probability[0] >= np.float32(cut[0])) & (probability[1] >= np.float32(cut[1]))
        hits += (event & (observed >= 1)).sum()
        either += (event | (observed >= 1)).sum()
    model = scores[(scores["method"] == "convlstm") & (scores["lead_time"] == 5)].set_index(["score", "threshold"])
    assert model.loc[("csi", 1.0), "value"] == pytest.approx(hits / either)
    assert model.loc["rmse", "value"].item() == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)
    assert np.isfinite(model.loc[("brier", 5.0), "value"])


def test_other_models_and_rivals_are_scored_on_the_same_cells(make_nowcaster, event_nowcaster, rain_frames, tmp_path):
    def half_blind(inputs, seconds, leads):
        values = np.full((len(leads), *inputs.shape[1:]), 2.0, np.float32)
        values[..., :9] = np.nan
        return values

    scores = evaluate(
        make_nowcaster(),
        rain_frames,
        tmp_path / "e",
        ALL_WET,
        others={"shipped": event_nowcaster},
        rivals={"half blind": half_blind},
    )
    assert list(dict.fromkeys(scores["method"])) == ["convlstm", "shipped", "half blind", "optical flow", "persistence"]
    assert scores.groupby("method")["pixels"].first().nunique() == 1
    assert "half blind" in write_report(tmp_path / "e", tmp_path / "report.html").read_text()


def test_models_with_different_thresholds_make_a_report(event_nowcaster, event_run, rain_frames, tiny, tmp_path):
    folder = RunFolder(tmp_path / "run")
    fit(tiny(model={"thresholds": [2.0]}), rain_frames, folder)
    other = load_nowcaster(folder.model)
    assert other.pipeline.thresholds == (2.0,)
    evaluate(event_nowcaster, rain_frames, tmp_path / "e", ALL_WET, others={"one threshold": other})
    assert "one threshold" in write_report(tmp_path / "e", tmp_path / "report.html").read_text()


def test_a_model_with_more_input_frames_and_rivals_of_other_data_are_refused(
    make_nowcaster, event_nowcaster, rain_frames, tmp_path
):
    short = make_nowcaster(data={"input_length": 2})
    with pytest.raises(ConfigError, match="long: expected at most 2 input frames"):
        evaluate(short, rain_frames, tmp_path / "e", ALL_WET, others={"long": event_nowcaster})
    cold = replace(short, pipeline=replace(short.pipeline, units="K"))
    with pytest.raises(ConfigError, match="--rival: expected rain"):
        _check_compared(cold, rain_frames, {}, {"S-PROG": optical_flow})


def test_progress_by_case(make_nowcaster, rain_frames, tmp_path):
    calls = []
    evaluate(make_nowcaster(), rain_frames, tmp_path / "e", ALL_WET, on_case=lambda done, of: calls.append((done, of)))
    assert calls == [(n, 8) for n in range(1, 9)]


def test_many_days_are_told_as_a_span():
    days = [f"2020-06-{day:02}" for day in range(1, 14)]
    assert evaluation_details.listed_days(days[:2]) == "2020-06-01, 2020-06-02"
    assert evaluation_details.listed_days(days) == "13 days from 2020-06-01 to 2020-06-13"
