"""A sample of what `make parity` runs in full: layers called as a user calls them, against the reference.

Seeds 0 to 2000 of every family hold the contract's targets (float64 1e-12 and 1e-11, float32 1e-5 and 1e-4).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from convlstm.contract.cases import COMPLEX_STEP, loss_weights, random_case, reference_arrays
from convlstm.engine import torch_fused

DETERMINISTIC = {"input_dropout": 0.0, "recurrent_dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}
SMALL = {
    "spatial_dims": 1,
    "in_channels": 1,
    "hidden_channels": 1,
    "num_layers": 1,
    "kernel_size": 2,
    "recurrent_kernel_size": 3,
    "stride": 1,
    "dilation": 1,
    "padding": "same",
    "groups": 1,
    "dropout": 0.0,
    "boundary": "replicate",
}


def hold(found: Any, dtype: torch.dtype) -> None:
    assert not found.misses(dtype), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"


@pytest.mark.parametrize("seed", range(10_000, 10_120))
def test_float64(parity, seed: int) -> None:
    hold(parity.compare(random_case(seed)), torch.float64)


@pytest.mark.parametrize("seed", range(20_000, 20_040))
def test_float32(parity, seed: int) -> None:
    hold(parity.compare(random_case(seed), torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_fused_path(parity, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    quick = torch_fused.sequence
    monkeypatch.setattr(torch_fused, "sequence", lambda *a, **k: (calls.append(1), quick(*a, **k))[1])
    for case in islice(parity.fused_cases(30_000), 30):
        before = len(calls)
        hold(parity.compare(case, dtype, "fused"), dtype)
        assert len(calls) - before == case.spec.depth * len(case.spec.directions)


@pytest.mark.parametrize("strategy", ["none", "log", "scalar", "exp", "mlp"])
@pytest.mark.parametrize("seed", range(40_000, 40_004))
def test_gradients_element_by_element(parity, strategy: str, seed: int) -> None:
    case = random_case(seed, duration_strategy=strategy, **SMALL)
    expected = reference_arrays(case)
    results, leaves = parity.layer_results(case, torch.float64)
    found = parity.gradients(case, expected, results, leaves)
    factors = loss_weights(case, expected)
    for name, array in case.arrays.items():
        for place in np.ndindex(array.shape):
            moved = np.array(array, dtype=complex)
            moved[place] += 1j * COMPLEX_STEP
            again = reference_arrays(case, {**case.arrays, name: moved})
            wanted = sum(np.sum(factors[key] * value.imag) for key, value in again.items()) / COMPLEX_STEP
            assert found[name][place] == pytest.approx(wanted, abs=1e-12, rel=1e-12), f"{name}{place}"


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str)
@pytest.mark.parametrize("seed", range(50_000, 50_015))
def test_low_precision(parity, dtype: torch.dtype, limit: float, seed: int) -> None:
    """Weights and inputs are rounded first; c stays in float32 (limits: CONTRACT, Precision)."""
    # a norm over nearly equal values magnifies the rounding of its input without bound
    case = parity.rounded(random_case(seed, norm="none", **DETERMINISTIC), dtype)
    case = replace(case, masks=None, dropout=None)
    expected = reference_arrays(case)
    results, leaves = parity.layer_results(case, dtype)
    for name, value in results.items():
        assert value.dtype == (torch.float32 if name.startswith("c.") else dtype)
        assert parity.error(value.detach().double().numpy(), expected[name]) <= limit, name
    sum(value.float().sum() for value in results.values()).backward()
    for name, leaf in leaves.items():
        assert leaf.grad is None or (leaf.grad.dtype == leaf.dtype and leaf.grad.isfinite().all()), name


@pytest.mark.parametrize("seed", range(60_000, 60_030))
def test_nothing_behind_a_mask_has_a_gradient(parity, seed: int) -> None:
    case = random_case(seed)
    if case.mask is None:
        case = replace(case, mask=np.zeros(case.arrays["x"].shape[:2], dtype=bool))
        for name in ("x", "durations", "gaps.forward", "gaps.reverse"):
            if name in case.arrays:
                case.arrays[name][...] = np.inf
    expected = reference_arrays(case)
    results, leaves = parity.layer_results(case, torch.float64)
    found = parity.gradients(case, expected, results, leaves)
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name
    for name in {"x", "durations", "gaps.forward", "gaps.reverse"} & found.keys():
        assert not found[name][~case.mask].any(), name


def test_bad_results_are_seen(parity) -> None:
    """The comparison can fail: a wrong peephole, a wrong number, NaN."""
    case = random_case(3, peephole="channel", duration_strategy="none")
    key = "layers.0.forward.peephole" if case.spec.direction != "reverse" else "layers.0.reverse.peephole"
    wrong = replace(case, arrays={**case.arrays, key: case.arrays[key][::-1]})
    right, other = reference_arrays(case), reference_arrays(wrong)
    assert max(parity.error(right[name], other[name]) for name in right) > 1e-4
    assert parity.error(np.array([np.nan]), np.array([1.0])) == float("inf")
    assert parity.error(np.array([3.0]), np.array([2.0])) == 0.5
    assert parity.error(np.array([1e-3]), np.array([0.0])) == 1e-3
    assert parity.Found(2e-12, 0.0, "").misses(torch.float64)
    assert parity.Found(0.0, 2e-11, "").misses(torch.float64)
    assert not parity.Found(0.0, float("nan"), "").misses(torch.float32)
