"""What an evaluation says of parts of its data: scores by case and day, maps of scores, and the cases to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.units import RAIN_RATE, Field
from convlstm.nowcast.baselines import inflow
from convlstm.nowcast.evaluation_forecasts import Cases
from convlstm.verification.evaluation_folder import CASE_SCORES_FILE, DAY_SCORES_FILE, METHODS
from convlstm.verification.grouped_scores import grouped_table
from convlstm.verification.main_score import main_lead_time, main_threshold
from convlstm.verification.score_maps import block_width, score_maps
from convlstm.verification.scorecard import CaseSums

MIN_EVENT_SHARE = 0.01
"""Share of the cells with an observed event from which a case can be the best or the worst."""

EXAMPLES = 4
"""Cases that the report shows as maps."""

_MOST_LISTED = 12  # days by name


def quantity(frames: Frames) -> str:
    """Return the name of the scored variable for titles: its long name in the file, unless its unit was changed."""
    channel = frames.channels[0]
    if channel.long_name and channel.conversion.source in ("", channel.units):
        return channel.long_name
    return "rain rate" if channel.units == RAIN_RATE else frames.variables[0].replace("_", " ")


def title(frames: Frames, days: Sequence[str], tools: Sequence[str] = ()) -> str:
    """Return the title of an evaluation: the variable, the tools that made the forecasts, and the days."""
    name = quantity(frames)
    by = f" by {', '.join(tools)}" if tools else ""
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{name[:1].upper()}{name[1:]}: forecasts{by} for {period}"


def listed_days(days: Sequence[str]) -> str:
    """Return some days in words for the report."""
    if len(days) <= _MOST_LISTED:
        return ", ".join(days)
    return f"{len(days)} days from {min(days)} to {max(days)}"


def attribution(frames: Frames) -> str:
    """Return the source of the data from the attributes of the file."""
    names = ("attribution", "institution", "source", "license", "licence")
    return "; ".join(dict.fromkeys(frames.attrs[name] for name in names if name in frames.attrs))


def part_tables(times: xr.DataArray, sums: Sequence[CaseSums]) -> dict[str, pd.DataFrame]:
    """Return the scores by case and by day, by file name; the times are those of the starts."""
    starts = times.dt
    by_case = grouped_table(sums, starts.strftime("%Y-%m-%dT%H:%M:%S").values.tolist(), "init_time")
    by_day = grouped_table(sums, starts.strftime("%Y-%m-%d").values.tolist(), "day")
    return {CASE_SCORES_FILE: by_case, DAY_SCORES_FILE: by_day}


def make_score_maps(frames: Frames, sums: xr.Dataset) -> xr.Dataset:
    """Return the scores of every method in blocks of cells, with the sums that they follow from (`block_sums`)."""
    maps = xr.merge([score_maps(sums), sums]).astype(np.float32)
    units = frames.channels[0].units
    for name in ("rmse", "mean_error"):
        maps[name].attrs["units"] = units
    maps["lead_time"].attrs["units"] = "minutes"
    block = block_width(*frames.shape[2:])
    grid = xr.Dataset(coords=grid_coordinates(frames)).reset_coords()
    in_blocks = grid.coarsen({d: block for d in ("y", "x") if d in grid.dims}, boundary="pad").mean()
    numeric = {name: values for name, values in in_blocks.items() if set(values.dims) <= {"y", "x"} and values.ndim}
    return maps.assign_coords(numeric).assign_attrs(block_width=block, units=units)


def choose_examples(
    ends: NDArray[np.intp],
    activity: NDArray[np.float64],
    lead_seconds: NDArray[np.float64],
    time_step: float,
    case_scores: pd.DataFrame,
    thresholds: Sequence[float],
    *,
    units: str,
    method: str = METHODS[0],
) -> dict[int, str]:
    """Return the cases to show, in order of time, with the reason for each.

    `ends` is the index of the start frame of each case, and `time_step` the seconds between frames.
    The best and the worst are by the main score of one method at the main lead time. The others are the most active
    ones that do not overlap with a chosen case. The activity of a case is the mean of its absolute observed values.
    """
    threshold = main_threshold(thresholds, units, rain=units == RAIN_RATE)
    lead = main_lead_time(lead_seconds / 60.0)
    rows = case_scores[(case_scores["method"] == method) & np.isclose(case_scores["lead_time"], lead)]
    if threshold is None:
        rows, score = rows[rows["threshold"].isna()], "rmse"
        distance = rows["rmse"].to_numpy(np.float64)
    else:
        rows, score = rows[np.isclose(rows["threshold"], threshold)], "csi"
        enough = rows["hits"] + rows["misses"] >= MIN_EVENT_SHARE * rows["pixels"]
        distance = 1.0 - rows["csi"].where(enough).to_numpy(np.float64)
    reasons: dict[int, str] = {}
    if np.isfinite(distance).sum() > 1:
        reasons[int(np.nanargmin(distance))] = f"best {score.upper()}"
        reasons.setdefault(int(np.nanargmax(distance)), f"worst {score.upper()}")
    steps = round(lead_seconds[-1] / time_step)  # lead times may be several frames apart
    for n in np.argsort(-activity, kind="stable"):
        if len(reasons) == EXAMPLES:
            break
        if all(abs(ends[n] - ends[m]) > steps for m in reasons):
            reasons[int(n)] = "among the most active"
    return dict(sorted(reasons.items()))


def grid_coordinates(frames: Frames) -> dict[str, xr.DataArray]:
    """Return the coordinates of the grid on dimensions y and x, which orient the maps."""
    names = {frames.y_dim: "y", frames.x_dim: "x"}
    grid = frames.grid.rename({old: new for old, new in names.items() if old in frames.grid.dims})
    return {str(name): grid[name] for name in grid.coords}


def without_inflow(
    flow: Field, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]
) -> Field:
    """Return the optical flow of a case (lead_time, height, width) for maps; the inputs are those of `optical_flow`.

    It is missing where it brings in what is outside the data. The scores take the nearest value there, so that all
    methods are scored on the same cells.
    """
    return np.where(inflow(inputs, input_seconds, lead_seconds), np.float32(np.nan), flow)


def example_cases(cases: Cases, shown: Mapping[int, str]) -> xr.Dataset:
    """Return the cases to show by number, with their inputs, for the maps of the report."""
    numbers, frames = list(shown), cases.frames
    grid, leads, inputs = frames.shape[2:], len(cases.lead_seconds), len(cases.input_minutes)
    fields = {
        "forecast": np.empty((len(cases.names), len(shown), leads, *grid), np.float32),
        "observation": np.empty((len(shown), leads, *grid), np.float32),
        "inputs": np.empty((len(shown), inputs, *grid), np.float32),
    }
    maps = xr.Dataset()
    for place, number in enumerate(numbers):
        example = cases.example(number)  # one at a time, to limit the memory
        fields["forecast"][:, place] = example.forecast
        fields["observation"][place], fields["inputs"][place] = example.observation, example.inputs
        if place == 0:
            maps = example.probability_maps
    return xr.Dataset(
        {
            "forecast": (("method", "case", "lead_time", "y", "x"), fields["forecast"]),
            "observation": (("case", "lead_time", "y", "x"), fields["observation"]),
            "inputs": (("case", "input_time", "y", "x"), fields["inputs"]),
            **maps.data_vars,
        },
        coords={
            "method": list(cases.names),
            "init_time": ("case", cases.starts.values[numbers]),
            "reason": ("case", list(shown.values())),
            "lead_time": cases.lead_seconds / 60.0,
            "input_time": cases.input_minutes,
            **grid_coordinates(frames),
            **maps.coords,
        },
        attrs={
            "units": frames.channels[0].units,
            "variable": cases.variable,
            "attribution": attribution(frames),
        },
    )
