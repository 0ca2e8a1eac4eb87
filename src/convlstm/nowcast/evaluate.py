"""Score a model, persistence and optical flow on the same cases of unseen days."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from convlstm import __version__
from convlstm.data import Frames
from convlstm.errors import ConfigError
from convlstm.files import check_writable, write_atomic
from convlstm.nowcast.cf_output import write_netcdf
from convlstm.nowcast.evaluation_cases import (
    Cases,
    FieldForecast,
    Selection,
    choose_cases,
    choose_days,
    choose_events,
    run_cases,
)
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification.differences import difference_table
from convlstm.verification.evaluation_folder import (
    CASES_FILE,
    DESCRIPTION_FILE,
    DIFFERENCES_FILE,
    FILES,
    FINE_SCALES_FILE,
    FSS_FILE,
    METHODS,
    RELIABILITY_FILE,
    SCORES_FILE,
    SPECTRA_FILE,
)
from convlstm.verification.lead_times import lead_unit
from convlstm.verification.probabilities import reliability_table
from convlstm.verification.scorecard import case_sums, fss_table, score_table
from convlstm.verification.spectra import spectrum_tables
from convlstm.weights.canonical import parameter_count

_MEANINGS = {"optical flow": "extrapolation along the optical flow of the input frames"}
"""Longer names of methods in the facts of a report."""

_EXAMPLES = 4
_MOST_LISTED = 12


def evaluate(
    nowcaster: Nowcaster,
    frames: Frames,
    output: str | Path,
    selection: Selection | None = None,
    *,
    training: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    others: Mapping[str, Nowcaster] | None = None,
    rivals: Mapping[str, FieldForecast] | None = None,
    on_case: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Forecast the selected cases with every method, and write the files of an evaluation folder.

    The first variable is scored. `training` and `facts` are lines of the training log and further entries for the
    report; `others` and `rivals` are further models and forecasts to compare with, by name. `on_case` receives the
    number of finished cases and of all cases. Returns one row per method, lead time, score and threshold.
    """
    folder, selection = Path(output), selection or Selection()
    nowcaster.pipeline.check(frames)
    for name in FILES:
        check_writable(folder / name, folder=False)
    thresholds = choose_events(nowcaster, frames, selection)
    mask, chosen_days = choose_days(nowcaster, frames, selection)
    ends = choose_cases(nowcaster, frames, mask, selection)
    _check_compared(nowcaster, frames, others or {}, rivals or {})
    cases = run_cases({METHODS[0]: nowcaster, **(others or {})}, frames, ends, on_case, rivals)
    tables = _score(nowcaster, frames, cases, thresholds, selection.fss_window)
    description = {
        "title": _title(nowcaster, chosen_days),
        "units": frames.channels[0].units,
        "variable": nowcaster.pipeline.variables[0],
        "rain": nowcaster.pipeline.rain,
        "facts": _facts(nowcaster, selection, cases, chosen_days) | dict(facts or {}),
        "attribution": attribution(frames),
        "methods": list(cases.methods),
        "thresholds": thresholds,
        "fss_window": selection.fss_window,
        "patch_size": nowcaster.spec.patch_size,
        "training": list(training),
    }
    text = json.dumps(description, indent=1, ensure_ascii=False)
    for name, table in tables.items():
        write_atomic(folder / name, partial(table.to_csv, index=False))
    write_netcdf(folder / CASES_FILE, _examples(nowcaster, frames, cases))
    write_atomic(folder / DESCRIPTION_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    return tables[SCORES_FILE]


def _check_compared(
    nowcaster: Nowcaster, frames: Frames, others: Mapping[str, Nowcaster], rivals: Mapping[str, FieldForecast]
) -> None:
    """Raise an error for a further model whose windows do not fit, and for rivals of anything but rain."""
    longest = nowcaster.pipeline.input_length
    for name, other in others.items():
        other.pipeline.check(frames)
        if other.pipeline.input_length > longest:
            raise ConfigError(
                name,
                expected=f"at most {longest} input frames, as the first model has",
                received=other.pipeline.input_length,
                hint="Pass the model with more input frames first.",
            )
    if rivals and not nowcaster.pipeline.rain:
        raise ConfigError(
            "--rival",
            expected="rain in mm/h, which the rivals are made for",
            received=nowcaster.pipeline.units,
            hint="Leave `--rival` out.",
        )


def attribution(frames: Frames) -> str:
    """Return the source of the data from the attributes of the file."""
    names = ("attribution", "institution", "source", "license", "licence")
    return "; ".join(dict.fromkeys(frames.attrs[name] for name in names if name in frames.attrs))


def _score(
    nowcaster: Nowcaster, frames: Frames, cases: Cases, thresholds: Sequence[float], fss_window: int
) -> dict[str, pd.DataFrame]:
    """Return the tables of the evaluation folder by file name."""
    coords = {"init_time": cases.ends, "lead_time": cases.lead_seconds / 60.0}
    dims = ("init_time", "lead_time", "y", "x")
    observation = xr.DataArray(cases.observation, dims=dims, coords=coords)
    forecast = xr.DataArray(cases.forecast, dims=("method", *dims), coords=coords | {"method": list(cases.methods)})
    probabilities, means = {}, {}
    for method, given in cases.probabilities.items():
        probability_coords = coords | {"threshold": list(given.thresholds)}
        probability_dims = ("init_time", "lead_time", "threshold", "y", "x")
        probabilities[method] = xr.DataArray(given.values, dims=probability_dims, coords=probability_coords)
        means[method] = xr.DataArray(given.means, dims=dims, coords=coords)
    last_frame = np.stack([frames.read(slice(end, end + 1))[0, 0] for end in cases.ends])
    sums = case_sums(
        forecast, observation, thresholds=thresholds, fss_window=fss_window, probabilities=probabilities, means=means
    )
    spectra, fine_scales = spectrum_tables(
        forecast,
        observation,
        xr.DataArray(last_frame, dims=("init_time", "y", "x")),
        patch_size=nowcaster.spec.patch_size,
    )
    return {
        SCORES_FILE: score_table(sums),
        DIFFERENCES_FILE: difference_table(sums, METHODS[0]),
        FSS_FILE: fss_table(sums),
        SPECTRA_FILE: spectra,
        FINE_SCALES_FILE: fine_scales,
        RELIABILITY_FILE: reliability_table(probabilities, observation),
    }


def _examples(nowcaster: Nowcaster, frames: Frames, cases: Cases) -> xr.Dataset:
    """Return the wettest cases that do not overlap, with their inputs, for the report's maps."""
    length, chosen = nowcaster.pipeline.input_length, _wettest(cases)
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
            "method": list(cases.methods),
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


def _wettest(cases: Cases) -> list[int]:
    activity = np.nan_to_num(np.abs(cases.observation)).mean(axis=(1, 2, 3))
    chosen: list[int] = []
    for n in np.argsort(-activity, kind="stable"):
        if all(abs(cases.ends[n] - cases.ends[m]) > len(cases.lead_seconds) for m in chosen):
            chosen.append(int(n))
        if len(chosen) == _EXAMPLES:
            break
    return sorted(chosen)


def _title(nowcaster: Nowcaster, days: list[str]) -> str:
    name = nowcaster.pipeline.variables[0].replace("_", " ").capitalize()
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{name}: forecasts for {period}"


def _spatial(frames: Frames) -> dict[str, xr.DataArray]:
    """Return the coordinates of the grid on dimensions y and x, which orient the maps."""
    names = {frames.y_dim: "y", frames.x_dim: "x"}
    grid = frames.grid.rename({old: new for old, new in names.items() if old in frames.grid.dims})
    return {str(name): grid[name] for name in grid.coords}


def _facts(nowcaster: Nowcaster, selection: Selection, cases: Cases, days: list[str]) -> dict[str, str]:
    """Return the entries on the run for the report."""
    pipeline, stack = nowcaster.pipeline, nowcaster.spec.encoder
    step = pipeline.time_step / 60.0
    widths = ", ".join(str(n) for n in stack.hidden_channels)
    wet = f", with rain on at least {selection.min_wet:.0%} of the cells at the start" if pipeline.rain else ""
    step_text = lead_unit([step]).words(step)
    return {
        "Model": f"encoder–forecaster, ConvLSTM layers of {widths} channels, "
        f"{parameter_count(nowcaster.spec):,} parameters",
        "Task": f"{pipeline.input_length} frames in, {pipeline.horizon} frames out, {step_text} apart",
        "Trained on": _listed(pipeline.days.get("train", [])),
        "Chosen on": _listed(pipeline.days.get("validation", [])),
        "Evaluated on": _listed(days),
        "Cases": f"{len(cases.ends)} forecasts, spread evenly over these days{wet}",
        "Cases shown": "the most active ones that do not overlap",
        "Compared with": "; ".join(_MEANINGS.get(method, method) for method in cases.methods[1:]),
        "Run with": f"convlstm {__version__}, {nowcaster.trainer.description}, Python {platform.python_version()}",
        "Weights": nowcaster.model.digest[:16],
    }


def _listed(days: list[str]) -> str:
    if len(days) <= _MOST_LISTED:
        return ", ".join(days)
    return f"{len(days)} days from {min(days)} to {max(days)}"
