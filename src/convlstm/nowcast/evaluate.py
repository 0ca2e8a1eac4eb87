"""Score a model, persistence and optical flow on the same cases of unseen days."""

from __future__ import annotations

import hashlib
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
from convlstm.nowcast.case_file import cf_cases
from convlstm.nowcast.cf_output import write_netcdf
from convlstm.nowcast.evaluation_cases import Selection, choose_cases, choose_days, choose_events, training_days
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
from convlstm.nowcast.evaluation_forecasts import FieldForecast, Methods
from convlstm.nowcast.evaluation_statistics import Scoring
from convlstm.nowcast.evaluation_tables import make_tables
from convlstm.nowcast.evaluation_work import UNFINISHED, Work
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
    workers: int = 1,
    threads: int | None = None,
    on_case: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Forecast the selected cases with every method, and write the files of an evaluation folder.

    The first variable is scored. The statistics of each finished case are kept in the folder `unfinished` until the
    end. A call with the same model, data and options continues an evaluation that was interrupted, and gives the same
    numbers as one without interruption. In memory is one case at a time.

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
        overwrite: Whether the folder may have an evaluation, or an unfinished one of other options, which is replaced.
        workers: Number of processes, with Dask, over which the cases are spread. A script that passes more than 1 needs
            `if __name__ == "__main__":`.
        threads: CPU threads of each process; None shares all among several processes. The numbers are those of one
            process with as many threads.
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
    compared = dict(ensembles or {})
    if members:
        compared[METHODS[0]] = with_members(make_members or model_members(nowcaster), members)
    methods = _methods(nowcaster, thresholds, others or {}, rivals or {}, compared, files)
    work, activity = _work(methods, frames, ends, thresholds, selection, folder)
    with work.begun(_identity(work, activity, files), overwrite=overwrite):
        work.run(workers=workers, threads=threads, on_case=on_case)
        statistics = work.statistics()
        tables = make_tables(statistics, frames.time[ends])
        description = {
            "title": _title(frames, chosen_days),
            "units": frames.channels[0].units,
            "variable": nowcaster.pipeline.variables[0],
            "long_name": quantity(frames),
            "rain": nowcaster.pipeline.rain,
            "facts": _facts(work, selection, chosen_days) | dict(facts or {}),
            "training_days": training_days(nowcaster, chosen_days),
            "attribution": attribution(frames),
            "methods": list(methods.names),
            "thresholds": thresholds,
            "fss_window": selection.fss_window,
            "patch_size": nowcaster.spec.patch_size,
            "training": list(training),
        }
        text = json.dumps(description, indent=1, ensure_ascii=False)
        for name, table in tables.items():
            write_atomic(folder / name, partial(table.to_csv, index=False))
        shown = choose_examples(
            ends, activity, methods.lead_seconds, tables[CASE_SCORES_FILE], thresholds, units=frames.channels[0].units
        )
        write_netcdf(folder / CASES_FILE, cf_cases(_examples(work, shown)))
        write_netcdf(folder / SCORE_MAPS_FILE, make_score_maps(frames, statistics.map_sums()))
        write_atomic(folder / DESCRIPTION_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    return tables[SCORES_FILE]


def _methods(
    nowcaster: Nowcaster,
    thresholds: Sequence[float],
    others: Mapping[str, Nowcaster],
    rivals: Mapping[str, FieldForecast],
    ensembles: Mapping[str, EnsembleForecast],
    files: Mapping[str, ForecastFiles],
) -> Methods:
    """Return the methods to compare; a file is a rival, or an ensemble if it has members."""
    fields: dict[str, FieldForecast] = {**rivals, **{name: file for name, file in files.items() if not file.members}}
    compared: dict[str, EnsembleForecast] = {
        **ensembles,
        **{name: file for name, file in files.items() if file.members},
    }
    scored = Ensembles(compared, ranked_from=SMALLEST_RAIN if nowcaster.pipeline.rain else None)
    # with the thresholds of the model, so that an ensemble is compared with its probabilities
    levels = tuple(sorted({*thresholds, *nowcaster.spec.thresholds}))
    return Methods({METHODS[0]: nowcaster, **others}, fields, scored, levels)


def _work(
    methods: Methods,
    frames: Frames,
    ends: NDArray[np.intp],
    thresholds: Sequence[float],
    selection: Selection,
    folder: Path,
) -> tuple[Work, NDArray[np.float64]]:
    """Return the work on the cases, and the mean of the absolute observed values of each."""
    leads = methods.lead_seconds
    grid = (frames.shape[2], frames.shape[3])
    methods.check_memory(grid)
    targets = (frames.read(slice(end + 1, end + 1 + len(leads)))[:, 0] for end in ends.tolist())
    activity = np.array([np.nan_to_num(np.abs(observed)).mean() for observed in targets], np.float64)
    work = Work(
        methods,
        frames,
        ends,
        Scoring(tuple(thresholds), selection.fss_window, methods.nowcaster.spec.patch_size, grid),
        map_lead=int(np.abs(leads / 60.0 - _MAP_LEAD).argmin()),
        folder=folder / UNFINISHED,
    )
    return work, activity


def _identity(work: Work, activity: NDArray[np.float64], files: Mapping[str, ForecastFiles]) -> dict[str, Any]:
    """Return what decides the numbers of an evaluation, as JSON values; functions are known by their names only."""
    methods, frames = work.methods, work.frames
    seen = b"".join(array.tobytes() for array in (frames.seconds, work.ends, activity))
    return {
        "version": __version__,
        "model": {name: model.model.digest for name, model in methods.models.items()},
        "framework": {name: model.trainer.description for name, model in methods.models.items()},
        "methods": list(methods.names),
        "members": {name: int(getattr(made, "members", 0)) for name, made in methods.ensembles.forecasts.items()},
        "forecasts": {name: file.identity() for name, file in files.items()},
        "thresholds": [list(work.scoring.thresholds), list(methods.thresholds)],
        "fss_window": work.scoring.fss_window,
        "cases": work.ends.tolist(),
        "data": [list(frames.variables), frames.units, list(frames.shape), hashlib.sha256(seen).hexdigest()],
    }


def check_new_evaluation(folder: Path) -> None:
    """Raise an error for a folder that has an evaluation."""
    if (folder / DESCRIPTION_FILE).exists():
        raise OutputError(
            str(folder),
            expected="a folder without an evaluation",
            received=DESCRIPTION_FILE,
            hint="Choose another `--output`, or replace it with `--overwrite`.",
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


def _examples(work: Work, shown: Mapping[int, str]) -> xr.Dataset:
    """Return the cases to show by number, with their inputs, for the report's maps."""
    methods, frames = work.methods, work.frames
    nowcaster = methods.nowcaster
    length = nowcaster.pipeline.input_length
    ends = work.ends[list(shown)]
    leads = len(methods.lead_seconds)
    forecast = np.empty((len(methods.names), len(ends), leads, *work.scoring.grid), np.float32)
    observation = np.empty(forecast.shape[1:], np.float32)
    inputs = np.stack([frames.read(slice(end - length + 1, end + 1))[:, 0] for end in ends])
    never_observed = np.asarray(np.isnan(inputs).all(axis=1))
    maps = xr.Dataset()
    flow = methods.names.index("optical flow")
    for place, number in enumerate(shown):
        fields = work.fields(number)  # of one case at a time, to limit the memory
        forecast[:, place], observation[place] = fields["forecast"], fields["observation"]
        forecast[:, place, :, never_observed[place]] = np.nan
        forecast[flow, place] = without_inflow(methods, frames, int(ends[place]), forecast[flow, place])
        if place == 0:
            maps = _probability_maps(work, fields, never_observed[0])
    minutes = np.arange(1 - length, 1) * nowcaster.pipeline.time_step / 60.0
    return xr.Dataset(
        {
            "forecast": (("method", "case", "lead_time", "y", "x"), forecast),
            "observation": (("case", "lead_time", "y", "x"), observation),
            "inputs": (("case", "input_time", "y", "x"), inputs),
            **maps.data_vars,
        },
        coords={
            "method": list(methods.names),
            "init_time": ("case", frames.time.values[ends]),
            "reason": ("case", list(shown.values())),
            "lead_time": methods.lead_seconds / 60.0,
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


def _probability_maps(work: Work, fields: Mapping[str, NDArray[Any]], never_observed: NDArray[np.bool_]) -> xr.Dataset:
    """Return the probabilities of every method that has some, of one case near half an hour; empty without any.

    `probability` is (probability_method, threshold, y, x), NaN where a method does not have a threshold, and in
    cells that were never observed (y, x).
    """
    methods = work.methods
    thresholds_of = {
        name: methods.models[name].spec.thresholds if name in methods.models else methods.thresholds
        for name in methods.names
        if f"probability.{name}" in fields
    }
    levels = sorted({float(t) for thresholds in thresholds_of.values() for t in thresholds})
    thresholds = [t for t in levels if not methods.nowcaster.pipeline.rain or t >= _LOWEST_MAPPED] or levels
    if not thresholds:
        return xr.Dataset()
    maps = np.full((len(thresholds_of), len(thresholds), *work.scoring.grid), np.nan, np.float32)
    for row, (name, of_method) in zip(maps, thresholds_of.items(), strict=True):
        for place, threshold in enumerate(thresholds):
            if threshold in of_method:
                row[place] = fields[f"probability.{name}"][of_method.index(threshold)]
    maps[..., never_observed] = np.nan
    return xr.Dataset(
        {"probability": (("probability_method", "threshold", "y", "x"), maps)},
        coords={
            "probability_method": list(thresholds_of),
            "threshold": thresholds,
            "probability_lead_time": methods.lead_seconds[work.map_lead] / 60.0,
        },
    )


def _title(frames: Frames, days: list[str]) -> str:
    name = quantity(frames)
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{name[0].upper()}{name[1:]}: forecasts for {period}"


def _facts(work: Work, selection: Selection, days: list[str]) -> dict[str, str]:
    """Return the entries on the run for the report."""
    nowcaster = work.methods.nowcaster
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
        "Cases": f"{len(work.ends)} forecasts, spread evenly over these days{wet}",
        "Cases shown": "the best, the worst, and the most active ones that do not overlap",
        "Compared with": "; ".join(_MEANINGS.get(method, method) for method in work.methods.names[1:]),
        "Run with": f"convlstm {__version__}, {nowcaster.trainer.description}, Python {platform.python_version()}",
        "Weights": nowcaster.model.digest[:16],
    }


def _listed(days: list[str]) -> str:
    if len(days) <= _MOST_LISTED:
        return ", ".join(days)
    return f"{len(days)} days from {min(days)} to {max(days)}"
