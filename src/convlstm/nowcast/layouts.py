"""The names and dimensions of a forecast file: those of CF, of WeatherBench or of pysteps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import xarray as xr

from convlstm.data.units import RAIN_RATE, REFLECTIVITY
from convlstm.errors import ConfigError

LayoutName = Literal["cf", "weatherbench", "pysteps"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
MEMBER = "_member"
"""End of the name of the variable with the members of an ensemble."""

_PYSTEPS_NAMES = {RAIN_RATE: "precip_intensity", REFLECTIVITY: "reflectivity"}


def with_layout(forecast: xr.Dataset, layout: str) -> xr.Dataset:
    """Return a forecast with the names and dimensions of a layout.

    Args:
        forecast: The result of `make_forecast`: fields (lead_time, y, x), members (realization, lead_time, y, x).
        layout: "cf" returns the forecast as it is. "weatherbench" has the dimensions init_time, number (with members),
            lead_time, y and x. "pysteps" has one variable, `precip_intensity` in mm/h, over ens_number (with members),
            time, y and x.

    Returns:
        The dataset. With members, the variable of the forecast has them, and the one field is `NAME_field` in
        "weatherbench", and left out in "pysteps".

    Raises:
        ConfigError: for an unknown layout, and in "pysteps" for a variable that is neither rain nor reflectivity.

    Example:
        >>> lead_time = np.array([300, 600], "timedelta64[s]").astype("timedelta64[ns]")
        >>> start = np.datetime64("2018-05-20T12:00", "ns")
        >>> forecast = xr.Dataset(
        ...     {"rain": (("lead_time", "y", "x"), np.zeros((2, 3, 4)), {"units": "mm/h"})},
        ...     coords={"lead_time": lead_time, "time": ("lead_time", start + lead_time)},
        ... ).assign_coords(forecast_reference_time=start)
        >>> with_layout(forecast, "weatherbench")["rain"].dims
        ('init_time', 'lead_time', 'y', 'x')
        >>> list(with_layout(forecast, "pysteps").data_vars)
        ['precip_intensity']
    """
    layouts: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
        "cf": lambda dataset: dataset,
        "weatherbench": _weatherbench,
        "pysteps": _pysteps,
    }
    name, field = next(iter(forecast.data_vars.items()))
    check_layout(layout, str(name), str(field.attrs.get("units", "")))
    return layouts[layout](forecast)


def check_layout(layout: str, variable: str, units: str) -> None:
    """Raise a `ConfigError` for an unknown layout, or one that a variable in this unit cannot have."""
    if layout not in LAYOUTS:
        raise ConfigError(
            "--layout",
            expected=f"one of {', '.join(LAYOUTS)}",
            received=repr(layout),
            hint="Pass one of the listed layouts.",
        )
    if layout == "pysteps" and units not in _PYSTEPS_NAMES:
        raise ConfigError(
            "--layout",
            expected=f"cf or weatherbench for {variable}, which is neither rain nor reflectivity",
            received="pysteps",
            hint="Leave `--layout` out.",
        )


def _weatherbench(forecast: xr.Dataset) -> xr.Dataset:
    name = str(next(iter(forecast.data_vars)))
    members = f"{name}{MEMBER}"
    if members in forecast:
        forecast = forecast.rename({name: f"{name}_field", members: name, "realization": "number"})
        forecast = forecast[[name, *(other for other in forecast.data_vars if other != name)]]
    encodings = {key: dict(field.encoding) for key, field in forecast.data_vars.items()}
    start, valid = forecast["forecast_reference_time"].variable, forecast["time"].variable
    dataset = forecast.drop_vars(["forecast_reference_time", "time"]).rename(_geographic_names(forecast))
    dataset = dataset.map(lambda field: field.expand_dims("init_time") if "lead_time" in field.dims else field)
    dataset = dataset.assign_coords(
        init_time=("init_time", start.values[None], start.attrs),
        valid_time=(("init_time", "lead_time"), valid.values[None], valid.attrs),
    )
    for key, encoding in encodings.items():
        dataset[key].encoding.update(encoding)
    order = ("init_time", "number", "quantile", "threshold", "lead_time", ...)
    return dataset.transpose(*order, missing_dims="ignore").assign_attrs(forecast.attrs)


def _geographic_names(forecast: xr.Dataset) -> dict[str, str]:
    """Return the names latitude and longitude of dimensions with these standard names and others, by dimension."""
    names = {str(dim): str(forecast[dim].attrs.get("standard_name")) for dim in forecast.dims if dim in forecast.coords}
    return {dim: name for dim, name in names.items() if name in ("latitude", "longitude") and name != dim}


def _pysteps(forecast: xr.Dataset) -> xr.Dataset:
    name = str(next(iter(forecast.data_vars)))
    units = forecast[name].attrs["units"]
    members = f"{name}{MEMBER}"
    source = forecast[members if members in forecast else name]
    y, x = source.dims[-2:]
    if y not in source.coords or x not in source.coords:
        # rows count down, so that their order stays
        rows, columns = (np.arange(source.sizes[dim], dtype=np.float64) for dim in (y, x))
        source = source.assign_coords({y: rows[::-1], x: columns})
    if source[y].values[-1] > source[y].values[0]:  # pysteps takes the first row for the northern edge
        source = source.isel({y: slice(None, None, -1)})
    names = {"realization": "ens_number", y: "y", x: "x"}
    field = source.swap_dims(lead_time="time").drop_vars("lead_time")
    field = field.rename({old: new for old, new in names.items() if old != new and old in field.dims})
    result = field.to_dataset(name=_PYSTEPS_NAMES[units])
    start = str(forecast["forecast_reference_time"].values)[:19].replace("T", " ")
    result["time"].encoding["units"] = f"seconds since {start}"  # pysteps computes lead times from these numbers
    mapping = source.encoding.get("grid_mapping", "")
    if mapping in forecast.variables:
        name = str(forecast[mapping].attrs.get("grid_mapping_name", mapping))  # by which pysteps finds it
        result = result.drop_vars(mapping, errors="ignore").assign({name: forecast[mapping].variable})
        result[_PYSTEPS_NAMES[units]].encoding["grid_mapping"] = name
    return result.assign_attrs(forecast.attrs)
