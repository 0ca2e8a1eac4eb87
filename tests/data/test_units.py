"""Every accepted spelling comes to mm/h with a factor worked by hand, and nothing else does."""

import numpy as np
import pytest

from convlstm.data import dbz_to_mm_per_hour, mm_per_hour_to_dbz
from convlstm.data.units import find_conversion
from convlstm.errors import DataError


@pytest.mark.parametrize(
    ("units", "standard_name", "rate"),
    [
        # what one unit is in mm/h
        ("mm/h", "", 1),
        ("mm h-1", "rainfall_rate", 1),
        ("mm hr-1", "", 1),
        ("mm hr**-1", "", 1),
        ("mm.h^-1", "", 1),
        ("mm/hour", "", 1),
        ("MM/H", "", 1),
        ("kg m-2 h-1", "", 1),
        ("mm/day", "", 1 / 24),
        ("mm day-1", "lwe_precipitation_rate", 1 / 24),
        ("mm s-1", "", 3600),
        ("kg m-2 s-1", "rainfall_flux", 3600),
        ("kg m**-2 s**-1", "precipitation_flux", 3600),
        ("m s-1", "rainfall_rate", 3_600_000),
        ("mm/5min", "", 12),
        ("mm (5min)-1", "", 12),
        ("mm/(15 min)", "", 4),
        ("mm 10min-1", "", 6),
        ("kg m-2 (5min)-1", "", 12),
        ("mm/6 hours", "", 1 / 6),
        ("mm min-1", "", 60),
        ("kg/(m2 s)", "rainfall_flux", 3600),
        ("millimetres per day", "", 1 / 24),
        # sums over the five minutes of a step: twelve in an hour
        ("mm", "rainfall_amount", 12),
        ("kg m-2", "precipitation_amount", 12),
        ("m", "lwe_thickness_of_precipitation_amount", 12_000),
        ("mm", "lwe_thickness_of_stratiform_precipitation_amount", 12),
        ("m s-1", "lwe_convective_precipitation_rate", 3_600_000),
        ("kg m-2 s-1", "convective_rainfall_flux", 3600),
    ],
)
def test_rain_becomes_mm_per_hour(units, standard_name, rate):
    conversion = find_conversion("r", units, standard_name=standard_name)
    assert conversion.units == "mm/h"
    assert conversion.scale(time_step=300) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("variable", "units", "standard_name"),
    [
        ("u", "m s-1", "eastward_wind"),
        ("u", "m s-1", ""),
        ("evaporation", "kg m-2 s-1", "water_evapotranspiration_flux"),
        ("pwat", "kg m-2", "atmosphere_mass_content_of_water_vapor"),
        ("t", "K", "air_temperature"),
        ("b", "", ""),
        ("b", None, ""),
        ("rain_probability", "%", ""),
        ("terrain_height", "m", ""),
        ("drainage", "m s-1", ""),
        ("tp", "s", ""),
        ("a", "1", "number_of_days_with_lwe_thickness_of_precipitation_amount_above_threshold"),
        ("a", "W m-2", "temperature_flux_due_to_rainfall_expressed_as_heat_flux_into_sea_water"),
    ],
)
def test_anything_else_is_left_alone(variable, units, standard_name):
    conversion = find_conversion(variable, units, standard_name=standard_name)
    assert (conversion.units, conversion.scale(time_step=300)) == (units or "", 1)


def test_a_name_hints_at_rain_where_there_is_no_standard_name():
    assert find_conversion("tp", "m", long_name="Total precipitation").scale(3600) == 1000
    assert find_conversion("Rain", "mm", standard_name="unknown").scale(600) == 6
    assert find_conversion("rain_gauge_height", "m", standard_name="height").units == "m"


@pytest.mark.parametrize("name", ["rain", "RAINNC", "acc_rain", "totalRain", "totalprecip", "Precipitation"])
def test_rain_is_a_word_of_the_name(name):
    assert find_conversion(name, "m").scale(3600) == 1000


@pytest.mark.parametrize(
    ("variable", "long_name", "units"),
    [
        ("pwat", "Precipitable water", "kg m-2"),
        ("rwp", "Rain water path", "kg m-2"),
        ("depth", "Depth of rain water", "m"),
        ("qrain", "Rain water mixing ratio", "kg kg-1"),
        ("rain", "Probability of rain", "mm"),
    ],
)
def test_water_a_path_and_a_probability_are_asked_for(variable, long_name, units):
    with pytest.raises(DataError, match=rf"units of {variable}: expected a unit, name .*--rain"):
        find_conversion(variable, units, long_name=long_name)
    assert find_conversion(variable, units, long_name=long_name, rain=False).units == units


def test_a_water_equivalent_and_a_rate_of_rain_water_are_rain():
    assert find_conversion("a", "m", long_name="Precipitation, liquid water equivalent").scale(3600) == 1000
    assert find_conversion("a", "mm/h", long_name="Rain water flux").units == "mm/h"


@pytest.mark.parametrize(
    ("name", "units"), [("rr", "1/10 mm"), ("rr", "l m-2"), ("rr", "dBR"), ("tp", "m of water equivalent")]
)
def test_a_short_name_of_rain_in_an_unknown_unit_is_asked_for(name, units):
    with pytest.raises(DataError, match=rf"units of {name}: expected a unit of rain .*got '{units}'.*--no-rain"):
        find_conversion(name, units)


@pytest.mark.parametrize("name", ["rr", "RR5", "tp", "pr", "prcp"])
def test_short_names_of_rain_need_a_unit_of_rain(name):
    assert find_conversion(name, "kg m-2 s-1").scale(300) == 3600
    assert find_conversion(name, "hPa").units == "hPa"
    with pytest.raises(DataError, match=f"units of {name}: expected a unit of rain .*got none.*--units mm"):
        find_conversion(name, "")


@pytest.mark.parametrize("units", ["mm", "kg m-2", "kg m-2 s-1", "mm/0min", "mm/h-1", "mm/fortnight"])
def test_a_unit_of_rain_and_of_other_quantities_is_asked_for(units):
    with pytest.raises(DataError, match=r"units of a: expected a unit, name .* shows whether it is rain.*--no-rain"):
        find_conversion("a", units)
    assert find_conversion("a", units, rain=False).units == units


@pytest.mark.parametrize(("units", "rate"), [("mm", 12), ("m", 12_000), ("m s-1", 3_600_000), ("kg m-2 s-1", 3600)])
def test_the_caller_decides_what_is_rain(units, rate):
    assert find_conversion("a", units, rain=True).scale(300) == rate
    assert find_conversion("rain", units, rain=False).units == units
    with pytest.raises(DataError, match="units of a: expected a unit of rain"):
        find_conversion("a", "K", rain=True)


def test_a_length_that_the_caller_gives_is_asked_for():
    with pytest.raises(DataError, match="--rain"):
        find_conversion("a", "m", from_caller=True)
    assert find_conversion("a", "m s-1", from_caller=True).units == "m s-1"


def test_reflectivity_becomes_rain_if_the_caller_says_so():
    assert find_conversion("z", "dBZ", rain=True).units == "mm/h"
    assert find_conversion("z", "dBZ", rain=True).reflectivity


def test_the_caller_says_that_a_nameless_amount_is_rain():
    assert find_conversion("a", "mm", from_caller=True).scale(300) == 12
    assert find_conversion("a", "mm", standard_name="sea_surface_height", from_caller=True).units == "mm"


@pytest.mark.parametrize("units", ["dBZ", "dbz", " DBZ "])
def test_reflectivity_stays_dbz(units):
    assert find_conversion("z", units, standard_name="equivalent_reflectivity_factor").units == "dBZ"


@pytest.mark.parametrize("units", ["kg", "", "furlong"])
def test_rain_in_no_unit_of_rain_is_refused(units):
    with pytest.raises(DataError, match=r"units of rainfall_amount: expected a unit of rain .*units='mm'"):
        find_conversion("rainfall_amount", units, standard_name="rainfall_amount")


def test_z_r_relation_against_numbers_worked_by_hand():
    # 10 lg 200 = 23.0103; ten times the rain is 16 dB more; 10 lg 300 + 14 lg 2 = 28.9856 for a = 300, b = 1.4
    np.testing.assert_allclose(mm_per_hour_to_dbz([0.1, 1, 10]), [7.0103, 23.0103, 39.0103], rtol=1e-6)
    np.testing.assert_allclose(mm_per_hour_to_dbz(2.0, a=300, b=1.4), 28.98563, rtol=1e-6)
    np.testing.assert_allclose(dbz_to_mm_per_hour([7.0103, 23.0103, 39.0103]), [0.1, 1, 10], rtol=1e-5)
    np.testing.assert_array_equal(mm_per_hour_to_dbz([0.0, -1.0, np.nan]), [-np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(dbz_to_mm_per_hour([-np.inf, np.nan]), [0, np.nan])
    assert mm_per_hour_to_dbz([1.0]).dtype == dbz_to_mm_per_hour([1.0]).dtype == np.float32
