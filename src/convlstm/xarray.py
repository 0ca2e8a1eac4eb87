"""Methods for forecasts in xarray: `import convlstm.xarray` adds `.convlstm` to every `xarray.Dataset`.

The forecast may be the result of `Nowcaster.forecast`, or a file of `convlstm forecast` in any layout.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from convlstm.data.axes import find_axes, find_realization
from convlstm.data.in_memory import Time, as_datetime64
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.forecast_times import find_start, listed, read_times

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PART = re.compile(r"probability_of_(.+)_above_threshold|(.+)_(?:mean|quantile|member|field)")


@xr.register_dataset_accessor("convlstm")  # type: ignore[no-untyped-call]
class ForecastAccessor:
    """The attribute `convlstm` of a dataset, for one forecast.

    Args:
        dataset: The forecast, of one initial time.

    Example:
        >>> start = np.datetime64("2018-05-20T12:00", "ns")
        >>> lead = np.array([300, 600], "timedelta64[s]").astype("timedelta64[ns]")
        >>> dims = ("lead_time", "y", "x")
        >>> forecast = xr.Dataset(
        ...     {
        ...         "rain": (dims, np.ones((2, 4, 6)), {"units": "mm/h"}),
        ...         "probability_of_rain_above_threshold": (("threshold", *dims), np.full((1, 2, 4, 6), 0.3)),
        ...     },
        ...     coords={"lead_time": lead, "time": ("lead_time", start + lead), "threshold": [1.0]},
        ... )
        >>> forecast.convlstm.probability(1.0).max().item()
        0.3
        >>> forecast.convlstm.areal_sums(2).isel(lead_time=0).values
        array([[4., 4., 4.],
               [4., 4., 4.]])
        >>> forecast.convlstm.at(600)["rain"].shape
        (4, 6)
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables of the forecast, without the mean, quantiles, probabilities and members of each."""
        axes = find_axes(self._dataset, {})
        gridded = [str(n) for n, a in self._dataset.data_vars.items() if {"y", "x"} <= {axes.get(d) for d in a.dims}]
        names = []
        for name in gridded:
            part = _PART.fullmatch(name)
            whole = (part[1] or part[2]) if part else name
            names.append(whole if whole in gridded else name)
        return tuple(dict.fromkeys(names))

    def field(self, variable: str | None = None) -> xr.DataArray:
        """Return the field (lead_time, y, x) of a variable.

        Args:
            variable: Name of the variable; None takes the only one.

        Returns:
            The field. The mean and the quantiles are further variables of the dataset.

        Raises:
            ConfigError: if there is no such variable, or several without a choice.
            DataError: if the forecast has members only.
        """
        variable = self._variable(variable)
        name = f"{variable}_field" if f"{variable}_field" in self._dataset else variable
        if find_realization(self._dataset, name) is not None:
            raise DataError(
                name, expected="a field", received="members only", hint="Use `members()`, or `members().mean(DIM)`."
            )
        return self._array(name)

    def members(self, variable: str | None = None) -> xr.DataArray:
        """Return the members of an ensemble, with their dimension first.

        Args:
            variable: Name of the variable; None takes the only one.

        Returns:
            The members (realization, lead_time, y, x). The dimension of the members is the one whose coordinate has
            the standard name `realization`, or a usual name.

        Raises:
            ConfigError: if there is no such variable, or several without a choice.
            DataError: if the forecast has no members.
        """
        variable = self._variable(variable)
        for name in (f"{variable}_member", variable):
            if name in self._dataset and (dim := find_realization(self._dataset, name)) is not None:
                return self._array(name).transpose(dim, ...)
        raise DataError(
            variable,
            expected="a forecast with members",
            received=", ".join(map(str, self._dataset.data_vars)),
            hint="Forecast with `members=24`, or `convlstm forecast --members 24`.",
        )

    def probability(self, threshold: float, *, variable: str | None = None, from_members: bool = False) -> xr.DataArray:
        """Return the probability (lead_time, y, x) that the value reaches a threshold.

        Args:
            threshold: Threshold in the unit of the variable. The forecast has the probabilities of some thresholds.
            variable: Name of the variable; None takes the only one.
            from_members: Whether to return the share of members that reach the threshold, which may be any number.

        Returns:
            The probability from 0 to 1.

        Raises:
            ConfigError: if the forecast does not have the threshold; the error lists those that it has.
            DataError: if the forecast has no probabilities, or with `from_members` no members.
        """
        variable = self._variable(variable)
        if from_members:
            members = self.members(variable)
            dim = members.dims[0]
            share = (members >= threshold).mean([dim]).where(members.notnull().all([dim]))
            units = members.attrs.get("units", "")
            label = f"share of members with {threshold:g} {units} or more".replace("  ", " ")
            return _described(share, f"probability_of_{variable}", {"units": "1", "long_name": label}, members)
        name = f"probability_of_{variable}_above_threshold"
        if name not in self._dataset:
            raise DataError(
                variable,
                expected="a forecast with probabilities",
                received=", ".join(map(str, self._dataset.data_vars)),
                hint="Forecast by a model with thresholds, or pass `from_members=True` for a forecast with members.",
            )
        thresholds = self._dataset["threshold"].values.astype(np.float64)
        place = np.flatnonzero(np.isclose(thresholds, threshold, rtol=1e-6, atol=0))
        if not place.size:
            raise ConfigError(
                "threshold",
                expected=f"one of those in the forecast ({listed(thresholds)})",
                received=f"{threshold:g}",
                hint="Pass one of them, or any number with `from_members=True` for a forecast with members.",
            )
        return self._array(name).isel(threshold=int(place[0]))

    def at(self, lead_time: float | timedelta | np.timedelta64 | None = None, *, valid_time: Time | None = None) -> Any:
        """Return the forecast for one time.

        Args:
            lead_time: Time since the initial time, in seconds or as an object for durations.
            valid_time: Time for which the forecast is valid, in UTC, instead of the lead time.

        Returns:
            The `xarray.Dataset` without the dimension of the lead times.

        Raises:
            ConfigError: unless one of the arguments is given, and the forecast has that time.

        Example:
            >>> start = np.datetime64("2018-05-20T12:00", "ns")
            >>> lead = np.array([300, 600], "timedelta64[s]").astype("timedelta64[ns]")
            >>> coords = {"lead_time": lead, "time": ("lead_time", start + lead)}
            >>> forecast = xr.Dataset({"rain": (("lead_time", "y", "x"), np.zeros((2, 3, 4)))}, coords=coords)
            >>> forecast.convlstm.at(valid_time="2018-05-20T12:10")["lead_time"].item() / 1e9
            600.0
        """
        times = read_times(self._dataset)
        if (lead_time is None) == (valid_time is None):
            raise ConfigError(
                "lead_time",
                expected=f"a lead time in seconds ({listed(times.leads)}), or `valid_time`",
                received="none of them" if lead_time is None else "both",
                hint=f"Pass one of them, such as `lead_time={times.leads[0]:g}`.",
            )
        if lead_time is not None:
            place = times.place_of_lead(lead_time)
        else:
            assert valid_time is not None
            place = times.place_of_valid_time(str(as_datetime64(valid_time).astype("datetime64[s]")))
        return self._dataset if times.dim is None else self._dataset.isel({times.dim: place})

    def areal_sums(
        self, cells: int, *, of: Literal["field", "mean", "members"] = "field", variable: str | None = None
    ) -> xr.DataArray:
        """Return the sum over squares of cells, in the unit of the variable.

        Args:
            cells: Side of a square in cells. Rows and columns that do not fill a square, at the ends, are left out.
            of: The field, the mean, whose sum is the expected sum, or the members, whose sums show how uncertain it is.
            variable: Name of the variable; None takes the only one.

        Returns:
            The sums; dimensions and order are those of the variable. A square with a missing cell is missing.

        Raises:
            ConfigError: if the side is not from 1 to the size of the grid, or `of` is unknown.
            DataError: if the forecast has no mean or members.
        """
        values = self._chosen(of, self._variable(variable))
        axes = find_axes(self._dataset, {})
        y, x = (next(dim for dim in values.dims if axes.get(dim) == axis) for axis in ("y", "x"))
        smallest = min(values.sizes[y], values.sizes[x])
        if not isinstance(cells, int | np.integer) or not 1 <= cells <= smallest:
            raise ConfigError(
                "cells",
                expected=f"a whole number from 1 to {smallest}, the side of the grid",
                received=repr(cells),
                hint="Pass a smaller number of cells, such as 8.",
            )
        squares: Any = values.coarsen({y: cells, x: cells}, boundary="trim")
        label = f"sum over {cells} × {cells} cells of the {values.attrs.get('long_name', values.name)}"
        attributes = {name: value for name, value in values.attrs.items() if name != "standard_name"}
        attributes |= {"long_name": label, "cell_methods": "area: sum"}
        return _described(squares.reduce(np.sum), str(values.name), attributes, values)

    def plot(
        self,
        lead_time: float | timedelta | np.timedelta64 | None = None,
        *,
        valid_time: Time | None = None,
        threshold: float | None = None,
        variable: str | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw a map of the field, or with `threshold` of the probability, in the colours of the report.

        Args:
            lead_time: Lead time, as in `at`. A forecast with one time needs neither this nor `valid_time`.
            valid_time: Valid time, as in `at`.
            threshold: Threshold whose probability is drawn; None draws the field.
            variable: Name of the variable; None takes the only one.
            ax: Axes of Matplotlib to draw on; None makes a figure.

        Returns:
            The axes. The colour bar has the unit, and the title the valid time and the lead time.

        Raises:
            ConfigError: if the time, the threshold or the variable is not in the forecast.
        """
        import matplotlib.pyplot as plt

        from convlstm.report.forecast_map import draw_field

        chosen = self._dataset
        if len(read_times(chosen).leads) > 1 or lead_time is not None or valid_time is not None:
            chosen = self.at(lead_time, valid_time=valid_time)
        forecast = ForecastAccessor(chosen)
        values = forecast.field(variable) if threshold is None else forecast.probability(threshold, variable=variable)
        if ax is None:
            ax = plt.subplots(layout="constrained")[1]
        draw_field(values, ax, title=read_times(chosen).title(), threshold=threshold)
        return ax

    def _variable(self, variable: str | None) -> str:
        """Return the name of a variable of the forecast, the only one for None."""
        names = self.variables
        if not names:
            raise DataError(
                "dataset",
                expected="a forecast, with a variable over lead time, y and x",
                received=", ".join(map(str, self._dataset.data_vars)) or "no variable",
                hint="Use the result of `Nowcaster.forecast`, or open a file of `convlstm forecast`.",
            )
        if variable in names or (variable is None and len(names) == 1):
            return variable or names[0]
        raise ConfigError(
            "variable",
            expected=f"one of {', '.join(names)}",
            received="none" if variable is None else variable,
            hint="Pass one of the listed names.",
        )

    def _chosen(self, of: str, variable: str) -> xr.DataArray:
        if of == "field":
            return self.field(variable)
        if of == "members":
            return self.members(variable)
        if of != "mean":
            raise ConfigError(
                "of", expected="field, mean or members", received=repr(of), hint="Pass one of the listed words."
            )
        if f"{variable}_mean" not in self._dataset:
            raise DataError(
                variable,
                expected="a forecast with a mean",
                received=", ".join(map(str, self._dataset.data_vars)),
                hint="Forecast by a model with thresholds, or use the field.",
            )
        return self._array(f"{variable}_mean")

    def _array(self, name: str) -> xr.DataArray:
        """Return a variable without the dimension of the initial times, of which there is one."""
        array = self._dataset[name]
        start = find_start(self._dataset)
        starts = [] if start is None else [dim for dim in start.dims if dim in array.dims]
        if start is not None and start.size > 1:
            raise DataError(
                name,
                expected="the forecast of one initial time",
                received=f"{start.size} initial times",
                hint=f"Select one first, such as `dataset.isel({start.dims[0]}=0)`.",
            )
        encoding = dict(array.encoding)
        array = array.squeeze(starts)
        array.encoding.update(encoding)
        return array


def _described(
    array: xr.DataArray, name: str, attributes: dict[Hashable, Any] | dict[str, Any], source: xr.DataArray
) -> xr.DataArray:
    """Return an array with a name and attributes, and with the projection of another one."""
    array = array.rename(name)
    array.attrs = dict(attributes)
    if "grid_mapping" in source.encoding:
        array.encoding["grid_mapping"] = source.encoding["grid_mapping"]
    return array
