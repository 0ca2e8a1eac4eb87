"""Forecasts by pysteps, as strong baselines: four of rain rates, two of exceedance probabilities.

The inputs are rain rates in mm/h (time, channel, height, width), NaN where missing. The latest frames of a method must
be evenly spaced. A forecast is NaN where the method has no value: in gaps, and where air enters from outside the grid.
`docs/rivals.md` lists the settings, and the result for dry, constant or missing frames.
"""

from __future__ import annotations

from collections.abc import Sequence

from convlstm.errors import ConfigError
from convlstm.nowcast.evaluation_cases import FieldForecast
from convlstm.nowcast.rivals.fields import anvil, linda, lk_extrapolation, sprog
from convlstm.nowcast.rivals.methods import require_pysteps
from convlstm.nowcast.rivals.probabilities import lagrangian_probability, steps_exceedance, steps_members

__all__ = [
    "anvil",
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

_FORECASTS: dict[str, FieldForecast] = {"lk": lk_extrapolation, "sprog": sprog, "anvil": anvil, "linda": linda}


def choose_rivals(names: Sequence[str]) -> dict[str, FieldForecast]:
    """Return the forecasts of rivals by their labels.

    Args:
        names: Of lk, sprog, anvil and linda.

    Returns:
        Functions with the arguments and the result of `optical_flow`.

    Raises:
        ConfigError: for an unknown name.
        DependencyError: if pysteps or OpenCV is not installed.

    Example:
        `list(choose_rivals(["sprog"]))` is `["S-PROG"]`.
    """
    for name in names:
        if name not in LABELS:
            raise ConfigError(
                "--rival",
                expected=f"one of {', '.join(LABELS)}",
                received=repr(name),
                hint="Pass one of these. Repeat the option for more.",
            )
    if names:
        require_pysteps()
    return {LABELS[name]: _FORECASTS[name] for name in dict.fromkeys(names)}
