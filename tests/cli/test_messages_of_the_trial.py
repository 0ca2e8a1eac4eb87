"""Messages that misled a user of the command line: each now names the fault and what to do."""

import fcntl
import json
import shutil

import numpy as np
import pytest

from convlstm.nowcast import frameworks
from convlstm.nowcast.config_text import read_config
from convlstm.nowcast.inputs import _in_utc


def test_model_and_data_in_the_wrong_order(fails, trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copy(trained / "rain.nc", tmp_path)
    fails(2, "expected DATA last, got the model run; pass them as run rain.nc", "forecast", "rain.nc", "run")
    model = "run/model.safetensors"
    fails(2, f"pass them as {model} rain.nc", "evaluate", "rain.nc", model)
    fails(2, "got the model run; pass the data after it", "forecast", "run")
    (tmp_path / "copy.nc").write_bytes((tmp_path / "rain.nc").read_bytes())
    words = "copy.nc: expected a model file, got a data file (NetCDF or HDF5). Pass the model first, then the data."
    fails(5, words, "forecast", "copy.nc", "rain.nc")


@pytest.mark.parametrize("days", [1, 2])
def test_too_few_days_for_a_split(fails, make_rain, tmp_path, tiny, days):
    make_rain(days=days).to_netcdf(tmp_path / "short.nc")
    words = f"expected at least 3 days: 1 for validation, 1 for test, 1 for training, got {days} (2020-06-01"
    fails(4, words, "train", "short.nc", *tiny)


def test_times_with_an_offset_are_times_in_utc(cli, trained, fails):
    command = ("forecast", trained / "run", trained / "rain.nc", "--init-time")
    code, out, err = cli(*command, "2020-06-04T02:30+02:00")
    assert (code, err) == (0, "")
    assert "after 2020-06-04 00:30" in out
    words = "got 2020-06-04T02:30+01:00, the time of no frame. Pass one time in UTC, such as 2020-06-04T01:05."
    fails(4, words, *command, "2020-06-04T02:30+01:00")
    assert [_in_utc(text) for text in ("2020-06-01", "2020-06-01T00:30Z")] == ["2020-06-01", "2020-06-01T00:30:00"]


def test_a_mapping_without_a_space_after_the_colon(fails):
    words = (
        "training.emphasis: expected a value for each key, got a key without a value. Write a space after each colon"
    )
    fails(3, words, "train", "rain.nc", "--set", "training.emphasis={1:2}")


def test_one_day_and_one_width_need_no_list():
    settings = ["data.validation=2018-05-14", "data.test=[2018-05-15]", "model.hidden_channels=64"]
    config = read_config(None, settings)
    assert (config.data.validation, config.data.test) == (["2018-05-14"], ["2018-05-15"])
    assert config.model.hidden_channels == [64]


def test_a_file_of_an_evaluation_instead_of_its_folder(fails, tmp_path):
    (tmp_path / "e").mkdir()
    for name in ("evaluation.json", "scores.csv"):
        (tmp_path / "e" / name).write_text("{}")
        fails(
            4, f"e/{name}: expected the folder of an evaluation, got a file. Pass the folder e.", "report", f"e/{name}"
        )


def test_inspect_pads_frames_as_a_forecast_does(cli, trained):
    code, out, err = cli("inspect", trained / "run", "--input", "6x1x19x22")
    assert (code, err) == (0, "")
    assert "1 x 6x1x20x24" in out


@pytest.mark.parametrize(("name", "other"), [("jax", "flax"), ("PyTorch", "torch"), ("tensorflow", "keras")])
def test_a_framework_by_another_name(fails, trained, name, other):
    fails(3, f"got '{name}'. Pass {other}.", "forecast", trained / "run", trained / "rain.nc", "--framework", name)


def test_a_missing_model_is_found_before_a_framework_is_imported(fails, trained, monkeypatch):
    def never(framework):
        raise AssertionError(framework)

    monkeypatch.setattr(frameworks, "_training_module", never)
    fails(5, "got nothing there", "forecast", "none.safetensors", trained / "rain.nc", "--threads", "1")


@pytest.mark.parametrize("threshold", ["-5", "0"])
def test_thresholds_that_every_cell_reaches(fails, trained, threshold):
    words = f"--threshold: expected rain rates above 0 mm/h, got {threshold}, which every cell reaches"
    fails(3, words, "evaluate", trained / "run", trained / "rain.nc", f"--threshold={threshold}")


def test_a_folder_in_which_another_process_trains(fails, trained, tmp_path, tiny):
    shutil.copytree(trained / "run", tmp_path / "run")
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.write("4711")
        lock.flush()
        words = "run: expected no other training in this folder, got a training in process 4711. Wait until it ends"
        fails(6, words, "train", trained / "rain.nc", "-o", "run", *tiny)
    fails(3, "a folder with a run", "train", trained / "rain.nc", "-o", "run", *tiny)


@pytest.mark.parametrize("name", ["q.grib", "q", "q.png"])
def test_forecasts_under_names_of_other_kinds(fails, trained, name):
    words = "expected a name that ends in .nc, .nc4, .zarr, .tif, .tiff, .gif or .mp4"
    fails(6, words, "forecast", trained / "run", trained / "rain.nc", "-o", name)


def test_reports_and_outputs_under_names_that_are_not_written(fails, trained, tmp_path, tiny):
    fails(6, "r.pdf: expected a name that ends in .html or .htm", "report", tmp_path, "-o", "r.pdf")
    standard_output = "-: expected the name of a file or folder, got the sign for standard output"
    fails(6, standard_output, "report", tmp_path, "-o", "-")
    for command in ("forecast", "evaluate"):
        fails(6, standard_output, command, trained / "run", trained / "rain.nc", "-o", "-")
    fails(6, standard_output, "train", trained / "rain.nc", "-o", "-", *tiny)


def test_layouts_of_files_that_have_none(fails, trained):
    command = ("forecast", trained / "run", trained / "rain.nc")
    fails(3, "--layout: expected cf for a file that ends in .gif", *command, "-o", "q.gif", "--layout", "weatherbench")
    fails(3, "--layout: expected one of cf, weatherbench, pysteps, got grib", *command, "--layout", "grib")


def test_verify_needs_two_paths(fails, trained):
    for paths in ([trained / "rain.nc"], [trained / "rain.nc"] * 3):
        fails(2, "expected FORECAST OBSERVATION, got", "verify", *paths)


def test_a_forecast_is_verified_and_reported(cli, trained):
    data = trained / "rain.nc"
    start = ("--init-time", "2020-06-04T00:30", "--lead-times", "5,10")
    for layout in ("cf", "weatherbench", "pysteps"):
        assert cli("forecast", trained / "run", data, "-o", f"{layout}/a.nc", "--layout", layout, *start)[0] == 0
    later = ("--init-time", "2020-06-04T00:40", "--lead-times", "5,10")
    assert cli("forecast", trained / "run", data, "-o", "cf/b.nc", *later)[0] == 0
    command = ("verify", "cf", data, "--forecast", "wb=weatherbench", "--forecast", "pysteps=pysteps/a.nc")
    code, out, err = cli(*command, "--threshold", "1")
    assert (code, err) == (0, "")
    assert "1 of 2 forecasts scored; left out: 1 not in every forecast file\n" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("RMSE, mm/h") and "10 min" in line)
    values = [float(cell) for cell in row[-5:]]  # cf, wb, pysteps, optical flow, persistence
    assert values[0] == values[1] == values[2] > 0
    assert np.isfinite(values).all()
    assert cli("report", "evaluation")[0] == 0
    code, out, err = cli(*command, "--threshold", "1")
    assert code == 6
    assert "--overwrite" in err
    code, out, err = cli(*command, "--threshold", "1", "--overwrite", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["cases"], result["starts"], result["left_out"]) == (1, 2, {"not_shared": 1})
