"""The table of every framework compared with the reference and each other, on a few cases of the cheap ones."""

from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest

from convlstm.conformance import campaign as table
from convlstm.conformance.campaign import Pair, Row, compare_all
from convlstm.conformance.compare import expect
from convlstm.conformance.environments import ENVIRONMENTS, Environment, choose_environments, run_task
from convlstm.conformance.expectations import draw_cases, keep_expectations, load_expectation


def test_what_is_kept_comes_back(tmp_path):
    keep_expectations(tmp_path, 5, 2, "float32")
    for name, case in draw_cases(5, 2):
        kept, anew = load_expectation(tmp_path, name, case, "float32"), expect(case, "float32")
        assert kept.results.keys() == anew.results.keys()
        np.testing.assert_array_equal(kept.derivatives, anew.derivatives)
        for key, factor in anew.factors.items():
            np.testing.assert_array_equal(kept.factors[key], factor)
            np.testing.assert_array_equal(kept.results[key], anew.results[key])


def test_table_of_setups_agrees():
    lines = []
    rows, pairs = compare_all(3, 100, choose_environments(["torch", "mlx"]), lines.append)
    assert [(row.environment, row.dtype, row.count) for row in rows] == [
        *(("torch", "float64", 5), ("mlx", "float64", 5)),
        *(("torch", "float32", 5), ("mlx", "float32", 5)),
    ]
    assert all(row.well for row in rows)
    assert all(0 < row.value["worst"] < 1e-5 for row in rows)
    (pair,) = pairs
    assert (pair.first, pair.second, pair.well) == ("torch", "mlx", True)
    assert 0 < pair.difference < 2e-5
    assert lines[0] == "reference, float64"


def test_a_miss_and_a_failure_are_not_well(monkeypatch):
    rows, pairs = compare_all(1, 100, [Environment("broken", "keras", ("keras",), {"KERAS_BACKEND": "none"})])
    assert not pairs
    assert not any(row.well for row in rows)
    assert all("none" in row.problem for row in rows)
    good = {"missed": [], "missed_count": 0}
    assert Row("a", "float64", 1, good, good).well
    assert not Row("a", "float64", 1, good, {"missed": ["layer 3"], "missed_count": 1}).well
    assert not Pair("a", "b", 3e-5).well
    assert table.PAIR_TARGET == 2e-5


SHAPES = {
    "torch": {
        ("duration-aware", "h, c (4, 64, 16, 16)"): 5,
        ("Bidirectional-Conv-LSTM", "output (2, 4, 128, 16, 16), h, c (2, 64, 16, 16)"): 1,
        ("Bidirectional-Conv-LSTM", "i, f, g, o (2, 8, 16, 16)"): 1,
        ("notebook", "h, c (32, 16, 16, 16)"): 1,
        ("notebook", "output (2, 3, 16, 16, 16), h, c (2, 16, 16, 16)"): 1,
        ("notebook", "h, c (2, 8, 16, 16)"): 1,
    },
    **{
        f"keras-{backend}": {("duration-aware", "output (4, 3, 16, 16, 64)"): 5}
        for backend in ("tensorflow", "jax", "torch")
    },
    "flax": {("duration-aware", "outputs (3, 4, 16, 16, 64), h, c (4, 16, 16, 64)"): 10 if find_spec("haiku") else 5},
    "mlx": {
        ("convlstm-mlx", "output (2, 4, 12, 10, 8)"): 3,
        ("convlstm-mlx", "output (4, 12, 10, 8)"): 1,
        ("convlstm-mlx", "h, c (2, 12, 10, 8)"): 1,
        ("convlstm-mlx", "h, c (12, 10, 8)"): 1,
        ("convlstm-mlx", "output (2, 4, 12, 10, 16)"): 1,
        ("convlstm-mlx", "output (2, 4, 6, 5, 8)"): 1,
        ("convlstm-mlx", "output (2, 4, 8, 6, 8)"): 1,
    },
}
"""How many lines of a project return these shapes to their user, by framework."""


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_drop_in_lines_agree_with_the_reference(environment):
    if not environment.installed:
        pytest.skip(f"{environment.name} is not installed")
    rows = run_task(environment, "drop_in")
    assert all(row["difference"] < 1e-5 and not row["failure"] and row["seconds"] > 0 for row in rows)
    assert Counter((row["project"], row["shapes"]) for row in rows) == SHAPES[environment.name]
