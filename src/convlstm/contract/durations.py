"""Durations: how the time that belongs to a step scales its candidate, and how memory fades over gaps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from convlstm.contract.activations import ACTIVATION_FUNCTIONS, Array
from convlstm.contract.layer import LayerSpec
from convlstm.errors import ShapeError


def network_sizes(layer: LayerSpec) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of each affine map of the duration network."""
    spec = layer.stack
    last = layer.hidden_channels if spec.duration_features == "channel" else 1
    widths = [1, *spec.duration_hidden, last]
    return list(pairwise(widths))


def scale(layer: LayerSpec, weights: Mapping[str, Array], durations: Array) -> Array:
    """Return δ(Δ), the factor on the candidate (CONTRACT, Durations).

    With r = Δ / Δ0 and ℓ = log(max(r, ε)): linear r; log log(r + ε) + 1 (negative below r ≈ 0.37);
    log1p log₂(1 + r); scalar exp(w·ℓ); exp exp(damping · MLP(ℓ)); mlp 1 + MLP(ℓ).

    Args:
        layer: The layer with its strategy.
        weights: The layer's canonical arrays.
        durations: Δ (batch, time), at least 0, in the unit of `reference_duration`.

    Returns:
        (batch, time, 1), or (batch, time, hidden_channels) with `duration_features="channel"`.

    Example:
        >>> from convlstm.contract.spec import ConvLSTMSpec
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, duration_strategy="log1p")
        >>> scale(spec.layers[0], {}, np.array([[1.0, 3.0]])).ravel()
        array([1., 2.])
    """
    spec = layer.stack
    r: Array = durations[..., None] / spec.reference_duration
    if callable(spec.duration_strategy):
        return np.asarray(spec.duration_strategy(r))
    if spec.duration_strategy in ("none", "linear"):
        return r if spec.duration_strategy == "linear" else np.ones_like(r)
    if spec.duration_strategy == "log":
        return np.asarray(np.log(r + spec.duration_eps) + 1.0)
    if spec.duration_strategy == "log1p":
        return np.asarray(np.log1p(r) / np.log(2.0))
    log_r = np.log(np.where(r.real > spec.duration_eps, r, spec.duration_eps))
    if spec.duration_strategy == "scalar":
        return np.asarray(np.exp(weights["duration.weight"] * log_r))
    s = _network(layer, weights, log_r)
    return np.asarray(np.exp(spec.duration_damping * s) if spec.duration_strategy == "exp" else 1.0 + s)


def _network(layer: LayerSpec, weights: Mapping[str, Array], x: Array) -> Array:
    phi = ACTIVATION_FUNCTIONS[layer.stack.duration_activation]
    count = len(network_sizes(layer))
    for n in range(count):
        x = x @ weights[f"duration.{n}.weight"].T + weights[f"duration.{n}.bias"]
        x = phi(x) if n < count - 1 else x
    return x


def retention(layer: LayerSpec, weights: Mapping[str, Array], gaps: Array) -> Array:
    """Return exp(−softplus(w) · max(q − 1, 0)), what is left of c after a gap, with q = gap / Δ0.

    Args:
        layer: A layer with `memory_decay`.
        weights: The layer's canonical arrays.
        gaps: Time since the last valid frame in the direction of travel (batch, time).

    Returns:
        (batch, time, hidden_channels), between 0 and 1.

    Example:
        >>> from convlstm.contract.spec import ConvLSTMSpec
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, memory_decay=True)
        >>> float(retention(spec.layers[0], {"memory_decay": np.zeros(1)}, np.array([[2.0]])).item())
        0.5
    """
    q = gaps[..., None] / layer.stack.reference_duration
    excess = np.where(q.real > 1.0, q - 1.0, 0.0)
    return np.asarray(np.exp(-ACTIVATION_FUNCTIONS["softplus"](weights["memory_decay"]) * excess))


def durations_from_times(
    times: Array,
    mask: Array | None = None,
    *,
    reverse: bool = False,
    previous: Array | None = None,
    reference_duration: float = 1.0,
) -> Array:
    """Return the gap of each step to the last valid frame in one direction of travel.

    Gaps add up over masked steps. The first valid step of the direction gets `reference_duration`, unless
    `previous` says when the frame before it was.

    Args:
        times: Time of each frame (batch, time), increasing along time, in any unit.
        mask: True where a frame is valid (batch, time); None means everywhere.
        reverse: Travel from the last frame to the first.
        previous: Time of the last valid frame before the sequence (batch,).
        reference_duration: Δ0, in the unit of `times`.

    Returns:
        Gaps (batch, time) in the unit of `times`; masked steps hold the gap so far and are never used.

    Raises:
        ShapeError: if times or mask have other axes.

    Example:
        >>> durations_from_times(np.array([[0.0, 5.0, 15.0]]), reference_duration=5.0)
        array([[ 5.,  5., 10.]])
    """
    times = np.asarray(times, dtype=np.float64)
    valid = np.ones(times.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if times.ndim != 2 or valid.shape != times.shape:
        raise ShapeError(
            "times",
            expected="times and mask of one shape (batch, time)",
            received=f"{times.shape} and {valid.shape}",
            mend="give one time per frame.",
        )
    first = np.full(len(times), np.nan) if previous is None else np.asarray(previous, dtype=np.float64)
    gaps = np.empty_like(times)
    steps = range(times.shape[1])
    last: Array = first
    for t in reversed(steps) if reverse else steps:
        since = np.abs(times[:, t] - last)
        gaps[:, t] = np.where(np.isnan(last), reference_duration, since)
        last = np.where(valid[:, t], times[:, t], last)
    return gaps


def check_durations(name: str, durations: Any, mask: Array | None = None) -> None:
    """Refuse negative or non-finite durations of valid steps.

    Args:
        name: `durations` or `gaps`, for the message.
        durations: Concrete values (batch, time).
        mask: True where a step is valid (batch, time); masked steps are never checked.

    Raises:
        ShapeError: naming the first bad value.

    Example:
        >>> check_durations("durations", np.array([[5.0, 10.0]]))
    """
    values = np.asarray(durations, dtype=np.float64)
    bad = ~(np.isfinite(values) & (values >= 0))
    if mask is not None:
        bad &= np.asarray(mask, dtype=bool)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ShapeError(
            name,
            expected="finite values of at least 0",
            received=f"{values[where]:g}{f' at {where}' if where else ''}",
            mend="check the times they were made from.",
        )
