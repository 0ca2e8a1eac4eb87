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
from numpy.typing import NDArray

from convlstm import __version__
from convlstm.data import Frames
from convlstm.errors import ConfigError, OutputError
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
    training_days,
)
from convlstm.nowcast.evaluation_details import (
    choose_examples,
    grid_coordinates,
    make_score_maps,
    quantity,
    without_inflow,
)
from convlstm.nowcast.evaluation_ensembles import (
    EnsembleForecast,
    Ensembles,
    MemberForecast,
    model_members,
    with_members,
)
from convlstm.nowcast.evaluation_tables import make_tables
from convlstm.nowcast.forecast_files import ForecastFiles
from convlstm.nowcast.members import check_members
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification.evaluation_folder import (
    CASE_SCORES_FILE,
    CASES_FILE,
    DESCRIPTION_FILE,
    FILES,
    METHODS,
    SCORE_MAPS_FILE,
    SCORES_FILE,
)
from convlstm.verification.lead_times import lead_unit
from convlstm.weights.canonical import parameter_count

_MEANINGS = {"optical flow": "extrapolation along the optical flow of the input frames"}
"""Longer names of methods in the facts of a report."""

SMALLEST_RAIN = 0.1
"""Rain rate in mm/h from which cells are ranked; lower values count as equal."""

_MAP_LEAD = 30.0  # minutes; the maps of probabilities are at the nearest lead time
_LOWEST_MAPPED = 1.0  # mm/h; lower thresholds have no maps of probabilities
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
    ensembles: Mapping[str, EnsembleForecast] | None = None,
    files: Mapping[str, ForecastFiles] | None = None,
    members: int = 0,
    make_members: MemberForecast | None = None,
    overwrite: bool = False,
    on_case: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Forecast the selected cases with every method, and write the files of an evaluation folder.

    The first variable is scored.

    Args:
        nowcaster: The model, whose lead times are scored.
        frames: The observations.
        output: The folder to write.
        selection: The cases and thresholds; None takes the defaults.
        training: Lines of the training log, for the report.
        facts: Further entries of the report.
        others: Further models to compare with, by name.
        rivals: Further forecasts of rain, by name.
        ensembles: Further forecasts of rain with members, by name.
        files: Forecasts of other tools, by name. Only cases with a forecast in each of them are scored.
        members: Number of members of the model's own ensemble; 0 for none.
        make_members: The function that makes them; None makes them as `convlstm forecast --members` does, with the time
            of the last input frame, in seconds from the first frame of the data, as seed.
        overwrite: Whether the folder may have an evaluation, which is replaced.
        on_case: Receives the number of finished cases and of all cases.

    Returns:
        One row per method, lead time, score and threshold.
    """
    folder, selection, files = Path(output), selection or Selection(), files or {}
    nowcaster.pipeline.check(frames)
    if members and make_members is None:
        check_members(nowcaster, members)
    if not overwrite:
        check_new_evaluation(folder)
    for name in FILES:
        check_writable(folder / name, folder=False)
    thresholds = choose_events(nowcaster, frames, selection)
    mask, chosen_days = choose_days(nowcaster, frames, selection)
    ends = choose_cases(nowcaster, frames, mask, selection, {name: file.starts for name, file in files.items()})
    _check_compared(nowcaster, frames, others or {}, {**(rivals or {}), **(ensembles or {})})
    _check_names([*(others or {}), *(rivals or {}), *(ensembles or {}), *files])
    fields: dict[str, FieldForecast] = dict(rivals or {})
    fields.update({name: file for name, file in files.items() if not file.members})
    compared: dict[str, EnsembleForecast] = dict(ensembles or {})
    compared.update({name: file for name, file in files.items() if file.members})
    if members:
        compared[METHODS[0]] = with_members(make_members or model_members(nowcaster), members)
    scored = Ensembles(compared, ranked_from=SMALLEST_RAIN if nowcaster.pipeline.rain else None)
    models = {METHODS[0]: nowcaster, **(others or {})}
    # with the thresholds of the model, so that an ensemble is compared with its probabilities
    levels = sorted({*thresholds, *nowcaster.spec.thresholds})
    cases = run_cases(models, frames, ends, on_case, fields, scored, levels)
    tables = make_tables(nowcaster, frames, cases, thresholds, selection.fss_window)
    description = {
        "title": _title(frames, chosen_days),
        "units": frames.channels[0].units,
        "variable": nowcaster.pipeline.variables[0],
        "long_name": quantity(frames),
        "rain": nowcaster.pipeline.rain,
        "facts": _facts(nowcaster, selection, cases, chosen_days) | dict(facts or {}),
        "training_days": training_days(nowcaster, chosen_days),
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
    shown = choose_examples(
        cases, tables[CASE_SCORES_FILE], thresholds, rain=nowcaster.pipeline.rain, units=frames.channels[0].units
    )
    write_netcdf(folder / CASES_FILE, _examples(nowcaster, frames, cases, shown))
    write_netcdf(folder / SCORE_MAPS_FILE, make_score_maps(frames, cases, thresholds))
    write_atomic(folder / DESCRIPTION_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    return tables[SCORES_FILE]


def check_new_evaluation(folder: Path) -> None:
    """Raise an error for a folder that has an evaluation."""
    if (folder / DESCRIPTION_FILE).exists():
        raise OutputError(
            str(folder),
            expected="a folder without an evaluation",
            received=DESCRIPTION_FILE,
            hint="Choose another `--output`, or replace it with `convlstm evaluate --overwrite`.",
        )


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


def _check_names(names: Sequence[str]) -> None:
    """Raise an error if two compared methods have one name, or one has that of the model or a baseline."""
    taken = [name for name in names if names.count(name) > 1 or name in METHODS]
    if taken:
        raise ConfigError(
            "names of the methods",
            expected=f"different names, none of {', '.join(METHODS)}",
            received=repr(taken[0]),
            hint="Choose another name.",
        )


def attribution(frames: Frames) -> str:
    """Return the source of the data from the attributes of the file."""
    names = ("attribution", "institution", "source", "license", "licence")
    return "; ".join(dict.fromkeys(frames.attrs[name] for name in names if name in frames.attrs))


def _examples(nowcaster: Nowcaster, frames: Frames, cases: Cases, shown: Mapping[int, str]) -> xr.Dataset:
    """Return the cases to show by number, with their inputs, for the report's maps."""
    length, chosen = nowcaster.pipeline.input_length, list(shown)
    ends = cases.ends[chosen]
    inputs = np.stack([frames.read(slice(end - length + 1, end + 1))[:, 0] for end in ends])
    never_observed = np.asarray(np.isnan(inputs).all(axis=1))[None, :, None]
    minutes = np.arange(1 - length, 1) * nowcaster.pipeline.time_step / 60.0
    maps = _probability_maps(cases, chosen[0], never_observed[0, 0, 0], rain=nowcaster.pipeline.rain)
    return xr.Dataset(
        {
            "forecast": (
                ("method", "case", "lead_time", "y", "x"),
                np.where(never_observed, np.float32(np.nan), without_inflow(nowcaster, frames, cases, chosen)),
            ),
            "observation": (("case", "lead_time", "y", "x"), cases.observation[chosen]),
            "inputs": (("case", "input_time", "y", "x"), inputs),
            **maps.data_vars,
        },
        coords={
            "method": list(cases.methods),
            "init_time": ("case", frames.time.values[ends]),
            "reason": ("case", list(shown.values())),
            "lead_time": cases.lead_seconds / 60.0,
            "input_time": minutes,
            **grid_coordinates(frames),
            **maps.coords,
        },
        attrs={
            "units": frames.channels[0].units,
            "variable": nowcaster.pipeline.variables[0],
            "attribution": attribution(frames),
        },
    )


def _probability_maps(cases: Cases, case: int, never_observed: NDArray[np.bool_], *, rain: bool) -> xr.Dataset:
    """Return the probabilities of every method that has some, of one case near half an hour; empty without any.

    `probability` is (probability_method, threshold, y, x), NaN where a method does not have a threshold, and in
    cells that were never observed (y, x).
    """
    levels = sorted({float(t) for source in cases.probabilities.values() for t in source.thresholds})
    thresholds = [t for t in levels if not rain or t >= _LOWEST_MAPPED] or levels
    if not thresholds:
        return xr.Dataset()
    lead = int(np.abs(cases.lead_seconds / 60.0 - _MAP_LEAD).argmin())
    maps = np.full((len(cases.probabilities), len(thresholds), *cases.observation.shape[2:]), np.nan, np.float32)
    for row, source in zip(maps, cases.probabilities.values(), strict=True):
        for place, threshold in enumerate(thresholds):
            if threshold in source.thresholds:
                row[place] = source.values[case, lead, source.thresholds.index(threshold)]
    maps[..., never_observed] = np.nan
    return xr.Dataset(
        {"probability": (("probability_method", "threshold", "y", "x"), maps)},
        coords={
            "probability_method": list(cases.probabilities),
            "threshold": thresholds,
            "probability_lead_time": cases.lead_seconds[lead] / 60.0,
        },
    )


def _title(frames: Frames, days: list[str]) -> str:
    name = quantity(frames)
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{name[0].upper()}{name[1:]}: forecasts for {period}"


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
        "Cases shown": "the best, the worst, and the most active ones that do not overlap",
        "Compared with": "; ".join(_MEANINGS.get(method, method) for method in cases.methods[1:]),
        "Run with": f"convlstm {__version__}, {nowcaster.trainer.description}, Python {platform.python_version()}",
        "Weights": nowcaster.model.digest[:16],
    }


def _listed(days: list[str]) -> str:
    if len(days) <= _MOST_LISTED:
        return ", ".join(days)
    return f"{len(days)} days from {min(days)} to {max(days)}"
