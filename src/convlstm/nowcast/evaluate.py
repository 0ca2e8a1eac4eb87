"""Scoring a model on days it has not seen, against persistence and optical flow, on the same cases."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm import __version__
from convlstm.contract.weights import parameter_count
from convlstm.data import Frames, find_windows, windows_within
from convlstm.errors import ConfigError, DataError
from convlstm.files import check_writable, write_whole
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.forecast import lead_seconds, write_netcdf
from convlstm.nowcast.predict import Nowcaster
from convlstm.verification import score_forecasts
from convlstm.verification.lead_times import lead_unit

METHODS = ("convlstm", "optical flow", "persistence")
FILES = ("scores.csv", "cases.nc", "evaluation.json")
_BATCH = 4
_EXAMPLES = 4
_MAX_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Selection:
    """Which forecasts are judged.

    Args:
        days: Dates to evaluate on; empty takes the model's held-back days, or all days of data that has none of them.
        max_cases: Most forecasts, spread evenly over what is there.
        min_wet: Smallest share of cells with at least 0.1 mm/h in the last input frame, which is known when the
            forecast is made; for rain only.
        thresholds: Events to score; empty takes the model's.
        fss_window: Side of the window of the fractions skill score in cells.
    """

    days: tuple[str, ...] = ()
    max_cases: int = 48
    min_wet: float = 0.05
    thresholds: tuple[float, ...] = ()
    fss_window: int = 10


@dataclass(frozen=True, eq=False)
class Cases:
    """Forecasts of every method beside what came, in physical units.

    Args:
        ends: Number of the last input frame of each case.
        lead_seconds: Seconds from there to each forecast frame.
        forecast: (method, case, lead_time, height, width), float32.
        observation: (case, lead_time, height, width).
    """

    ends: NDArray[np.intp]
    lead_seconds: NDArray[np.float64]
    forecast: NDArray[np.float32]
    observation: NDArray[np.float32]


def evaluate(
    nowcaster: Nowcaster,
    frames: Frames,
    output: str | Path,
    selection: Selection | None = None,
    *,
    training: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Forecast every chosen case by every method, score, and write `scores.csv`, `cases.nc`, `evaluation.json`.

    Args:
        nowcaster: The model.
        frames: The observed sequence.
        output: Folder for the three files.
        selection: Which forecasts are judged.
        training: Lines of the training log, for the report.
        facts: Further lines of what was run, for the report.
        tell: Called with the number of cases done and in all.

    Returns:
        The scores, one row per method, lead time, score and threshold. The first variable is scored.

    Raises:
        DataError: if the data does not fit the model or holds no case.
        OutputError: if the folder cannot be written.
    """
    folder, selection = Path(output), selection or Selection()
    nowcaster.pipeline.check(frames)
    for name in FILES:
        check_writable(folder / name, folder=False)
    mask, chosen_days = _days(nowcaster, frames, selection)
    ends = choose_cases(nowcaster, frames, mask, selection)
    cases = _run(nowcaster, frames, ends, tell)
    thresholds = selection.thresholds or nowcaster.pipeline.thresholds
    scores = score_forecasts(*_arrays(frames, cases), thresholds=thresholds, fss_window=selection.fss_window)
    summary = {
        "title": _title(nowcaster, chosen_days),
        "units": frames.channels[0].units,
        "variable": nowcaster.pipeline.variables[0],
        "rain": nowcaster.pipeline.rain,
        "facts": _facts(nowcaster, selection, cases, chosen_days) | dict(facts or {}),
        "attribution": attribution(frames),
        "methods": list(METHODS),
        "thresholds": list(thresholds),
        "fss_window": selection.fss_window,
        "training": list(training),
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    write_whole(folder / "scores.csv", lambda draft: scores.to_csv(draft, index=False))
    write_netcdf(folder / "cases.nc", _examples(nowcaster, frames, cases))
    write_whole(folder / "evaluation.json", lambda draft: draft.write_text(text, encoding="utf-8"))
    return scores


def choose_cases(
    nowcaster: Nowcaster, frames: Frames, mask: NDArray[np.bool_], selection: Selection
) -> NDArray[np.intp]:
    """Return the last input frame of each case: whole windows in the days, wet enough, spread evenly.

    Raises:
        DataError: if no window is there, or none is wet enough.
    """
    pipeline = nowcaster.pipeline
    before, ahead, step = pipeline.input_length, pipeline.horizon, pipeline.time_step
    inputs = find_windows(frames.seconds, before, time_step=step, max_gap=pipeline.max_gap) + before - 1
    targets = find_windows(frames.seconds, ahead + 1, time_step=step)
    ends = np.intersect1d(inputs, targets)
    ends = windows_within(ends - before + 1, before + ahead, mask) + before - 1
    if not len(ends):
        raise DataError(
            "evaluation days",
            expected=f"at least one run of {before} + {ahead} frames without a gap",
            received="none",
            mend="choose another --day.",
        )
    if pipeline.rain and selection.min_wet > 0:
        wet = np.array([np.mean(frames.read(slice(e, e + 1))[0, 0] >= 0.1) for e in ends])
        if not (wet >= selection.min_wet).any():
            raise DataError(
                "evaluation days",
                expected=f"a frame with rain on {selection.min_wet:.0%} of the cells",
                received=f"at most {wet.max():.1%}",
                mend="choose another --day, or lower --min-wet.",
            )
        ends = ends[wet >= selection.min_wet]
    count = min(len(ends), selection.max_cases)
    chosen: NDArray[np.intp] = ends[np.linspace(0, len(ends) - 1, count).astype(int)]
    return chosen


def attribution(frames: Frames) -> str:
    """Return who the data comes from, as the file says."""
    wanted = ("attribution", "institution", "source", "license", "licence")
    return "; ".join(dict.fromkeys(frames.attrs[name] for name in wanted if name in frames.attrs))


def _days(nowcaster: Nowcaster, frames: Frames, selection: Selection) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the frames of the days to evaluate on, and those days."""
    day_of_frame = frames.time.dt.strftime("%Y-%m-%d").values.astype(str)
    there = sorted(set(day_of_frame.tolist()))
    unknown = [day for day in selection.days if day not in there]
    if unknown:
        raise DataError(
            "--day", expected=f"days from {there[0]} to {there[-1]}", received=unknown[0], mend="choose among them."
        )
    held_back = [day for day in nowcaster.pipeline.days.get("test", []) if day in there]
    seen = {day for name in ("train", "validation") for day in nowcaster.pipeline.days.get(name, [])}
    days = list(selection.days) or held_back or [day for day in there if day not in seen]
    if not days:
        raise DataError(
            "evaluation days",
            expected="days that the model was not trained on",
            received="none in this data",
            mend="give other data, or name --day to score on seen days on purpose.",
        )
    return np.isin(day_of_frame, days), days


def _run(nowcaster: Nowcaster, frames: Frames, ends: NDArray[np.intp], tell: Callable[[int, int], None]) -> Cases:
    pipeline = nowcaster.pipeline
    leads = lead_seconds(nowcaster)
    shape = (len(ends), len(leads), *frames.shape[2:])
    size = 4 * (len(METHODS) + 1) * int(np.prod(shape))
    if size > _MAX_BYTES:
        raise ConfigError(
            "--max-cases",
            expected=f"forecasts of at most {_MAX_BYTES / 2**30:.0f} GiB in all",
            received=f"{size / 2**30:.1f} GiB for {len(ends)} cases",
            mend="lower it.",
        )
    forecast, observation = np.empty((len(METHODS), *shape), np.float32), np.empty(shape, np.float32)
    for first in range(0, len(ends), _BATCH):
        part = ends[first : first + _BATCH]
        windows = [slice(end - pipeline.input_length + 1, end + 1) for end in part]
        inputs = np.stack([frames.read(window) for window in windows])
        seconds = np.stack([frames.seconds[window] for window in windows])
        forecast[0, first : first + len(part)] = nowcaster.predict(inputs, seconds, leads)[:, :, 0]
        for n, end in enumerate(part):
            one = inputs[n, :, :1]
            forecast[1, first + n] = optical_flow(one, seconds[n], leads)[:, 0]
            forecast[2, first + n] = persistence(one, leads)[:, 0]
            observation[first + n] = frames.read(slice(end + 1, end + 1 + len(leads)))[:, 0]
        tell(first + len(part), len(ends))
    return Cases(ends, leads, forecast, observation)


def _arrays(frames: Frames, cases: Cases) -> tuple[xr.DataArray, xr.DataArray]:
    coords = {"init_time": cases.ends, "lead_time": cases.lead_seconds / 60.0}
    dims = ("init_time", "lead_time", "y", "x")
    observation = xr.DataArray(cases.observation, dims=dims, coords=coords)
    return xr.DataArray(cases.forecast, dims=("method", *dims), coords=coords | {"method": list(METHODS)}), observation


def _examples(nowcaster: Nowcaster, frames: Frames, cases: Cases) -> xr.Dataset:
    """Return the wettest cases that do not overlap, with their inputs, for the report's maps."""
    length = nowcaster.pipeline.input_length
    activity = np.nan_to_num(np.abs(cases.observation)).mean(axis=(1, 2, 3))
    chosen: list[int] = []
    for n in np.argsort(-activity, kind="stable"):
        if all(abs(cases.ends[n] - cases.ends[m]) > len(cases.lead_seconds) for m in chosen):
            chosen.append(int(n))
        if len(chosen) == _EXAMPLES:
            break
    chosen.sort()
    ends = cases.ends[chosen]
    inputs = np.stack([frames.read(slice(end - length + 1, end + 1))[:, 0] for end in ends])
    minutes = np.arange(1 - length, 1) * nowcaster.pipeline.time_step / 60.0
    return xr.Dataset(
        {
            "forecast": (("method", "case", "lead_time", "y", "x"), cases.forecast[:, chosen]),
            "observation": (("case", "lead_time", "y", "x"), cases.observation[chosen]),
            "inputs": (("case", "input_time", "y", "x"), inputs),
        },
        coords={
            "method": list(METHODS),
            "init_time": ("case", frames.time.values[ends]),
            "lead_time": cases.lead_seconds / 60.0,
            "input_time": minutes,
            **_spatial(frames),
        },
        attrs={
            "units": frames.channels[0].units,
            "variable": nowcaster.pipeline.variables[0],
            "attribution": attribution(frames),
        },
    )


def _title(nowcaster: Nowcaster, days: list[str]) -> str:
    name = nowcaster.pipeline.variables[0].replace("_", " ").capitalize()
    return f"{name}: forecasts for {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}"


def _spatial(frames: Frames) -> dict[str, xr.DataArray]:
    """Return the grid's coordinates on dimensions y and x, by which a map knows where north is."""
    names = {frames.y_dim: "y", frames.x_dim: "x"}
    grid = frames.grid.rename({old: new for old, new in names.items() if old in frames.grid.dims})
    return {str(name): grid[name] for name in grid.coords}


def _facts(nowcaster: Nowcaster, selection: Selection, cases: Cases, days: list[str]) -> dict[str, str]:
    """Return what was run, line by line, in words for the report."""
    pipeline, stack = nowcaster.pipeline, nowcaster.spec.encoder
    step = pipeline.time_step / 60.0
    widths = ", ".join(str(n) for n in stack.hidden_channels)
    wet = f", with rain on at least {selection.min_wet:.0%} of the cells at the start" if pipeline.rain else ""
    apart = lead_unit([step]).words(step)
    return {
        "Model": f"encoder–forecaster, ConvLSTM layers of {widths} channels, "
        f"{parameter_count(nowcaster.spec):,} parameters",
        "Task": f"{pipeline.input_length} frames in, {pipeline.horizon} frames out, {apart} apart",
        "Trained on": ", ".join(pipeline.days.get("train", [])),
        "Chosen on": ", ".join(pipeline.days.get("validation", [])),
        "Evaluated on": ", ".join(days),
        "Cases": f"{len(cases.ends)} forecasts, spread evenly over these days{wet}",
        "Cases shown": "the most active ones that do not overlap",
        "Rivals": "persistence; extrapolation along the optical flow of the input frames",
        "Run with": f"convlstm {__version__}, {nowcaster.trainer.description}, Python {platform.python_version()}",
        "Weights": nowcaster.model.digest[:16],
    }
