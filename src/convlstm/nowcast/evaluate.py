"""Score a model, persistence and optical flow on the same cases of unseen days."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from convlstm import __version__
from convlstm.data import Frames
from convlstm.data.spacing import grid_spacing
from convlstm.errors import ConfigError
from convlstm.nowcast.evaluation_cases import (
    SMALLEST_RAIN,
    Selection,
    choose_cases,
    choose_days,
    choose_events,
    training_days,
)
from convlstm.nowcast.evaluation_details import listed_days, title
from convlstm.nowcast.evaluation_ensembles import (
    EnsembleForecast,
    Ensembles,
    MemberForecast,
    model_members,
    with_members,
)
from convlstm.nowcast.evaluation_forecasts import FieldForecast, Methods
from convlstm.nowcast.evaluation_output import check_output, run_evaluation
from convlstm.nowcast.evaluation_statistics import Scoring
from convlstm.nowcast.evaluation_work import Work
from convlstm.nowcast.forecast_files import ForecastFiles
from convlstm.nowcast.members import check_members
from convlstm.nowcast.model_cases import ModelCases
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification.evaluation_folder import METHODS
from convlstm.verification.lead_times import lead_unit
from convlstm.weights.canonical import parameter_count

_MEANINGS = {"optical flow": "extrapolation along the optical flow of the input frames"}
"""Longer names of methods in the facts of a report."""


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
    check_output(folder, overwrite=overwrite)
    grid = (frames.shape[2], frames.shape[3])
    wanted = selection.thresholds or nowcaster.pipeline.thresholds
    thresholds = choose_events(wanted, selection.fss_window, grid, rain=nowcaster.pipeline.rain)
    mask, chosen_days = choose_days(nowcaster, frames, selection)
    ends = choose_cases(nowcaster, frames, mask, selection, {name: file.starts for name, file in files.items()})
    _check_compared(nowcaster, frames, others or {}, {**(rivals or {}), **(ensembles or {})})
    _check_names([*(others or {}), *(rivals or {}), *(ensembles or {}), *files])
    compared = dict(ensembles or {})
    if members:
        spacing = grid_spacing(frames.grid, frames.y_dim, frames.x_dim)
        compared[METHODS[0]] = with_members(make_members or model_members(nowcaster, spacing), members)
    methods = _methods(nowcaster, thresholds, others or {}, rivals or {}, compared, files)
    methods.check_memory(grid)
    cases = ModelCases(methods, frames, ends)
    description = {
        "title": title(frames, chosen_days),
        "rain": nowcaster.pipeline.rain,
        "facts": _facts(cases, selection, chosen_days) | dict(facts or {}),
        "training_days": training_days(nowcaster, chosen_days),
        "patch_size": nowcaster.spec.patch_size,
        "training": list(training),
    }
    work = Work(cases, Scoring(tuple(thresholds), selection.fss_window, nowcaster.spec.patch_size, grid), folder)
    return run_evaluation(work, description, overwrite=overwrite, workers=workers, threads=threads, on_case=on_case)


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


def _facts(cases: ModelCases, selection: Selection, days: list[str]) -> dict[str, str]:
    """Return the entries on the run for the report."""
    nowcaster = cases.methods.nowcaster
    pipeline, stack = nowcaster.pipeline, nowcaster.spec.encoder
    step = pipeline.time_step / 60.0
    widths = ", ".join(str(n) for n in stack.hidden_channels)
    wet = f", with rain on at least {selection.min_wet:.0%} of the cells at the start" if pipeline.rain else ""
    step_text = lead_unit([step]).words(step)
    return {
        "Model": f"encoder–forecaster, ConvLSTM layers of {widths} channels, "
        f"{parameter_count(nowcaster.spec):,} parameters",
        "Task": f"{pipeline.input_length} frames in, {pipeline.horizon} frames out, {step_text} apart",
        "Trained on": listed_days(pipeline.days.get("train", [])),
        "Chosen on": listed_days(pipeline.days.get("validation", [])),
        "Evaluated on": listed_days(days),
        "Cases": f"{len(cases.ends)} forecasts, spread evenly over these days{wet}",
        "Cases shown": "the best, the worst, and the most active ones that do not overlap",
        "Compared with": "; ".join(_MEANINGS.get(method, method) for method in cases.names[1:]),
        "Run with": f"convlstm {__version__}, {nowcaster.trainer.description}, Python {platform.python_version()}",
        "Weights": nowcaster.model.digest[:16],
    }
