"""Select one position along dimensions other than time, y and x, by the values of their coordinates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.errors import ConfigError, DataError

Selection = Mapping[str, float | str]
"""The coordinate value, or the position without a coordinate, by the name of a dimension."""

_MOST_LISTED = 8


def parse_selection(texts: Sequence[str]) -> dict[str, float | str]:
    """Return the selection of texts such as "member=0,level=850"; "none" selects nothing.

    Example:
        >>> parse_selection(["member=0,level=850"])
        {'member': 0.0, 'level': 850.0}
    """
    if list(texts) == ["none"]:
        return {}
    selection: dict[str, float | str] = {}
    for part in ",".join(texts).split(","):
        name, equals, value = (text.strip() for text in part.partition("="))
        if not (name and equals and value) or name in selection:
            raise ConfigError(
                "--select",
                expected="NAME=VALUE, each name once",
                received=repr(part),
                hint="Write it as --select member=0,level=850.",
            )
        selection[name] = _number(value)
    return selection


def select(dataset: xr.Dataset, selection: Selection) -> xr.Dataset:
    """Return the dataset at a position of each dimension of the selection.

    A value has to be one of the coordinate; the nearest is not taken. Times are written as 2018-05-13T00:05.
    """
    if not selection:
        return dataset
    positions = [_position(dataset, name, value) for name, value in selection.items()]
    close, encoding = dataset.close, dataset.encoding
    selected = dataset.isel(dict(position for position in positions if position is not None))
    selected.encoding = encoding
    selected.set_close(close)
    return selected


def example(variable: xr.DataArray, dim: Hashable) -> str:
    """Return the option that selects the first position along a dimension."""
    value = _values(variable[dim].variable)[0] if dim in variable.coords else "0"
    return f"--select {dim}={value}"


def _position(dataset: xr.Dataset, name: str, value: float | str) -> tuple[Any, int] | None:
    """Return the dimension and the position of a value; None if the only value of a coordinate is this one."""
    coordinate = dataset.variables.get(name)
    if name not in dataset.dims and (coordinate is None or coordinate.ndim != 1):
        if coordinate is not None and coordinate.ndim == 0:
            if not _equal(coordinate, value).all():
                raise _no_match(name, value, _listed(coordinate), 0)
            return None
        raise DataError(
            "select",
            expected=f"a dimension of the data ({', '.join(map(str, dataset.dims))})",
            received=name,
            hint="Choose one of them, or pass `--select none`.",
        )
    if coordinate is None or coordinate.ndim != 1:
        return name, _checked_position(name, value, dataset.sizes[name])
    matches = np.flatnonzero(_equal(coordinate, value))
    if len(matches) != 1:
        raise _no_match(name, value, _listed(coordinate), len(matches))
    return coordinate.dims[0], int(matches[0])


def _checked_position(name: str, value: float | str, size: int) -> int:
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value < size:
        raise DataError(
            f"select {name}",
            expected=f"a position from 0 to {size - 1}, because {name} has no coordinate",
            received=_shown(value),
            hint="Choose such a position.",
        )
    return int(value)


def _equal(coordinate: xr.Variable, value: float | str) -> NDArray[np.bool_]:
    """Return where a coordinate has the value, up to the rounding of its type."""
    values = np.atleast_1d(coordinate.values)
    if " since " in str(coordinate.attrs.get("units", "")):
        return np.array([text.startswith(str(value)) for text in _times(coordinate)])
    if values.dtype.kind in "iuf":
        if not isinstance(value, int | float):
            return np.zeros(values.shape, bool)
        return np.isclose(values.astype(np.float64), value, rtol=1e-6, atol=0)
    return np.array([_plain(one) == _shown(value) for one in values])


def _times(coordinate: xr.Variable) -> list[str]:
    attrs = {key: text for key, text in coordinate.attrs.items() if key in ("units", "calendar")}
    raw = xr.Dataset({"raw": ("at", np.atleast_1d(coordinate.values), attrs)})
    return [str(one).replace(" ", "T") for one in xr.decode_cf(raw)["raw"].values]


def _values(coordinate: xr.Variable) -> list[str]:
    """Return the values of a coordinate as an option has them."""
    if " since " in str(coordinate.attrs.get("units", "")):
        return [text[:16] for text in _times(coordinate)]
    values = np.atleast_1d(coordinate.values)
    return [_shown(float(one)) if values.dtype.kind in "iuf" else _plain(one) for one in values]


def _listed(coordinate: xr.Variable) -> str:
    texts = _values(coordinate)
    more = ", …" if len(texts) > _MOST_LISTED else ""
    return ", ".join(texts[:_MOST_LISTED]) + more


def _no_match(name: str, value: float | str, values: str, matches: int) -> DataError:
    return DataError(
        f"select {name}",
        expected=f"one of the values {values}",
        received=_shown(value) if not matches else f"{_shown(value)}, which {matches} positions have",
        hint="Choose a value of the list.",
    )


def _plain(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shown(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
