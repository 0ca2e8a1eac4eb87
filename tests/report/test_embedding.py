"""Values in the page: how exact they are, and that no rounding changes a colour."""

import base64
import zlib

import numpy as np
import pytest

from convlstm.report.embedding import Run, even_rounding, rain_rounding
from convlstm.report.scales import field_scale, rain_scale, ratio_scale


def decode(text, shape):
    data = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).astype(int)
    return (256 * data[: data.size // 2] + data[data.size // 2 :]).reshape(shape)


@pytest.fixture
def rain():
    return rain_rounding(rain_scale("mm/h"))


def read(rounding, values):
    """Return what the page shows of values."""
    frames = np.array(values, np.float32).reshape(1, 1, -1)
    codes = decode(rounding.encode(frames), frames.shape).ravel()
    return [None if code == 0 else round(float(rounding.values[code - 1]), 6) for code in codes]


def test_rain_has_three_digits(rain):
    assert read(rain, [0, 0.12, 1.234, 12.34, 123.4, np.nan]) == [0.0, 0.12, 1.23, 12.3, 123.0, None]


def test_a_value_below_an_edge_is_not_rounded_to_it(rain):
    assert read(rain, [0.0999, 0.1, 4.9999, 5.0]) == [0.09, 0.1, 4.99, 5.0]


def test_values_beyond_the_last_are_open_ended(rain):
    assert read(rain, [5000.0]) == [1000.0]
    assert rain.to_json()["open"] == (False, True)


def test_a_thousand_values_in_the_range_of_a_scale_and_all_values_outside_it():
    values = np.array([250.3, 290.0, 309.7, 330.0], np.float32)
    rounding = even_rounding(field_scale([values[:3]], "K"), values)
    (run,) = rounding.runs
    assert run.step == 0.05
    assert read(rounding, values) == [250.3, 290.0, 309.7, 330.0]
    assert rounding.open_ends == (False, False)


def test_one_extreme_value_does_not_make_the_page_large():
    rounding = even_rounding(field_scale([np.array([0.0, 1.0])], ""), np.array([0.0, 1e20]))
    assert rounding.open_ends == (False, True)
    assert len(rounding.values) < 2**15


@pytest.mark.parametrize("scale", [field_scale([np.array([-3.0, 7.0])], "m"), ratio_scale()])
def test_every_code_has_the_class_of_its_value(scale):
    values = np.random.default_rng(0).uniform(scale.edges[0], scale.edges[-1], (1, 20, 20)).astype(np.float32)
    rounding = even_rounding(scale, values)
    codes = decode(rounding.encode(values), values.shape)
    assert np.array_equal(np.searchsorted(rounding.to_json()["firsts"], codes, side="right"), scale.classify(values))
    assert np.abs(rounding.values[codes - 1] - values).max() <= rounding.runs[0].step


@pytest.mark.parametrize(("step", "decimals"), [(0.01, 2), (0.05, 2), (0.1, 1), (1.0, 0), (20.0, 0), (2e-7, 7)])
def test_as_many_decimals_as_the_step_has(step, decimals):
    assert Run(0.0, step, 3).decimals == decimals
