"""The example cases of an evaluation as a CF file."""

from __future__ import annotations

import xarray as xr

from convlstm.data.units import RAIN_RATE
from convlstm.nowcast.cf_encoding import DURATION_UNITS
from convlstm.nowcast.forecast_attributes import CONVENTIONS
from convlstm.verification.evaluation_folder import METHOD_DIM

_COORDINATES = {
    "method": {"long_name": "method of the forecast"},
    "probability_method": {"long_name": "method of the probability"},
    "init_time": {"standard_name": "forecast_reference_time", "long_name": "time of the last input frame"},
    "lead_time": {"standard_name": "forecast_period", "units": DURATION_UNITS},
    "input_time": {"long_name": "time of an input frame from the start of the forecast", "units": DURATION_UNITS},
    "probability_lead_time": {"long_name": "lead time of the maps of probabilities", "units": DURATION_UNITS},
}
_FIELDS = {"forecast": "forecast", "observation": "observation", "inputs": "observation up to the start"}


def cf_cases(cases: xr.Dataset) -> xr.Dataset:
    """Return the examples of an evaluation with CF attributes.

    The dimension `method` becomes `forecast_method`, because `.sel(method=...)` of xarray has another meaning.
    """
    units, variable = str(cases.attrs["units"]), str(cases.attrs["variable"])
    result = cases.copy()
    for name, attributes in _COORDINATES.items():
        if name in result.coords:
            result[name].attrs.update(attributes)
    for name, label in _FIELDS.items():
        result[name].attrs.update(units=units, long_name=f"{label} of {variable}")
        if units == RAIN_RATE:
            result[name].attrs["standard_name"] = "rainfall_rate"
    if "probability" in result:
        result["probability"].attrs.update(units="1", long_name=f"probability that {variable} reaches the threshold")
        result["threshold"].attrs.update(units=units, long_name=f"threshold of {variable}")
    title = f"Examples of forecasts of {variable}, with observations"
    return result.rename(method=METHOD_DIM).assign_attrs(Conventions=CONVENTIONS, title=title)
