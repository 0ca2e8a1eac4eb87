"""Training and forecasting events in the moving frame, from the configuration to the file of a forecast."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from convlstm.data.units import RAIN_RATE
from convlstm.errors import WeightsError
from convlstm.nowcast.baselines import optical_flow
from convlstm.nowcast.cf_output import QUANTILES, make_forecast, write_forecast
from convlstm.nowcast.fit import fit
from convlstm.nowcast.motion import estimate_motion
from convlstm.nowcast.moving_frame import Rectangle, past_frames, to_grid, whole_frame, with_known
from convlstm.nowcast.nowcaster import event_rules, load_nowcaster
from convlstm.nowcast.run_folder import RunFolder
from convlstm.nowcast.weight_average import WeightAverage
from convlstm.reference.forecaster import forecast as reference_forecast
from convlstm.weights.checkpoint import load_model


def inputs_of(frames, end):
    window = slice(end - 2, end + 1)
    return frames.read(window)[None], frames.seconds[None, window]


def test_the_model_file_has_a_cut_for_each_lead_time_and_threshold(event_run):
    events = load_model(event_run.model).extra["events"]
    assert events["thresholds"] == [0.1, 1.0, 5.0]
    assert np.shape(events["cuts"]) == (4, 3)
    assert np.shape(events["class_means"]) == (4,)
    assert events["class_means"] == sorted(events["class_means"])


def test_a_stopped_run_goes_on_to_the_same_bytes_with_its_average(event_sections, train, event_run, contents, stopped):
    stopped(3, **event_sections)
    assert contents(train(resume=True, **event_sections)) == contents(event_run)


def test_a_run_killed_before_the_cuts_were_saved_saves_them_on_resume(
    event_sections, train, event_run, contents, monkeypatch
):
    class LostError(Exception):
        pass

    def fail(*arguments):
        raise LostError

    with monkeypatch.context() as patch:
        patch.setattr("convlstm.nowcast.fit._save_event_rules", fail)
        with pytest.raises(LostError):
            train(**event_sections)
    assert contents(train(resume=True, **event_sections)) == contents(event_run)


def test_probabilities_are_those_of_the_reference_in_the_moving_frame(event_nowcaster, rain_frames):
    inputs, seconds = inputs_of(rain_frames, 40)
    leads = np.arange(1, 5) * rain_frames.time_step
    probability = event_nowcaster.predict_probability(inputs, seconds, leads)[0]
    motion = estimate_motion(inputs[0, :, 0], seconds[0])
    grid = inputs.shape[-2:]
    part = whole_frame(motion, leads[-1], grid, event_nowcaster.spec.patch_size)
    past = past_frames(inputs[0], motion, seconds[0] - seconds[0, -1], part)
    values = with_known(event_nowcaster.pipeline.transform.forward(past))
    weights = {key: np.float64(value) for key, value in event_nowcaster.model.weights.items()}
    logits = reference_forecast(event_nowcaster.spec, weights, np.float64(values)[None], 4)[0]
    expected = 1 / (1 + np.exp(-to_grid(logits.astype(np.float32), motion, leads, part, Rectangle(0, 0, *grid))))
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert (np.diff(probability, axis=1) <= 0).all()


def test_lead_times_can_skip_steps_and_exceed_those_of_the_training(event_nowcaster, rain_frames):
    inputs, seconds = inputs_of(rain_frames, 40)
    every = event_nowcaster.predict_probability(inputs, seconds, np.arange(1, 7) * rain_frames.time_step)
    some = event_nowcaster.predict_probability(inputs, seconds, np.array([2.0, 6.0]) * rain_frames.time_step)
    # the path to a lead time is followed in other steps
    np.testing.assert_allclose(some, every[:, [1, 5]], atol=1e-3)


def test_missing_and_dry_input_gives_probabilities(event_nowcaster, rain_frames):
    inputs, seconds = inputs_of(rain_frames, 40)
    leads = np.arange(1, 5) * rain_frames.time_step
    for values in (np.full_like(inputs, np.nan), np.zeros_like(inputs)):
        probability = event_nowcaster.predict_probability(values, seconds, leads)
        assert np.isfinite(probability).all()
    holes = inputs.copy()
    holes[:, :, :, 4:9, 4:9] = np.nan
    assert np.isfinite(event_nowcaster.predict(holes, seconds, leads)).all()


def test_a_forecast_file_has_the_field_the_mean_quantiles_and_probabilities(event_nowcaster, rain_frames, tmp_path):
    import xarray as xr

    path = write_forecast(tmp_path / "forecast.nc", make_forecast(event_nowcaster, rain_frames))
    with xr.open_dataset(path, decode_timedelta=True) as forecast:
        chance = forecast["probability_of_rain_above_threshold"]
        assert chance.dims == ("threshold", "lead_time", "y", "x")
        assert chance.attrs["units"] == "1"
        assert forecast["threshold"].attrs["units"] == RAIN_RATE
        assert forecast["rain_quantile"].sizes["quantile"] == len(QUANTILES)
        assert float(chance.min()) >= 0
        assert float(chance.max()) <= 1
        cuts = np.array(event_nowcaster.rules.cuts, np.float32).T[:, :, None, None]
        reached = (chance.values >= cuts)[:2].all(axis=0)
        np.testing.assert_array_equal(forecast["rain"].values >= np.float32(1.0), reached)
        assert (np.diff(forecast["rain_quantile"].values, axis=0) >= 0).all()


def test_more_training_beats_climatology_and_learns_the_motion(event_sections, rain_frames, tiny, tmp_path):
    """The rain of this sequence only moves, so that the moved frame is nearly right."""
    sections = event_sections | {
        "training": {"steps": 60, "learning_rate": 1e-2, "validation_windows": 4, "patience": 99}
    }
    folder = RunFolder(tmp_path / "long")
    progress = fit(tiny(**sections), rain_frames, folder)
    assert progress.best_loss < 0.6 * folder.history()[0]["validation_loss"]
    model = load_nowcaster(folder.model)
    inputs, seconds = inputs_of(rain_frames, len(rain_frames.seconds) - 5)
    leads = np.arange(1, 5) * rain_frames.time_step
    field = model.predict(inputs, seconds, leads)[0, :, 0]
    moved = optical_flow(inputs[0], seconds[0], leads)[:, 0]
    agree = ((field >= 1) == (moved >= 1)).mean()
    assert agree > 0.9


def test_the_average_of_the_weights_is_exponential_and_comes_back_from_its_state():
    average = WeightAverage(0.5)
    values = [np.float32(v) for v in (1.0, 3.0, 7.0)]
    for step, value in enumerate(values, start=1):
        average.add(lambda value=value: {"w": np.array([value])}, step)
    # the decay of step 2 is 3/12 and that of step 3 is 4/13
    second = 0.25 * 1 + 0.75 * 3
    assert average.weights["w"].item() == pytest.approx(4 / 13 * second + 9 / 13 * 7)
    other = WeightAverage(0.5)
    rest = other.restore(average.state() | {"x": np.zeros(1)})
    assert list(rest) == ["x"]
    np.testing.assert_array_equal(other.weights["w"], average.weights["w"])


def test_a_second_variable_is_an_input_and_not_forecast(make_rain, read, tiny, event_sections, tmp_path):
    dataset = make_rain()
    dataset["other"] = 2 * dataset["rain"]
    dataset["other"].attrs["units"] = "mm/h"
    frames = read(dataset, variables=["rain", "other"])
    folder = RunFolder(tmp_path / "two")
    fit(tiny(**event_sections), frames, folder)
    forecast = make_forecast(load_nowcaster(folder.model), frames)
    assert set(forecast.data_vars) == {"rain", "rain_mean", "rain_quantile", "probability_of_rain_above_threshold"}


def test_the_thread_ends_with_the_training_and_with_an_error(train, stopped, event_sections):
    before = threading.active_count()
    train("done", **event_sections)
    stopped(2, "failed", **event_sections)
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.parametrize("damaged", [{}, {"thresholds": [1]}, [], {"thresholds": 1, "cuts": 2, "class_means": 3}])
def test_a_model_file_with_damaged_rules_is_refused_in_one_line(event_run, damaged):
    model = load_model(event_run.model)
    with pytest.raises(WeightsError, match="events: expected thresholds, cuts, class means and lines"):
        _ = event_rules(replace(model, extra=model.extra | {"events": damaged}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cuts", []),
        ("cuts", [[0.5]]),
        ("cuts", "half"),
        ("class_means", [1.0]),
        ("class_means", [0.0, 0.5, 2.0, None]),
        ("class_lines", [[[0.0, 1.0]]]),
        ("thresholds", [0.1, 1.0]),
        ("thresholds", [0.2, 1.0, 5.0]),
    ],
)
def test_rules_of_another_model_are_refused(event_run, refused, name, value):
    model = load_model(event_run.model)
    forged = replace(model, extra=model.extra | {"events": model.extra["events"] | {name: value}})
    with refused(WeightsError, "events"):
        event_rules(forged)
