"""A loaded model applied to physical values: the reference's numbers, through transform, patches and durations."""

import numpy as np
import pytest

from convlstm.data import Identity, LogRain, Standard
from convlstm.errors import WeightsError
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.provenance import Provenance
from convlstm.reference.forecaster import forecast as reference_forecast

MINUTE = 60.0


@pytest.mark.parametrize("transform", [LogRain(), Standard(1.0, 2.0), Identity()])
@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_values_are_those_of_the_reference(make_nowcaster, make_rain, transform, rollout):
    nowcaster = make_nowcaster(transform=transform, model={"rollout": rollout})
    rain = make_rain(height=12, width=8)["rain"].values[3:6]
    received = nowcaster.predict(rain[None, :, None], np.array([[0.0, 300, 600]]), np.arange(1, 6) * 300.0)
    weights = {key: np.float64(value) for key, value in nowcaster.model.weights.items()}
    inputs = np.float64(transform.forward(rain))[None, :, None]
    expected = transform.inverse(reference_forecast(nowcaster.spec, weights, inputs, 5)).clip(0)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["linear", "log1p"])
def test_durations_and_gaps_are_those_of_the_reference(make_nowcaster, make_rain, strategy):
    model = {"duration_strategy": strategy, "memory_decay": True}
    nowcaster = make_nowcaster(model=model, data={"max_gap": 3600})
    rain = make_rain(height=12, width=8)["rain"].values[3:6]
    leads = np.array([10.0, 30, 60]) * MINUTE
    received = nowcaster.predict(rain[None, :, None], np.array([[900.0, 2100, 2400]]), leads)
    weights = {key: np.float64(value) for key, value in nowcaster.model.weights.items()}
    inputs = np.float64(nowcaster.pipeline.transform.forward(rain))[None, :, None]
    since = np.array([[300.0, 1200, 300]])
    ahead = np.array([[600.0, 1200, 1800]])
    expected = reference_forecast(
        nowcaster.spec, weights, inputs, 3, durations=since, lead_durations=ahead, gaps=since
    )  # fmt: skip
    expected = nowcaster.pipeline.transform.inverse(expected)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def test_what_a_caller_gives_stays_as_it_is(make_nowcaster):
    nowcaster = make_nowcaster(transform=Identity())
    inputs = np.full((1, 3, 1, 8, 8), np.nan, dtype=np.float32)
    nowcaster.predict(inputs, np.array([[0.0, 300, 600]]), np.array([300.0]))
    assert np.isnan(inputs).all()


def test_a_model_runs_in_float32_unless_asked_otherwise(make_nowcaster, tmp_path):
    for precision in ("float32", "bfloat16"):
        assert make_nowcaster(training={"precision": precision}).trainer.description.endswith("float32")
        chosen = load_nowcaster(tmp_path / "made.safetensors", precision=precision)
        assert chosen.trainer.description.endswith(precision)


def test_a_run_is_loaded_by_its_folder_or_its_file(tmp_path, make_nowcaster, refused):
    digest = make_nowcaster().model.digest
    path = tmp_path / "made.safetensors"
    path.rename(tmp_path / "model.safetensors")
    assert load_nowcaster(tmp_path).model.digest == digest
    assert load_nowcaster(tmp_path / "model.safetensors").model.digest == digest
    with refused(WeightsError, str(tmp_path / "none")):
        load_nowcaster(tmp_path / "none")


def test_provenance_of_models_with_and_without_it(make_nowcaster):
    model = make_nowcaster(data={"units": "mm"}, seed=4).model
    provenance = Provenance.of_model(model)
    assert (provenance.version, provenance.seed) == (None, 4)
    assert provenance.reading_options == {"units": "mm"}
    model.extra.pop("provenance")
    provenance = Provenance.of_model(model)
    assert (provenance.seed, provenance.reading_options) == (None, {})
