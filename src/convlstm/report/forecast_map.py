"""A map of one field of a forecast on axes of Matplotlib, in the colours of the report."""

from __future__ import annotations

from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

from convlstm.report.scales import MISSING, Scale, field_scale, probability_scale, rain_scale


def draw_field(values: xr.DataArray, ax: Axes, *, title: str, threshold: float | None = None) -> None:
    """Draw a field (y, x), or with a threshold the probability to reach it, with a colour bar that has the unit."""
    scale, label = _scale(values, threshold), _label(values, threshold)
    inner = ListedColormap(list(scale.colours[1:-1]))
    colours = inner.with_extremes(under=scale.colours[0], over=scale.colours[-1], bad=MISSING)
    y, x = values.dims
    drawing: Any = values.plot
    drawing.pcolormesh(
        x=x,
        y=y,
        ax=ax,
        cmap=colours,
        norm=BoundaryNorm(scale.edges, inner.N),
        yincrease=y in values.coords,  # rows without coordinates begin in the north
        cbar_kwargs={"extend": "both", "ticks": list(scale.ticks), "label": label},
    )
    lengths = [str(values[dim].attrs.get("units", "")) for dim in (y, x)]
    if lengths[0] == lengths[1] and not lengths[0].startswith("degree"):
        ax.set_aspect("equal")
    ax.set_title(title, fontsize="medium")


def _scale(values: xr.DataArray, threshold: float | None) -> Scale:
    units = str(values.attrs.get("units", ""))
    if threshold is not None:
        return probability_scale()
    return rain_scale(units) if units == "mm/h" else field_scale([values.values], units)


def _label(values: xr.DataArray, threshold: float | None) -> str:
    if threshold is not None:
        return f"probability of {threshold:g} {values['threshold'].attrs.get('units', '')} or more"
    units = str(values.attrs.get("units", "1"))
    label = str(values.attrs.get("long_name", values.name))
    return label if units == "1" else f"{label} ({units})"
