"""Forecasts by pysteps, as strong baselines: four of rain rates, two of probabilities, and one ensemble.

The inputs are rain rates in mm/h (time, channel, height, width), NaN where missing. The latest frames of a method must
be evenly spaced. A forecast is NaN where the method has no value: in gaps, and where air enters from outside the grid.
`docs/rivals.md` lists the settings, and the result for dry, constant or missing frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.data.units import Field
from convlstm.errors import ConfigError
from convlstm.nowcast.evaluation_ensembles import EnsembleForecast
from convlstm.nowcast.evaluation_forecasts import FieldForecast
from convlstm.nowcast.rivals.fields import anvil, linda, lk_extrapolation, sprog
from convlstm.nowcast.rivals.methods import require_pysteps
from convlstm.nowcast.rivals.probabilities import lagrangian_probability, steps_exceedance, steps_members

__all__ = [
    "anvil",
    "choose_ensembles",
    "choose_rivals",
    "lagrangian_probability",
    "linda",
    "lk_extrapolation",
    "sprog",
    "steps_exceedance",
    "steps_members",
]

LABELS = {"lk": "LK extrapolation", "sprog": "S-PROG", "anvil": "ANVIL", "linda": "LINDA-D"}
"""Names of the rivals of rain rates in reports, by their names in options."""

ENSEMBLE_LABELS = {"steps": "STEPS"}
"""Names of the rivals with ensembles in reports, by their names in options."""

_MEMBERS = 24

_FORECASTS: dict[str, FieldForecast] = {"lk": lk_extrapolation, "sprog": sprog, "anvil": anvil, "linda": linda}


@dataclass(frozen=True)
class _Steps:
    """The ensemble of STEPS, with a seed for each start."""

    members: int
    cell_km: float

    def __call__(self, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]) -> Field:
        seed = abs(round(float(input_seconds[-1]))) % 2**32
        by_lead = steps_members(
            inputs, input_seconds, lead_seconds, members=self.members, seed=seed, cell_km=self.cell_km
        )
        return by_lead.swapaxes(0, 1)


def choose_rivals(names: Sequence[str]) -> dict[str, FieldForecast]:
    """Return the forecasts of rivals by their labels; those with ensembles are left out.

    Args:
        names: Of lk, sprog, anvil, linda and steps.

    Returns:
        Functions with the arguments and the result of `optical_flow`.

    Raises:
        ConfigError: for an unknown name.
        DependencyError: if pysteps or OpenCV is not installed.

    Example:
        `list(choose_rivals(["sprog"]))` is `["S-PROG"]`.
    """
    for name in names:
        if name not in LABELS and name not in ENSEMBLE_LABELS:
            raise ConfigError(
                "--rival",
                expected=f"one of {', '.join([*LABELS, *ENSEMBLE_LABELS])}",
                received=repr(name),
                hint="Pass one of these. Repeat the option for more.",
            )
    if names:
        require_pysteps()
    return {LABELS[name]: _FORECASTS[name] for name in dict.fromkeys(names) if name in LABELS}


def choose_ensembles(
    names: Sequence[str], *, members: int = _MEMBERS, cell_km: float = 1.0
) -> dict[str, EnsembleForecast]:
    """Return the ensembles among rivals by their labels; names and errors as in `choose_rivals`.

    Each start has a seed of its own. `cell_km` is the size of a cell in km.

    Example:
        `list(choose_ensembles(["sprog", "steps"]))` is `["STEPS"]`.
    """
    choose_rivals(names)  # raises the errors
    forecasts = {"steps": _Steps(members, cell_km)}
    return {ENSEMBLE_LABELS[name]: forecasts[name] for name in dict.fromkeys(names) if name in forecasts}
