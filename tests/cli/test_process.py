"""What only a process of its own can show: signals, locks, closed pipes and full disks."""

import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

from convlstm.cli.main import run
from convlstm.nowcast.signals import collected_signals
from convlstm.weights.checkpoint import load_arrays

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


IN_TERMINAL = """
import fcntl, os, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "convlstm", *sys.argv[1:]])
"""


@contextmanager
def started(folder, *words, **options):
    """A command in a process of its own, which is ended whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "convlstm", *map(str, words)],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE} | options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_training_that_is_asked_to_stop_saves_and_says_so(tmp_path, make_rain, tiny, fails):
    make_rain().to_netcdf(tmp_path / "rain.nc")
    endless = [*tiny, "--set", "training.steps=1000000", "--set", "training.validate_every=100000"]
    with (
        started(tmp_path, "train", "rain.nc", "-o", "one", *endless) as one,
        started(tmp_path, "train", "rain.nc", "-o", "two", *endless) as two,
    ):
        for process in (one, two):
            while not (line := process.stdout.readline()).startswith("training"):
                assert line  # what was read, before the first step
            assert line.startswith("training 1/1000000 loss ")
        words = f"got a training in process {one.pid}. Wait until it ends, or choose another `--output`."
        fails(6, words, "train", "rain.nc", "-o", "one", *endless, "--resume")
        fails(6, words, "train", "rain.nc", "-o", "one", *endless)
        for process, number, code in ((one, signal.SIGINT, 130), (two, signal.SIGTERM, 143)):
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
            assert process.returncode == code
            assert err == (
                f"error: training: expected no interruption, got {number.name}. Continue with "
                "`convlstm train --resume`, or run `convlstm demo` again. The state is saved.\n"
            )
            folder = tmp_path / ("one" if process is one else "two")
            assert load_arrays(folder / "state.safetensors")[1]["progress"]["step"] >= 1
            assert sorted(path.name for path in folder.iterdir()) == [
                ".lock",
                "config.yaml",
                "data.json",
                "log.jsonl",
                "state.safetensors",
            ]


def test_a_training_whose_terminal_is_closed_saves_its_state(tmp_path, make_rain, tiny):
    make_rain().to_netcdf(tmp_path / "rain.nc")
    words = ["train", "rain.nc", "-o", "run", *tiny, "--set", "training.steps=1000000"]
    terminal, inner = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, *words]
    options = {"stdin": inner, "stdout": inner, "stderr": inner, "start_new_session": True}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **options) as process:
        os.close(inner)
        seen = b""
        while b"loss" not in seen:  # not the days of the summary, before the training
            seen += os.read(terminal, 1000)
        os.close(terminal)
        assert process.wait(timeout=60) == 129
    assert load_arrays(tmp_path / "run" / "state.safetensors")[1]["progress"]["step"] >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_has_its_own_exit_code_and_one_line(monkeypatch, capsys, number):
    def work(arguments):
        with collected_signals() as signals:
            signals.append(signal.SIGINT)
            os.kill(os.getpid(), number)

    monkeypatch.setattr("convlstm.cli.app.invoke", work)
    assert run([]) == 128 + number
    assert capsys.readouterr().err == "error: interrupted.\n"


def test_a_text_as_exit_code_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("convlstm.cli.app.invoke", lambda arguments: sys.exit("no licence\nfound"))
    assert run([]) == 1
    assert capsys.readouterr().err == "error: no licence found\n"


def test_the_history_has_the_arguments_of_a_call_from_python(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["other", "words"])
    words = ["forecast", str(trained / "run"), str(trained / "rain.nc"), "-o", str(tmp_path / "f.nc"), "--threads", "1"]
    assert run(words) == 0
    with xr.open_dataset(tmp_path / "f.nc") as forecast:
        assert shlex.join(["convlstm", *words]) in forecast.attrs["history"]


def test_a_full_disk_at_the_last_bytes_of_a_netcdf_file_is_one_line(trained, tmp_path):
    words = ["forecast", trained / "run", trained / "rain.nc", "-o", "f.nc", "--threads", "1"]
    assert run(list(map(str, [*words[:4], tmp_path / "f.nc"]))) == 0
    size = (tmp_path / "f.nc").stat().st_size
    (tmp_path / "f.nc").unlink()
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size - 1}, {size - 1})); "
    command = [sys.executable, "-c", f"{limit}from convlstm.cli.main import main; main()", *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert os.listdir(tmp_path) == []


def test_a_reader_that_goes_away_ends_the_command_in_silence(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with started(tmp_path, "train", "--show-config", stdout=writing) as process:
        os.close(writing)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (3000, ["forecast", "RUN", "RAIN", "-o", "old.nc"]),
        (3000, ["forecast", "RUN", "RAIN", "-o", "old.zarr"]),
        (2000, ["evaluate", "RUN", "RAIN", "-o", "e"]),
        (30000, ["train", "RAIN", "-o", "r", "TINY", "--set", "model.hidden_channels=[16,16]"]),
    ],
    ids=["netcdf", "zarr", "evaluate", "train"],
)
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, trained, tiny, cli, limit, words):
    (tmp_path / "old.nc").write_text("the forecast of yesterday")
    places = {"RUN": [trained / "run"], "RAIN": [trained / "rain.nc"], "TINY": tiny}
    whole = [part for word in words for part in places.get(word, [word])]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code, _, err = cli(*whole)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 6
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "The old content is unchanged" in err
    assert (tmp_path / "old.nc").read_text() == "the forecast of yesterday"
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["old.nc", *(["r/.lock"] if words[0] == "train" else [])]


def test_a_killed_forecast_in_tiles_continues_with_the_same_values(tmp_path, make_rain, trained, cli):
    make_rain(days=1, height=64, width=64).to_netcdf(tmp_path / "rain.nc")
    words = ["forecast", trained / "run", "rain.nc", "-o", "killed.zarr", "--tile", "8", "--threads", "1"]
    folder = tmp_path / "killed.zarr.unfinished"
    with started(tmp_path, *words) as process:
        while not any(folder.glob("tile-*")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    done = len(list(folder.glob("tile-*")))
    assert 0 < done < 64
    assert not (tmp_path / "killed.zarr").exists()
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    assert f"forecasting {done}/64 tiles" in out
    assert "forecasting 64/64 tiles" in out
    assert not folder.exists()
    assert cli(*words[:4], "whole.zarr", "--tile", "8")[0] == 0
    with xr.open_zarr(tmp_path / "killed.zarr") as killed, xr.open_zarr(tmp_path / "whole.zarr") as whole:
        assert killed.equals(whole)
        assert np.isfinite(killed["rain"]).all()
