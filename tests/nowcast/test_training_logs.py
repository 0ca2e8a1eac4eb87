"""Logs for TensorBoard and MLflow, read back with these libraries: the lines of the log, once each after a resume."""

import json
import re

import numpy as np
import pytest

from convlstm.cli.main import run as run_command
from convlstm.errors import ConfigError, DataError, DependencyError, OutputError
from convlstm.nowcast.fit import fit
from convlstm.nowcast.run_folder import RunFolder, flat_options
from convlstm.nowcast.training_logs import TRAINING_LOGS, check_training_logs

VALUES = ("loss", "validation_loss", "learning_rate")


@pytest.fixture
def logged(tmp_path, rain_frames, tiny):
    """Train into a folder with a log of this name; `stop` raises an error after that step."""

    def run(name, *, resume=False, stop=None, **sections):
        folder = RunFolder(tmp_path / "run")

        def on_step(report):
            if report.step == stop:
                raise KeyboardInterrupt

        fit(tiny(**sections), rain_frames, folder, resume=resume, logs=[name], on_step=on_step)
        return folder

    return run


def interrupted(logged, name, step):
    with pytest.raises(KeyboardInterrupt):
        logged(name, stop=step)


def read_tensorboard(folder):
    """The event files as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("tensorboardX")
    events = accumulator.EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    return events


def check_tensorboard(folder):
    events, history = read_tensorboard(folder), folder.history()
    assert sorted(events.Tags()["scalars"]) == sorted(VALUES)
    for name in VALUES:
        points = events.Scalars(name)
        assert [point.step for point in points] == [entry["step"] for entry in history]
        np.testing.assert_array_equal(
            [np.float32(point.value) for point in points], [np.float32(entry[name]) for entry in history]
        )
    return events


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install '.[tensorboard]'")
    pytest.importorskip("tensorboardX", reason="needs tensorboardX: pip install '.[tensorboard]'")


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_has_the_lines_of_the_log_and_the_parameters(logged, tiny):
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

    folder = logged("tensorboard")
    assert [entry["step"] for entry in folder.history()] == [2, 4, 6]
    events = check_tensorboard(folder)
    found = parse_session_start_info_plugin_data(events.PluginTagToContent("hparams")[SESSION_START_INFO_TAG]).hparams
    assert set(found) == set(flat_options(tiny()))
    assert found["training.steps"].number_value == 6
    assert found["model.hidden_channels"].string_value == "[4, 4]"
    assert found["training.average"].number_value == 0


@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_has_each_step_once_in_tensorboard(logged, step):
    interrupted(logged, "tensorboard", step)
    folder = logged("tensorboard", resume=True)
    assert [entry["step"] for entry in folder.history()] == [2, 4, 6]
    check_tensorboard(folder)
    check_tensorboard(logged("tensorboard", resume=True, training={"steps": 10}))


@pytest.mark.usefixtures("tensorboard")
def test_a_finished_run_gets_its_log_afterwards(train, rain_frames, tiny):
    folder = train()
    assert not (folder.path / "tensorboard").exists()
    before = folder.model.read_bytes()
    fit(tiny(), rain_frames, folder, resume=True, logs=["tensorboard"])
    check_tensorboard(folder)
    assert folder.model.read_bytes() == before


@pytest.mark.usefixtures("tensorboard")
def test_a_log_without_times_is_copied_too(train, rain_frames, tiny):
    folder = train()
    path = folder.path / "log.jsonl"
    path.write_text(re.sub(', "time": "[^"]+"', "", path.read_text()))
    fit(tiny(), rain_frames, folder, resume=True, logs=["tensorboard"])
    assert "time" not in path.read_text()
    check_tensorboard(folder)


@pytest.mark.usefixtures("tensorboard")
def test_the_command_writes_the_log_that_it_is_asked_for(tmp_path, make_rain):
    make_rain().to_netcdf(tmp_path / "rain.nc")
    settings = ["training.steps=4", "training.validate_every=2", "training.batch_size=2", "data.crop=16"]
    settings += ["data.input_length=3", "data.horizon=4", "model.hidden_channels=4"]
    words = [word for setting in settings for word in ("--set", setting)]
    command = ["train", str(tmp_path / "rain.nc"), "-o", str(tmp_path / "run"), "--log", "tensorboard", *words]
    assert run_command(command) == 0
    folder = RunFolder(tmp_path / "run")
    assert [entry["step"] for entry in folder.history()] == [2, 4]
    check_tensorboard(folder)


@pytest.fixture
def mlflow_client(tmp_path, tmp_path_factory, monkeypatch):
    """A client of a new store in a file."""
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install '.[mlflow]'")
    uri = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "rain")
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(tracking_uri=uri)


def check_mlflow(client, folder):
    """The only run of the store, whose values are those of the log."""
    experiment = client.get_experiment_by_name("rain")
    (run,) = client.search_runs([experiment.experiment_id])
    for name in VALUES:
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert sorted(points) == [(entry["step"], entry[name]) for entry in folder.history()]
    return run


# MLflow and SQLAlchemy warn about themselves
mlflow_warnings = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@mlflow_warnings
def test_mlflow_has_the_lines_of_the_log_and_the_parameters(logged, mlflow_client, tiny):
    run = check_mlflow(mlflow_client, logged("mlflow"))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert set(run.data.params) == set(flat_options(tiny()))
    assert run.data.params["training.steps"] == "6"
    assert run.data.params["model.hidden_channels"] == "[4, 4]"


@mlflow_warnings
def test_a_resumed_run_continues_the_run_of_mlflow(logged, mlflow_client):
    interrupted(logged, "mlflow", 3)
    run = check_mlflow(mlflow_client, RunFolder("run"))
    assert run.info.status == "FAILED"
    check_mlflow(mlflow_client, logged("mlflow", resume=True))
    run = check_mlflow(mlflow_client, logged("mlflow", resume=True, training={"steps": 10}))
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps"] == "6"  # MLflow keeps the first value
    assert run.data.tags["resumed.training.steps"] == "10"


@mlflow_warnings
def test_a_run_that_the_store_does_not_have_is_an_error_and_the_training_stays(logged, mlflow_client, refused):
    folder = logged("mlflow")
    before = folder.model.read_bytes()
    (folder.path / "mlflow.json").write_text(json.dumps({"run_id": "0" * 32}))
    with refused(OutputError, "--log mlflow"):
        logged("mlflow", resume=True)
    (folder.path / "mlflow.json").write_text("{}")
    with refused(DataError, str(folder.path / "mlflow.json")):
        logged("mlflow", resume=True)
    assert folder.model.read_bytes() == before


@mlflow_warnings
def test_a_failure_of_the_server_keeps_the_state(logged, mlflow_client, monkeypatch, refused):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log_batch = MlflowClient.log_batch

    def fail(self, run_id, metrics=(), **options):
        if any(metric.step == 4 for metric in metrics):
            raise MlflowException("the server is gone")
        return log_batch(self, run_id, metrics=metrics, **options)

    with monkeypatch.context() as patch, refused(OutputError, "--log mlflow"):
        patch.setattr(MlflowClient, "log_batch", fail)
        logged("mlflow")
    assert [entry["step"] for entry in RunFolder("run").history()] == [2, 4]
    check_mlflow(mlflow_client, logged("mlflow", resume=True))


def test_an_unknown_log_and_a_missing_package_are_refused_before_the_training(logged, tmp_path, monkeypatch, refused):
    with refused(ConfigError, "--log"):
        logged("wandb")
    monkeypatch.setattr("convlstm.nowcast.training_logs.find_spec", lambda name: None)
    for name in TRAINING_LOGS:
        with pytest.raises(DependencyError, match=rf"pip install 'convlstm\[{name}\]'"):
            check_training_logs([name])
    assert not (tmp_path / "run").exists()


def test_the_option_of_the_command_is_checked_before_the_data_are_read(capsys):
    assert run_command(["train", "nowhere.nc", "--log", "wandb"]) == 3
    assert capsys.readouterr().err.startswith("error: --log: expected one of tensorboard, mlflow, got 'wandb'.")
