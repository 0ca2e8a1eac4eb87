"""Random forecasters with inputs, and what the reference makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convlstm.conformance.derivatives import picker
from convlstm.reference import forecaster as reference_forecaster
from convlstm.spec.choices import DURATION_STRATEGIES
from convlstm.spec.durations import durations_from_times
from convlstm.spec.forecaster import OUTPUT_ACTIVATIONS, ROLLOUTS, ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import initialise


@dataclass(frozen=True)
class ForecastCase:
    """A forecaster with inputs for every argument.

    `arrays` are those that a gradient is taken of, in float64: `frames`, `durations`, `lead_durations`, `gaps`, the
    initial states `h.{n}` and `c.{n}` of the encoder, and the weights by canonical key. Lead durations and states
    may be missing. `mask` (batch, time) is True where a frame is valid.
    """

    seed: int
    spec: ForecasterSpec
    arrays: Mapping[str, Array]
    horizon: int
    mask: Array | None = None


def random_forecast_case(seed: int) -> ForecastCase:
    """Return a random forecaster in evaluation mode; half of the masked ones hold NaN in their masked frames."""
    random = np.random.default_rng([seed, 3])
    grid = tuple(int(n) for n in random.integers(3, 6, 2))
    spec = _random_spec(random, grid)
    stack, patch = spec.encoder, spec.patch_size
    batch, steps, horizon = (int(n) for n in random.integers(1, 4, 3))
    size = tuple(n * patch for n in grid)
    start = initialise(spec, seed)
    arrays = {key: value + 0.3 * np.asarray(random.standard_normal(value.shape)) for key, value in start.items()}
    arrays["frames"] = random.standard_normal((batch, steps, spec.frame_channels, *size))
    mask = random.random((batch, steps)) < 0.7 if random.random() < 0.4 else None
    durations = random.uniform(0.2, 3.0, (batch, steps)) * stack.reference_duration
    lead_durations = random.uniform(0.2, 3.0, (batch, horizon)) * stack.reference_duration
    if spec.uses_durations:
        arrays["durations"] = durations
        arrays["lead_durations"] = lead_durations
    if stack.memory_decay:
        times = np.cumsum(durations, axis=1)
        arrays["gaps"] = durations_from_times(times, mask, reference_duration=stack.reference_duration)
    if mask is not None and random.random() < 0.5:
        arrays["frames"][~mask] = np.nan
    if random.random() < 0.3:
        arrays.pop("lead_durations", None)
    lacks_frames = mask is not None and not mask.any(axis=1).all() and bool(spec.residual or spec.detail_channels)
    if random.random() < 0.5 and not lacks_frames:  # such rows cannot continue from a state
        for n, channels in enumerate(stack.hidden_channels):
            arrays[f"h.{n}"], arrays[f"c.{n}"] = random.standard_normal((2, batch, channels, *grid))
    return ForecastCase(seed, spec, arrays, horizon, mask)


def reference_forecast(
    case: ForecastCase, arrays: Mapping[str, Array] | None = None, norm_variances: list[float] | None = None
) -> dict[str, Array]:
    """Return what the reference computes: `forecast`, and the states `h.{n}` and `c.{n}` of the encoder.

    `arrays` replaces those of the case and may be complex.
    """
    arrays = case.arrays if arrays is None else arrays
    times = {name: arrays.get(name) for name in ("durations", "lead_durations", "gaps")}
    state = forecast_state(case, arrays)
    forecast, states = reference_forecaster.forecast_and_states(
        case.spec,
        arrays,
        arrays["frames"],
        case.horizon,
        mask=case.mask,
        states=None if state is None else list(zip(*state, strict=True)),
        norm_variances=norm_variances,
        **times,
    )
    return forecast_results(forecast, *zip(*states, strict=True))


def forecast_state(case: ForecastCase, arrays: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Return (h_0, c_0) of a case's encoder, or None if it starts from zeros."""
    if "h.0" not in case.arrays:
        return None
    layers = range(case.spec.encoder.depth)
    return tuple(arrays[f"h.{n}"] for n in layers), tuple(arrays[f"c.{n}"] for n in layers)


def forecast_results(forecast: Any, h: Sequence[Any], c: Sequence[Any]) -> dict[str, Any]:
    """Return a forecast and the states of the encoder by name: `forecast`, `h.{n}` and `c.{n}`."""
    states = {f"{name}.{n}": part for name, parts in (("h", h), ("c", c)) for n, part in enumerate(parts)}
    return {"forecast": forecast} | states


def _random_spec(random: np.random.Generator, grid: tuple[int, ...]) -> ForecasterSpec:
    pick = picker(random)
    rollout = pick(*ROLLOUTS)
    even = rollout == "feedback"  # which takes no durations
    channels, patch, depth, peephole = pick(1, 2), pick(1, 2, 3), pick(1, 2), pick("none", "channel", "pixel")
    encoder = ConvLSTMSpec(
        in_channels=channels * patch**2,
        hidden_channels=[pick(1, 2, 3) for _ in range(depth)],
        kernel_size=[pick((2, 2), (3, 3)) for _ in range(depth)],
        recurrent_kernel_size=[pick((1, 1), (3, 3), (3, 2)) for _ in range(depth)],
        boundary=pick("zeros", "replicate", ("zeros", "circular")),
        peephole=peephole,
        input_size=grid if peephole == "pixel" else None,
        bias=pick(True, False),
        norm=pick("none", "layer"),
        zoneout_h=pick(0.0, 0.2),
        duration_strategy="none" if even else pick("none", *DURATION_STRATEGIES),
        reference_duration=pick(1.0, 5.0),
        memory_decay=False if even else pick(True, False),
    )
    spec = ForecasterSpec(
        encoder=encoder,
        frame_channels=channels,
        patch_size=patch,
        rollout=rollout,
        head_bias=pick(True, False),
        output_activation=pick(*OUTPUT_ACTIVATIONS),
        residual=pick(True, False),
    )
    if rollout == "feedback":
        return spec
    detail_channels, frames, kernel = pick(0, 2, 3), pick(1, 2, 4), pick(1, 3, 5)
    detail = spec
    if detail_channels:
        detail = replace(spec, detail_channels=detail_channels, detail_frames=frames, detail_kernel=kernel)
    thresholds = pick((), (0.5,), (0.1, 1.0, 5.0))
    if not thresholds:
        return detail
    return replace(detail, thresholds=thresholds, residual=False, output_activation="identity")
