"""The times of one forecast in a dataset: its start, lead times and valid times, by CF attributes or usual names."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.errors import ConfigError, DataError

_TOLERANCE = 1.0  # seconds between a lead time in the dataset and the one that is asked for
_MOST_LISTED = 12  # values in an error


@dataclass(frozen=True, eq=False)
class ForecastTimes:
    """The times of one forecast."""

    dim: Hashable | None  # of the lead times; None if there is one without a dimension
    leads: NDArray[np.float64]  # seconds
    valid: list[str]  # such as 2018-05-20T12:30:00

    def place_of_lead(self, lead_time: float | timedelta | np.timedelta64) -> int:
        """Return the place of a lead time, in seconds or as a duration; another one is a `ConfigError`."""
        seconds = _seconds(lead_time)
        place = np.flatnonzero(np.abs(self.leads - seconds) <= _TOLERANCE)
        return _only(place, "lead_time", f"{listed(self.leads)} seconds", f"{seconds:g}")

    def place_of_valid_time(self, time: str) -> int:
        """Return the place of a valid time in the form of `valid`; another one is a `ConfigError`."""
        place = np.flatnonzero([text == time for text in self.valid])
        return _only(place, "valid_time", f"{self.valid[0]} to {self.valid[-1]}", time)

    def title(self) -> str:
        """Return the first valid time and lead time in words, such as `2018-05-20 12:30 UTC, +30 min`."""
        from convlstm.verification.lead_times import lead_unit  # its package loads the scores

        minutes = self.leads / 60
        return f"{self.valid[0][:16].replace('T', ' ')} UTC, +{lead_unit(minutes).label(float(minutes[0]))}"


def find_start(dataset: xr.Dataset) -> xr.DataArray | None:
    """Return the initial time of a forecast, or None without one."""
    return _named(dataset, "forecast_reference_time", "forecast_reference_time", "init_time")


def read_times(dataset: xr.Dataset) -> ForecastTimes:
    """Return the times of a forecast with one start; without lead times they are counted from the start."""
    lead, start = _named(dataset, "forecast_period", "lead_time"), find_start(dataset)
    valid = _named(dataset, "time", "time", "valid_time")
    if valid is None or (lead is None and start is None):
        raise DataError(
            "dataset",
            expected="a forecast with valid times, and with lead times or an initial time",
            received=f"the coordinates {', '.join(map(str, dataset.coords)) or 'none'}",
            hint="Use the result of `Nowcaster.forecast`, or open a file of `convlstm forecast`.",
        )
    starts = [] if start is None or start.size > 1 else list(start.dims)
    valid = valid.squeeze([dim for dim in starts if dim in valid.dims])
    texts = [str(time)[:19].replace(" ", "T") for time in np.atleast_1d(valid.values)]
    if lead is None:
        assert start is not None
        lead = valid - start.squeeze(starts)
    elif lead.dtype.kind != "m":  # a file that was opened without `decode_timedelta`
        lead = xr.DataArray(xr.conventions.decode_cf_variable(str(lead.name), lead.variable, decode_timedelta=True))
    return ForecastTimes(lead.dims[0] if lead.dims else None, _lead_seconds(lead), texts)


def listed(values: NDArray[np.float64]) -> str:
    """Return numbers as text, the middle ones of many left out.

    Example:
        >>> listed(np.array([300.0, 600.0]))
        '300, 600'
    """
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts if len(texts) <= _MOST_LISTED else [*texts[: _MOST_LISTED - 2], "…", texts[-1]])


def _named(dataset: xr.Dataset, standard_name: str, *names: str) -> xr.DataArray | None:
    """Return the coordinate with a standard name, or else with one of the names."""
    coordinates = {str(name): array for name, array in dataset.coords.items()}
    found = [array for array in coordinates.values() if array.attrs.get("standard_name") == standard_name]
    return next(iter([*found, *(coordinates[name] for name in names if name in coordinates)]), None)


def _lead_seconds(lead: xr.DataArray) -> NDArray[np.float64]:
    values = np.atleast_1d(lead.values)
    if lead.dtype.kind == "m":
        seconds = values / np.timedelta64(1, "s")
    elif lead.dtype.kind == "O":  # differences of times in another calendar
        seconds = np.array([gap.total_seconds() for gap in values])
    else:
        raise DataError(
            str(lead.name),
            expected="lead times with a unit, such as minutes",
            received=f"units {lead.attrs.get('units')!r}",
            hint="Write the unit as the attribute `units`.",
        )
    return seconds.astype(np.float64)


def _seconds(duration: float | timedelta | np.timedelta64) -> float:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, np.timedelta64):
        return float(duration / np.timedelta64(1, "s"))
    if isinstance(duration, int | float | np.number):
        return float(duration)
    raise ConfigError(
        "lead_time", expected="seconds or a duration", received=repr(duration), hint="Pass seconds, such as 1800."
    )


def _only(place: NDArray[np.intp], name: str, times: str, received: str) -> int:
    if not place.size:
        raise ConfigError(
            name,
            expected=f"a time of the forecast ({times})",
            received=received,
            hint="Pass one of these times, or forecast it with `lead_times`.",
        )
    return int(place[0])
