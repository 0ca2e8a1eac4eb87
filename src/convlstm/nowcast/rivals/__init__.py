"""Forecasts by pysteps, as strong baselines: four of rain rates, two of exceedance probabilities.

The inputs are rain rates in mm/h (time, channel, height, width), NaN where missing. The latest frames of a method must
be evenly spaced. A forecast is NaN where the method has no value: in gaps, and where air enters from outside the grid.
`docs/rivals.md` lists the settings, and the result for dry, constant or missing frames.
"""

from convlstm.nowcast.rivals.fields import anvil, linda, lk_extrapolation, sprog
from convlstm.nowcast.rivals.probabilities import lagrangian_probability, steps_exceedance

__all__ = ["anvil", "lagrangian_probability", "linda", "lk_extrapolation", "sprog", "steps_exceedance"]
