"""Training that starts from a trained model: its weights and options, and errors for what does not fit it."""

from dataclasses import replace

import numpy as np
import pytest

from convlstm.data import Standard
from convlstm.errors import ConfigError, WeightsError
from convlstm.nowcast.config_text import read_config
from convlstm.nowcast.evaluation_cases import Selection, choose_days
from convlstm.nowcast.fit import fit
from convlstm.nowcast.model_card import model_card
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.run_folder import RunFolder
from convlstm.nowcast.start_model import RAIN, load_start
from convlstm.weights.checkpoint import load_model, save_model

STEPS = ["training.batch_size=2", "training.validate_every=1", "data.crop=16", "training.precision=float32"]


@pytest.fixture
def start(event_run):
    """The path of a model that forecasts events in the moving frame."""
    return str(event_run.model)


def continued(start, *settings):
    return read_config(settings=[*STEPS, *settings], overrides={"training.start_from": start})


def test_the_options_of_the_model_become_the_defaults(start):
    config = continued(start)
    assert config.model.thresholds == [0.1, 1.0, 5.0]
    assert (config.data.frame, config.data.input_length, config.data.horizon) == ("moving", 3, 4)
    assert config.training.steps == 2000  # of the training itself nothing is taken
    assert continued(start, "data.horizon=6").data.horizon == 6


def test_the_model_in_the_package_has_a_name():
    assert load_start(RAIN).digest == load_model(shipped_model()).digest
    assert continued(RAIN).model.detail_channels == load_model(shipped_model()).spec.detail_channels


def test_a_step_without_learning_keeps_the_weights_and_names_their_origin(start, rain_frames, tmp_path):
    settings = ("training.steps=1", "training.learning_rate=1e-30", "training.weight_decay=0")
    folder = RunFolder(tmp_path / "run")
    fit(continued(start, *settings), rain_frames, folder)
    before, after = load_model(start), load_model(folder.model)
    assert all(np.array_equal(before.weights[key], after.weights[key]) for key in before.weights)
    assert after.extra["provenance"]["started_from"] == before.digest
    assert before.digest in model_card(folder.model)


def test_a_stopped_run_goes_on_to_the_same_bytes(start, rain_frames, tmp_path, contents):
    class StopError(Exception):
        pass

    def stop(report):
        if report.step == 1:
            raise StopError

    config = continued(start, "training.steps=3")
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    fit(config, rain_frames, whole)
    with pytest.raises(StopError):
        fit(config, rain_frames, parts, on_step=stop)
    fit(read_config(parts.config), rain_frames, parts, resume=True)
    assert contents(parts) == contents(whole)


def test_days_of_the_model_before_count_as_days_of_the_training(start, rain_frames, tmp_path, make_rain, read):
    june = make_rain()
    june["time"] = june["time"] + np.timedelta64(30, "D")
    folder = RunFolder(tmp_path / "run")
    fit(continued(start, "training.steps=1"), read(june), folder)
    nowcaster = load_nowcaster(folder.model)
    assert nowcaster.pipeline.days["earlier"] == ["2020-06-01", "2020-06-02", "2020-06-03"]
    assert choose_days(nowcaster, rain_frames, Selection(min_wet=0.0))[1] == ["2020-06-04"]


def test_the_transform_of_the_model_is_kept(make_nowcaster, rain_frames, tmp_path):
    transform = Standard((2.5,), (4.0,))
    make_nowcaster(transform=transform, data={"transform": "standard"}, days={"train": ["2019-01-01"]})
    folder = RunFolder(tmp_path / "run")
    fit(continued(str(tmp_path / "made.safetensors"), "training.steps=1"), rain_frames, folder)
    assert Pipeline.of_model(load_model(folder.model), folder.model).transform == transform


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.hidden_channels=[5, 5]", r"training.start_from: expected .*encoder.hidden_channels"),
        ("model.thresholds=[0.1, 1]", r"thresholds=\[0.1, 1.0\]"),
        ("data.frame=fixed", r"data.frame: expected moving, as in the training of .*Leave `data.frame` out"),
        ("data.log_top=3", r"data.log_top: expected 1.0"),
        ("data.test=['2020-06-02']", r"data.test: expected days on which .* 2020-06-02.*too good"),
        ("training.start_from=missing.safetensors", "missing.safetensors"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(start, rain_frames, tmp_path, setting, message):
    overrides = {} if "start_from" in setting else {"training.start_from": start}
    with pytest.raises((ConfigError, WeightsError), match=message):
        fit(read_config(settings=[*STEPS, setting], overrides=overrides), rain_frames, RunFolder(tmp_path / "run"))


def test_data_in_another_unit_is_refused(start, rain_frames, tmp_path):
    with pytest.raises(ConfigError, match=r"^training.start_from: expected a model for values in K"):
        fit(continued(start), replace(rain_frames, units="K"), RunFolder(tmp_path / "run"))


def test_a_file_without_the_configuration_of_its_training_is_refused(start, tmp_path):
    model = load_model(start)
    path = tmp_path / "bare.safetensors"
    save_model(path, model.spec, model.weights, {"pipeline": model.extra["pipeline"]})
    with pytest.raises(WeightsError, match=r"bare.safetensors without one"):
        continued(str(path))
