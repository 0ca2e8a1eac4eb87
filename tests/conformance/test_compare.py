"""The comparison with the reference can fail, and knows what it cannot judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convlstm.conformance.compare import CaseErrors, error, expect, is_ill_conditioned, judge, rounded
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case, reference_arrays


def test_a_wrong_peephole_is_seen() -> None:
    case = random_case(3, peephole="channel", duration_strategy="none")
    key = next(name for name in case.arrays if name.endswith("peephole"))
    wrong = replace(case, arrays={**case.arrays, key: case.arrays[key][::-1]})
    right, other = reference_arrays(case), reference_arrays(wrong)
    assert max(error(right[name], other[name]) for name in right) > 1e-4
    expected = expect(case)
    assert judge(expected, other, {}).misses("float64")
    assert judge(expected, right, {}).value == 0.0
    assert judge(expected, right, {}).misses("float64"), "no gradient at all"
    with pytest.raises(AssertionError, match="the reference has"):
        judge(expected, {}, {})


def test_error() -> None:
    assert error(np.array([np.nan]), np.array([1.0])) == float("inf")
    assert error(np.array([3.0]), np.array([2.0])) == 0.5
    assert error(np.array([1e-3]), np.array([0.0])) == 1e-3
    with pytest.raises(AssertionError):
        error(np.zeros(2), np.zeros(3))


def test_misses() -> None:
    assert CaseErrors(2e-12, 0.0, "").misses("float64")
    assert CaseErrors(0.0, 2e-11, "").misses("float64")
    assert not CaseErrors(0.0, float("nan"), "").misses("float32")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rounding_is_the_types_own(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    case = random_case(5)
    found = rounded(case, dtype).arrays["x"]
    wanted = torch.tensor(case.arrays["x"]).float().to(getattr(torch, dtype)).double().numpy()
    np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(found, case.arrays["x"])


def test_only_a_norm_over_nearly_equal_values_is_ill_conditioned() -> None:
    assert not any(is_ill_conditioned(random_case(seed, norm="none")) for seed in range(5))
    assert not is_ill_conditioned(random_forecast_case(2))
    assert is_ill_conditioned(random_forecast_case(79))
    expected = expect(random_forecast_case(79), "float32")
    assert np.isnan(judge(expected, expected.results, {}).derivative), "a miss of such a case is not judged"
    assert not np.isnan(
        judge(
            expect(random_forecast_case(2), "float32"), expect(random_forecast_case(2), "float32").results, {}
        ).derivative
    )
