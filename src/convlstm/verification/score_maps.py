"""Scores by place: sums over all cases in blocks of cells, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

BLOCKS = 24
"""Blocks along the longer side of the grid."""

MIN_EVENTS = 10
"""A block with fewer cells of an event, observed or forecast in all cases, has no CSI and no frequency bias."""

Values = NDArray[np.floating]

_EVENT_SUMS = ("hits", "misses", "false_alarms")
_ERROR_SUMS = ("pixels", "squared", "signed")


def block_width(height: int, width: int) -> int:
    """Return the width in cells of the blocks of a grid.

    Example:
        >>> block_width(96, 96), block_width(1100, 900), block_width(10, 12)
        (4, 46, 1)
    """
    return -(-max(height, width) // BLOCKS)


def block_sums(
    forecast: xr.DataArray,
    observation: xr.DataArray,
    *,
    thresholds: Sequence[float],
    block: int,
    means: Mapping[str, xr.DataArray] | None = None,
) -> xr.Dataset:
    """Return the sums over cases and over blocks of cells, from which the scores of each block follow.

    Sums of several sets of cases can be added. A pair with a missing forecast or observation is ignored.

    Args:
        forecast: Forecasts (method, init_time, lead_time, y, x), NaN where missing, with coordinates method and
            lead_time.
        observation: Observations (init_time, lead_time, y, x) in the same unit.
        thresholds: Thresholds of the events.
        block: Width of a block in cells; the blocks at the end of a row or column may be smaller.
        means: Forecasts of some methods, by method, whose errors are summed instead (init_time, lead_time, y, x).

    Returns:
        `hits`, `misses` and `false_alarms` (method, lead_time, threshold, y, x), where y and x are blocks. `pixels`,
        the number of pairs, and `squared` and `signed`, the sums of the squared and signed error, have no threshold.
    """
    rows, columns = (range(0, size, block) for size in observation.shape[-2:])
    shape = (forecast.sizes["method"], forecast.sizes["lead_time"], len(rows), len(columns))
    events = {name: np.zeros((*shape[:2], len(thresholds), *shape[2:])) for name in _EVENT_SUMS}
    errors = {name: np.zeros(shape) for name in _ERROR_SUMS}
    for method, lead in np.ndindex(shape[:2]):
        name = str(forecast["method"].values[method])
        predicted = forecast[{"method": method, "lead_time": lead}].values
        observed = observation[{"lead_time": lead}].values
        mean = (means or {}).get(name)
        for key, values in _errors(predicted if mean is None else mean[{"lead_time": lead}].values, observed).items():
            errors[key][method, lead] = _in_blocks(values, block)
        for place, threshold in enumerate(thresholds):
            for key, values in _events(predicted, observed, threshold).items():
                events[key][method, lead, place] = _in_blocks(values, block)
    dims = ("method", "lead_time", "y", "x")
    return xr.Dataset(
        {name: (("method", "lead_time", "threshold", "y", "x"), values) for name, values in events.items()}
        | {name: (dims, values) for name, values in errors.items()},
        coords={
            "method": forecast["method"].values,
            "lead_time": forecast["lead_time"].values,
            "threshold": np.asarray(thresholds, np.float64),
        },
    )


def score_maps(sums: xr.Dataset) -> xr.Dataset:
    """Return the scores of each block: `csi` and `bias` by threshold, and `rmse` and `mean_error`.

    The dimensions are those of `block_sums`. `csi` and `bias` are NaN in a block where the event was observed or
    forecast in fewer than 10 cells. Every score is NaN in a block without a pair of values.

    Example:
        >>> rain = xr.DataArray(np.ones((3, 1, 8, 8)), dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> forecast = rain.where(rain.x < 4, 3.0).expand_dims(method=["wet in the east"])
        >>> maps = score_maps(block_sums(forecast, rain, thresholds=[2.0], block=4))
        >>> maps["rmse"][0, 0].values.tolist()
        [[0.0, 2.0], [0.0, 2.0]]
    """
    hits, misses, false_alarms = (sums[name] for name in _EVENT_SUMS)
    cells = hits + misses + false_alarms
    pixels = sums["pixels"].where(sums["pixels"] > 0)
    observed = (hits + misses).where(hits + misses > 0)
    return xr.Dataset(
        {
            "csi": (hits / cells).where(cells >= MIN_EVENTS),
            "bias": ((hits + false_alarms) / observed).where(cells >= MIN_EVENTS),
            "rmse": (sums["squared"] / pixels) ** 0.5,
            "mean_error": sums["signed"] / pixels,
        }
    )


def _errors(predicted: Values, observed: Values) -> dict[str, NDArray[np.generic]]:
    known = np.isfinite(predicted) & np.isfinite(observed)
    error = np.where(known, predicted.astype(np.float64) - observed, 0.0)
    return dict(zip(_ERROR_SUMS, (known, error**2, error), strict=True))


def _events(predicted: Values, observed: Values, threshold: float) -> dict[str, NDArray[np.generic]]:
    """Return the events (init_time, y, x), found in the precision of the data as in the table of scores."""
    known = np.isfinite(predicted) & np.isfinite(observed)
    occurred = known & (observed >= observed.dtype.type(threshold))
    was_forecast = known & (predicted >= predicted.dtype.type(threshold))
    cells = (occurred & was_forecast, occurred & ~was_forecast, ~occurred & was_forecast)
    return dict(zip(_EVENT_SUMS, cells, strict=True))


def _in_blocks(values: NDArray[np.generic], block: int) -> NDArray[np.float64]:
    """Return the sums over cases and blocks of an array (init_time, y, x)."""
    total = values.sum(axis=0, dtype=np.float64)
    for axis in (0, 1):
        total = np.add.reduceat(total, np.arange(0, total.shape[axis], block), axis=axis)
    summed: NDArray[np.float64] = total
    return summed
