"""What lies between file and model: fitted on the training days alone, kept with the weights, checked against data."""

import json

import numpy as np
import pytest

from convlstm.data import Identity, LogRain, Reflectivity, Standard
from convlstm.errors import ConfigError, DataError, WeightsError
from convlstm.frontend.trainer import Sample
from convlstm.nowcast.config import Config
from convlstm.nowcast.pipeline import (
    Pipeline,
    check_events,
    choose_thresholds,
    choose_transform,
    emphasis,
    events,
    pad_to_patches,
)
from convlstm.nowcast.prepare import prepare, to_sample
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.checkpoint import Model


def as_kelvin(dataset):
    """The same field as a temperature, which is no rain."""
    return dataset.drop_vars("rain").assign(air=(280 + dataset["rain"]).assign_attrs(units="K"))


def everything(config, frames):
    """All that a model learns from: the pipeline, three training batches, and all validation batches."""
    data, pipeline = prepare(config, frames)
    batches = [data.train.batch(step) for step in range(3)]
    batches += [data.validation.batch(number) for number in range(len(data.validation))]
    return pipeline, [array.tobytes() for batch in batches for array in vars(batch).values()]


@pytest.mark.parametrize("kelvin", [False, True], ids=["rain", "kelvin"])
def test_nothing_of_the_test_days_reaches_the_model(make_rain, read, tiny, kelvin):
    dataset = as_kelvin(make_rain()) if kelvin else make_rain()
    name = "air" if kelvin else "rain"
    other = dataset.copy(deep=True)
    other[name][3 * 14 :] = 1000 - 3 * other[name][3 * 14 :]
    assert everything(tiny(), read(dataset)) == everything(tiny(), read(other))
    other[name][14:28] = 1.0
    assert everything(tiny(), read(dataset)) != everything(tiny(), read(other))


def test_the_validation_days_do_not_reach_transform_or_thresholds(make_rain, read, tiny):
    dataset = as_kelvin(make_rain())
    other = dataset.copy(deep=True)
    other["air"][2 * 14 : 3 * 14] *= 2
    assert prepare(tiny(), read(dataset))[1] == prepare(tiny(), read(other))[1]


def test_windows_lie_within_their_days(make_rain, read, tiny):
    dataset = make_rain().rename(rain="number").assign_attrs()
    dataset["number"] = dataset["number"] * 0 + np.arange(4 * 14).reshape(-1, 1, 1)
    dataset["number"].attrs["units"] = "1"
    data, pipeline = prepare(tiny(data={"transform": "identity"}), read(dataset))
    assert pipeline.days == {
        "train": ["2020-06-01", "2020-06-02"],
        "validation": ["2020-06-03"],
        "test": ["2020-06-04"],
    }
    starts = set()
    for step in range(60):
        batch = data.train.batch(step)
        numbers = np.concatenate([batch.inputs, batch.targets], axis=1)[:, :, 0, 0, 0]
        np.testing.assert_array_equal(numbers, numbers[:, :1] + np.arange(7))
        starts |= {int(first) for first in numbers[:, 0]}
    # 14 frames a day hold 8 windows of 7, and none runs on into the next day
    assert starts == {*range(8), *range(14, 22)}
    seen = [data.validation.batch(n).inputs[:, 0, 0, 0, 0] for n in range(len(data.validation))]
    assert np.concatenate(seen).tolist() == list(range(28, 36))


@pytest.mark.parametrize(
    ("name", "kelvin", "wanted"),
    [
        ("auto", False, LogRain()),
        ("log", False, LogRain()),
        ("dbz", False, Reflectivity()),
        ("identity", False, Identity()),
        ("identity", True, Identity()),
    ],
)
def test_transforms_by_name(make_rain, read, name, kelvin, wanted):
    frames = read(as_kelvin(make_rain()) if kelvin else make_rain())
    assert choose_transform(name, frames, np.ones(56, dtype=bool)) == wanted


@pytest.mark.parametrize("name", ["auto", "standard"])
def test_the_standard_transform_and_thresholds_are_those_of_the_training_days(make_rain, read, name):
    frames = read(as_kelvin(make_rain()))
    train = np.arange(56) < 28
    values = frames.read(slice(0, 28))[:, 0].astype(np.float64)
    transform = choose_transform(name, frames, train)
    assert isinstance(transform, Standard)
    assert (transform.mean, transform.std) == pytest.approx((values.mean(), values.std()), rel=1e-6)
    by_hand = np.sort(values.ravel())[[round(share * (values.size - 1)) for share in (0.5, 0.9, 0.99)]]
    assert choose_thresholds(frames, train) == pytest.approx(by_hand, rel=2e-4)


def test_a_rain_transform_is_refused_for_what_is_no_rain(make_rain, read, refused):
    frames = read(as_kelvin(make_rain()))
    for name in ("log", "dbz"):
        with refused(DataError, "transform"):
            choose_transform(name, frames, np.ones(56, dtype=bool))


def test_rain_is_judged_at_the_usual_thresholds(rain_frames):
    assert choose_thresholds(rain_frames, np.ones(56, dtype=bool)) == (0.1, 1.0, 5.0)


def test_reflectivity_is_judged_where_it_is_the_usual_rain(make_rain, read):
    dataset = make_rain()
    dataset["rain"] = (20 + dataset["rain"]).assign_attrs(units="dBZ")
    # 10 lg 200 = 23.01; a tenth of the rain is 16 dB less, and five times as much 11.18 dB more
    assert choose_thresholds(read(dataset), np.ones(56, dtype=bool)) == (7.0, 23.0, 34.2)


def test_a_threshold_that_every_value_reaches_is_left_out(make_rain, read):
    dataset = make_rain()
    values = np.full(dataset["rain"].size, -32.0)
    values[: values.size // 5] = np.linspace(0, 10, values.size // 5)
    dataset["rain"] = (dataset["rain"].dims, values.reshape(dataset["rain"].shape), {"units": "dB"})
    thresholds = choose_thresholds(read(dataset.rename(rain="signal")), np.ones(56, dtype=bool))
    assert thresholds == pytest.approx((5.0, 9.5), abs=0.01)


@pytest.mark.parametrize("transform", [LogRain(), Reflectivity(), Identity(), Standard(2.0, 3.0)])
def test_emphasis_by_hand(transform):
    rain = np.float32([0.0, 0.4, 0.6, 1.0, 4.9, 5.1, 50.0])
    weight = emphasis(transform.forward(rain), transform, {0.5: 1.0, 1.0: 3.0, 5.0: 5.0})
    assert weight.tolist() == [1, 1, 2, 5, 5, 10, 10]


def test_a_sample_weighs_rain_more_and_missing_targets_not_at_all(make_rain, read, tiny):
    dataset = make_rain()
    dataset["rain"][:, 4, 5] = np.nan
    dataset["rain"][:, 0, 0] = 2.0
    config = tiny(data={"crop": None}, training={"augment": False, "emphasis": {1.0: 3.0}})
    data, pipeline = prepare(config, read(dataset))
    batch = data.train.batch(0)
    sample = to_sample(batch, pipeline, config)
    assert (sample.weight[..., 4, 5] == 0).all()
    assert (sample.weight[..., 0, 0] == 4).all()
    assert sample.durations is sample.lead_durations is sample.gaps is None
    known = batch.weight > 0
    rain = pipeline.transform.inverse(batch.targets)
    clear = known & (np.abs(rain - 1) > 1e-3)
    height, width = batch.weight.shape[-2:]
    np.testing.assert_array_equal(sample.weight[..., :height, :width][clear], np.where(rain >= 1, 4, 1)[clear])


def test_grids_are_filled_up_to_whole_patches():
    inputs = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 2, 3)
    sample = pad_to_patches(Sample(inputs, inputs + 1, np.ones_like(inputs)), 4)
    assert sample.inputs[0, 0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert sample.weight[0, 0, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert sample.targets.shape == sample.inputs.shape
    fitting = Sample(inputs, inputs, inputs)
    assert pad_to_patches(fitting, 1) is fitting


def test_days_are_counted_where_they_have_frames(make_rain, read, tiny):
    """A sequence of weekly frames has one day for each: the hint asks for as many days as frames, not for weeks."""
    weekly = make_rain(days=1, frames=20, step=7 * 86400)
    with pytest.raises(
        DataError, match=r"\(28 days\) without a gap, got none in 1 frames.*at least 5 days, or decrease"
    ):
        prepare(tiny(data={"input_length": 3, "horizon": 2, "validation": 1, "test": 0}), read(weekly))


def test_a_pipeline_comes_back_from_json(make_rain, read, tiny):
    dataset = as_kelvin(make_rain())
    dataset["wind"] = (dataset["air"] - 280).assign_attrs(units="m s-1")
    config = tiny(data={"variables": ["air", "wind"]})
    pipeline = prepare(config, read(dataset, variables=("air", "wind")))[1]
    assert len(pipeline.transform.mean) == 2
    extra = json.loads(json.dumps({"pipeline": pipeline.to_dict()}))
    model = Model(config.model.spec(2, 300.0), {}, extra)
    assert Pipeline.of_model(model, "model") == pipeline


SPEC = Config().model.spec(1)


@pytest.mark.parametrize(
    ("spec", "extra"),
    [
        (ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1), {}),
        (SPEC, {}),
        (SPEC, {"pipeline": None}),
        (SPEC, {"pipeline": {"transform": {"name": "identity"}, "variables": [], "thresholds": []}}),
        (SPEC, {"pipeline": {"transform": {"name": "os.system"}}}),
    ],
    ids=["a layer", "no pipeline", "not a pipeline", "half a pipeline", "unknown transform"],
)
def test_a_file_that_is_no_trained_forecaster_is_refused(refused, spec, extra):
    with refused(WeightsError, "some/file"):
        Pipeline.of_model(Model(spec, {}, extra), "some/file")


def test_data_a_model_was_not_made_for_is_refused(make_rain, read, make_nowcaster, refused):
    pipeline = make_nowcaster().pipeline
    rain = make_rain()
    pipeline.check(read(rain))
    two = rain.assign(snow=rain["rain"])
    for dataset, argument, options in (
        (as_kelvin(rain), "units", {}),
        (two, "variables", {"variables": ("rain", "snow")}),
        (make_rain(step=600), "time step", {}),
    ):
        with refused(DataError, argument):
            pipeline.check(read(dataset, **options))


@pytest.mark.parametrize(
    ("days", "data", "argument"),
    [
        (2, {}, "split by day"),
        (3, {"validation": 3}, "split by day"),
        (4, {"horizon": 20}, "train days"),
        (4, {"validation": 0}, "validation days"),
        (4, {"test": ["2020-07-01"]}, "test days"),
    ],
)
def test_days_that_hold_no_window_are_named(make_rain, read, tiny, refused, days, data, argument):
    frames = read(make_rain(days=days))
    with refused(DataError, argument):
        prepare(tiny(data=data), frames)


def test_data_of_a_few_frames_a_day_is_told_how_many_days_a_window_takes(make_rain, read, tiny):
    dataset = make_rain(days=1, frames=80, step=6 * 3600)
    with pytest.raises(
        DataError, match=r"7 frames \(36 h\).*none in 4 frames. Set `data.validation` to at least 2 days"
    ):
        prepare(tiny(), read(dataset))
    assert prepare(tiny(data={"validation": 2, "test": 2}), read(dataset))


def test_a_test_day_too_short_to_be_forecast_is_refused_before_training(make_rain, read, tiny, refused):
    frames = read(make_rain().isel(time=slice(0, 3 * 14 + 5)))
    with refused(DataError, "test days"):
        prepare(tiny(), frames)
    assert len(prepare(tiny(data={"test": 2, "validation": ["2020-06-02"]}), frames)[0].train.batch(0).inputs) == 2


def test_training_days_without_a_value_are_refused(make_rain, read, tiny, refused):
    dataset = as_kelvin(make_rain())
    dataset["air"][:28] = np.nan
    for transform in ("auto", "identity"):
        with refused(DataError, "air"):
            prepare(tiny(data={"transform": transform}), read(dataset))


def test_dry_training_days_are_refused(make_rain, read, tiny, refused):
    dataset = make_rain()
    dataset["rain"][:28] = 0.0
    with refused(DataError, "rain"):
        prepare(tiny(), read(dataset))


def test_events_of_two_variables_are_those_of_the_first_one():
    transform = Standard((10.0, -5.0), (2.0, 4.0))
    targets = np.array([9.0, 11.0, 0.0, 30.0], np.float32).reshape(1, 1, 2, 1, 2)
    values = transform.forward(targets)
    happened, weight = events(values, np.ones_like(values), transform, [8.0, 10.0], threshold_weights=[1, 0.5])
    assert happened.shape == weight.shape == (1, 1, 2, 1, 2)
    np.testing.assert_array_equal(happened.ravel(), [1, 1, 0, 1])
    np.testing.assert_array_equal(weight.ravel(), [1, 1, 0.5, 0.5])


def test_the_weight_of_the_first_lead_time_decreases_to_one_at_the_fifth():
    values = np.zeros((1, 7, 1, 1, 1), np.float32)
    _, weight = events(values, np.ones_like(values), LogRain(), [0.1], first_lead_weight=16.0)
    np.testing.assert_allclose(weight.ravel(), [16, 8, 4, 2, 1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("thresholds", [[0.0, 1.0], [50.0, 150.0], [-1.0]])
def test_a_threshold_that_the_transform_changes_is_refused(thresholds):
    check_events([0.1, 1.0, 99.0], LogRain(top=7))
    check_events([-20.0, 0.0, 30.0], Standard(5.0, 8.0))
    with pytest.raises(ConfigError, match=r"model\.thresholds: expected values within the range"):
        check_events(thresholds, LogRain())
