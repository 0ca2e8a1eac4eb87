"""The values of one forecast file: unit, period of sums, numbers for no data, and the fields of one start."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.accumulation import find_changes, rounding
from convlstm.data.formats.kinds import has_default_fill
from convlstm.data.formats.sizes import check_size
from convlstm.data.frames import Channel
from convlstm.data.no_data import check_codes
from convlstm.data.opening import opened
from convlstm.data.readers import packed_channel
from convlstm.data.stored import numbers_in_memory
from convlstm.data.units import RAIN_RATE, Conversion, Field, find_conversion
from convlstm.errors import DataError

Item = TypeVar("Item")

TOLERANCE = 1.0
"""Seconds between a time in a file and the one that is compared with it."""

MAX_HEADER = 2**30
"""Bytes of all coordinates of a file."""

_MAX_BYTES = 4 * 2**30  # one case
_SAMPLE = 8  # files, and starts of each, whose values are checked before any is scored
_LEAST_RISING = 2  # steps with an increase and none with a decrease, from which sums count as accumulated


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of one file."""

    path: Path
    variable: str
    dims: tuple[Hashable, ...]  # (start, realization, lead time, y, x); start and realization only if present
    starts: NDArray[np.float64]  # seconds from the first frame of the observations (start,); one without dimension
    leads: NDArray[np.float64]  # seconds (lead_time,)
    members: int  # 0 without an ensemble of at least 2
    has_start_dim: bool
    flipped: tuple[bool, bool]  # whether rows and columns run against those of the observations
    conversion: Conversion
    interval: float  # seconds between lead times, the period of sums


def is_among(times: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each of the wanted times in seconds whether it is one of the times, within the tolerance."""
    ordered = np.concatenate([[-np.inf], np.sort(times), [np.inf]])
    after = np.searchsorted(ordered, wanted)
    near: NDArray[np.bool_] = np.minimum(ordered[after] - wanted, wanted - ordered[after - 1]) <= TOLERANCE
    return near


def shared_times(first: NDArray[np.float64], *others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return those times of the first array that each other array has too, within the tolerance."""
    for times in others:
        first = first[is_among(times, first)]
    return first


def shared_leads(layouts: Sequence[Layout]) -> NDArray[np.float64]:
    """Return the lead times above 0 that every file has, in seconds, ascending."""
    leads = shared_times(*(layout.leads for layout in layouts))
    return np.unique(leads[leads > 0])


def check_starts(path: Path, layouts: Sequence[Layout], frames: Frames) -> None:
    """Raise an error if two files, or two entries of one file, have the same start: one of them would be ignored."""
    starts = np.concatenate([layout.starts for layout in layouts])
    names = np.concatenate([np.full(len(layout.starts), layout.path.name, object) for layout in layouts])
    order = np.argsort(starts, kind="stable")
    same = np.flatnonzero(np.diff(starts[order]) <= TOLERANCE)
    if not same.size:
        return
    first, second = order[same[0] : same[0] + 2]
    files = f"{names[first]} and {names[second]}" if names[first] != names[second] else f"two entries of {names[first]}"
    raise DataError(
        str(path),
        expected="one forecast for each start",
        received=f"{files} with the start {frame_dates(frames, starts[[first]])[0]}".removesuffix(".000"),
        hint="Concatenate members along a dimension `realization`, or keep one of the forecasts.",
    )


def frame_dates(frames: Frames, seconds: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Return the dates of seconds after the first frame, to the millisecond."""
    dates: NDArray[np.datetime64] = frames.time.values[0] + (seconds * 1000).round().astype("timedelta64[ms]")
    return dates.astype("datetime64[ms]")


def read_start(layouts: Sequence[Layout], start: float, lead_seconds: NDArray[np.float64]) -> Field | None:
    """Return the forecast with this start, as `read_forecast`; None without any."""
    for layout in layouts:
        place = np.flatnonzero(np.abs(layout.starts - start) <= TOLERANCE)
        if place.size:
            return read_forecast(layout, int(place[0]), lead_seconds)
    return None


def file_identity(layouts: Sequence[Layout]) -> list[list[str | int]]:
    """Return name, size and time of change of each file, to tell whether the forecasts are the same ones."""
    paths = dict.fromkeys(layout.path for layout in layouts)
    # the chunks of a Zarr folder change without the folder
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def read_forecast(layout: Layout, start: int, lead_seconds: NDArray[np.float64]) -> Field:
    """Return one forecast (lead_time, height, width), with members (realization, lead_time, height, width)."""
    index = nearest_leads(layout.path, layout.leads, lead_seconds)
    with opened(layout.path, MAX_HEADER) as dataset, _hint_on_codes(layout):
        field = _field(dataset, layout, start).isel({layout.dims[-3]: index})
        values = _channel(layout, field, has_default_fill(dataset)).read(slice(None)).reshape(field.shape)
    rows, columns = (slice(None, None, -1) if flip else slice(None) for flip in layout.flipped)
    return values[..., rows, columns]


def _field(dataset: xr.Dataset, layout: Layout, start: int) -> xr.DataArray:
    """Return the packed numbers of one forecast, not yet read, in the order of the layout."""
    field = dataset[layout.variable].transpose(*layout.dims, ...)
    field = field.isel({dim: 0 for dim in field.dims if dim not in layout.dims})
    return field[start] if layout.has_start_dim else field


def _channel(layout: Layout, field: xr.DataArray, default_fill: bool) -> Channel:
    """Return the packed numbers (realization · lead_time, height, width) and their conversion, as of observations."""
    check_size(layout.path, 4 * field.size, _MAX_BYTES)
    packed = numbers_in_memory(field).reshape(-1, *field.shape[-2:])
    return packed_channel(field, packed, layout.conversion, layout.interval, None, None, is_file=default_fill)


def evenly(items: Sequence[Item]) -> list[Item]:
    """Return a sample of a few items at even distances, with the first and the last one."""
    if not items:
        return []
    return [items[int(place)] for place in np.unique(np.linspace(0, len(items) - 1, _SAMPLE).astype(int))]


def check_values(layouts: Sequence[Layout]) -> None:
    """Check the first member of a sample of forecasts: numbers for no data, and sums since the start."""
    changes = np.sum([_check_sample(layout) for layout in evenly(layouts)], axis=0)
    if changes[0] >= _LEAST_RISING and not changes[1]:
        raise DataError(
            str(layouts[0].path),
            expected="sums of rain from one lead time to the next",
            received="values that never decrease with the lead time, as sums since the start do",
            hint="Write their differences, or rates in mm/h.",
        )


def _check_sample(layout: Layout) -> tuple[int, int]:
    """Check numbers for no data; return the steps at which sums of rain increase and decrease, 0 for other values."""
    rising, falling = 0, 0
    order = np.argsort(layout.leads)
    with opened(layout.path, MAX_HEADER) as dataset, _hint_on_codes(layout):
        for start in evenly(range(len(layout.starts))):
            field = _field(dataset, layout, start)
            field = field[0] if layout.members else field
            channel = _channel(layout, field[order], has_default_fill(dataset))
            values = channel.read(slice(None))
            check_codes(channel)
            if layout.conversion.amount:
                rises, falls, _ = find_changes(values[:-1], values[1:], rounding(channel, values))
                rising, falling = rising + int(rises.sum()), falling + int(falls.sum())
    return rising, falling


@contextmanager
def _hint_on_codes(layout: Layout) -> Iterator[None]:
    """Replace the hint of errors in the values: the options of the observations do not act on forecasts."""
    try:
        yield
    except DataError as error:
        if error.argument != layout.variable:
            raise
        raise DataError(
            str(layout.path),
            expected=error.expected,
            received=error.received,
            hint=f"If it means no data, write it as the attribute `_FillValue` of {layout.variable}.",
        ) from error


def sum_interval(path: Path, leads: NDArray[np.float64]) -> float:
    """Return the seconds between lead times, over which sums are; others than even lead times are refused."""
    intervals = np.diff(np.sort(leads), prepend=0.0)
    if intervals[0] <= 0 or np.abs(intervals - intervals[0]).max() > TOLERANCE:
        raise DataError(
            str(path),
            expected="even lead times from one interval on, for sums of rain",
            received=", ".join(f"{lead / 60:g}" for lead in leads[:20]) + " min",
            hint="Leave lead time 0 out, or write rates in mm/h.",
        )
    return float(intervals[0])


def nearest_leads(path: Path, leads: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the indices of the wanted lead times."""
    distance = np.abs(leads[None] - wanted[:, None])
    index: NDArray[np.intp] = distance.argmin(axis=1)
    missing = wanted[distance.min(axis=1) > TOLERANCE]
    if missing.size:
        raise DataError(
            str(path),
            expected=f"the lead time of {missing[0] / 60:g} min, which is scored",
            received=", ".join(f"{lead / 60:g}" for lead in leads[:20]) + " min",
            hint="Add this lead time to the file.",
        )
    return index


def forecast_conversion(path: Path, field: xr.DataArray, frames: Frames) -> Conversion:
    """Return the conversion to the unit of the observations.

    Those decide whether a variable in their unit, or in a unit that other quantities have too, is rain.
    """
    observed = frames.channels[0].conversion
    wanted = frames.channels[0].units
    attrs = {key: str(field.attrs.get(key, "")) for key in ("units", "standard_name", "long_name")}

    def find(rain: bool | None) -> Conversion | None:
        try:
            return find_conversion(
                str(field.name),
                attrs["units"],
                standard_name=attrs["standard_name"],
                long_name=attrs["long_name"],
                rain=rain,
            )
        except DataError:
            return None

    unit = attrs["units"].strip().lower()
    is_same_unit = bool(unit) and unit == observed.source.strip().lower()
    conversion = None if is_same_unit else find(None)
    if conversion is None:
        conversion = find(wanted == RAIN_RATE)
    if conversion is None or conversion.units != wanted:
        raise DataError(
            str(path),
            expected=f"{field.name} in a unit of {wanted}",
            received=repr(attrs["units"]),
            hint="Convert the forecasts, or correct the attribute `units`.",
        )
    return conversion
