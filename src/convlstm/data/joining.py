"""Join files along time: each is checked against the first, and read again when its values are needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.axes import find_axes
from convlstm.data.file_times import time_of_frame
from convlstm.data.formats.kinds import has_default_fill
from convlstm.data.formats.lazy import Key, lazy_variable, outer
from convlstm.data.no_data import declared_codes, numbers
from convlstm.data.open_files import OpenFiles
from convlstm.data.times import decoded_times
from convlstm.errors import ConvLSTMError, DataError

_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_LIMITS = ("valid_min", "valid_max", "valid_range")
_SAME = ("units", "standard_name")
_OF_ONE_TIME = {"time", "forecast_reference_time", "forecast_period"}  # standard names of what differs between files
_UNITS = "seconds since 1970-01-01"


@dataclass(frozen=True)
class _Layout:
    """What a variable has to share with that of the other files."""

    dims: tuple[Hashable, ...]  # without time
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[Hashable, Any]
    default_fill: bool

    @property
    def packing(self) -> str:
        parts = [f"{name}={np.ravel(self.attrs[name]).tolist()}" for name in _PACKING if name in self.attrs]
        return f"{self.dtype} {self.default_fill} {' '.join(parts)}"


@dataclass(frozen=True)
class _Part:
    """One file of the sequence."""

    number: int  # in the list of places
    place: str
    times: NDArray[Any]  # datetime64 or cftime
    time_dim: Hashable | None
    variables: Mapping[Hashable, _Layout]
    grid: Mapping[Hashable, NDArray[Any]]  # coordinates of the other dimensions; of those with two, samples


def join(
    places: Sequence[str],
    open_place: Callable[[str], xr.Dataset],
    *,
    variables: Sequence[str] = (),
    dims: Mapping[str, str | None] | None = None,
) -> xr.Dataset:
    """Return the files as one dataset, sorted by time, whose variables are read when they are indexed.

    Args:
        places: Names of the files.
        open_place: Function that opens one of them with packed numbers and undecoded times.
        variables: Names of the variables; () takes all over y and x.
        dims: The caller's dimension for "time", "y" and "x", or None.

    Returns:
        The dataset; its packed numbers are as in the files, or unpacked if the files are packed in different ways.

    Raises:
        DataError: If a file has no time, or times that overlap with those of another. Also if it differs from the
            first in variables, dimensions, grid or unit.
    """
    files = OpenFiles(places, open_place)
    try:
        parts: list[_Part] = []
        axes: dict[Hashable, str] | None = None
        names: frozenset[Hashable] = frozenset()
        for number, place in enumerate(places):
            dataset = files.get(number)
            if axes is None or frozenset(dataset.variables) != names:
                axes, names = _located(place, find_axes, dataset, dims or {}), frozenset(dataset.variables)
            parts.append(_located(place, _part, dataset, number, place, axes, tuple(variables)))
        parts = _in_order(parts)
        for part in parts[1:]:
            _check_alike(part, parts[0])
        return _joined(files, parts)
    except BaseException:
        files.close()
        raise


def _located(place: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function; its errors get the name of the file."""
    try:
        return work(*arguments)
    except ConvLSTMError as error:
        if place in error.argument:
            raise
        raise type(error)(
            f"{place}: {error.argument}", expected=error.expected, received=error.received, hint=error.hint
        ) from error


def _part(
    dataset: xr.Dataset, number: int, place: str, axes: Mapping[Hashable, str], requested: tuple[str, ...]
) -> _Part:
    gridded = [
        name
        for name, variable in dataset.data_vars.items()
        if {"y", "x"} <= {axes.get(dim) for dim in variable.dims} and (not requested or name in requested)
    ]
    absent = [name for name in requested if name not in gridded]
    if absent or not gridded:
        raise DataError(
            place,
            expected=f"the variable {', '.join(absent)}" if absent else "a variable over y and x",
            received=f"the variables {', '.join(sorted(map(str, dataset.data_vars)))}" if dataset.data_vars else "none",
            hint="Choose files with the same variables.",
        )
    time_dims = {dim for name in gridded for dim in dataset[name].dims if axes.get(dim) == "time"}
    if len(time_dims) > 1:
        raise DataError(
            place, expected="one time axis", received=", ".join(map(str, time_dims)), hint="Choose one variable."
        )
    time_dim = time_dims.pop() if time_dims else None
    layouts = {
        name: _Layout(
            tuple(dim for dim in dataset[name].dims if dim != time_dim),
            tuple(size for dim, size in dataset[name].sizes.items() if dim != time_dim),
            dataset[name].dtype,
            dict(dataset[name].attrs),
            has_default_fill(dataset),
        )
        for name in gridded
    }
    others = {dim for layout in layouts.values() for dim in layout.dims}
    return _Part(number, place, _times(dataset, place, time_dim), time_dim, layouts, _samples(dataset, others))


def _times(dataset: xr.Dataset, place: str, time_dim: Hashable | None) -> NDArray[Any]:
    if time_dim is None:
        return time_of_frame(dataset, place)
    times = decoded_times(dataset, time_dim)
    if times is None and dataset.sizes[time_dim] == 1:
        return time_of_frame(dataset, place)
    if times is None or not times.size:
        raise DataError(
            place, expected="times of its frames", received="none", hint="Write the times to each file, with a unit."
        )
    wrong = np.flatnonzero(times.values[1:] <= times.values[:-1])
    if wrong.size:
        raise DataError(
            place,
            expected="times that increase from frame to frame",
            received=f"{times.values[wrong[0] + 1]} after {times.values[wrong[0]]}",
            hint="Sort the file by time, and remove duplicates.",
        )
    return np.asarray(times.values)


def _samples(dataset: xr.Dataset, dims: set[Hashable]) -> dict[Hashable, NDArray[Any]]:
    """Return the coordinates over some dimensions; of those with two or more, the corners and the middle."""
    samples = {}
    for name, coordinate in dataset.coords.items():
        if coordinate.ndim and set(coordinate.dims) <= dims:
            variable = coordinate.variable
            if variable.ndim > 1:
                variable = variable[tuple(np.unique([0, size // 2, size - 1]) for size in variable.shape)]
            samples[name] = np.asarray(variable.values)
    return samples


def _in_order(parts: list[_Part]) -> list[_Part]:
    """Return the files by their first time; times that overlap are an error."""
    try:
        parts = sorted(parts, key=lambda part: part.times[0])
        pairs = [pair for pair in pairwise(parts) if pair[1].times[0] <= pair[0].times[-1]]
    except TypeError as error:
        raise DataError(
            parts[0].place, expected="one calendar in all files", received="several", hint="Choose files of one source."
        ) from error
    for before, after in pairs:
        raise DataError(
            after.place,
            expected=f"times after those of {before.place}, which ends at {before.times[-1]}",
            received=f"the time {after.times[0]}",
            hint="Remove the frames that are in both files.",
        )
    return parts


def _check_alike(part: _Part, first: _Part) -> None:
    """Raise an error if a file differs from the first."""
    pairs: list[tuple[str, object, object]] = [
        ("the variables", _listed(first.variables), _listed(part.variables)),
        ("the time dimension", first.time_dim, part.time_dim),
        ("the coordinates", _listed(first.grid), _listed(part.grid)),
    ]
    for name, layout in first.variables.items():
        other = part.variables.get(name)
        if other is None:
            break  # the variables differ
        pairs.append((f"the dimensions of {name}", _sizes(layout), _sizes(other)))
        pairs += [(f"the {key} of {name}", layout.attrs.get(key), other.attrs.get(key)) for key in _SAME]
        pairs += [
            (f"the {key} of {name}", str(layout.attrs.get(key)), str(other.attrs.get(key)))
            for key in _LIMITS
            if layout.packing != other.packing or layout.attrs.get(key) is not None
        ]
    for what, expected, received in pairs:
        if expected != received:
            raise _differs(part, first, what, expected, received)
    for name, values in first.grid.items():
        if not _close(values, part.grid[name]):
            raise _differs(part, first, f"the grid: {name}", _ends(values), _ends(part.grid[name]))


def _differs(part: _Part, first: _Part, what: str, expected: object, received: object) -> DataError:
    return DataError(
        part.place,
        expected=f"{what} as in {first.place} ({expected})",
        received=str(received),
        hint="Choose files of one product, or join them yourself.",
    )


def _close(values: NDArray[Any], others: NDArray[Any]) -> bool:
    if values.shape != others.shape:
        return False
    if values.dtype.kind not in "iuf" or others.dtype.kind not in "iuf":
        return bool((values == others).all())
    spacing = float(np.ptp(values)) / max(values.size, 1)
    return bool(np.allclose(values, others, rtol=1e-6, atol=1e-3 * spacing, equal_nan=True))


def _joined(files: OpenFiles, parts: list[_Part]) -> xr.Dataset:
    first = parts[0]
    dataset = files.get(first.number)
    time_dim = "time" if first.time_dim is None else first.time_dim
    starts = np.concatenate([[0], np.cumsum([len(part.times) for part in parts])])
    part_numbers = np.array([part.number for part in parts])
    joined: dict[Hashable, xr.Variable] = {}
    for name, layout in first.variables.items():
        unpack = len({part.variables[name].packing for part in parts}) > 1
        attrs = {key: value for key, value in layout.attrs.items() if not unpack or key not in _PACKING}
        dtype = np.dtype(np.float32) if unpack else layout.dtype
        shape = (int(starts[-1]), *layout.shape)
        dims = layout.dims if first.time_dim is None else (first.time_dim, *layout.dims)
        if unpack and any(key in layout.attrs for key in _LIMITS):
            raise _limits_of_packing(first, parts, name)
        if unpack:
            _check_fill_values(parts, name)
        read = partial(_read, files, name, dims, (part_numbers, starts), shape, dtype, unpack)
        chunks = _chunks(dataset[name].variable, time_dim, parts)
        joined[name] = lazy_variable((time_dim, *layout.dims), shape, dtype, read, attrs, chunks)
    kept = [
        name
        for name, coordinate in dataset.coords.items()
        if time_dim not in coordinate.dims
        and name != time_dim
        and coordinate.attrs.get("standard_name") not in _OF_ONE_TIME
        and " since " not in str(coordinate.attrs.get("units", ""))
    ]
    coords = {name: dataset[name].variable.load() for name in kept}
    times = _encoded(np.concatenate([part.times for part in parts]))
    result = xr.Dataset(joined, coords | {time_dim: (time_dim, *times)}, attrs=dataset.attrs)
    for name in joined:
        mapping = dataset[name].encoding.get("grid_mapping")
        if mapping is not None:
            result[name].encoding["grid_mapping"] = mapping
    result.encoding = dict(dataset.encoding)
    result.set_close(files.close)
    return result


def _chunks(variable: xr.Variable, time_dim: Hashable, parts: list[_Part]) -> dict[Hashable, int]:
    """Return the sizes that are read at once: those of the chunks of a file, which do not cross its end."""
    stored = dict(variable.encoding.get("preferred_chunks", {}))
    frames = int(stored.get(time_dim, 1))
    aligned = all(len(part.times) % frames == 0 for part in parts)
    return stored | {time_dim: frames if aligned else 1}


def _read(
    files: OpenFiles,
    name: Hashable,
    dims: tuple[Hashable, ...],
    positions: tuple[NDArray[np.intp], NDArray[np.intp]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    unpack: bool,
    key: Key,
) -> NDArray[Any]:
    """Return values of the joined variable: those of each file are read at once."""
    numbers, starts = positions
    frames = np.arange(shape[0])[key[0]]
    index = np.atleast_1d(frames)
    rest = key[1:]
    sizes = [np.arange(size)[part].shape for size, part in zip(shape[1:], rest, strict=True)]
    values = np.empty((len(index), *(size for sizes_of in sizes for size in sizes_of)), dtype)
    which = np.searchsorted(starts, index, side="right") - 1
    for part in np.unique(which):
        at = np.flatnonzero(which == part)
        values[at] = files.read(int(numbers[part]), name, dims, index[at] - starts[part], rest, unpack)
    return values if np.ndim(frames) else outer(values, (0,))


def _encoded(times: NDArray[Any]) -> tuple[NDArray[Any], dict[str, str]]:
    """Return times as numbers with CF attributes."""
    attrs = {"units": _UNITS, "standard_name": "time"}
    if times.dtype.kind == "M":
        seconds = (times - np.datetime64("1970-01-01", "us")) / np.timedelta64(1, "s")
        return seconds, attrs | {"calendar": "proleptic_gregorian"}
    calendar = times[0].calendar
    return np.asarray(cftime.date2num(times, _UNITS, calendar=calendar), np.float64), attrs | {"calendar": calendar}


def _check_fill_values(parts: list[_Part], name: Hashable) -> None:
    """Raise an error for the fill value 0, Zarr's default: of unpacked numbers nobody can tell later what 0 means."""
    for part in parts:
        layout = part.variables[name]
        codes = declared_codes(layout.attrs, layout.dtype, is_file=layout.default_fill)
        is_named = 0 in numbers(layout.attrs.get("missing_value"), layout.dtype)
        if 0 in codes and not is_named and not float(layout.attrs.get("add_offset", 0)):
            raise DataError(
                part.place,
                expected=f"{name} packed as in the other files, or with another fill value than 0",
                received="the fill value 0, the default of Zarr, in files that are packed in different ways",
                hint="Write the files with one packing, or with `_FillValue` at a number that is no data.",
            )


def _limits_of_packing(first: _Part, parts: list[_Part], name: Hashable) -> DataError:
    other = next(part for part in parts if part.variables[name].packing != first.variables[name].packing)
    return _differs(
        other, first, f"the packing of {name}, which has valid limits,", first.variables[name].packing, "another"
    )


def _listed(names: Mapping[Hashable, object]) -> str:
    return ", ".join(sorted(map(str, names)))


def _sizes(layout: _Layout) -> str:
    return ", ".join(f"{dim}: {size}" for dim, size in zip(layout.dims, layout.shape, strict=True))


def _ends(values: NDArray[Any]) -> str:
    return f"{values.size} values from {values.flat[0]} to {values.flat[-1]}" if values.size else "no values"
