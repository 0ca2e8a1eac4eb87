"""`--framework`: every set-up trains from the same first weights, and forecasts with a model of any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from convlstm.conformance.environments import ENVIRONMENTS


def convlstm(setup, *words) -> None:
    """Run a command in a process of its own, as a user runs it."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", **setup.variables}
    done = subprocess.run(
        [sys.executable, "-m", "convlstm", *map(str, words), "--framework", setup.frontend],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("setup", [one for one in ENVIRONMENTS if one.name != "torch"], ids=lambda one: one.name)
def test_a_set_up_learns_and_forecasts_as_pytorch_does(setup, trained, tiny, tmp_path) -> None:
    if not setup.installed:
        pytest.skip(f"{setup.name} is not installed")
    data, run = trained / "rain.nc", tmp_path / "run"
    options = [word for n, word in enumerate(tiny) if word != "--threads" and tiny[n - 1] != "--threads"]
    convlstm(setup, "train", data, "-o", run, *options)
    ours, theirs = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (run, trained / "run")
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([a["loss"], a["validation_loss"]], [b["loss"], b["validation_loss"]], rtol=1e-5)
    forecasts = []
    for one in (setup, ENVIRONMENTS[0]):
        convlstm(one, "forecast", run, data, "-o", tmp_path / f"{one.name}.nc")
        with xr.open_dataset(tmp_path / f"{one.name}.nc", decode_timedelta=False) as dataset:
            forecasts.append(dataset["rain"].values if "rain" in dataset else dataset["rainfall_rate"].values)
    np.testing.assert_allclose(*forecasts, rtol=0, atol=1e-4)
    assert np.ptp(forecasts[0]) > 0
