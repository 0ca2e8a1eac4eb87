"""Forecasts of exceedance probabilities by pysteps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import DataError
from convlstm.nowcast.motion import Array, Numbers
from convlstm.nowcast.rivals.cases import MOTION_FRAMES, checked, compute_fields, with_lead_zero
from convlstm.nowcast.rivals.methods import Fields, Times, extrapolate, run_lagrangian, run_steps
from convlstm.verification.ensembles import member_share


def steps_members(
    inputs: Array,
    input_seconds: Numbers,
    lead_seconds: Numbers,
    *,
    members: int = 24,
    seed: int = 0,
    cell_km: float = 1.0,
) -> NDArray[np.float32]:
    """Forecast an ensemble by STEPS.

    Arguments and errors are those of `lk_extrapolation`, for one channel. A member is NaN where the perturbed motion
    leaves it without a value.

    Args:
        inputs: Rain rates in mm/h (time, 1, height, width), NaN where missing; at least 3 frames.
        input_seconds: Times of the frames in seconds; the last three are evenly spaced.
        lead_seconds: Lead times in seconds from the last frame, at least 0 and increasing.
        members: Number of ensemble members, at least 2.
        seed: Seed of the perturbations; the same seed gives the same forecast.
        cell_km: Size of a cell in km.

    Returns:
        Rain rates in mm/h (lead_time, member, height, width).

    Example:
        `ensemble = steps_members(rain, [0, 300, 600], [300, 600], members=24)`
    """
    if members < 2:
        raise DataError("members", expected="at least 2", received=members, hint="Pass 24 or more for probabilities.")
    if not (np.isfinite(cell_km) and cell_km > 0):
        raise DataError("cell_km", expected="a positive size", received=cell_km, hint="Pass the size of a cell in km.")
    frames, leads, step = checked(inputs, input_seconds, lead_seconds, MOTION_FRAMES, channels=1)

    def method(frames: Fields, motion: Fields, times: Times) -> Fields:
        ensemble = run_steps(frames, motion, times, members=members, seed=seed, cell_km=cell_km, minutes=step / 60.0)
        by_lead = np.moveaxis(ensemble, 0, 1)
        # one member, the extrapolation, where STEPS cannot be computed
        return np.repeat(by_lead, members // by_lead.shape[1], axis=1)

    def fallback(frames: Fields, motion: Fields, times: Times) -> Fields:
        return _repeated(extrapolate(frames, motion, times), members)

    fields = compute_fields(frames[:, 0], leads, method, fallback)
    return with_lead_zero(fields, leads, _repeated(frames[-1:, 0], members))


def steps_exceedance(
    inputs: Array,
    input_seconds: Numbers,
    lead_seconds: Numbers,
    thresholds: Numbers,
    *,
    members: int = 24,
    seed: int = 0,
    cell_km: float = 1.0,
) -> NDArray[np.float32]:
    """Forecast the probability of each threshold as the share of STEPS members at or above it.

    The perturbed motion leaves a cell without a value in some members: the share is over the others, and NaN without
    any.

    Args:
        inputs: As in `steps_members`, as are the times and the last three arguments.
        input_seconds: Times of the frames in seconds.
        lead_seconds: Lead times in seconds from the last frame.
        thresholds: Rain rates in mm/h, positive. Those below 0.1 give the probability of 0.1 mm/h.
        members: Number of ensemble members.
        seed: Seed of the perturbations.
        cell_km: Size of a cell in km.

    Returns:
        Probabilities (lead_time, threshold, height, width) from 0 to 1.

    Example:
        `probability = steps_exceedance(rain, [0, 300, 600], [300, 600], [1.0, 5.0], members=48)`
    """
    limits = _thresholds(thresholds)
    ensemble = steps_members(inputs, input_seconds, lead_seconds, members=members, seed=seed, cell_km=cell_km)
    return member_share(ensemble.swapaxes(0, 1), limits.tolist())  # in the precision of the members


def lagrangian_probability(
    inputs: Array,
    input_seconds: Numbers,
    lead_seconds: Numbers,
    thresholds: Numbers,
    *,
    slope: float = 5.0,
) -> NDArray[np.float32]:
    """Forecast the probability of each threshold as the share of cells at or above it around the extrapolated cell.

    The method is that of Germann and Zawadzki (2004). Arguments and errors are those of `lk_extrapolation`, for one
    channel.

    Args:
        inputs: Rain rates in mm/h (time, 1, height, width), NaN where missing; at least 3 frames.
        input_seconds: Times of the frames in seconds; the last three are evenly spaced.
        lead_seconds: Lead times in seconds from the last frame, at least 0 and increasing.
        thresholds: Rain rates in mm/h, positive.
        slope: Growth of the neighbourhood's diameter in cells per time step.

    Returns:
        Probabilities (lead_time, threshold, height, width) from 0 to 1, NaN where the method has no value.

    Example:
        `probability = lagrangian_probability(rain, [0, 300, 600], [300, 600], [1.0, 5.0])`
    """
    if not (np.isfinite(slope) and slope >= 0):
        raise DataError("slope", expected="at least 0", received=slope, hint="Pass 5 for cells of 1 km and 5 minutes.")
    limits = _thresholds(thresholds)
    frames, leads, _ = checked(inputs, input_seconds, lead_seconds, MOTION_FRAMES, channels=1)

    def method(frames: Fields, motion: Fields, times: Times) -> Fields:
        shares = [run_lagrangian(frames, motion, times, threshold=limit, slope=slope) for limit in limits]
        return np.stack(shares, axis=1)

    fields = compute_fields(frames[:, 0], leads, method, method)
    return with_lead_zero(fields, leads, _exceeds(frames[-1:, 0], limits))


def _repeated(fields: Fields, members: int) -> Fields:
    """Return fields (lead_time, height, width) as those of equal members (lead_time, member, height, width)."""
    return np.repeat(fields[:, None], members, axis=1)


def _exceeds(fields: Fields, limits: Fields) -> Fields:
    """Return 1 at or above each limit, else 0, NaN where missing: (lead_time, threshold, height, width)."""
    missing = ~np.isfinite(fields)
    return np.stack([np.where(missing, np.nan, fields >= limit) for limit in limits], axis=1)


def _thresholds(values: Numbers) -> Fields:
    limits = np.asarray(values, np.float64)
    if limits.ndim == 1 and limits.size > 0 and np.isfinite(limits).all() and (limits > 0).all():
        return limits
    raise DataError(
        "thresholds",
        expected="a list of positive rain rates in mm/h",
        received=str(limits.tolist()),
        hint="Pass for example [0.1, 1.0, 5.0].",
    )
