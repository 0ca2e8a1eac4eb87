"""Colours against values: by hand."""

import numpy as np
import pytest

from convlstm.report.scales import MISSING, error_scale, field_scale, rain_scale, round_down, round_ticks


def test_rain_classes_hold_their_lower_edge():
    scale = rain_scale("mm/h")
    values = np.array([0, 0.099, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 237, np.nan])
    assert scale.classify(values).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11]
    assert scale.classify(values.astype(np.float32)).tolist() == scale.classify(values).tolist()


def test_every_class_has_its_own_colour_and_label():
    for scale in (
        rain_scale("mm/h"),
        field_scale([np.array([250.0, 310.0])], "K"),
        error_scale(np.array([-3.0, 2.0]), "K", rain=False),
        error_scale(np.array([0.0]), "mm/h", rain=True),
    ):
        assert len(set(scale.palette())) == len(scale.edges) + 2 == len(scale.labels())
        assert scale.palette()[-1] == MISSING
        assert scale.labels()[-1] == "no data"


def test_labels_say_between_which_values_a_class_lies():
    labels = rain_scale("mm/h").labels()
    assert labels[0] == "below 0.1 mm/h"
    assert labels[6] == "5 to 10 mm/h"
    assert labels[10] == "100 mm/h or more"
    assert error_scale(np.array([0.0]), "mm/h", rain=True).labels()[4] == "−1 to −0.5 mm/h"


def test_legend_marks_stand_on_the_class_boundaries():
    marks = rain_scale("mm/h").marks()
    assert marks[0] == (pytest.approx(1 / 11), "0.1")
    assert marks[-1] == (pytest.approx(10 / 11), "100")


def test_a_field_scale_spans_the_data_and_marks_round_numbers():
    scale = field_scale([np.array([[271.2, np.nan], [283.0, 288.7]])], "K")
    assert (
        scale.ticks
        == (270.0, 272.5, 275.0, 277.5, 280.0, 282.5, 285.0, 287.5, 290.0)[:: 1 if len(scale.ticks) > 5 else 2]
    )
    assert [text for _, text in scale.marks()] == [f"{t:g}" for t in scale.ticks]
    assert scale.classify(np.array([269.0, 291.0])).tolist() == [0, len(scale.edges)]


def test_a_field_scale_stands_constant_and_missing_fields():
    for values in (np.full(4, 7.0), np.full(4, np.nan), np.array([])):
        scale = field_scale([values], "1")
        assert np.all(np.diff(scale.edges) > 0)


def test_error_scales_are_pale_at_zero_and_symmetric():
    scale = error_scale(np.linspace(-3, 5, 1001), "K", rain=False)
    assert scale.edges[0] == -scale.edges[-1]
    assert 4.9 <= scale.edges[-1] <= 6
    middle = scale.colours[scale.classify(np.array([0.01]))[0]]
    assert min(int(middle[k : k + 2], 16) for k in (1, 3, 5)) > 225
    rain = error_scale(np.array([99.0]), "mm/h", rain=True)
    assert rain.classify(np.array([-0.5, -0.51, 0.49, 0.5])).tolist() == [5, 4, 5, 6]


def test_round_ticks_enclose_and_carry_no_rounding_dust():
    assert round_ticks(-0.31, 0.29, most=5) == (-0.4, -0.2, 0.0, 0.2, 0.4)
    assert round_ticks(0.0, 1.0, most=5) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert round_ticks(101000.0, 102300.0)[0] <= 101000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(19200.0, 10000.0), (999.0, 500.0), (5000.0, 5000.0), (3.0, 2.0), (0.06, 0.05), (1.0, 1.0), (0.3 / 3, 0.1)],
)
def test_the_largest_of_one_two_and_five_times_a_power_of_ten(value, expected):
    assert round_down(value) == expected


@pytest.mark.parametrize("exponent", [-7, -1, 0, 3])
@pytest.mark.parametrize("offset", [-3e-9, -1.5e-9, -1e-9, -1e-12, 0.0, 1e-12, 1e-9])
def test_a_value_next_to_a_power_of_ten_is_rounded_to_it_or_down(exponent, offset):
    power = 10.0**exponent
    assert round_down(power * (1 + offset)) in ((power,) if offset > -1e-9 else (power, 5 * 10.0 ** (exponent - 1)))
