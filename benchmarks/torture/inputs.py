"""Small inputs of the proofs: rain of the sample in the package, a training of some steps, and content to compare."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import xarray as xr

from convlstm.data import sample_path
from convlstm.files import DRAFT

DAYS = (slice(14, 26), slice(108, 120), slice(215, 227), slice(380, 392))  # frames of four days of the sample
CELLS = slice(36, 60)
TRAINING = (
    *("--set", "model.hidden_channels=[4,4]", "--set", "model.dropout=0.2", "--set", "model.recurrent_dropout=0.1"),
    *("--set", "data.input_length=3", "--set", "data.horizon=4", "--set", "data.crop=16"),
    *("--set", "training.steps=8", "--set", "training.validate_every=2", "--set", "training.batch_size=2"),
    *("--set", "training.warmup_steps=2", "--set", "training.precision=float32"),
)
"""Options of a training of eight steps with dropout and four validations."""
LIBRARIES = (
    *("convlstm.cli.main", "convlstm.cli.app", "convlstm.cli.output", "convlstm.cli.work"),
    *("convlstm.cli.forecast_output", "convlstm.nowcast.fit", "convlstm.nowcast.evaluate"),
    *("convlstm.nowcast.tiled_forecast", "convlstm.nowcast.evaluation_output", "convlstm.nowcast.rivals"),
    *("netCDF4", "h5py"),
)
"""Modules that a server loads before it forks, next to those of a framework."""
FRAMEWORK_MODULES = {
    "torch": "convlstm.torch.training",
    "keras": "convlstm.keras.training",
    "flax": "convlstm.jax.training",
    "mlx": "convlstm.mlx.training",
}


def make_rain(path: Path) -> Path:
    """Write four days of 12 frames with 24 × 24 cells, and return the path."""
    with xr.open_dataset(sample_path(), decode_times=False, mask_and_scale=False) as sample:
        frames = np.concatenate([np.arange(days.start, days.stop) for days in DAYS])
        sample.isel(time=frames, y=CELLS, x=CELLS).to_netcdf(path)
    return path


def drafts(folder: Path) -> list[str]:
    """Return the temporary folders within a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(f"*{DRAFT}"))


def run_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a run but its lock, by name; the log without the times of the clock."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    if "log.jsonl" in files:
        files["log.jsonl"] = re.sub(rb', "time": "[^"]+"', b"", files["log.jsonl"])
    return files
