"""Read gridded sequences: find the variables, check them, and give access to their packed numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.accumulation import AccumulatedChannel, check_sums_per_step
from convlstm.data.axes import Dimensions, find_axes, find_dimensions, find_variables
from convlstm.data.checks import require_positive
from convlstm.data.formats.kinds import has_default_fill
from convlstm.data.formats.sizes import check_size
from convlstm.data.frames import Channel, Frames, frames_at_once
from convlstm.data.library_errors import reading
from convlstm.data.no_data import check_codes, declared_codes, numbers, packed_codes, without_default_fill
from convlstm.data.opening import open_source
from convlstm.data.places import Source, name_of
from convlstm.data.selection import Selection
from convlstm.data.stored import BlockCache, StoredArray, packed_numbers
from convlstm.data.times import read_times, usual_step
from convlstm.data.units import RAIN_RATE, Conversion, find_conversion
from convlstm.errors import ConfigError, DataError

MAX_BYTES = 256 * 2**20
"""Default of `max_bytes` of `open_frames`: memory for the numbers of a sequence."""

_MAX_COORDINATES = 2**30  # bytes, of the one-dimensional variables that xarray reads
_MAX_DECLARED = 2**45  # bytes of the variables
LEAST_RAIN = 0.01
"""Rain below minus this value in mm/h, which is above the noise of packing, is an error."""

_ATTRIBUTES = (
    "title",
    "institution",
    "source",
    "attribution",
    "license",
    "licence",
    "references",
    "comment",
    "history",
)
_NOT_SPATIAL = {"time", "forecast_reference_time", "forecast_period"}


def open_frames(
    path: Source | xr.Dataset,
    *,
    variables: tuple[str, ...] = (),
    units: str | Sequence[str] | None = None,
    time_step: float | None = None,
    time_dim: str | None = None,
    y_dim: str | None = None,
    x_dim: str | None = None,
    rain: bool | None = None,
    accumulated: bool | None = None,
    missing: Sequence[float] | None = None,
    select: Selection | None = None,
    max_bytes: int = MAX_BYTES,
) -> Frames:
    """Read a gridded sequence from files, a store, or memory: NetCDF, Zarr, ODIM and KNMI HDF5, GRIB, RADOLAN, xarray.

    Rain is converted to mm/h, including sums over a time step (`docs/data.md` lists the units); other variables keep
    their unit. Further dimensions of size 1 are dropped; the order of rows does not change. Several files are joined
    along time. Nothing in a file is executed, and every size is checked before allocation.

    Data that take more than a quarter of `max_bytes` stay in the file, which stays open. They are read in blocks of its
    chunks when they are used, and the last blocks are kept. The values are the same.

    Args:
        path: A file, a Zarr store, a folder of files, a pattern such as "days/*.nc", an address that fsspec reads, a
            sequence of these, or a dataset in memory.
        variables: Names of the variables, one for each channel; () takes the only one over time, y and x.
        units: Unit of the variables, which overrides the file ("mm" for rain sums over one step); a sequence has one
            unit for each variable.
        time_step: Seconds between frames, and the period of sums; needed only if the file has no dates, or one frame.
        time_dim: Name of the time dimension, if neither CF attributes nor its name show it.
        y_dim: Name of the dimension of rows, in the same case.
        x_dim: Name of the dimension of columns, in the same case.
        rain: Whether the variables are rain; None decides by names and units. True converts dBZ to mm/h.
        accumulated: Whether sums of rain are since a start, so that their increase is read; None refuses such sums.
        missing: Values in the unit of the file that mean no data, in addition to those that the file declares; None
            refuses negative rain and codes such as -999, and () reads them as values. In Zarr, any values also decide
            whether the fill value 0, its default, is a value.
        select: Coordinate values of further dimensions, such as {"member": 0}; a position if there is no coordinate.
        max_bytes: Memory for the packed numbers, which limits no other memory.

    Returns:
        The sequence.

    Raises:
        DataError: if the data is not readable, or a variable or dimension cannot be found. Also if the times are
            missing or out of order, or there are too few frames, too many values, or none. Also if the unit is
            ambiguous, and for sums since a start and codes for no data, unless an option settles them. Also if files
            overlap in time, or differ in grid, unit or variables.
        DependencyError: if a kind of file or address needs a package that is not installed.
        ConfigError: if `time_step` is not above 0, or the number of units is not that of the variables.

    Example:
        >>> from convlstm.data import sample_path
        >>> open_frames(sample_path()).variables
        ('rainfall_rate',)
    """
    if time_step is not None:
        require_positive("time_step", time_step)
    options = _Options(
        tuple(variables), units, time_step, {"time": time_dim, "y": y_dim, "x": x_dim}, rain, accumulated, missing
    )
    with reading(name_of(path)):
        dataset = open_source(path, _MAX_COORDINATES, variables=options.variables, dims=options.dims, selection=select)
        try:
            frames = _frames_of(dataset, name_of(path), BlockCache(max_bytes), options)
        except BaseException:
            dataset.close()
            raise
    if not any(isinstance(channel.packed, StoredArray) for channel in frames.channels):
        dataset.close()
    return frames


@dataclass(frozen=True)
class _Options:
    """The options of `open_frames`."""

    variables: tuple[str, ...]
    units: str | Sequence[str] | None
    time_step: float | None
    dims: Mapping[str, str | None]
    rain: bool | None
    accumulated: bool | None
    missing: Sequence[float] | None


def _frames_of(dataset: xr.Dataset, path: str, cache: BlockCache, options: _Options) -> Frames:
    """Return the sequence in an open dataset."""
    axes = find_axes(dataset, options.dims)
    names = find_variables(dataset, axes, options.variables)
    dimensions = _shared_dimensions(dataset, axes, names)
    check_size(path, sum(dataset[name].nbytes for name in names), _MAX_DECLARED)
    fields = [_three_dimensional(dataset[name], dimensions) for name in names]
    in_memory = sum(field.nbytes for field in fields) <= cache.max_bytes // 4
    time, seconds = read_times(dataset, dimensions.time, options.time_step)
    step = float(options.time_step or usual_step(seconds))
    accumulated, missing = options.accumulated, options.missing
    dims = (dimensions.time, dimensions.y, dimensions.x)
    channels = []
    for field, units in zip(fields, _units_of(names, options.units), strict=True):
        conversion = _conversion(field, units, options.rain)
        packed = packed_numbers(field, dims, cache, path, in_memory=in_memory)
        is_file = has_default_fill(dataset)
        channel = packed_channel(field, packed, conversion, step, accumulated, missing, is_file=is_file)
        channels.append(_checked(channel, seconds, accumulated, missing))
    if accumulated:
        channels = _from_second_frame(channels)
        time, seconds = time[1:], seconds[1:] - seconds[1]
    return Frames(
        variables=names,
        units=", ".join(dict.fromkeys(channel.units for channel in channels)),
        time=time,
        seconds=seconds,
        time_step=step,
        grid=_grid(fields[0], dimensions),
        attrs={key: str(dataset.attrs[key]) for key in _ATTRIBUTES if key in dataset.attrs},
        time_dim=str(dimensions.time),
        y_dim=str(dimensions.y),
        x_dim=str(dimensions.x),
        channels=tuple(channels),
    )


def _shared_dimensions(dataset: xr.Dataset, axes: Mapping[Hashable, str], names: tuple[str, ...]) -> Dimensions:
    shared = find_dimensions(dataset[names[0]], axes)
    for name in names[1:]:
        dimensions = find_dimensions(dataset[name], axes)
        if dimensions != shared:
            raise DataError(
                name,
                expected=f"the dimensions of {names[0]}, {shared}",
                received=str(dimensions),
                hint="Choose variables on one grid.",
            )
    return shared


def _three_dimensional(variable: xr.DataArray, dimensions: Dimensions) -> xr.DataArray:
    order = (dimensions.time, dimensions.y, dimensions.x)
    field = variable.isel({dim: 0 for dim in variable.dims if dim not in order})
    if 0 in field.shape:
        raise DataError(
            str(variable.name), expected="data", received=f"sizes {dict(field.sizes)}", hint="Choose another file."
        )
    return field


def _units_of(names: Sequence[str], units: str | Sequence[str] | None) -> list[str | None]:
    """Return the unit from the caller for each variable, None for that of the file."""
    if units is None or isinstance(units, str):
        return [units] * len(names)
    if len(units) != len(names):
        raise ConfigError(
            "units",
            expected=f"one text, or a sequence of {len(names)} for {', '.join(names)}",
            received=f"a sequence of {len(units)}",
            hint="Pass one unit for each variable.",
        )
    return list(units)


def _conversion(variable: xr.DataArray, units: str | None, rain: bool | None) -> Conversion:
    attrs = {key: str(variable.attrs.get(key, "")) for key in ("standard_name", "long_name", "units")}
    return find_conversion(
        str(variable.name),
        attrs["units"] if units is None else units,
        standard_name=attrs["standard_name"],
        long_name=attrs["long_name"],
        from_caller=units is not None,
        rain=rain,
    )


def packed_channel(
    variable: xr.DataArray,
    packed: NDArray[np.number] | StoredArray,
    conversion: Conversion,
    step: float,
    accumulated: bool | None,
    missing: Sequence[float] | None,
    *,
    is_file: bool,
) -> Channel:
    """Return the channel of a variable and its packed numbers.

    Sums of rain since a start are in mm, all other rain in mm/h.
    """
    attrs = variable.attrs
    is_sum = conversion.amount and bool(accumulated)
    factor = conversion.factor if is_sum else conversion.scale(step)
    scale, offset = float(attrs.get("scale_factor", 1)), float(attrs.get("add_offset", 0))
    codes = declared_codes(attrs, packed.dtype, is_file=is_file)
    if not is_file:
        codes = without_default_fill(codes, attrs, str(variable.name), packed, conversion, missing)
    codes += packed_codes(missing or (), packed.dtype, scale, offset)
    return Channel(
        packed,
        scale=scale * factor,
        offset=offset * factor,
        missing=tuple(dict.fromkeys(codes)),
        valid=_valid(attrs, packed.dtype),
        units=conversion.units,
        name=str(variable.name),
        long_name=str(attrs.get("long_name", "")),
        conversion=conversion,
        factor=factor,
        least=-np.inf if missing is not None and not len(missing) else _least(conversion),
    )


def _least(conversion: Conversion) -> float:
    """Return the least value that is no error; reflectivity may be negative, rain may not."""
    return -LEAST_RAIN if conversion.units == RAIN_RATE and not conversion.reflectivity else -np.inf


def _checked(
    channel: Channel,
    seconds: NDArray[np.float64],
    accumulated: bool | None,
    missing: Sequence[float] | None,
) -> Channel:
    """Check the values of a channel on a sample, and return it, or the increase of sums since a start."""
    if not _has_value(channel):
        raise DataError(
            channel.name,
            expected="at least one value",
            received="missing values only",
            hint="Choose another variable, or check its _FillValue.",
        )
    if missing is None or len(missing):
        check_codes(channel, missing or ())
    if not channel.conversion.amount:
        return channel
    if accumulated:
        if len(seconds) < 2:
            raise DataError(
                channel.name,
                expected="two sums in a row",
                received="one frame",
                hint="Pass a longer sequence, or several files.",
            )
        increases = AccumulatedChannel.of_sums(channel, seconds)
        if not _has_value(increases):
            raise DataError(
                channel.name,
                expected="two sums in a row with a value",
                received="no increase that is known",
                hint="Choose another variable, or pass `--no-accumulated` if these are sums over one step.",
            )
        return increases
    if accumulated is None:
        check_sums_per_step(channel)
    return channel


def _has_value(channel: Channel) -> bool:
    """Return whether a channel has a finite value in any frame."""
    count, *grid = channel.shape
    at_once = frames_at_once(math.prod(grid))
    return any(np.isfinite(channel.read(slice(at, at + at_once))).any() for at in range(0, count, at_once))


def _from_second_frame(channels: list[Channel]) -> list[Channel]:
    """Return channels without the first frame, which the increase of sums does not have."""
    if not any(isinstance(channel, AccumulatedChannel) for channel in channels):
        raise DataError(
            "accumulated",
            expected="a variable with sums of rain in mm, kg m-2 or m",
            received=", ".join(f"{channel.name} in {channel.conversion.source or 'no unit'}" for channel in channels),
            hint="Leave `--accumulated` out, or pass `--units` and `--rain`.",
        )
    return [channel if isinstance(channel, AccumulatedChannel) else _without_first(channel) for channel in channels]


def _without_first(channel: Channel) -> Channel:
    packed = channel.packed
    return replace(channel, packed=packed.without_first() if isinstance(packed, StoredArray) else packed[1:])


def _valid(attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the minimum and maximum of the valid packed numbers; limits of another type do not count."""
    limits = {
        key: np.ravel(attrs[key])
        for key in ("valid_range", "valid_min", "valid_max")
        if key in attrs and (dtype.kind == "f") == (np.asarray(attrs[key]).dtype.kind == "f")
    }
    valid_range = numbers(limits.get("valid_range"), dtype)
    minimum = numbers(limits.get("valid_min"), dtype) or valid_range[:1] or [-np.inf]
    maximum = numbers(limits.get("valid_max"), dtype) or valid_range[1:] or [np.inf]
    return minimum[0], maximum[0]


def _grid(field: xr.DataArray, dimensions: Dimensions) -> xr.Dataset:
    """Return the decoded coordinates over y and x, without the encoding of the file."""
    coordinates = field.coords.to_dataset()
    not_spatial = [
        name
        for name, coordinate in coordinates.variables.items()
        if not set(coordinate.dims) <= {dimensions.y, dimensions.x}
        or coordinate.attrs.get("standard_name") in _NOT_SPATIAL
        or " since " in str(coordinate.attrs.get("units", ""))
    ]
    grid = xr.decode_cf(coordinates.drop_vars(not_spatial), decode_times=False, decode_coords=False)
    grid = grid.load().drop_encoding()
    mapping = field.encoding.get("grid_mapping", field.attrs.get("grid_mapping"))
    if mapping in grid.variables:
        grid.attrs["grid_mapping"] = mapping
    return grid
