"""Score forecasts that any tool made against observations, as an evaluation folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from convlstm import __version__
from convlstm.data import Frames
from convlstm.data.units import RAIN_RATE
from convlstm.errors import ConfigError
from convlstm.nowcast.evaluation_cases import choose_events
from convlstm.nowcast.evaluation_details import listed_days, title
from convlstm.nowcast.evaluation_output import check_output, run_evaluation
from convlstm.nowcast.evaluation_statistics import Scoring
from convlstm.nowcast.evaluation_work import Work
from convlstm.nowcast.file_cases import FileCases
from convlstm.nowcast.pipeline import choose_thresholds
from convlstm.nowcast.verified_cases import (
    VerifyOptions,
    choose_leads,
    choose_starts,
    missing_leads,
    missing_leads_summary,
)
from convlstm.nowcast.verified_forecasts import open_source
from convlstm.verification.evaluation_folder import BASELINES

__all__ = ["VerifyOptions", "VerifyResult", "verify"]


@dataclass(frozen=True, eq=False)
class VerifyResult:
    """The result of `verify`."""

    scores: pd.DataFrame  # as `evaluate` returns
    thresholds: list[float]
    cases: int
    found: int  # starts in all files
    left_out: Mapping[str, int]  # starts that are not scored by cause, a key of `verified_cases.CAUSES`
    summary: str  # these numbers in words
    has_baselines: bool
    missing_leads: Mapping[float, Path]  # lead times in minutes that are left out, each with a file that lacks it
    missing_leads_summary: str  # these in words; empty without any


def verify(
    forecasts: Mapping[str, str | Path],
    frames: Frames,
    output: str | Path,
    options: VerifyOptions | None = None,
    *,
    facts: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_case: Callable[[int, int], None] = lambda done, of: None,
) -> VerifyResult:
    """Score forecasts against observations, and write the files of an evaluation folder.

    Forecasts of all methods are scored on the same starts, lead times and cells: those that every file has. Persistence
    and optical flow are added if the observations have three frames up to each start. In memory is one case at a time.
    A call with the same files and options continues one that was interrupted, as `evaluate` does.

    Args:
        forecasts: Paths by the name of the method, the main one first; as in `open_source`.
        frames: The observations.
        output: The folder to write.
        options: The selection; None takes the defaults.
        facts: Further entries of the report.
        overwrite: Whether the folder may have an evaluation, or an unfinished one of other options, which is replaced.
        on_case: Receives the number of finished cases and of all cases.

    Returns:
        Scores and numbers of cases.

    Raises:
        DataError: if a file cannot be read, no start has observations at all lead times, or no case has a cell that
            the observation, every forecast and every member have.
        ConfigError: for options that do not fit, and names that are those of the baselines.

    Example:
        `verify({"other": "other.nc"}, open_frames("radar.nc"), "evaluation").scores` has one row per method, lead time,
        score and threshold.
    """
    folder, options = Path(output), options or VerifyOptions()
    check_output(folder, overwrite=overwrite)
    sources = {_checked_name(name): open_source(path, frames) for name, path in forecasts.items()}
    leads = choose_leads(sources, options.lead_minutes)
    grid = (frames.shape[2], frames.shape[3])
    wanted = options.thresholds or choose_thresholds(frames, np.ones(len(frames.seconds), bool))
    thresholds = choose_events(wanted, options.fss_window, grid, rain=frames.channels[0].units == RAIN_RATE)
    chosen = choose_starts(sources, frames, leads, options)
    cases = FileCases(sources, frames, chosen, tuple(thresholds))
    cases.check_memory()
    cases = cases.with_common_cells()
    chosen, missing = cases.chosen, {} if options.lead_minutes else missing_leads(sources)
    description = {
        "title": title(frames, chosen.days(frames), tools=list(sources)),
        "rain": frames.channels[0].units == RAIN_RATE,
        "facts": _facts(cases, missing) | dict(facts or {}),
    }
    work = Work(cases, Scoring(tuple(thresholds), options.fss_window, patch_size=1, grid=grid), folder)
    scores = run_evaluation(work, description, overwrite=overwrite, on_case=on_case)
    return VerifyResult(
        scores=scores,
        thresholds=thresholds,
        cases=len(chosen.starts),
        found=chosen.found,
        left_out=chosen.left_out,
        summary=chosen.summary,
        has_baselines=chosen.has_inputs,
        missing_leads=missing,
        missing_leads_summary=missing_leads_summary(missing),
    )


def _facts(cases: FileCases, missing: Mapping[float, Path]) -> dict[str, str]:
    """Return the entries on the verification for the report."""
    facts = {f"Forecasts {name}": str(source.path) for name, source in cases.sources.items()}
    for name, source in cases.sources.items():
        if source.members:
            facts[f"Members of {name}"] = str(source.members)
        if source.files is None:
            facts[f"Field of {name}"] = "the highest threshold with a probability of at least 0.5"
    facts["Evaluated on"] = listed_days(cases.chosen.days(cases.frames))
    facts["Cases"] = cases.chosen.summary
    if missing:
        facts["Lead times"] = missing_leads_summary(missing)
    if not cases.chosen.has_inputs:
        facts["Compared with"] = "nothing: the observations lack frames before the start of some forecasts"
    return facts | {"Run with": f"convlstm {__version__}"}


def _checked_name(name: str) -> str:
    if name in BASELINES:
        raise ConfigError(
            "name of the forecast",
            expected=f"another name than {' and '.join(BASELINES)}, which are computed",
            received=repr(name),
            hint="Pass `--name`.",
        )
    return name
