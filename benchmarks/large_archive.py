"""Time and memory of training, evaluation and forecasts with an archive that is larger than memory.

`python -m benchmarks.large_archive FOLDER --gigabytes 40` writes a synthetic archive as Zarr in parts, and runs the
three commands in processes of their own. It prints a table, and deletes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

SIDE = 512  # cells
FRAMES_OF_PART = 288  # one day of frames every five minutes
CHUNK = 6  # frames
STEP = 300  # seconds

SMALL_RUN = (
    *("training.steps=20", "training.validate_every=20", "training.warmup_steps=2", "training.batch_size=4"),
    *("model.hidden_channels=[16,16]", "training.validation_windows=4"),
)
"""Settings of the training: what is measured is the reading, not the model."""


def rain_of_day(day: int) -> np.ndarray:
    """Return one day of rain in mm/h (time, y, x): smooth cells that drift over the grid, dry on most of it."""
    random = np.random.default_rng(day)
    wide = 2 * SIDE
    spectrum = np.fft.rfft2(random.normal(size=(wide, wide)))
    wavenumber = np.hypot(np.fft.fftfreq(wide)[:, None], np.fft.rfftfreq(wide)[None])
    field = np.fft.irfft2(spectrum / (wavenumber + 0.004) ** 1.6, s=(wide, wide))
    field = (field - field.mean()) / field.std()
    texture = np.round(np.maximum(8 * field - 9, 0), 2).astype(np.float32)
    speed = random.uniform(-1.5, 1.5, 2)
    frames = np.empty((FRAMES_OF_PART, SIDE, SIDE), np.float32)
    for n in range(FRAMES_OF_PART):
        top, left = (np.rint(speed * n).astype(int)) % (wide - SIDE)
        frames[n] = texture[top : top + SIDE, left : left + SIDE]
    return frames


def write_archive(path: Path, gigabytes: float, compress: bool) -> None:
    """Write an archive of about this size in memory, day by day."""
    days = max(round(gigabytes * 1e9 / (4 * FRAMES_OF_PART * SIDE**2)), 4)
    count = days * FRAMES_OF_PART
    coords = {
        "time": ("time", np.arange(count) * STEP, {"units": "seconds since 2020-01-01", "standard_name": "time"}),
        "y": ("y", np.arange(SIDE) * 1000.0, {"units": "m", "standard_name": "projection_y_coordinate"}),
        "x": ("x", np.arange(SIDE) * 1000.0, {"units": "m", "standard_name": "projection_x_coordinate"}),
    }
    xr.Dataset(coords=coords).to_zarr(path, zarr_format=3, mode="w", consolidated=False)
    group = zarr.open_group(path, mode="a")
    array = group.create_array(
        "rain",
        shape=(count, SIDE, SIDE),
        chunks=(CHUNK, SIDE, SIDE),
        dtype="float32",
        fill_value=np.nan,
        compressors="auto" if compress else None,
        dimension_names=("time", "y", "x"),
        attributes={"units": "mm/h", "standard_name": "rainfall_rate"},
    )
    for day in range(days):
        array[day * FRAMES_OF_PART : (day + 1) * FRAMES_OF_PART] = rain_of_day(day)


def write_last_frames(archive: Path, path: Path) -> None:
    """Write the last six frames of an archive as a file of their own, for comparison."""
    with xr.open_zarr(archive, consolidated=False, decode_times=False, chunks=None) as dataset:
        dataset.isel(time=slice(-6, None)).drop_encoding().to_netcdf(path)


def measure(command: list[str]) -> dict[str, float]:
    """Run a command and return its times in seconds and its peak resident memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{output}")
    return {
        "seconds": time.perf_counter() - started,
        "processor": usage.ru_utime + usage.ru_stime,
        "mebibytes": usage.ru_maxrss / 1024,
    }


def commands(archive: Path, folder: Path) -> dict[str, list[str]]:
    """Return the commands to measure by name; the first one loads the framework and the package alone."""
    run = [sys.executable, "-m", "convlstm"]
    model = str(folder / "run")
    load = "import convlstm.nowcast.cf_output as c, convlstm.nowcast.models as m, convlstm.nowcast.nowcaster as n"
    settings = [word for setting in SMALL_RUN for word in ("--set", setting)]
    return {
        "framework and model alone": [sys.executable, "-c", f"{load}; n.load_nowcaster(m.shipped_model())"],
        "forecast from a file of six frames": [
            *run,
            "forecast",
            str(folder / "last.nc"),
            "-o",
            str(folder / "last_forecast.nc"),
        ],
        "forecast": [*run, "forecast", str(archive), "-o", str(folder / "forecast.nc")],
        "train": [*run, "train", str(archive), "-o", model, *settings],
        "forecast by that model": [*run, "forecast", model, str(archive), "-o", str(folder / "forecast2.nc")],
        "evaluate": [*run, "evaluate", model, str(archive), "-o", str(folder / "evaluation"), "--max-cases", "8"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=40.0, help="size of the numbers in memory")
    parser.add_argument("--uncompressed", action="store_true", help="write chunks without compression")
    parser.add_argument("--only", nargs="*", help="names of the measurements, such as forecast")
    options = parser.parse_args()
    archive = options.folder / "archive.zarr"
    if not archive.exists():
        started = time.perf_counter()
        size = (archive, options.gigabytes, not options.uncompressed)
        writing = get_context("spawn").Process(target=write_archive, args=size)
        writing.start()  # the peak memory of a process counts for those that it starts later
        writing.join()
        if writing.exitcode:
            raise SystemExit("the archive could not be written")
        print(f"archive written in {time.perf_counter() - started:.0f} s")
    write_last_frames(archive, options.folder / "last.nc")
    results = {}
    for name, command in commands(archive, options.folder).items():
        if not options.only or name in options.only:
            results[name] = measure(command)
            numbers = results[name]
            print(
                f"| {name} | {numbers['seconds']:.1f} | {numbers['processor']:.1f} | {numbers['mebibytes']:.0f} |",
                flush=True,
            )
    (options.folder / "large_archive.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
