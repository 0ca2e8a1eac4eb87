"""Make a forecast and write it as a CF file with valid times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.spacing import grid_spacing, length_in_metres
from convlstm.data.units import Field
from convlstm.files import check_suffix, write_atomic
from convlstm.nowcast.cf_encoding import encoded, packing, zarr_packed
from convlstm.nowcast.content_digest import with_digest
from convlstm.nowcast.forecast_attributes import forecast_attributes
from convlstm.nowcast.geotiff import write_geotiff
from convlstm.nowcast.inputs import choose_inputs
from convlstm.nowcast.members import check_member_memory, check_members, make_members
from convlstm.nowcast.nowcaster import Nowcaster

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles of a forecast by a model with thresholds; 0.5 is the median."""

DATA_SUFFIXES = (".nc", ".nc4", ".zarr")
GEOTIFF_SUFFIXES = (".tif", ".tiff")
FORECAST_SUFFIXES = (*DATA_SUFFIXES, *GEOTIFF_SUFFIXES)
"""Ends of the names that `write_forecast` writes."""

RAIN_ATTRIBUTES = {"standard_name": "rainfall_rate", "long_name": "forecast rainfall rate"}
LEAD_ATTRIBUTES = {"standard_name": "forecast_period", "long_name": "time since the start of the forecast"}
START_ATTRIBUTES = {"standard_name": "forecast_reference_time", "long_name": "time of the last input frame"}

_CHUNK_CACHE = 2**20  # bytes of each variable while a file is written


def make_forecast(
    nowcaster: Nowcaster,
    frames: Frames,
    *,
    lead_times: Sequence[float] | None = None,
    init_time: str | None = None,
    max_age: float | None = None,
    now: datetime | None = None,
    members: int = 0,
    seed: int = 0,
    command: Sequence[str] = (),
) -> xr.Dataset:
    """Return the forecast of the frames after the latest one, or after `init_time`.

    Lead times are in seconds; None uses the horizon of the training. `init_time`, `max_age` and `now` are those of
    `choose_inputs`. The dataset has one variable per channel (lead_time, y, x), with `time` (valid), `lead_time` and
    `forecast_reference_time`. Its attributes name the model and the input; `command` is for its history. A model with
    thresholds adds the mean, quantiles and the probability of each event. A model of rain with thresholds adds
    `members` fields that are possible together, whose random parts follow from the seed. Cells without a value in any
    input frame are missing.
    """
    if members:
        check_members(nowcaster, members)
    index = choose_inputs(nowcaster, frames, init_time=init_time, max_age=max_age, now=now)
    last = index.stop - 1
    leads = lead_seconds(nowcaster) if lead_times is None else np.asarray(lead_times, dtype=np.float64)
    if members:
        check_member_memory(members, len(leads), frames.shape[2:])
    inputs = frames.read(index)
    seconds = frames.seconds[index]
    attributes = forecast_attributes(nowcaster, frames, index, inputs, command)
    if not nowcaster.spec.thresholds:
        fields = Fields(nowcaster.predict(inputs[None], seconds[None], leads)[0])
        dataset = forecast_dataset(nowcaster, frames, fields, leads, last, attributes)
    else:
        probability, mean = nowcaster.predict_events(inputs, seconds, leads)
        fields = Fields.of_probability(nowcaster, probability, mean, leads)
        dataset = forecast_dataset(nowcaster, frames, fields, leads, last, attributes)
        if members:
            spacing = grid_spacing(frames.grid, frames.y_dim, frames.x_dim)
            made = make_members(nowcaster, probability, inputs, seconds, leads, members, seed, spacing=spacing)
            comment = f"random fields of seed {seed}"
            if nowcaster.pipeline.grid_spacing is None and spacing is None:
                comment += "; their scales are for cells of 1 km, because neither data nor model tell the distance"
            dataset = _with_members(dataset, made, members, comment)
    return where_observed(dataset, frames, inputs)


@dataclass(frozen=True, eq=False)
class Fields:
    """The arrays of a forecast; the last three are those of a model with thresholds."""

    values: Field  # (lead_time, variable, y, x)
    mean: Field | None = None  # (lead_time, y, x)
    quantiles: Field | None = None  # (quantile, lead_time, y, x)
    probability: Field | None = None  # (lead_time, threshold, y, x)

    @classmethod
    def of_probability(
        cls, nowcaster: Nowcaster, probability: Field, mean: Field, leads: NDArray[np.float64]
    ) -> Fields:
        """Return the fields that follow from probabilities (lead_time, threshold, y, x)."""
        quantiles = np.stack([nowcaster.rules.quantile(probability, level) for level in QUANTILES])
        return cls(nowcaster.field(probability, leads)[:, None], mean, quantiles, probability)


def where_observed(forecast: xr.Dataset, frames: Frames, inputs: Field) -> xr.Dataset:
    """Make a forecast missing, in place, where a variable has no value in any input frame (time, channel, y, x)."""
    observed = np.asarray(np.isfinite(inputs).any(axis=0))
    for name, variable in forecast.data_vars.items():
        if variable.dims[-2:] == (frames.y_dim, frames.x_dim):
            channel = frames.variables.index(str(name)) if name in frames.variables else 0
            if not variable.values.flags.writeable:  # such as an array of JAX
                variable.values = variable.values.copy()
            variable.values[..., ~observed[channel]] = np.nan
    return forecast


def write_forecast(path: str | Path, forecast: xr.Dataset) -> Path:
    """Write a forecast atomically: as NetCDF (`.nc`, `.nc4`), Zarr (`.zarr`) or GeoTIFF (`.tif`, `.tiff`)."""
    path = Path(path)
    check_suffix(path, FORECAST_SUFFIXES)
    if path.suffix == ".zarr":
        stored = zarr_packed(with_digest(encoded(forecast)))
        # format 2, which every reader supports, with consolidated metadata for fast opening
        return write_atomic(path, lambda draft: stored.to_zarr(draft, zarr_format=2, consolidated=True))
    if path.suffix in GEOTIFF_SUFFIXES:
        return write_geotiff(path, forecast)
    return write_netcdf(path, forecast)


def write_netcdf(path: str | Path, dataset: xr.Dataset) -> Path:
    """Write a dataset atomically as one NetCDF file with compressed fields.

    The file is made in memory. On a full disk, the NetCDF library ends the process by a signal where it cannot write
    the last bytes of a file.
    """
    stored = with_digest(encoded(dataset))
    with _small_chunk_cache():
        content = stored.to_netcdf(encoding=packing(stored), engine="netcdf4")
    return write_atomic(path, lambda draft: draft.write_bytes(content), size=len(content))


@contextmanager
def _small_chunk_cache() -> Iterator[None]:
    """Keep no written chunks in memory within the block; by default, the library keeps 64 MiB of each variable."""
    import netCDF4  # slow to load

    before = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(_CHUNK_CACHE, *before[1:])
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(*before)


def lead_seconds(nowcaster: Nowcaster) -> NDArray[np.float64]:
    """Return the lead times of the training in seconds."""
    steps = np.arange(1, nowcaster.pipeline.horizon + 1, dtype=np.float64)
    return steps * np.float64(nowcaster.pipeline.time_step)


def forecast_dataset(
    nowcaster: Nowcaster,
    frames: Frames,
    fields: Fields,
    leads: NDArray[np.float64],
    last: int,
    attributes: Mapping[str, str],
) -> xr.Dataset:
    """Return the fields of a forecast that starts at the frame `last`, with coordinates, names and attributes."""
    dataset = _dataset(nowcaster, frames, fields.values, leads, last, attributes)
    return dataset if fields.probability is None else _with_probabilities(dataset, nowcaster, fields)


def _dataset(
    nowcaster: Nowcaster,
    frames: Frames,
    values: NDArray[np.float32],
    leads: NDArray[np.float64],
    last: int,
    attributes: Mapping[str, str],
) -> xr.Dataset:
    start = frames.time.isel({frames.time.dims[0]: last}, drop=True).values
    ahead = np.array([np.timedelta64(round(s * 1000), "ms") for s in leads]).astype("timedelta64[ns]")
    dims = ("lead_time", frames.y_dim, frames.x_dim)
    if start.dtype.kind == "M":
        valid = start + ahead
    else:  # another calendar, whose times are objects
        valid = np.array([start.item() + timedelta(seconds=float(s)) for s in leads])
    dataset = xr.Dataset(
        {
            name: (dims, values[:, n], _variable_attributes(nowcaster, name, channel.units))
            for n, (name, channel) in enumerate(zip(frames.variables, frames.channels, strict=True))
            if n < values.shape[1]  # a model with thresholds forecasts the first variable
        },
        coords={
            "lead_time": ("lead_time", ahead, LEAD_ATTRIBUTES),
            "time": ("lead_time", valid, {"standard_name": "time", "long_name": "time the forecast is valid at"}),
            "forecast_reference_time": ((), start, START_ATTRIBUTES),
        },
    )
    dataset = dataset.merge(_with_axes(frames), combine_attrs="override")
    if mapping := frames.grid.attrs.get("grid_mapping"):
        for name in dataset.data_vars:
            # as an encoding, so that xarray does not treat the projection as a coordinate
            dataset[name].encoding["grid_mapping"] = mapping
    return dataset.assign_attrs(attributes)


def _variable_attributes(nowcaster: Nowcaster, name: str, units: str) -> dict[str, str]:
    """Return the attributes of a variable of a forecast."""
    attributes = RAIN_ATTRIBUTES if nowcaster.pipeline.rain else {"long_name": f"forecast {name}"}
    return {"units": units, **attributes}


def _with_axes(frames: Frames) -> xr.Dataset:
    """Return the grid of the frames, with the attribute `axis` of the coordinates along rows and columns.

    With a grid mapping, coordinates in a unit of length are those of the projection, also where the input does not say
    so. Without one they have no such standard name, because Iris would leave them out.
    """
    grid = frames.grid.copy()
    has_mapping = "grid_mapping" in grid.attrs
    for dim, axis in ((frames.y_dim, "Y"), (frames.x_dim, "X")):
        if dim in grid.coords:
            described = {"axis": axis}
            if has_mapping and length_in_metres(str(grid[dim].attrs.get("units", ""))) is not None:
                described["standard_name"] = f"projection_{axis.lower()}_coordinate"
            grid[dim] = grid[dim].assign_attrs(described | grid[dim].attrs)
    return grid


def _with_probabilities(dataset: xr.Dataset, nowcaster: Nowcaster, fields: Fields) -> xr.Dataset:
    """Add mean, quantiles and probabilities of the only variable of a forecast."""
    name, source = next(iter(dataset.data_vars.items()))
    rules, attributes = nowcaster.rules, source.attrs
    label = attributes.get("long_name", str(name))
    assert fields.probability is not None
    units = attributes["units"]
    added = {
        f"{name}_mean": (source.dims, fields.mean, attributes | {"long_name": f"mean of the {label}"}),
        f"{name}_quantile": (
            ("quantile", *source.dims),
            fields.quantiles,
            attributes | {"long_name": f"quantiles of the {label}"},
        ),
        f"probability_of_{name}_above_threshold": (
            ("threshold", *source.dims),
            np.moveaxis(fields.probability, 1, 0),
            {"units": "1", "long_name": f"probability that the {label} reaches the threshold"},
        ),
    }
    result = dataset.assign(added).assign_coords(
        quantile=(
            "quantile",
            list(QUANTILES),
            {"units": "1", "long_name": "probability of a value up to the quantile"},
        ),
        threshold=(
            "threshold",
            list(rules.thresholds),
            {"units": units, "long_name": f"threshold of the {label}"},
        ),
    )
    _copy_grid_mapping(source, result, added)
    return result


def _copy_grid_mapping(source: xr.DataArray, dataset: xr.Dataset, names: Iterable[str]) -> None:
    """Give variables the projection of another one, if it has one."""
    if "grid_mapping" in source.encoding:
        for name in names:
            dataset[name].encoding["grid_mapping"] = source.encoding["grid_mapping"]


def _with_members(dataset: xr.Dataset, fields: Iterable[Field], count: int, comment: str) -> xr.Dataset:
    """Add the members (lead_time, y, x) of the first variable of a forecast."""
    name, source = next(iter(dataset.data_vars.items()))
    stacked = np.empty((count, *source.shape), np.float32)
    for number, field in enumerate(fields):
        stacked[number] = field
    label = source.attrs.get("long_name", str(name))
    attributes = source.attrs | {"long_name": f"members of the {label}", "comment": comment}
    result = dataset.assign({f"{name}_member": (("realization", *source.dims), stacked, attributes)})
    _copy_grid_mapping(source, result, [f"{name}_member"])
    numbers = np.arange(count, dtype=np.int32)
    described = {"standard_name": "realization", "long_name": "number of the member", "units": "1"}
    return result.assign_coords(realization=("realization", numbers, described))
