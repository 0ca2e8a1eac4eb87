"""Options of several commands: JSON for programs, a log with times, silence, and the device."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (INFO|WARNING|ERROR) (.+)")


def test_a_forecast_as_json(cli, trained):
    code, out, err = cli("forecast", trained / "run", trained / "rain.nc", "--json", "--lead-times", "5,20")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    result = json.loads(out)
    assert (result["command"], result["output"]) == ("forecast", "forecast.nc")
    assert result["init_time"] == "2020-06-04T01:05:00Z"
    assert result["valid_times"] == ["2020-06-04T01:10:00Z", "2020-06-04T01:25:00Z"]
    assert result["variables"] == ["rain"]
    assert result["data"]["shape"] == [56, 1, 22, 18]
    assert result["data"]["channels"][0]["units"] == "mm/h"
    assert len(result["weights"]) == 64
    assert 0 < result["seconds"] < 600


def test_a_training_and_an_evaluation_as_json(cli, trained, tiny):
    code, out, err = cli("train", trained / "rain.nc", "-o", "run", *tiny, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["command"], result["output"], result["steps"]) == ("train", "run", 4)
    assert result["best_step"] in (2, 4)
    assert result["validation_loss"] > 0
    assert result["data"]["time_step"] == 300.0
    code, out, err = cli("evaluate", "run", trained / "rain.nc", "--json", "--max-cases", 2)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["command"], result["output"]) == ("evaluate", "evaluation")
    assert "scores.csv" in result["files"]
    times = [json.loads(line)["time"] for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    for time in times:
        assert abs(datetime.now(UTC) - datetime.fromisoformat(time)) < timedelta(hours=1)


def test_an_error_with_json_is_one_line_on_standard_error(fails, cli, trained):
    fails(4, "got nothing there", "forecast", trained / "run", "nothing.nc", "--json")
    code, out, _ = cli("forecast", trained / "run", "nothing.nc", "--json")
    assert (code, out) == (4, "")


def test_the_scores_of_a_silent_evaluation_are_in_its_log(cli, trained):
    words = ("evaluate", trained / "run", trained / "rain.nc", "-q", "--max-cases", 1, "--log-file", "e.log")
    assert cli(*words) == (0, "", "")
    text = Path("e.log").read_text(encoding="utf-8")
    assert re.search(r"INFO .*CSI .*5 min", text) or re.search(r"INFO .*RMSE", text)


def test_the_configuration_is_shown_even_in_silence(cli, tiny):
    shown = cli("train", "--show-config", *tiny)
    assert "hidden_channels" in shown[1]
    assert cli("train", "--show-config", *tiny, "-q") == shown


def test_silence(cli, trained, tiny):
    assert cli("forecast", trained / "run", trained / "rain.nc", "--quiet") == (0, "", "")
    assert cli("train", trained / "rain.nc", "-o", "run", *tiny, "-q") == (0, "", "")
    assert cli("evaluate", "run", trained / "rain.nc", "-q", "--max-cases", 1) == (0, "", "")
    assert "frames after" in cli("forecast", trained / "run", trained / "rain.nc")[1]  # the next command is not silent


@pytest.mark.parametrize("flags", [[], ["--quiet"], ["--json"]])
def test_a_log_has_every_line_and_the_errors_with_their_times(cli, trained, tiny, tmp_path, flags):
    words = ["train", trained / "rain.nc", "-o", "run", *tiny, "--log-file", "logs/train.log", *flags]
    assert cli(*words)[0] == 0
    assert cli(*words)[0] == 3
    lines = [LINE.fullmatch(line) for line in (tmp_path / "logs" / "train.log").read_text().splitlines()]
    assert all(lines)
    texts = [line[3] for line in lines]
    assert texts[0].startswith("data")
    assert any(text.startswith("training 4/4 loss") for text in texts)
    assert any("best of 4 steps" in text for text in texts)
    assert (lines[-1][2], "got a folder with a run" in texts[-1]) == ("ERROR", True)
    for line in lines:
        assert abs(datetime.now(UTC) - datetime.fromisoformat(line[1])) < timedelta(hours=1)


def test_a_log_that_cannot_be_written_is_refused(fails, trained, tmp_path):
    (tmp_path / "folder").mkdir()
    fails(6, "expected a file to which lines can be added", "forecast", trained / "rain.nc", "--log-file", "folder")


@pytest.mark.parametrize("command", ["forecast", "evaluate", "watch"])
def test_a_device_that_is_not_there_is_refused(fails, trained, tmp_path, command):
    words = "device: expected a device of this machine (cpu"
    fails(3, words, command, trained / "run", trained / "rain.nc", "--device", "abacus")


def test_a_training_on_a_device(fails, cli, trained, tiny):
    words = ["train", trained / "rain.nc", "-o", "run", *tiny, "--device"]
    assert cli(*words, "cpu")[0] == 0
    fails(3, "device: expected a device of this machine (cpu", *words, "abacus", "--resume")


def test_options_of_tiles_have_an_effect_or_are_refused(fails, trained):
    words = ("forecast", trained / "run", trained / "rain.nc")
    fails(3, "--overlap: expected no such option without `--tile`, got 8", *words, "--overlap", 8)
    fails(3, "--overwrite: expected no such option without `--tile`", *words, "--overwrite")
    for option in (("-o", "f.nc"), ("-o", "f.zarr", "--layout", "weatherbench"), ("-o", "f.zarr", "--members", 2)):
        fails(3, "without members, for tiles", *words, *option, "--tile", 8)
    fails(3, "tile: expected a multiple of 4 cells", *words, "-o", "f.zarr", "--tile", 10)
