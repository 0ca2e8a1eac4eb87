"""Score forecasts that any tool made against observations, as an evaluation folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm import __version__
from convlstm.data import Frames
from convlstm.data.units import RAIN_RATE
from convlstm.errors import ConfigError, DataError
from convlstm.files import check_writable, write_atomic
from convlstm.nowcast.baselines import inflow, optical_flow, persistence
from convlstm.nowcast.case_file import cf_cases
from convlstm.nowcast.cf_output import write_netcdf
from convlstm.nowcast.evaluate import SMALLEST_RAIN, attribution, check_new_evaluation
from convlstm.nowcast.evaluation_cases import check_rain_thresholds
from convlstm.nowcast.evaluation_details import (
    choose_examples,
    grid_coordinates,
    make_score_maps,
    part_tables,
    quantity,
)
from convlstm.nowcast.evaluation_work import UNFINISHED
from convlstm.nowcast.folder_lock import check_unlocked
from convlstm.nowcast.pipeline import choose_thresholds
from convlstm.nowcast.verified_cases import VerifiedCases, choose_leads, choose_starts
from convlstm.nowcast.verified_forecasts import ForecastSource, open_source
from convlstm.verification import evaluation_folder as folder_files
from convlstm.verification.decisions import cut_table, event_decisions, probability_decisions, roc_table, value_table
from convlstm.verification.differences import difference_table
from convlstm.verification.ensembles import case_ensemble_sums, ensemble_table, join_cases, member_share, rank_table
from convlstm.verification.probabilities import PROBABILITY_DIMS, reliability_table
from convlstm.verification.score_maps import block_sums, block_width
from convlstm.verification.scorecard import case_sums, fss_table, score_table
from convlstm.verification.spectra import spectrum_tables

DIMS = ("init_time", "lead_time", "y", "x")
INPUTS = 3
"""Observed frames up to the start, for the baselines."""

_MAX_BYTES = 6 * 2**30


@dataclass(frozen=True)
class VerifyOptions:
    """The selection of the forecasts to score."""

    lead_minutes: tuple[float, ...] = ()  # empty: all lead times that every file has
    days: tuple[str, ...] = ()  # of the starts; empty: all
    max_cases: int = 48  # spread evenly over the starts
    min_wet: float = 0.0  # minimum share of cells with 0.1 mm/h in the frame of the start; rain only
    thresholds: tuple[float, ...] = ()  # empty: those of `choose_thresholds`
    fss_window: int = 10


@dataclass(frozen=True, eq=False)
class VerifyResult:
    """The result of `verify`."""

    scores: pd.DataFrame  # as `evaluate` returns
    thresholds: list[float]
    cases: int
    found: int  # starts that all files have
    has_baselines: bool


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
    and optical flow are added if the observations have three frames up to each start.

    Args:
        forecasts: Paths by the name of the method, the main one first; as in `open_source`.
        frames: The observations.
        output: The folder to write.
        options: The selection; None takes the defaults.
        facts: Further entries of the report.
        overwrite: Whether the folder may have an evaluation, which is replaced.
        on_case: Receives the number of finished cases and of all cases.

    Returns:
        Scores and numbers of cases.

    Raises:
        DataError: if a file cannot be read, or no start has observations at all lead times.
        ConfigError: for options that do not fit, and names that are those of the baselines.

    Example:
        `verify({"other": "other.nc"}, open_frames("radar.nc"), "evaluation").scores` has one row per method, lead time,
        score and threshold.
    """
    folder, options = Path(output), options or VerifyOptions()
    if not overwrite:
        check_new_evaluation(folder)
    check_unlocked(folder / UNFINISHED, "evaluation")
    for name in folder_files.FILES:
        check_writable(folder / name, folder=False)
    sources = {_checked_name(name): open_source(path, frames) for name, path in forecasts.items()}
    leads = choose_leads(sources, options.lead_minutes)
    thresholds = _thresholds(frames, options)
    chosen = choose_starts(sources, frames, leads, options, inputs=INPUTS)
    _check_memory(sources, chosen, frames, thresholds)
    cases = _run(sources, frames, chosen, thresholds, on_case)
    tables, maps = _tables(cases, frames, thresholds, options.fss_window)
    for name, table in tables.items():
        write_atomic(folder / name, partial(table.to_csv, index=False))
    write_netcdf(folder / folder_files.SCORE_MAPS_FILE, maps)
    shown = choose_examples(
        np.rint(chosen.starts / frames.time_step).astype(np.intp),
        np.nan_to_num(np.abs(cases.observation)).mean(axis=(1, 2, 3)),
        leads,
        tables[folder_files.CASE_SCORES_FILE],
        thresholds,
        units=frames.channels[0].units,
        method=cases.methods[0],
    )
    write_netcdf(folder / folder_files.CASES_FILE, cf_cases(_examples(cases, frames, shown)))
    description = _description(cases, frames, thresholds, options, sources) | {
        "facts": _facts(cases, sources) | dict(facts or {})
    }
    text = json.dumps(description, indent=1, ensure_ascii=False)
    write_atomic(folder / folder_files.DESCRIPTION_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    count = len(chosen.starts)
    return VerifyResult(tables[folder_files.SCORES_FILE], thresholds, count, chosen.found, chosen.has_inputs)


@dataclass(frozen=True, eq=False)
class _Scored:
    """Everything that is scored, in physical units, NaN where missing."""

    chosen: VerifiedCases
    methods: tuple[str, ...]
    forecast: NDArray[np.float32]  # (method, case, lead_time, height, width)
    observation: NDArray[np.float32]  # (case, lead_time, height, width), missing where any method is
    inputs: NDArray[np.float32]  # (case, input_time, height, width)
    means: dict[str, NDArray[np.float32]]  # by method (case, lead_time, height, width)
    probabilities: dict[str, NDArray[np.float16]]  # by method (case, lead_time, threshold, height, width)
    levels: dict[str, tuple[float, ...]]  # thresholds of the probabilities by method
    ensembles: dict[str, xr.Dataset]  # by method, as `ensemble_sums` returns


def _run(
    sources: Mapping[str, ForecastSource],
    frames: Frames,
    chosen: VerifiedCases,
    thresholds: Sequence[float],
    on_case: Callable[[int, int], None],
) -> _Scored:
    """Read the forecasts and observations of every case, and make the baselines."""
    leads, count = chosen.lead_seconds, len(chosen.starts)
    methods = (*sources, *(folder_files.BASELINES if chosen.has_inputs else ()))
    shape = (count, len(leads), *frames.shape[2:])
    forecast = np.empty((len(methods), *shape), np.float32)
    observation = np.empty(shape, np.float32)
    inputs = np.full((count, INPUTS, *shape[2:]), np.nan, np.float32)
    levels = {name: source.thresholds or tuple(thresholds) for name, source in sources.items()}
    levels = {name: each for name, each in levels.items() if sources[name].thresholds or sources[name].members}
    probabilities = {n: np.empty((*shape[:2], len(each), *shape[2:]), np.float16) for n, each in levels.items()}
    means = {name: np.empty(shape, np.float32) for name, s in sources.items() if s.means or s.members}
    sums: dict[str, list[xr.Dataset]] = {name: [] for name, source in sources.items() if source.members}
    ranked_from = SMALLEST_RAIN if frames.channels[0].units == RAIN_RATE else None
    for case, start in enumerate(chosen.starts):
        observed = frames.read(chosen.targets[case])[:, 0]
        members = {}
        for place, (name, source) in enumerate(sources.items()):
            made = source.read(float(start), leads)
            forecast[place, case] = made.field
            if name in means:
                means[name][case] = made.field if made.mean is None else made.mean
            if made.members is not None:
                members[name] = made.members
            if name in levels:
                probability = made.probability
                if probability is None and made.members is not None:
                    probability = member_share(made.members, levels[name])
                probabilities[name][case] = np.nan if probability is None else probability
        if chosen.has_inputs:
            window = chosen.inputs[case]
            values, seconds = frames.read(window)[:, :1], frames.seconds[window]
            inputs[case] = values[:, 0]
            forecast[-2, case] = optical_flow(values, seconds, leads)[:, 0]
            forecast[-1, case] = persistence(values, leads)[:, 0]
        known = np.isfinite(forecast[:, case]).all(axis=0)
        for values in members.values():
            known &= np.isfinite(values).all(axis=0)
        observation[case] = np.where(known, observed, np.nan)
        for name, values in members.items():
            truth, by_lead = observation[case], values.swapaxes(0, 1)
            sums[name].append(case_ensemble_sums(by_lead, truth, ranked_from=ranked_from, seed=(0, case)))
        on_case(case + 1, count)
    ensembles = {name: join_cases(cases, leads / 60.0) for name, cases in sums.items()}
    return _Scored(chosen, methods, forecast, observation, inputs, means, probabilities, levels, ensembles)


def _tables(
    cases: _Scored, frames: Frames, thresholds: Sequence[float], fss_window: int
) -> tuple[dict[str, pd.DataFrame], xr.Dataset]:
    """Return the tables of the evaluation folder by file name, and the maps of scores."""
    coords = {"init_time": np.arange(len(cases.chosen.starts)), "lead_time": cases.chosen.lead_seconds / 60.0}
    observation = xr.DataArray(cases.observation, dims=DIMS, coords=coords)
    forecast = xr.DataArray(cases.forecast, dims=("method", *DIMS), coords=coords | {"method": list(cases.methods)})
    probabilities = {
        name: xr.DataArray(values, dims=PROBABILITY_DIMS, coords=coords | {"threshold": list(cases.levels[name])})
        for name, values in cases.probabilities.items()
    }
    means = {name: xr.DataArray(values, dims=DIMS, coords=coords) for name, values in cases.means.items()}
    sums = case_sums(
        forecast, observation, thresholds=thresholds, fss_window=fss_window, probabilities=probabilities, means=means
    )
    last_frame = np.nan_to_num(cases.inputs[:, -1])  # without inputs, structures have no correlation with it
    spectra, fine_scales = spectrum_tables(
        forecast, observation, xr.DataArray(last_frame, dims=("init_time", "y", "x"))
    )
    decisions = []
    for name, probability in probabilities.items():
        members = cases.ensembles[name].sizes["rank"] - 1 if name in cases.ensembles else None
        decisions += probability_decisions(name, probability, observation, members=members)
    if decisions:
        decisions += event_decisions(sums, [method for method in cases.methods if method not in probabilities])
    block = block_width(*frames.shape[2:])
    in_blocks = block_sums(forecast, observation, thresholds=thresholds, block=block, means=means)
    tables = {
        folder_files.SCORES_FILE: score_table(sums),
        folder_files.DIFFERENCES_FILE: difference_table(sums, cases.methods[0]),
        folder_files.FSS_FILE: fss_table(sums),
        folder_files.SPECTRA_FILE: spectra,
        folder_files.FINE_SCALES_FILE: fine_scales,
        folder_files.RELIABILITY_FILE: reliability_table(probabilities, observation),
        folder_files.CUTS_FILE: cut_table(decisions),
        folder_files.ROC_FILE: roc_table(decisions),
        folder_files.VALUES_FILE: value_table(decisions),
        folder_files.ENSEMBLES_FILE: ensemble_table(cases.ensembles),
        folder_files.RANKS_FILE: rank_table(cases.ensembles),
        **part_tables(_start_times(cases, frames), sums),
    }
    return tables, make_score_maps(frames, in_blocks)


def _start_times(cases: _Scored, frames: Frames) -> xr.DataArray:
    """Return the times of the starts of the cases."""
    after = (cases.chosen.starts * 1000).round().astype("timedelta64[ms]")
    return xr.DataArray(frames.time.values[0] + after, dims="case")


def _examples(cases: _Scored, frames: Frames, shown: Mapping[int, str]) -> xr.Dataset:
    """Return the cases to show by number, with their inputs, for the maps of the report."""
    chosen = list(shown)
    forecast = cases.forecast[:, chosen]  # a copy
    if cases.chosen.has_inputs:
        for place, case in enumerate(chosen):
            window = cases.chosen.inputs[case]
            values, seconds = frames.read(window)[:, :1], frames.seconds[window]
            forecast[-2, place][inflow(values, seconds, cases.chosen.lead_seconds)] = np.nan
    starts = _start_times(cases, frames).values[chosen]
    minutes = np.arange(1 - INPUTS, 1) * frames.time_step / 60.0
    return xr.Dataset(
        {
            "forecast": (("method", "case", "lead_time", "y", "x"), forecast),
            "observation": (("case", "lead_time", "y", "x"), cases.observation[chosen]),
            "inputs": (("case", "input_time", "y", "x"), cases.inputs[chosen]),
        },
        coords={
            "method": list(cases.methods),
            "init_time": ("case", starts.astype("datetime64[ns]")),
            "reason": ("case", list(shown.values())),
            "lead_time": cases.chosen.lead_seconds / 60.0,
            "input_time": minutes,
            **grid_coordinates(frames),
        },
        attrs={
            "units": frames.channels[0].units,
            "variable": frames.variables[0],
            "attribution": attribution(frames),
        },
    )


def _description(
    cases: _Scored,
    frames: Frames,
    thresholds: list[float],
    options: VerifyOptions,
    sources: Mapping[str, ForecastSource],
) -> dict[str, object]:
    """Return the content of the description file, without the facts."""
    name, units = quantity(frames), frames.channels[0].units
    days = cases.chosen.days
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return {
        "title": f"{name[:1].upper()}{name[1:]}: forecasts by {', '.join(sources)} for {period}",
        "units": units,
        "variable": frames.variables[0],
        "long_name": name,
        "rain": units == RAIN_RATE,
        "attribution": attribution(frames),
        "methods": list(cases.methods),
        "thresholds": thresholds,
        "fss_window": options.fss_window,
    }


def _facts(cases: _Scored, sources: Mapping[str, ForecastSource]) -> dict[str, str]:
    """Return the entries on the verification for the report."""
    facts = {f"Forecasts {name}": str(source.path) for name, source in sources.items()}
    for name, source in sources.items():
        if source.members:
            facts[f"Members of {name}"] = str(source.members)
        if source.files is None:
            facts[f"Field of {name}"] = "the highest threshold with a probability of at least 0.5"
    days, chosen = cases.chosen.days, cases.chosen
    facts["Evaluated on"] = ", ".join(days) if len(days) <= 12 else f"{len(days)} days from {days[0]} to {days[-1]}"
    facts["Cases"] = f"{len(chosen.starts)} of {chosen.found} forecasts"
    if not chosen.has_inputs:
        facts["Compared with"] = "nothing: the observations lack frames before the start of some forecasts"
    return facts | {"Run with": f"convlstm {__version__}"}


def _thresholds(frames: Frames, options: VerifyOptions) -> list[float]:
    every = np.ones(len(frames.seconds), bool)
    thresholds = sorted(set(options.thresholds or choose_thresholds(frames, every)))
    if not np.isfinite(thresholds).all():
        raise ConfigError(
            "--threshold", expected="finite numbers", received=thresholds, hint="Remove NaN and infinity."
        )
    check_rain_thresholds(thresholds, rain=frames.channels[0].units == RAIN_RATE)
    side = min(frames.shape[2:])
    if not 1 <= options.fss_window <= side:
        raise ConfigError(
            "--fss-window",
            expected=f"1 to {side} cells, within the grid",
            received=options.fss_window,
            hint="Pass another `--fss-window`.",
        )
    return thresholds


def _checked_name(name: str) -> str:
    if name in folder_files.BASELINES:
        raise ConfigError(
            "name of the forecast",
            expected=f"another name than {' and '.join(folder_files.BASELINES)}, which are computed",
            received=repr(name),
            hint="Pass `--name`.",
        )
    return name


def _check_memory(
    sources: Mapping[str, ForecastSource], chosen: VerifiedCases, frames: Frames, thresholds: Sequence[float]
) -> None:
    """Raise an error if the forecasts of all cases and the members of one take too much memory."""
    fields = 4 * (len(sources) + 3)
    for source in sources.values():
        fields += 4 if source.means or source.members else 0
        fields += 2 * (len(source.thresholds) or (len(thresholds) if source.members else 0))
    cells = len(chosen.lead_seconds) * int(np.prod(frames.shape[2:]))
    size = fields * len(chosen.starts) * cells + 8 * cells * max(source.members for source in sources.values())
    if size > _MAX_BYTES:
        raise DataError(
            "--max-cases",
            expected=f"forecasts of at most {_MAX_BYTES / 2**30:.0f} GiB in all",
            received=f"{size / 2**30:.1f} GiB for {len(chosen.starts)} cases",
            hint="Decrease `--max-cases`, or pass fewer `--lead-times`.",
        )
