"""The cases of a verification: starts that all forecasts have, with the observed frames of their lead times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.units import RAIN_RATE
from convlstm.errors import DataError
from convlstm.nowcast.evaluation_cases import wet_share
from convlstm.nowcast.forecast_values import TOLERANCE, frame_dates, is_among, shared_times
from convlstm.nowcast.verified_forecasts import ForecastSource

INPUTS = 3
"""Observed frames up to the start, for the baselines."""

CAUSES = {
    "not_shared": "not in every forecast file",
    "other_days": "on other days",
    "unobserved": "without an observation at each lead time",
    "dry": "with too little rain observed at the start",
    "beyond_max_cases": "beyond `--max-cases`",
    "no_common_cell": "without a cell that the observation, every forecast and every member have",
}
"""Why starts are left out, in the order of the checks; each start counts for the first of its causes."""


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
class VerifiedCases:
    """The chosen starts and the frames that belong to them."""

    starts: NDArray[np.float64]  # seconds from the first frame
    lead_seconds: NDArray[np.float64]
    targets: NDArray[np.intp]  # frames at the lead times (case, lead_time)
    inputs: NDArray[np.intp]  # frames up to the start (case, input_time); only valid with `has_inputs`
    has_inputs: bool  # whether every start has these frames
    left_out: Mapping[str, int]  # number of starts by cause, a key of `CAUSES`; without those of no start

    def without(self, is_left_out: NDArray[np.bool_], cause: str) -> VerifiedCases:
        """Return the other starts, with those of a mask (case,) counted as left out for a cause."""
        kept = ~is_left_out
        left_out = {**self.left_out, cause: int(is_left_out.sum())}
        return replace(
            self,
            starts=self.starts[kept],
            targets=self.targets[kept],
            inputs=self.inputs[kept],
            left_out={name: count for name, count in left_out.items() if count},
        )

    @property
    def found(self) -> int:
        """The number of starts in all files."""
        return len(self.starts) + sum(self.left_out.values())

    @property
    def summary(self) -> str:
        """How many forecasts are scored, and why others are not."""
        causes = ", ".join(f"{count} {CAUSES[cause]}" for cause, count in self.left_out.items())
        return f"{len(self.starts)} of {self.found} forecasts scored" + (f"; left out: {causes}" if causes else "")

    def dates(self, frames: Frames) -> NDArray[np.datetime64]:
        """Return the time of each start (case,)."""
        return frame_dates(frames, self.starts)

    def days(self, frames: Frames) -> list[str]:
        """Return the days of the starts."""
        return sorted(set(_days(frames, self.starts)))


def choose_leads(sources: Mapping[str, ForecastSource], minutes: Sequence[float]) -> NDArray[np.float64]:
    """Return the lead times in seconds: those in `minutes`, or all that every source has."""
    shared = shared_times(*(source.lead_seconds for source in sources.values()))
    wanted = np.unique(np.array(minutes, np.float64) * 60.0)
    if not len(shared):
        raise DataError(
            "lead times",
            expected="lead times that every forecast has",
            received="none",
            hint="Pass forecasts with common lead times above 0.",
        )
    unknown = wanted[~is_among(shared, wanted)]
    if len(unknown):
        raise DataError(
            "--lead-times",
            expected=f"lead times that every forecast has: {_minutes(shared)}",
            received=_minutes(unknown),
            hint="Pass some of these.",
        )
    return wanted if len(wanted) else shared


def missing_leads(sources: Mapping[str, ForecastSource]) -> dict[float, Path]:
    """Return the lead times in minutes that some file lacks, each with the first file that lacks it."""
    layouts = [layout for source in sources.values() for layout in source.layouts]
    every = np.concatenate([layout.leads for layout in layouts])
    missing: dict[float, Path] = {}
    for lead in np.unique(np.rint(every[every > 0])):
        lacking = (layout.path for layout in layouts if not is_among(layout.leads, np.array([lead]))[0])
        first = next(lacking, None)
        if first is not None:
            missing[float(lead) / 60] = first
    return missing


def missing_leads_summary(missing: Mapping[float, Path]) -> str:
    """Return the lead times that are not scored, and the files that lack them, in words; empty without any."""
    by_file: dict[Path, list[float]] = {}
    for minutes, path in missing.items():
        by_file.setdefault(path, []).append(60 * minutes)
    parts = [f"{_minutes(np.array(leads))}, which {path} lacks" for path, leads in by_file.items()]
    return f"lead times left out: {'; '.join(parts)}" if parts else ""


def choose_starts(
    sources: Mapping[str, ForecastSource], frames: Frames, lead_seconds: NDArray[np.float64], options: VerifyOptions
) -> VerifiedCases:
    """Return the starts that every source has, with an observed frame at each lead time, spread evenly."""
    every = np.unique(np.concatenate([source.starts for source in sources.values()]))
    starts = shared_times(*(source.starts for source in sources.values()))
    if not len(starts):
        raise DataError(
            "forecasts", expected="a start that all have", received="none", hint="Pass forecasts of the same times."
        )
    left_out = {"not_shared": _count(every[~is_among(starts, every)])}
    is_chosen_day = _on_days(frames, starts, options.days)
    left_out["other_days"] = int((~is_chosen_day).sum())
    starts = starts[is_chosen_day]
    targets, is_known = _frames_at(frames, starts[:, None] + lead_seconds)
    is_observed = is_known.all(axis=1)
    if not is_observed.any():
        _raise_unobserved(frames, starts, lead_seconds, is_known)
    left_out["unobserved"] = int((~is_observed).sum())
    starts, targets = starts[is_observed], targets[is_observed]
    input_frames, has_input = _frames_at(frames, starts[:, None] + np.arange(1 - INPUTS, 1) * frames.time_step)
    place = np.arange(len(starts))
    if options.min_wet > 0 and frames.channels[0].units == RAIN_RATE:
        place = np.flatnonzero(_is_wet(frames, input_frames[:, -1], has_input[:, -1], options.min_wet))
        left_out["dry"] = len(starts) - len(place)
    chosen = place[np.linspace(0, len(place) - 1, min(len(place), options.max_cases)).astype(int)]
    left_out["beyond_max_cases"] = len(place) - len(chosen)
    return VerifiedCases(
        starts=starts[chosen],
        lead_seconds=lead_seconds,
        targets=targets[chosen],
        inputs=input_frames[chosen],
        has_inputs=bool(has_input[chosen].all()),
        left_out={cause: count for cause, count in left_out.items() if count},
    )


def _count(times: NDArray[np.float64]) -> int:
    """Return the number of different times, of which those within the tolerance of the one before count as equal."""
    return int((np.diff(times, prepend=-np.inf) > TOLERANCE).sum())


def _on_days(frames: Frames, starts: NDArray[np.float64], days: Sequence[str]) -> NDArray[np.bool_]:
    """Return for each start whether it is on one of the days; without days, all are."""
    of_start = _days(frames, starts)
    chosen: NDArray[np.bool_] = np.isin(of_start, days) if days else np.ones(len(starts), bool)
    if not chosen.any():
        raise DataError(
            "--day",
            expected=f"days of the starts, from {of_start[0]} to {of_start[-1]}",
            received=", ".join(days),
            hint="Choose days of this range.",
        )
    return chosen


def _frames_at(frames: Frames, seconds: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the nearest frame to each time, and whether it is at that time."""
    after = np.clip(np.searchsorted(frames.seconds, seconds), 1, len(frames.seconds) - 1)
    is_earlier = seconds - frames.seconds[after - 1] < frames.seconds[after] - seconds
    nearest = np.where(is_earlier, after - 1, after).astype(np.intp)
    return nearest, np.abs(frames.seconds[nearest] - seconds) <= TOLERANCE


def _is_wet(frames: Frames, last: NDArray[np.intp], is_known: NDArray[np.bool_], min_wet: float) -> NDArray[np.bool_]:
    """Return for each start whether its frame is known and has enough wet cells; none that has is an error."""
    shares = [wet_share(frames, int(frame)) if known else 0.0 for frame, known in zip(last, is_known, strict=True)]
    is_wet = np.array(shares) >= min_wet
    if not is_wet.any():
        raise DataError(
            "--min-wet",
            expected=f"a start with rain on {min_wet:.0%} of the cells",
            received=f"at most {max(shares):.1%}",
            hint="Decrease `--min-wet`.",
        )
    return is_wet


def _raise_unobserved(
    frames: Frames, starts: NDArray[np.float64], leads: NDArray[np.float64], is_known: NDArray[np.bool_]
) -> None:
    never = leads[~is_known.any(axis=0)]
    if len(never) and len(never) < len(leads):
        hint = f"Pass `--lead-times {_minutes(leads[is_known.any(axis=0)]).replace(' min', '').replace(' ', '')}`."
        received = f"none at {_minutes(never)}"
    else:
        first, last = (str(frames.time.values[n])[:16] for n in (0, -1))
        begin, end = (str(frame_dates(frames, starts[[n]])[0])[:16] for n in (0, -1))
        received = f"frames from {first} to {last} for forecasts that start from {begin} to {end}"
        hint = "Pass observations of these times."
    raise DataError("observations", expected="frames at all lead times of a start", received=received, hint=hint)


def _days(frames: Frames, seconds: NDArray[np.float64]) -> list[str]:
    return [str(date)[:10] for date in frame_dates(frames, seconds)]


def _minutes(seconds: NDArray[np.float64]) -> str:
    return ", ".join(f"{value / 60:g}" for value in seconds[:20]) + " min"
