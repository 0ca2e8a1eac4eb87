"""Transforms against numbers worked by hand, and there and back for any number."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convlstm.data import Identity, LogRain, Reflectivity, Standard, transform_from_dict
from convlstm.errors import ConfigError

ALL = [
    LogRain(),
    LogRain(scale=2.0, ceiling=50.0),
    Reflectivity(),
    Reflectivity(a=300, b=1.4, floor=-10, ceiling=55),
    Standard(mean=280.0, std=12.5),
    Standard(mean=(1.0, -2.0), std=(0.5, 3.0)),
    Identity(),
]


def test_log_rain_values():
    # ln(1 + 10 · 0.1) / ln(1001) = 0.693147 / 6.908755; 1 mm/h: 2.397895 / 6.908755
    np.testing.assert_allclose(
        LogRain().forward([0, 0.1, 1, 100, 500, -3]), [0, 0.1003288, 0.3470806, 1, 1, 0], rtol=1e-6
    )
    np.testing.assert_allclose(LogRain().inverse([0.3470806, 2.0, -1.0]), [1, 100, 0], rtol=1e-5)


def test_reflectivity_values():
    # 1 mm/h is 23.0103 dBZ; between 0 and 60 dBZ that is 0.3835050
    transform = Reflectivity(floor=0, ceiling=60)
    np.testing.assert_allclose(transform.forward([0, 1, 1000]), [0, 0.3835050, 1], rtol=1e-6)
    # 60 dBZ: (10^6 / 200)^(1 / 1.6) = 205.048 mm/h
    np.testing.assert_allclose(transform.inverse([0, 0.3835050, 1, 7]), [0, 1, 205.048, 205.048], rtol=1e-5)


def test_standard_values_per_channel():
    x = np.ones((2, 2, 1, 1), np.float32) * [[[10.0]], [[20.0]]]
    transform = Standard(mean=(8.0, 26.0), std=(2.0, 3.0))
    np.testing.assert_array_equal(transform.forward(x)[0, :, 0, 0], [1, -2])
    np.testing.assert_array_equal(transform.inverse(transform.forward(x)), x)


def test_standard_fit_leaves_out_what_is_missing():
    x = np.array([[1, np.nan, 3, 5], [7, 7, 7, np.inf]], np.float32).reshape(1, 2, 2, 2)
    fitted = Standard.fit(x)
    assert fitted.mean == (3, 7)
    # deviation of 1, 3, 5: √(8 / 3); a constant channel gets 1
    assert fitted.std == pytest.approx((np.sqrt(8 / 3), 1))
    with pytest.raises(ConfigError, match="finite"):
        Standard.fit(np.full((1, 1, 2, 2), np.nan))


def test_standard_fit_of_parts_is_that_of_the_whole():
    x = (300 + 5 * np.random.default_rng(0).normal(size=(7, 2, 3, 4))).astype(np.float32)
    x[:3, 1] = np.nan
    whole = Standard.fit(x)
    assert whole.std[0] == x[:, 0].std(dtype=np.float64)
    parts = Standard.fit_parts([x[:2], x[2:3], x[3:]])
    assert parts.mean == pytest.approx(whole.mean, rel=1e-12)
    assert parts.std == pytest.approx(whole.std, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(rain=arrays(np.float32, (3, 2, 2, 2), elements=st.floats(0, 200, width=32)))
@pytest.mark.parametrize("transform", [LogRain(), LogRain(scale=2.0, ceiling=50.0), Reflectivity()], ids=str)
def test_rain_comes_back_within_its_range(transform, rain):
    least, most = (0, transform.ceiling) if isinstance(transform, LogRain) else (0.0365, 205.04)
    y = transform.forward(rain)
    assert y.dtype == np.float32
    assert ((y >= 0) & (y <= 1)).all()
    # float32 keeps 1e-6 of y, which the exponential makes 1e-6 · ln(1 + s · ceiling) or 1e-6 · 60 dB / 16 of R
    back = transform.inverse(y)
    inside = (rain >= least) & (rain <= most)
    np.testing.assert_allclose(back[inside], rain[inside], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(back[rain > most], most, rtol=2e-5)
    assert (back[rain < least] <= least * 1.01).all()


@settings(deadline=None, max_examples=60)
@given(x=arrays(np.float32, (3, 2, 2, 2), elements=st.floats(-1000, 1000, width=32)))
@pytest.mark.parametrize("transform", ALL[4:], ids=str)
def test_any_number_comes_back(transform, x):
    np.testing.assert_allclose(transform.inverse(transform.forward(x)), x, rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_missing_stays_missing_and_nothing_else_becomes_so(transform):
    x = np.full((1, 2, 2, 2), 3.0)
    x[0, 0, 1, 1] = np.nan
    for y in (transform.forward(x), transform.inverse(x)):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_a_dictionary_in_json_and_back(transform):
    assert transform_from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sqrt"}, "transform name: expected log_rain or reflectivity or standard or identity, got 'sqrt'"),
        ({}, "transform name"),
        ({"name": ["log_rain"]}, "transform name"),
        ({"name": "log_rain", "base": 10}, "options of the transform log_rain: .* Check base"),
        ({"name": "standard", "mean": 1.0}, "options of the transform standard: .* Check std"),
        ({"name": "log_rain", "scale": 0}, "scale: expected a number above 0"),
        ({"name": "log_rain", "ceiling": "high"}, "ceiling: expected a finite number, got 'high'"),
        ({"name": "log_rain", "ceiling": True}, "ceiling: expected a finite number"),
        ({"name": "reflectivity", "floor": 60}, "ceiling: expected dBZ above the floor of 60"),
        ({"name": "reflectivity", "b": -1}, "a and b: expected a number above 0"),
        ({"name": "standard", "mean": [1, 2], "std": [1]}, "std: expected as many numbers as mean"),
        ({"name": "standard", "mean": float("nan"), "std": 1}, "mean: expected a finite number"),
        ({"name": "standard", "mean": 0, "std": 0}, "std: expected a number above 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        transform_from_dict(options)
