"""Hold the PyTorch face to the reference: values, and derivatives along random directions, over random cases.

Error is max|a − b| / max(1, max|b|) per array; a case's derivatives along its four directions are one array. Prints
the worst errors and the configurations that made them; exits with 1 if a target of the contract is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.contract import cases, forecast_cases, reference
from convlstm.contract.cases import Case
from convlstm.contract.forecast_cases import ForecastCase
from convlstm.engine.torch import Masks
from convlstm.torch import ConvLSTM, Forecaster, load_canonical
from convlstm.torch.stack import Draws
from convlstm.torch.weights import native_name

Results = dict[str, Tensor]
Arrays = Mapping[str, np.ndarray]
INPUTS = ("x", "frames", "h.", "c.", "durations", "lead_durations", "gaps")
TIMES = ("durations", "lead_durations", "gaps")

TARGETS = {torch.float64: (1e-12, 1e-11), torch.float32: (1e-5, 1e-4)}
"""Largest error of values and of derivatives, by type (CONTRACT, Precision)."""

UNJUDGED = float("nan")
"""A float32 derivative that misses its target behind a norm over nearly equal values (CONTRACT, Precision): at a
variance below 1e-3 a norm magnifies the rounding of its input by 30 to 316, and its gradient once more."""

FUSED_OPTIONS = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "norm": "none",
    "groups": 1,
    "recurrent_dropout": 0.0,
    "zoneout_h": 0.0,
    "zoneout_c": 0.0,
    "duration_strategy": "none",
    "memory_decay": False,
}


@dataclass(frozen=True)
class Found:
    """What one case showed.

    Args:
        value: Largest error of the results.
        derivative: Largest error of the derivatives; NaN where it is not judged.
        label: The family and seed, and the options that differ from their defaults.
    """

    value: float
    derivative: float
    label: str

    def misses(self, dtype: torch.dtype) -> bool:
        """Return whether a target of the contract is missed."""
        return self.value > TARGETS[dtype][0] or self.derivative > TARGETS[dtype][1]


def fused_cases(start: int = 0) -> Iterator[Case]:
    """Yield cases that the fused path serves: the plain cell, with dropout at most on inputs and between layers."""
    for seed in count(start):
        options = {"peephole": ("none", "channel")[seed % 2], "boundary": "zeros", **FUSED_OPTIONS}
        case = cases.random_case(seed, **options)
        if case.mask is None and case.arrays["x"].shape[1]:
            yield case


def layer_results(case: Case, dtype: torch.dtype) -> tuple[Results, Results]:
    """Return what the layer computes, and the tensors that gradients are taken of, by the names of the case."""
    spec = case.spec
    layer = ConvLSTM.from_spec(spec, dtype=dtype)
    leaves = _leaves(layer, case.arrays, dtype)
    states = range(spec.depth * len(spec.directions))
    gaps = tuple(leaves[f"gaps.{d}"] for d in spec.directions) if spec.memory_decay else None
    with patch("convlstm.torch.layer.draw", lambda *_: _draws(case, dtype)):
        output, (h, c) = layer(
            leaves["x"],
            (tuple(leaves[f"h.{n}"] for n in states), tuple(leaves[f"c.{n}"] for n in states)),
            mask=case.mask,
            durations=leaves.get("durations"),
            gaps=gaps,
        )
    parts = output if isinstance(output, tuple) else (output,)
    results = {f"output.{n}" if len(parts) > 1 else "output": part for n, part in enumerate(parts)}
    for n in states:
        results |= {f"h.{n}": h[n], f"c.{n}": c[n]}
    return results, leaves


def forecaster_results(case: ForecastCase, dtype: torch.dtype) -> tuple[Results, Results]:
    """Return what the forecaster computes, and the tensors that gradients are taken of."""
    model = Forecaster(case.spec, dtype=dtype).eval()
    leaves = _leaves(model, case.arrays, dtype)
    optional = {name: leaves.get(name) for name in TIMES}
    mask = None if case.mask is None else torch.tensor(case.mask)
    return {"forecast": model(leaves["frames"], case.horizon, mask=mask, **optional)}, leaves


def rounded(case: Any, dtype: torch.dtype) -> Any:
    """Return the case with its arrays rounded to a type, so that both sides compute from the same numbers."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def cut(name: str, array: np.ndarray) -> np.ndarray:
        return torch.tensor(array).to(wide if name.startswith(TIMES) else dtype).double().numpy()

    return replace(case, arrays={name: cut(name, array) for name, array in case.arrays.items()})


def compare(case: Any, dtype: torch.dtype = torch.float64, family: str = "layer") -> Found:
    """Return the errors of one case against the reference."""
    run: Callable[..., dict[str, np.ndarray]] = cases.reference_arrays
    torch_run: Callable[..., tuple[Results, Results]] = layer_results
    if isinstance(case, ForecastCase):
        run, torch_run = forecast_cases.reference_forecast, forecaster_results
    case = rounded(case, dtype)
    expected = run(case)
    results, leaves = torch_run(case, dtype)
    assert results.keys() == expected.keys()
    value = max(error(results[name].detach().double().numpy(), expected[name]) for name in expected)
    found = gradients(case, expected, results, leaves)
    wanted = cases.directional_derivatives(case, run)
    got = [sum(np.sum(found[name] * d[name]) for name in d) for d in cases.directions(case)]
    derivative = error(np.array(got), np.array(wanted))
    if dtype == torch.float32 and derivative > TARGETS[dtype][1] and _least_variance(case, run) < 1e-3:
        derivative = UNJUDGED
    return Found(value, derivative, f"{family} {case.seed}: {describe(case)}")


def gradients(case: Any, expected: Arrays, results: Results, leaves: Results) -> dict[str, np.ndarray]:
    """Return the gradient of the case's loss by every array, zeros where it does not enter."""
    factors = cases.loss_weights(case, expected)
    loss = sum((torch.tensor(factors[name]) * results[name].double()).sum() for name in results)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: np.zeros(case.arrays[name].shape) if g is None else g.double().numpy().reshape(case.arrays[name].shape)
        for (name, _), g in zip(leaves.items(), found, strict=True)
    }


def error(a: np.ndarray, b: np.ndarray) -> float:
    """Return max|a − b| / max(1, max|b|); NaN counts as infinite."""
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    distance = np.abs(a - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0))
    return float(distance) if np.isfinite(distance) else float("inf")


def _least_variance(case: Any, run: Callable[..., dict[str, np.ndarray]]) -> float:
    """Return the least variance that any norm of the case divides by; infinite without a norm."""
    found = [float("inf")]
    normalised = reference._normalised

    def seen(z: np.ndarray, groups: int) -> np.ndarray:
        found.append(float(z.reshape(len(z), groups, -1).var(axis=2).min(initial=np.inf)))
        return normalised(z, groups)

    with patch.object(reference, "_normalised", seen):
        run(case)
    return min(found)


def describe(case: Any) -> str:
    """Return the shape a case runs on, and the options that differ from their defaults."""
    shape = case.arrays["frames" if "frames" in case.arrays else "x"].shape
    options = case.spec.to_dict()
    options |= options.pop("encoder", {})
    layer = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1)
    plain = ForecasterSpec(encoder=layer).to_dict() | layer.to_dict()
    changed = [f"{name}={value}" for name, value in options.items() if value != plain[name]]
    return " ".join([f"input {shape}", *["masked"] * (case.mask is not None), *changed])


def _leaves(module: Any, arrays: Arrays, dtype: torch.dtype) -> Results:
    """Load the weights, and return every tensor that gradients are taken of, by the names of the case."""
    weights = {name: array for name, array in arrays.items() if not name.startswith(INPUTS)}
    load_canonical(module, weights)
    parameters = dict(module.named_parameters())
    leaves = {name: parameters[native_name(name)] for name in weights}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name in arrays.keys() - weights.keys():
        kind = wide if name.startswith((*TIMES, "c.")) else dtype
        leaves[name] = torch.tensor(arrays[name], dtype=kind, requires_grad=True)
    return leaves


def _draws(case: Case, dtype: torch.dtype) -> Draws | None:
    if case.masks is None:
        return None

    def tensor(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.tensor(array, dtype=dtype)

    masks = {
        key: Masks(*(tensor(getattr(m, name)) for name in ("input", "recurrent", "zoneout_h", "zoneout_c")))
        for key, m in case.masks.items()
    }
    between = case.dropout or (None,) * (case.spec.depth - 1)
    factors = [tensor(factor) for factor in between]
    return Draws(masks, tuple(None if f is None else f.transpose(0, 1) for f in factors))


def main() -> int:
    """Run the comparison and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="configurations in float64; a fifth as many in float32")
    parser.add_argument("--start", type=int, default=0, help="seed of the first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    missed = False
    for dtype, number in ((torch.float64, options.cases), (torch.float32, options.cases // 5)):
        families = {
            "layer": (cases.random_case(seed) for seed in count(options.start)),
            "fused": fused_cases(options.start),
            "forecaster": (forecast_cases.random_forecast_case(seed) for seed in count(options.start)),
        }
        for family, drawn in families.items():
            size = max(1, number if family == "layer" else number // 5)
            began = time.perf_counter()
            found = [compare(case, dtype, family) for case in islice(drawn, size)]
            missed |= _report(family, dtype, found, time.perf_counter() - began)
    return int(missed)


def _report(family: str, dtype: torch.dtype, found: list[Found], seconds: float) -> bool:
    limits = TARGETS[dtype]
    print(f"{family}, {dtype}: {len(found)} configurations in {seconds:.0f} s")
    missed = False
    for name, limit in zip(("value", "derivative"), limits, strict=True):
        judged = [f for f in found if not np.isnan(getattr(f, name))]
        if not judged:
            continue
        ranked = sorted(judged, key=lambda f: getattr(f, name), reverse=True)
        over = sum(getattr(f, name) > limit for f in judged)
        missed |= over > 0
        middle = getattr(ranked[len(ranked) // 2], name)
        judged_all = "" if len(judged) == len(found) else f" (of {len(judged)} judged)"
        print(
            f"  {name}: worst {getattr(ranked[0], name):.1e}, median {middle:.1e}, {over} over {limit:.0e}{judged_all}"
        )
        for item in ranked[: max(2, min(over, 20))]:
            print(f"    {getattr(item, name):.1e} {item.label}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
