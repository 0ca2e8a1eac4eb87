"""Bad input of every kind: one clear line, the documented exit code, and nothing overwritten or lost."""

import os
import shutil
import time

import numpy as np
import pytest

from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import save_model


def times(values):
    return lambda dataset: dataset.assign_coords(time=dataset["time"].values[values])


def filled(value):
    return lambda dataset: dataset.assign(rain=(dataset["rain"] * 0 + value).assign_attrs(units="mm/h"))


ORDER = np.arange(56)
SWAPPED = np.array([*range(10), 11, 10, *range(12, 56)])
DOUBLED = np.array([*range(10), 9, *range(11, 56)])

BAD_DATASETS = {
    "a dimension too few": (lambda d: d.isel(x=0), "a x axis, got the dimensions (time: 56, y: 22)"),
    "a dimension too many": (lambda d: d.expand_dims(level=2), "level of size 2"),
    "no time axis": (lambda d: d.isel(time=0, drop=True), "a time axis"),
    "no dates": (lambda d: d.assign_coords(time=ORDER), "Pass `time_step`"),
    "one frame": (lambda d: d.isel(time=slice(1)), "at least 2 frames, got 1"),
    "unsorted times": (times(SWAPPED), "Sort the file by time"),
    "duplicate times": (times(DOUBLED), "Remove the duplicate"),
    "nothing known": (filled(np.nan), "missing values only"),
    "two variables": (lambda d: d.assign(snow=d["rain"]), "Choose from rain, snow"),
    "text": (lambda d: d.assign(rain=(("time", "y"), np.full((56, 22), "wet"))), "numbers"),
}


@pytest.mark.parametrize("name", BAD_DATASETS)
@pytest.mark.parametrize("command", ["train", "forecast"])
def test_data_that_cannot_be_read(fails, trained, make_rain, tmp_path, tiny, name, command):
    change, words = BAD_DATASETS[name]
    change(make_rain()).to_netcdf(tmp_path / "bad.nc")
    (tmp_path / "forecast.nc").write_text("the forecast of yesterday")
    words_of = {"train": ["train", "bad.nc", *tiny], "forecast": ["forecast", trained / "run", "bad.nc"]}
    fails(4, words, *words_of[command])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "got nothing there"),
        (lambda path: path.mkdir(), "a folder without Zarr metadata"),
        (lambda path: path.write_text("rain,1,2\n"), "can be read"),
        (lambda path: path.write_bytes(b""), "can be read"),
        (os.mkfifo, "a device or pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device or pipe"),
        (lambda path: path.symlink_to(path), "bad.nc"),
    ],
    ids=["missing", "folder", "text", "empty", "pipe", "device", "link to itself"],
)
def test_paths_that_are_no_data_are_refused_at_once(fails, trained, tmp_path, tiny, make, words):
    make(tmp_path / "bad.nc")
    started = time.monotonic()
    fails(4, words, "train", "bad.nc", *tiny)
    fails(4, words, "evaluate", trained / "run", "bad.nc")
    assert time.monotonic() - started < 5


def test_a_truncated_file_is_refused(fails, trained, tmp_path, tiny):
    whole = (trained / "rain.nc").read_bytes()
    for size in (len(whole) // 2, len(whole) - 100):
        (tmp_path / "bad.nc").write_bytes(whole[:size])
        fails(4, "bad.nc: expected data that can be read", "train", "bad.nc", *tiny)


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (4, "nope: expected a variable of the file (rain)", ["--variable", "nope"]),
        (4, "time_dim: expected a dimension of the file (time, y, x), got when", ["--time-dim", "when"]),
        (4, "split by day", ["--set", "data.validation=2", "--set", "data.test=2"]),
        (4, "test days", ["--set", "data.test=[2031-01-01]"]),
        (4, "train days: expected at least one run of 63 frames", ["--set", "data.horizon=60"]),
        (4, "transform", ["--units", "K", "--set", "data.transform=log"]),
        (3, "time_step", ["--time-step", "-5"]),
        (3, "training.steps: expected a valid integer, got 'many'", ["--set", "training.steps=many"]),
        (3, "Use `training.steps`", ["--set", "training.step=5"]),
        (3, "--set: expected NAME=VALUE, got 'training.steps'", ["--set", "training.steps"]),
        (3, "kernel_size", ["--set", "model.kernel_size=0"]),
        (3, "data.crop: expected a multiple of model.patch_size", ["--set", "model.patch_size=7"]),
        (3, "none.toml: expected a TOML or YAML file, got no file", ["--config", "none.toml"]),
        (3, "seed", ["--seed", "-1"]),
        (3, "framework: expected one of torch, keras, flax, mlx, got 'theano'", ["--framework", "theano"]),
        (4, "memory", ["--set", "model.hidden_channels=[1000000000]"]),
        (6, "expected a folder that can be written", ["--output", "file/run"]),
        (6, "expected a folder that can be written", ["--output", "file"]),
        (6, "/proc/run", ["--output", "/proc/run"]),
        (3, "expected a new folder, got a folder with a run", ["--output", "old"]),
        (2, "No such option: --step", ["--step", "5"]),
        (2, "--threads", ["--threads", "0"]),
        (2, "'--seed': Input should be a valid integer", ["--seed", "many"]),
        (4, "more.nc: expected a file or a Zarr folder, got nothing there", ["more.nc"]),
    ],
)
def test_wrong_training(fails, trained, tmp_path, tiny, code, words, options):
    shutil.copy(trained / "rain.nc", tmp_path)
    shutil.copytree(trained / "run", tmp_path / "old")
    (tmp_path / "file").write_text("precious")
    fails(code, words, "train", "rain.nc", *tiny, *options)


def test_training_without_data_or_with_hostile_configuration(fails, tmp_path):
    fails(2, "pass the data to train on", "train")
    (tmp_path / "config.yaml").write_text("seed: !!python/object/apply:os.system ['touch owned']\n")
    fails(3, "config.yaml: expected valid TOML or YAML", "train", "rain.nc", "-c", "config.yaml")
    fails(3, "expected a TOML or YAML file, got no file", "train", "rain.nc", "-c", tmp_path)


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (3, "lead times: expected multiples of the model's step of 5 min, got 5, 7 min", ["--lead-times", "5,7"]),
        (3, "lead times: expected minutes above 0 that increase, got 10, 5", ["--lead-times", "10,5"]),
        (3, "got nan", ["--lead-times", "nan"]),
        (3, "got 5, inf", ["--lead-times", "5,inf"]),
        (2, "--lead-times: expected minutes as 10,30,60, got 'soon'", ["--lead-times", "soon"]),
        (2, "--lead-times", ["--lead-times", ""]),
        (4, "init time: expected the time of one frame from 2020-06-01", ["--init-time", "2020-06-02T07:00"]),
        (4, "of 14 frames", ["--init-time", "2020-06-02"]),
        (4, "init time", ["--init-time", "now"]),
        (4, "input frames: expected 3 frames without a gap", ["--init-time", "2020-06-02T00:05"]),
        (6, "expected a path other than the inputs, got one of the inputs", ["--output", "rain.nc"]),
        (6, "expected a path other than the inputs, got one of the inputs", ["--output", "link.nc"]),
        (6, "expected a path for a file, got a folder", ["--output", "folder"]),
        (6, "expected a path for a folder, got a file", ["--output", "file.zarr"]),
        (6, "expected a folder that can be written", ["--output", "file.zarr/f.nc"]),
        (6, "a device or pipe", ["--output", "/dev/full"]),
        (6, "/proc/f.nc", ["--output", "/proc/f.nc"]),
        (3, "framework", ["--framework", "theano"]),
        (2, "No such option", ["--days", "3"]),
    ],
)
def test_wrong_forecasts(fails, trained, tmp_path, code, words, options):
    shutil.copy(trained / "rain.nc", tmp_path)
    (tmp_path / "link.nc").symlink_to("rain.nc")
    (tmp_path / "file.zarr").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("precious")
    (tmp_path / "forecast.nc").write_text("the forecast of yesterday")
    fails(code, words, "forecast", trained / "run", "rain.nc", *options)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda d: d.assign(rain=d["rain"].assign_attrs(units="K")), [], "units: expected mm/h"),
        (
            lambda d: d.assign(snow=d["rain"]),
            ["--variable", "rain", "--variable", "snow"],
            "variables: expected 1, as in the training, got 2",
        ),
        (lambda d: d.isel(time=slice(None, None, 2)), [], "time step: expected 300 s"),
        (lambda d: d.isel(time=[0, 1]), [], "input frames: expected 3 frames"),
        (lambda d: d.isel(time=[0, 1, 2, 5, 6]), [], "got a gap between them"),
        (
            lambda d: d.where(d["time"] < d["time"][50]),
            [],
            "input frames: expected a value of rain in the last one, 2020-06-04T01:05",
        ),
    ],
    ids=["units", "channels", "time step", "too short", "gap", "all missing"],
)
def test_data_a_model_cannot_forecast_from(fails, trained, make_rain, tmp_path, change, options, words):
    change(make_rain()).to_netcdf(tmp_path / "other.nc")
    fails(4, words, "forecast", trained / "run", "other.nc", *options)


def test_files_that_are_no_trained_forecaster(fails, trained, tmp_path):
    whole = (trained / "run" / "model.safetensors").read_bytes()
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    save_model(tmp_path / "layer.safetensors", spec, initialise(spec, 0))
    shutil.copy(trained / "run" / "state.safetensors", tmp_path)
    flipped = bytearray(whole)
    flipped[-5] ^= 4
    cases = {"empty": b"", "text": b"{}", "cut": whole[:-9], "flipped": bytes(flipped), "more": whole + b"\0"}
    for name, content in cases.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    (tmp_path / "no-model").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        **{f"{name}.safetensors": f"{name}.safetensors: expected" for name in cases},
        "layer.safetensors": "got a layer",
        "state.safetensors": "got kind 'run'",
        "none.safetensors": "got nothing there",
        "no-model": "no-model: expected a model file, or a folder with model.safetensors, got a folder without it",
        "pipe": "got a folder or device",
        "/dev/zero": "got a folder or device",
        trained / "rain.nc": "expected",
    }.items():
        fails(5, words, "forecast", name, trained / "rain.nc")
    fails(5, "got a layer", "evaluate", "layer.safetensors", trained / "rain.nc")


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (4, "--day: expected days from 2020-06-01 to 2020-06-04, got 2031-01-01", ["--day", "2031-01-01"]),
        (4, "a frame with rain on 100% of the cells", ["--min-wet", "1"]),
        (3, "--fss-window: expected 1 to 18 cells", ["--fss-window", "40"]),
        (3, "--threshold: expected finite numbers", ["--threshold", "nan"]),
        (2, "--min-wet", ["--min-wet", "2"]),
        (2, "--max-cases", ["--max-cases", "0"]),
        (6, "expected a folder that can be written", ["--output", "file"]),
        (6, "scores.csv: expected a path for a file, got a folder", ["--output", "odd"]),
        (6, "/proc/e/unfinished", ["--output", "/proc/e", "--max-cases", "1"]),
    ],
)
def test_wrong_evaluations(fails, trained, tmp_path, code, words, options):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "odd" / "scores.csv").mkdir(parents=True)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "scores.csv").write_text("the scores of yesterday")
    fails(code, words, "evaluate", trained / "run", trained / "rain.nc", *options)


def test_days_that_are_dry_or_seen(fails, trained, make_rain, tmp_path, tiny):
    filled(0.0)(make_rain()).to_netcdf(tmp_path / "dry.nc")
    fails(4, "a frame with rain on 5% of the cells, got at most 0.0%", "evaluate", trained / "run", "dry.nc")
    fails(4, "rain above 0.1 mm/h in the training windows", "train", "dry.nc", *tiny)
    make_rain(days=3).to_netcdf(tmp_path / "seen.nc")
    fails(4, "days that the model was not trained on", "evaluate", trained / "run", "seen.nc")


def test_reports_of_nothing(fails, cli, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "report.html").write_text("the page of yesterday")
    fails(4, "evaluation.json", "report", "empty")
    fails(4, "evaluation.json", "report", "none")
    fails(6, "a device or pipe", "report", "empty", "-o", "/dev/full")
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    assert cli("evaluate", trained / "run", trained / "rain.nc", "-o", "e", "--max-cases", "1")[0] == 0
    fails(6, "expected a path for a file, got a folder", "report", "e", "-o", "folder")
    tables = ("scores.csv", "differences.csv", "fss.csv", "spectra.csv", "fine_scales.csv")
    for name in (*tables, "cases.nc", "evaluation.json"):
        whole = (tmp_path / "e" / name).read_bytes()
        (tmp_path / "e" / name).write_bytes(whole[: len(whole) // 2])
        fails(4, name, "report", "e")
        (tmp_path / "e" / name).write_bytes(whole)


def test_a_memory_error_and_a_bug_are_one_line_too(cli, trained, monkeypatch):
    def fail(error):
        def raising(*arguments, **options):
            raise error

        monkeypatch.setattr("convlstm.nowcast.nowcaster.load_nowcaster", raising)
        return cli("forecast", "run", "rain.nc")

    code, _, err = fail(MemoryError())
    assert (code, err.startswith("error: memory: expected enough memory")) == (4, True)
    code, _, err = fail(ZeroDivisionError("by\nzero"))
    assert (code, err) == (1, "error: inside convlstm: ZeroDivisionError: by zero (CONVLSTM_DEBUG=1 shows where)\n")
    assert fail(KeyboardInterrupt())[0] == 130
    code, _, err = fail(ModuleNotFoundError("No module named 'scores'", name="scores"))
    assert (code, err.startswith("error: scores: expected it installed")) == (8, True)
    monkeypatch.setenv("CONVLSTM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())


def test_unknown_words(fails, cli):
    fails(2, "No such command 'forcast'", "forcast")
    fails(2, "No such option: --verbose", "--verbose")
    fails(2, "Missing argument", "forecast")
    fails(4, "run: expected a file or a Zarr folder, got nothing there", "forecast", "run")
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert "convlstm demo" in out
