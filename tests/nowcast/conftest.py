"""Tiny runs: a small sequence on disk, settings that train in a moment, and models made without training."""

import re

import numpy as np
import pytest

from convlstm.data import LogRain, open_frames
from convlstm.nowcast.config import validate
from convlstm.nowcast.fit import fit
from convlstm.nowcast.frameworks import set_threads
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import save_model

DATA = {"input_length": 3, "horizon": 4, "crop": 16}
MODEL = {"hidden_channels": [4, 4], "dropout": 0.2, "recurrent_dropout": 0.1}
TRAINING = {"steps": 6, "batch_size": 2, "validate_every": 2, "warmup_steps": 2, "precision": "float32"}


EVENT_SECTIONS = {
    "data": {"frame": "moving"},
    "model": {"thresholds": [0.1, 1.0, 5.0], "detail_channels": 3, "detail_frames": 2},
    "training": {
        "average": 0.9,
        "intensity": 0.1,
        "threshold_weights": [1, 1, 0.5],
        "first_lead_weight": 2,
        "validation_windows": 4,
    },
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order, so that runs can be compared byte for byte."""
    set_threads("torch", 1)


@pytest.fixture(scope="session")
def tiny():
    """Make the configuration of a run of a few steps; sections are given as dictionaries."""

    def make(*, data=(), model=(), training=(), seed=0):
        parts = {"data": DATA | dict(data), "model": MODEL | dict(model), "training": TRAINING | dict(training)}
        return validate(parts | {"seed": seed})

    return make


@pytest.fixture(scope="session")
def rain_frames(make_rain, tmp_path_factory):
    """The drifting rain of four days, as read."""
    path = tmp_path_factory.mktemp("data") / "rain.nc"
    make_rain().to_netcdf(path)
    return open_frames(path)


@pytest.fixture(scope="session")
def gappy_path(make_rain, tmp_path_factory):
    """Rain with missing values in one corner, so that the windows have different numbers of known cells."""
    dataset = make_rain()
    dataset["rain"][:, :15, :11] = np.nan
    path = tmp_path_factory.mktemp("gappy") / "rain.nc"
    dataset.to_netcdf(path)
    return path


@pytest.fixture
def read(tmp_path):
    """Write a dataset and read it as a sequence."""

    def write_and_read(dataset, **options):
        path = tmp_path / f"data{len(list(tmp_path.glob('data*.nc')))}.nc"
        dataset.to_netcdf(path)
        return open_frames(path, **options)

    return write_and_read


@pytest.fixture
def train(tmp_path, rain_frames, tiny):
    """Train in a folder of that name and return the folder; keywords are those of `tiny` and `fit`."""

    def run(name="run", *, frames=rain_frames, resume=False, on_step=lambda report: None, **sections):
        folder = RunFolder(tmp_path / name)
        fit(tiny(**sections), frames, folder, resume=resume, on_step=on_step)
        return folder

    return run


@pytest.fixture
def stopped(train):
    """Train until after a step and fail there, as by a bug or a lost terminal."""

    class StopError(Exception):
        """Ends a run from within."""

    def run(step, *names, **options):
        def on_step(report):
            if report.step == step:
                raise StopError

        with pytest.raises(StopError):
            train(*names, on_step=on_step, **options)

    return run


@pytest.fixture(scope="session")
def contents():
    """Read every file of a run but its lock, by name; the log without the times of the clock."""

    def read_all(folder):
        files = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.name != ".lock"}
        if "log.jsonl" in files:
            files["log.jsonl"] = re.sub(rb', "time": "[^"]+"', b"", files["log.jsonl"])
        return files

    return read_all


@pytest.fixture(scope="session")
def whole_run(rain_frames, tiny, contents, tmp_path_factory):
    """What a run that nothing stopped leaves."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    fit(tiny(), rain_frames, folder)
    return contents(folder)


@pytest.fixture(scope="session")
def trained(rain_frames, tiny, tmp_path_factory):
    """A model trained for a few steps on the drifting rain."""
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    fit(tiny(), rain_frames, folder)
    return load_nowcaster(folder.path)


@pytest.fixture
def make_nowcaster(tmp_path, tiny):
    """Write a model that was never trained, and load it.

    `still=True` gives one that foretells the last frame unchanged: the output convolution is zero, and the last
    frame is added to it.
    """

    def make(*, still=False, variables=("rain",), units="mm/h", transform=None, days=None, **sections):
        config = tiny(**sections)
        spec = config.model.spec(len(variables), 300.0)
        weights = initialise(spec, 1)
        if still:
            weights |= {key: np.zeros_like(weights[key]) for key in weights if key.startswith("head")}
        pipeline = Pipeline(
            variables=variables,
            units=units,
            transform=transform or LogRain(),
            time_step=300.0,
            max_gap=config.data.max_gap,
            input_length=config.data.input_length,
            horizon=config.data.horizon,
            thresholds=(0.1, 1.0, 5.0),
            days=days or {"train": ["2020-06-01", "2020-06-02"], "validation": ["2020-06-03"], "test": ["2020-06-04"]},
        )
        extra = {"pipeline": pipeline.to_dict(), "provenance": {"config": config.model_dump(mode="json")}}
        path = tmp_path / "made.safetensors"
        save_model(path, spec, weights, extra)
        return load_nowcaster(path)

    return make


@pytest.fixture(scope="session")
def event_run(rain_frames, tiny, tmp_path_factory):
    """The folder of a run that forecasts events in the moving frame."""
    folder = RunFolder(tmp_path_factory.mktemp("events") / "run")
    fit(tiny(**EVENT_SECTIONS), rain_frames, folder)
    return folder


@pytest.fixture
def event_nowcaster(event_run):
    """The model of that run."""
    return load_nowcaster(event_run.model)


@pytest.fixture
def event_sections():
    """The configuration of that run."""
    return EVENT_SECTIONS
