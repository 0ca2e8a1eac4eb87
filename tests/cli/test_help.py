"""Help of every command, and its example run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convlstm import errors
from convlstm.cli.app import app
from convlstm.verification.evaluation_folder import FILES

COMMANDS = {info.callback.__name__: info.callback for info in app.registered_commands}


def example(name):
    """The command line in a command's docstring."""
    return re.search(r"Example: `convlstm (.+?)`", COMMANDS[name].__doc__)[1]


def test_the_commands_are_those_that_are_documented():
    assert list(COMMANDS) == [
        "demo",
        "train",
        "forecast",
        "watch",
        "health",
        "evaluate",
        "verify",
        "report",
        "check",
        "inspect",
        "convert",
        "export",
        "doctor",
    ]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(cli, monkeypatch, name, flag):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = cli(name, flag)
    assert (code, err) == (0, "")
    assert f"convlstm {example(name)}" in out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_of_all(cli, words):
    code, out, _ = cli(*words)
    assert code == 0
    for name in COMMANDS:
        assert name in out
    assert "Start with: convlstm demo" in out


def test_version(cli):
    assert cli("--version") == (0, "convlstm 0.1.0\n", "")


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom convlstm.cli.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'xarray', 'pandas', 'numpy', 'scipy', 'pydantic', 'matplotlib', 'lightning_fabric'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.splitlines()[-1].strip() == "loaded:"


def test_the_examples_run_one_after_the_other(cli, fails, make_rain, tmp_path, tiny):
    make_rain(frames=30).to_netcdf(tmp_path / "rain.nc")
    settings = {"train": tiny, "demo": [*tiny, "--set", "training.batch_size=1"]}
    np.savez(tmp_path / "weights.npz", **{"cell_list.0.conv.weight": np.zeros((8, 3, 3, 3), "f")})
    names = "train forecast evaluate verify report inspect convert export doctor demo"
    for name in names.split():
        if name == "verify":  # a forecast whose lead times were observed
            assert cli(*shlex.split(example("forecast")), "--init-time", "2020-06-03T01:00")[0] == 0
        code, out, err = cli(*shlex.split(example(name)), *settings.get(name, []))
        assert (code, err) == (0, ""), (name, out, err)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    for folder in ("my-run", "demo/run"):
        assert {f"{folder}/{name}" for name in ("model.safetensors", "config.yaml", "log.jsonl")} <= written
    assert {f"evaluation/{name}" for name in FILES} <= written
    assert {"forecast.nc", "report.html", "demo/forecast.nc", "demo/scores.csv", "demo/report.html"} <= written
    words = "seed: expected 0, the value at the start of the run, got 1. Resume with that value"
    fails(3, words, "demo", *settings["demo"], "--seed", 1)


def test_the_configuration_can_be_shown_kept_and_changed(cli, tmp_path, tiny):
    code, out, _ = cli("train", "--show-config", *tiny, "--variable", "rain", "--seed", "4")
    assert code == 0
    (tmp_path / "mine.yaml").write_text(out)
    assert cli("train", "--show-config", "-c", "mine.yaml") == (0, out, "")
    changed = cli("train", "--show-config", "-c", "mine.yaml", "--set", "training.steps=9")[1]
    assert changed == out.replace("steps: 4", "steps: 9")


def test_the_page_of_the_docs_has_every_command_and_exit_code():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"\n## {name}\n" in page
        assert f"\nconvlstm {example(name)}\n" in page
    codes = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)
    }
    documented = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for code in row.split(",")}
    assert documented == codes | {0, 1, 2, 129, 130, 143}
