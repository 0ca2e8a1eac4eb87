"""The calls of pysteps with their settings, on rain rates in mm/h. pysteps is loaded on the first call."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import DependencyError, install

Fields = NDArray[np.float64]
Times = int | list[float]
"""Lead times in time steps, as pysteps takes them: a count of whole steps, or a list."""
Method = Callable[[Fields, Fields, Times], Fields]
"""A method on frames (time, height, width), motion (2, height, width) in cells per step, and lead times."""

RAIN = 0.1
"""Lowest rain rate in mm/h that counts as rain in S-PROG and STEPS, -10 dBR."""

DRY = -15.0
"""Value in dBR of cells without rain."""

LEVELS = 6
"""Number of levels of the cascades in S-PROG, ANVIL and STEPS."""


@contextmanager
def quiet() -> Iterator[None]:
    """Load pysteps, and hide what it prints, its warnings, and its changes to NumPy's global random state."""
    state = np.random.get_state()
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            require_pysteps()
            yield
        finally:
            np.random.set_state(state)


def require_pysteps() -> None:
    """Load pysteps and OpenCV, or raise a `DependencyError`."""
    try:
        import cv2  # noqa: F401 (pysteps itself reports a missing OpenCV late)
        import pysteps  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "pysteps",
            expected="pysteps and OpenCV installed",
            received=f"no module {error.name!r}",
            hint=f"Run: {install('pysteps')}.",
        ) from error


def extrapolate(frames: Fields, motion: Fields, times: Times) -> Fields:
    """Return the latest frame moved along the motion."""
    return _nowcast("extrapolation")(frames[-1], motion, times)


def run_sprog(frames: Fields, motion: Fields, times: Times) -> Fields:
    """Return the forecast of S-PROG."""
    forecast = _nowcast("sprog")
    return _rain_rate(
        forecast(decibel(frames), motion, times, n_cascade_levels=LEVELS, precip_thr=decibel(np.array(RAIN)))
    )


def run_anvil(frames: Fields, motion: Fields, times: Times) -> Fields:
    """Return the forecast of ANVIL."""
    return _nowcast("anvil")(frames, motion, times, n_cascade_levels=LEVELS, ar_order=2)


def run_linda(frames: Fields, motion: Fields, times: Times) -> Fields:
    """Return the forecast of LINDA-D, or the extrapolation of a frame without features."""
    from pysteps.feature import get_method

    features = get_method("blob")(np.nan_to_num(frames[-1]), max_num_features=25)
    if len(features) == 0:
        return extrapolate(frames, motion, times)
    return _nowcast("linda")(frames, motion, times, max_num_features=25, add_perturbations=False)


def run_lagrangian(frames: Fields, motion: Fields, times: Times, *, threshold: float, slope: float) -> Fields:
    """Return the share of cells at or above the threshold around each extrapolated cell."""
    listed = [float(time) for time in range(1, times + 1)] if isinstance(times, int) else times
    return _nowcast("lagrangian_probability")(frames[-1], motion, listed, threshold, slope=slope)


def run_steps(
    frames: Fields, motion: Fields, times: Times, *, members: int, seed: int, cell_km: float, minutes: float
) -> Fields:
    """Return the rain rates of the members (member, lead_time, height, width)."""
    from pysteps.utils.check_norain import check_norain

    logarithmic, threshold = decibel(frames), float(decibel(np.array(RAIN)))
    # The noise has the spectrum of the tapered frames, which is undefined with rain along the edge alone.
    if any(check_norain(frame, threshold, 0.0, "tukey") for frame in logarithmic):
        return extrapolate(frames, motion, times)[None]
    return _rain_rate(
        _nowcast("steps")(
            logarithmic,
            motion,
            times,
            n_ens_members=members,
            n_cascade_levels=LEVELS,
            precip_thr=threshold,
            kmperpixel=cell_km,
            timestep=minutes,
            noise_method="nonparametric",
            vel_pert_method="bps",
            vel_pert_kwargs={"p_par": [2.3197, 0.33734, -2.6497], "p_perp": [1.9077, 0.33447, -2.0660]},
            mask_method="incremental",
            extrap_kwargs={"interp_order": 3},
            seed=seed,
        )
    )


def _nowcast(name: str) -> Callable[..., Fields]:
    from pysteps.nowcasts import get_method

    method: Callable[..., Fields] = get_method(name)
    return method


def decibel(rates: Fields) -> Fields:
    """Return rain rates in dBR, with `DRY` below `RAIN` and NaN where missing."""
    values = np.where(rates >= RAIN, 10.0 * np.log10(np.maximum(rates, RAIN)), DRY)
    return np.where(np.isfinite(rates), values, np.nan)


def _rain_rate(values: Fields) -> Fields:
    """Return rain rates in mm/h from dBR, 0 below `RAIN`."""
    rates = np.power(10.0, values / 10.0)
    rates[rates < RAIN * (1.0 - 1e-6)] = 0.0
    return rates
