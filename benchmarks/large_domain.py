"""Time, memory and error of a forecast in tiles by the model in the package.

`python -m benchmarks.large_domain FOLDER --side 4096 --tile 512` writes six frames of synthetic rain, forecasts them in
tiles in a process of its own, and compares with forecasts that are not tiled. It prints tables, and deletes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from convlstm.nowcast import Nowcaster
from convlstm.nowcast.baselines import Extrapolation
from convlstm.nowcast.cells import predict_cells
from convlstm.nowcast.cf_output import lead_seconds, make_forecast
from convlstm.nowcast.moving_frame import Rectangle
from convlstm.nowcast.tiled_forecast import forecast_in_tiles
from convlstm.nowcast.tiles import choose_tiling

FRAMES, STEP = 6, 300  # seconds
SPEED = (2.3, -1.4)  # cells down and right per frame
CHANCE = "probability_of_rain_above_threshold"

MEASURED = """
import sys, time
from convlstm.cli.main import run
started = time.perf_counter()
code = run(sys.argv[1:])
status = open("/proc/self/status").read()
print("seconds", time.perf_counter() - started)
print("VmHWM", status.split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


def write_rain(path: Path, side: int) -> None:
    """Write smooth rain in mm/h that drifts over a periodic grid, dry on most of it, with one chunk for each frame."""
    random = np.random.default_rng(0)
    wavenumber = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]).astype(np.float32)
    spectrum = np.fft.rfft2(random.standard_normal((side, side), np.float32)).astype(np.complex64)
    spectrum /= (wavenumber + 0.004) ** 1.6
    spectrum[0, 0] = 0
    deviation = np.fft.irfft2(spectrum).std()
    coords = {
        "time": ("time", np.arange(FRAMES) * STEP, {"units": "seconds since 2020-01-01", "standard_name": "time"}),
        "y": ("y", np.arange(side) * 1000.0, {"units": "m", "standard_name": "projection_y_coordinate"}),
        "x": ("x", np.arange(side) * 1000.0, {"units": "m", "standard_name": "projection_x_coordinate"}),
    }
    xr.Dataset(coords=coords).to_zarr(path, zarr_format=3, mode="w", consolidated=False)
    array = zarr.open_group(path, mode="a").create_array(
        "rain",
        shape=(FRAMES, side, side),
        chunks=(1, side, side),
        dtype="float32",
        fill_value=np.nan,
        dimension_names=("time", "y", "x"),
        attributes={"units": "mm/h", "standard_name": "rainfall_rate"},
    )
    down, right = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    for n in range(FRAMES):
        shift = np.exp(-2j * np.pi * n * (SPEED[0] * down + SPEED[1] * right)).astype(np.complex64)
        field = np.fft.irfft2(spectrum * shift) / deviation
        array[n] = np.round(np.maximum(8 * field - 7, 0), 2).astype(np.float32)


def measure(words: list[str]) -> tuple[float, float]:
    """Run a command in a process of its own; return its seconds and its peak resident memory in MiB."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(process.stdout)
    lines = dict(line.split() for line in process.stdout.splitlines()[-2:])
    return float(lines["seconds"]), int(lines["VmHWM"]) / 1024


def differences(chance: np.ndarray, mean: np.ndarray, whole: xr.Dataset) -> tuple[float, float, float, float]:
    """Return the largest and the mean difference of the probabilities, and of the mean in mm/h."""
    pairs = ((chance, whole[CHANCE].values), (mean, whole["rain_mean"].values))
    errors = [np.abs(values - expected) for values, expected in pairs]
    return tuple(float(number) for error in errors for number in (error.max(), error.mean(dtype=np.float64)))


def compare_middle(nowcaster: Nowcaster, rain: Path, store: Path, cut: int) -> float:
    """Return the largest difference of the probabilities in the middle of the grid from those of one large tile."""
    frames = nowcaster.open_frames(rain)
    inputs, leads = frames.read(slice(None)), lead_seconds(nowcaster)
    side = inputs.shape[-1]
    first = (side - cut) // 2 // 4 * 4
    cells = Rectangle(first, first, cut, cut)
    flow = Extrapolation.of_inputs(inputs[:, 0], frames.seconds)
    overlap = choose_tiling(nowcaster, (side, side), leads, cut, None).overlap
    expected = predict_cells(nowcaster, inputs, frames.seconds, leads, cells, overlap=overlap, motion=flow.motion)
    rows, columns = cells.slices(Rectangle(0, 0, side, side))
    with xr.open_zarr(store, chunks=None, decode_timedelta=True) as dataset:
        values = dataset[CHANCE][..., rows, columns].values
    return float(np.abs(np.moveaxis(values, 0, 1) - expected).max())


def compare_overlaps(nowcaster: Nowcaster, rain: Path, folder: Path, cut: int, tile: int, overlaps: list[int]) -> None:
    """Print how forecasts of a part of the data in tiles differ from that of the part at once."""
    with xr.open_zarr(rain, consolidated=False, chunks=None) as dataset:
        frames = nowcaster.open_frames(dataset.isel(y=slice(cut), x=slice(cut)).load())
    whole = make_forecast(nowcaster, frames)
    print("| overlap | probabilities, largest | mean | mean in mm/h, largest | mean |\n|---|---|---|---|---|")
    for overlap in (None, *overlaps):
        path = folder / f"cut_{overlap}.zarr"
        store = forecast_in_tiles(nowcaster, frames, path, tile=tile, overlap=overlap, overwrite=True)
        numbers = differences(store[CHANCE].values, store["rain_mean"].values, whole)
        used = json.loads(store.attrs["tiled_forecast"])["overlap"]
        print(f"| {used} | " + " | ".join(f"{number:.2g}" for number in numbers) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=4096, help="cells")
    parser.add_argument("--tile", type=int, default=512, help="cells")
    parser.add_argument("--cut", type=int, default=1024, help="cells of the comparisons")
    parser.add_argument("--overlaps", type=int, nargs="*", default=[40, 0], help="cells, of the comparisons")
    parser.add_argument("--only", nargs="*", default=["time", "overlaps", "middle"], help="the parts to run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rain = options.folder / f"rain_{options.side}.zarr"
    store = options.folder / f"forecast_{options.side}.zarr"
    if not rain.exists():
        started = time.perf_counter()
        write_rain(rain, options.side)
        print(f"data written in {time.perf_counter() - started:.0f} s", flush=True)
    if "time" in options.only:
        seconds, megabytes = measure(["forecast", str(rain), "-o", str(store), "--tile", str(options.tile)])
        print(f"{options.side}² cells in tiles of {options.tile}: {seconds:.0f} s, {megabytes:.0f} MiB", flush=True)
    nowcaster = Nowcaster.load()
    if "overlaps" in options.only:
        compare_overlaps(nowcaster, rain, options.folder, options.cut, options.tile, options.overlaps)
    if "middle" in options.only:
        largest = compare_middle(nowcaster, rain, store, options.cut)
        print(f"middle, largest difference of the probabilities: {largest:.2g}")


if __name__ == "__main__":
    main()
