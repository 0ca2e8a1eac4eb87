"""The table of every set-up against the reference and each other, on a few cases of the cheap ones."""

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from convlstm.conformance import campaign as table
from convlstm.conformance.campaign import Pair, Row, compare_all
from convlstm.conformance.compare import expect
from convlstm.conformance.environments import SETUPS, SetUp, choose_setups, run_task
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


def test_b27_the_table_of_set_ups_agrees():
    lines = []
    rows, pairs = compare_all(3, 100, choose_setups(["torch", "mlx"]), lines.append)
    assert [(row.setup, row.dtype, row.count) for row in rows] == [
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
    rows, pairs = compare_all(1, 100, [SetUp("broken", "keras", ("keras",), {"KERAS_BACKEND": "none"})])
    assert not pairs
    assert not any(row.well for row in rows)
    assert all("none" in row.problem for row in rows)
    good = {"missed": [], "missed_count": 0}
    assert Row("a", "float64", 1, good, good).well
    assert not Row("a", "float64", 1, good, {"missed": ["layer 3"], "missed_count": 1}).well
    assert not Pair("a", "b", 3e-5).well
    assert table.PAIR_TARGET == 2e-5


README = Path(__file__).parents[2] / "README.md"
CAME = {
    "torch": {
        ("000", "h, c (4, 64, 16, 16)"): 5,
        ("002", "output (2, 4, 128, 16, 16), h, c (2, 64, 16, 16)"): 1,
        ("002", "i, f, g, o (2, 8, 16, 16)"): 1,
        ("003", "h, c (32, 16, 16, 16)"): 1,
        ("003", "output (2, 3, 16, 16, 16), h, c (2, 16, 16, 16)"): 1,
        ("003", "h, c (2, 8, 16, 16)"): 1,
    },
    **{f"keras-{backend}": {("000", "output (4, 3, 16, 16, 64)"): 5} for backend in ("tensorflow", "jax", "torch")},
    "flax": {("000", "outputs (3, 4, 16, 16, 64), h, c (4, 16, 16, 64)"): 10 if find_spec("haiku") else 5},
    "mlx": {
        ("001", "output (2, 4, 12, 10, 8)"): 1,
        ("001", "output (4, 12, 10, 8)"): 1,
        ("001", "h, c (2, 12, 10, 8)"): 1,
        ("001", "h, c (12, 10, 8)"): 1,
        ("004", "output (2, 4, 12, 10, 8)"): 2,
        ("004", "output (2, 4, 12, 10, 16)"): 1,
        ("004", "output (2, 4, 6, 5, 8)"): 1,
        ("004", "output (2, 4, 8, 6, 8)"): 1,
    },
}
"""How many forms of a document return these shapes to their user, by set-up."""


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_every_form_of_a_set_up_agrees_and_returns_what_is_said(setup):
    if not setup.installed:
        pytest.skip(f"{setup.name} is not installed")
    rows = run_task(setup, "drop_in")
    assert all(row["difference"] < 1e-5 and not row["failure"] and row["seconds"] > 0 for row in rows)
    assert Counter((row["document"], row["shapes"]) for row in rows) == CAME[setup.name]
    printed = README.read_text(encoding="utf-8")
    for row in rows:
        found = rf"{row['document']}  {setup.name} .*  {re.escape(row['line'])}\n *{re.escape(row['shapes'])}\n"
        assert re.search(found, printed), f"README.md is behind: {row['line']}"
