"""`convlstm check` of evaluations and forecasts."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from convlstm.cli.main import run
from convlstm.errors import DataError
from convlstm.nowcast.evaluation_digest import check_evaluation, seal
from convlstm.weights.checkpoint import save_arrays


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "e"
    words = ["evaluate", trained / "run", trained / "rain.nc", "-o", folder, "--max-cases", "2", "--min-wet", "0"]
    assert run([*map(str, words), "--threads", "1", "--quiet"]) == 0
    return folder


def test_check_finds_a_changed_file_of_an_evaluation(evaluated, tmp_path, cli, fails):
    shutil.copytree(evaluated, tmp_path / "e")
    code, out, _ = cli("check", "e")
    assert (code, out.split(", digest ")[0]) == (0, "e: evaluation of 3 methods")
    _, digest = check_evaluation(tmp_path / "e")
    assert digest in out
    for name in ("scores.csv", "ranks.csv"):
        content = (tmp_path / "e" / name).read_bytes()
        (tmp_path / "e" / name).write_bytes(content.replace(b"e", b"a", 1))
        fails(4, f"{name}: expected the content that was written", "check", "e")
        (tmp_path / "e" / name).write_bytes(content)
    with h5py.File(tmp_path / "e" / "cases.nc", "r+") as file:
        next(variable for variable in file.values() if variable.ndim > 2)[...] = 0
    fails(4, "cases.nc: expected the content that was written", "check", "e")
    (tmp_path / "e" / "cases.nc").unlink()
    fails(4, "cases.nc: expected a file of the evaluation, got none", "check", "e")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it | {"fss_window": 3}, "got entries with another digest"),
        (lambda it: {key: value for key, value in it.items() if key != "seal"}, "expected digests of all files"),
        (lambda it: it | {"files": {"../secret": "0"}}, "expected digests of all files"),
        (lambda it: it | {"files": [[1, 2]]}, "expected digests of all files"),
        (lambda it: it | {"methods": 3}, "expected digests of all files"),
        (lambda it: [], "expected digests of all files"),
    ],
)
def test_a_changed_description_of_an_evaluation_is_refused(evaluated, tmp_path, change, message):
    shutil.copytree(evaluated, tmp_path / "e")
    path = tmp_path / "e" / "evaluation.json"
    description = change(json.loads(path.read_text()))
    if "all files" in message and "seal" in description:
        description["seal"] = seal(description)
    path.write_text(json.dumps(description))
    with pytest.raises(DataError, match=message):
        check_evaluation(tmp_path / "e")


def test_check_reads_a_forecast_and_several_paths(trained, cli):
    assert cli("forecast", trained / "run", trained / "rain.nc", "-o", "f.zarr", "--threads", "1")[0] == 0
    code, out, _ = cli("check", "f.zarr", trained / "run" / "model.safetensors")
    assert code == 0
    assert [line.split(", digest ")[0].split(": ")[1].split(",")[0] for line in out.splitlines()] == [
        "forecast",
        "forecaster",
    ]


def test_check_reads_the_paths_after_a_damaged_one(trained, tmp_path, cli):
    model = trained / "run" / "model.safetensors"
    (tmp_path / "damaged.safetensors").write_bytes(model.read_bytes()[:-1])
    code, out, errors = cli("check", "damaged.safetensors", model, "missing.nc")
    assert code == 5
    assert out.startswith(f"{model}: forecaster")
    assert [line.split(":")[:2] for line in errors.splitlines()] == [
        ["error", " damaged.safetensors"],
        ["error", " missing.nc"],
    ]


def test_check_refuses_a_state_with_values_that_are_not_finite(tmp_path, fails):
    save_arrays(tmp_path / "state.safetensors", {"momentum": np.array([1, np.nan, np.inf])}, {"kind": "run"})
    fails(5, "expected finite numbers, got 2 of 3 in momentum that are not", "check", "state.safetensors")


def test_check_names_what_it_cannot_check(tmp_path, fails):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "scores.csv").write_text("score")
    fails(4, "evaluation.json: expected a readable JSON file, got FileNotFoundError", "check", "e")
    (tmp_path / "e" / "evaluation.json").write_text("[" * 100_000)
    fails(4, "evaluation.json: expected a readable JSON file, got RecursionError", "check", "e")
    (tmp_path / "f.tif").write_bytes(b"II*")
    fails(4, "expected a forecast in NetCDF or Zarr, got a GeoTIFF", "check", "f.tif")
