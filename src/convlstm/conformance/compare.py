"""Compare a framework with the reference: values, and derivatives along random directions, over random cases.

Error is max|a − b| / max(1, max|b|) per array; a case's derivatives along its four directions are one array. Each
framework has one file in `conformance/adapters`, whose function `run` computes a case there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from convlstm.conformance import random_forecasters as forecast_cases
from convlstm.conformance import random_layers as cases
from convlstm.conformance.derivatives import directional_derivatives, directions, loss_weights
from convlstm.conformance.random_forecasters import ForecastCase
from convlstm.conformance.random_layers import Case
from convlstm.conformance.tolerances import TOLERANCES
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

AnyCase = Case | ForecastCase
Arrays = Mapping[str, Array]

INPUTS = ("x", "frames", "h.", "c.", "durations", "lead_durations", "gaps")
"""How the names of a case's arrays begin that are no weights."""

TIMES = ("durations", "lead_durations", "gaps")
"""Those that stay in float32 at least."""

UNJUDGED = float("nan")
"""A float32 derivative that misses its target where the case magnifies rounding (docs/contract.md, Precision)."""


class Run(Protocol):
    """How a framework computes a case."""

    def __call__(self, case: AnyCase, dtype: str, factors: Arrays) -> tuple[Arrays, Arrays]:
        """Compute a case as a user of the framework would.

        Return the results by the reference's names, and the gradients of Σ factors · results.

        There is a gradient for every array of the case, in its shape and layout; zeros where the array has no effect.
        """


@dataclass(frozen=True)
class Expectation:
    """The results of the reference for a case whose arrays are rounded to `dtype`."""

    case: AnyCase
    dtype: str
    results: Arrays
    factors: Arrays  # of the results in the loss
    derivatives: Array  # of the loss along the directions of the case


@dataclass(frozen=True)
class CaseErrors:
    """The largest errors of one case; that of the derivatives is NaN where it is not judged."""

    value: float
    derivative: float
    label: str  # seed, and the options that differ from their defaults

    def misses(self, dtype: str) -> bool:
        """Return whether a target of the contract is missed."""
        return self.value > TOLERANCES[dtype][0] or self.derivative > TOLERANCES[dtype][1]


def expect(case: AnyCase, dtype: str = "float64") -> Expectation:
    """Return what the reference makes of a case whose arrays are rounded to a type."""
    case = rounded(case, dtype)
    compute = reference_of(case)
    results = compute(case)
    derivatives = np.array(directional_derivatives(case, compute))
    return Expectation(case, dtype, results, loss_weights(case, results), derivatives)


def judge(expected: Expectation, results: Arrays, gradients: Arrays) -> CaseErrors:
    """Return how far a framework's results and gradients are from the reference."""
    case, dtype = expected.case, expected.dtype
    if results.keys() != expected.results.keys():
        raise AssertionError(f"results {sorted(results)}, and the reference has {sorted(expected.results)}")
    value = max(error(results[name], wanted) for name, wanted in expected.results.items())
    along = [sum(np.sum(gradients[name] * d[name]) for name in gradients) for d in directions(case)]
    derivative = error(np.array(along, dtype=np.float64), expected.derivatives)
    if dtype == "float32" and derivative > TOLERANCES[dtype][1] and is_ill_conditioned(case):
        derivative = UNJUDGED
    return CaseErrors(value, derivative, describe(case))


def compare(case: AnyCase, run: Run, dtype: str = "float64") -> CaseErrors:
    """Return the errors of one case in one framework."""
    expected = expect(case, dtype)
    return judge(expected, *run(expected.case, dtype, expected.factors))


def reference_of(case: AnyCase) -> Callable[..., dict[str, Array]]:
    """Return the function of the reference that computes a case."""
    return forecast_cases.reference_forecast if isinstance(case, ForecastCase) else cases.reference_arrays


def rounded(case: Any, dtype: str) -> Any:
    """Return the case with its arrays rounded to a type, so that both sides compute from the same numbers."""
    wide = "float64" if dtype == "float64" else "float32"
    kinds = {name: wide if name.startswith(TIMES) else dtype for name in case.arrays}
    return replace(case, arrays={name: _round(array, kinds[name]) for name, array in case.arrays.items()})


def error(a: Array, b: Array) -> float:
    """Return max|a − b| / max(1, max|b|); NaN counts as infinite."""
    if a.shape != b.shape:
        raise AssertionError(f"{a.shape} against {b.shape}")
    distance = np.abs(a - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0))
    return float(distance) if np.isfinite(distance) else float("inf")


def weights_of(case: AnyCase) -> dict[str, Array]:
    """Return the weights among a case's arrays, by canonical key."""
    return {name: array for name, array in case.arrays.items() if not name.startswith(INPUTS)}


def describe(case: AnyCase) -> str:
    """Return the shape a case runs on, and the options that differ from their defaults."""
    shape = case.arrays["frames" if "frames" in case.arrays else "x"].shape
    options = case.spec.to_dict()
    options |= options.pop("encoder", {})
    layer = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1)
    plain = ForecasterSpec(encoder=layer).to_dict() | layer.to_dict()
    changed = [f"{name}={value}" for name, value in options.items() if value != plain.get(name)]
    kind = "forecaster" if isinstance(case, ForecastCase) else "layer"
    return " ".join([f"{kind} {case.seed}: input {shape}", *["masked"] * (case.mask is not None), *changed])


def is_ill_conditioned(case: AnyCase) -> bool:
    """Return whether a norm of the case runs over nearly equal values.

    At a variance below 1e-3 it magnifies the rounding of its input by 30 to 316, and its gradient once more.
    """
    variances: list[float] = []
    reference_of(case)(case, norm_variances=variances)
    return min(variances, default=np.inf) < 1e-3


def _round(array: Array, dtype: str) -> Array:
    if dtype == "bfloat16":  # NumPy has none: keep the upper half of a float32, rounded to nearest even
        bits = np.asarray(array, dtype=np.float32).view(np.uint32)
        upper = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return np.where(np.isnan(array), np.nan, upper.astype(np.uint32).view(np.float32).astype(np.float64))
    return np.asarray(array).astype(dtype).astype(np.float64)
