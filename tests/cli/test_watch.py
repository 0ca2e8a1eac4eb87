"""`convlstm watch` in a process of its own: a day in short, and signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from benchmarks.watch_day import check, events, made, make_plan, simulate

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SLOW_FORECAST = """
import sys, time
from convlstm.cli.main import run
from convlstm.nowcast.watch import watcher
forecast = watcher.make_forecast

def slow(*arguments, **options):
    print("forecasting", flush=True)
    time.sleep(float(sys.argv[1]))
    return forecast(*arguments, **options)

watcher.make_forecast = slow
sys.exit(run(["watch", *sys.argv[2:]]))
"""


@pytest.fixture
def slow_watch(tmp_path, trained):
    """Start a watch whose forecasts last some seconds, in a process that is ended whatever happens."""
    started = []

    def start(seconds):
        words = [sys.executable, "-c", SLOW_FORECAST, str(seconds), str(trained / "run"), "incoming"]
        process = subprocess.Popen(
            [*words, "-o", "out", "--settle", "0", "--catch-up", "0"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(process, words):
    """Read lines until one has these words."""
    while words not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


def health(folder):
    return json.loads((folder / "out" / "health.json").read_text())


def test_a_short_day_with_a_kill_in_the_middle(tmp_path):
    plan = make_plan(12, 3)
    assert {"torn", "abandoned", "double"} <= set(plan.kind.values())
    codes = simulate(tmp_path, plan, interval=0.5, size=32, settle=0.1)
    assert check(tmp_path, plan, codes, every=4) == {}
    assert set(made(tmp_path)) == plan.due
    assert sum(event["event"] == "stop" for event in events(tmp_path)) == 1
    assert (tmp_path / "watch.log").read_text().count("INFO watching incoming") == 2


def test_a_layout_is_checked_before_anything_is_written(fails, trained, tmp_path):
    (tmp_path / "incoming").mkdir()
    words = "--layout: expected one of cf, weatherbench, pysteps, got 'grib'"
    fails(3, words, "watch", trained / "run", "incoming", "--layout", "grib")


def test_the_first_signal_lets_the_forecast_finish(slow_watch, tmp_path, trained, make_rain, cli):
    (tmp_path / "incoming").mkdir()
    make_rain().to_netcdf(tmp_path / "incoming" / "rain.nc")
    process = slow_watch(1.5)
    until(process, "forecasting")
    fails = cli("watch", trained / "run", "incoming", "-o", "out")
    assert fails[0] == 6
    assert f"expected no other watch in this folder, got a watch in process {process.pid}" in fails[2]
    assert health(tmp_path)["state"] == "forecasting"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "forecast_20200604T0105Z.nc in" in out
    assert "stopped after 1 forecasts" in out
    assert (tmp_path / "out" / "forecast_20200604T0105Z.nc").is_file()
    assert health(tmp_path)["state"] == "stopped"
    assert cli("health", "out")[0] == 1
    text = json.dumps(health(tmp_path) | {"state": "waiting"})
    (tmp_path / "out" / "health.json").write_text(text)
    assert cli("health", "out")[0] == cli("health", "out/health.json", "--max-forecast-age", 5)[0] == 0
    assert cli("health", "out", "--max-age", 0)[0] == 1  # minutes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_second_signal_ends_the_watch_at_once(slow_watch, tmp_path, make_rain, number, code):
    (tmp_path / "incoming").mkdir()
    make_rain().to_netcdf(tmp_path / "incoming" / "rain.nc")
    process = slow_watch(60)
    until(process, "forecasting")
    started = time.monotonic()
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert time.monotonic() - started < 20
    assert [path.name for path in (tmp_path / "out").glob("*.nc")] == []
    assert health(tmp_path)["state"] == "stopped"
