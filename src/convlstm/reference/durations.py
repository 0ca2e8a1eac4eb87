"""The candidate scale δ(Δ), and the retention of c after a gap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convlstm.reference.activations import ACTIVATION_FUNCTIONS
from convlstm.spec.durations import network_sizes
from convlstm.spec.layer import LayerSpec
from convlstm.spec.types import Array


def scale(layer: LayerSpec, weights: Mapping[str, Array], durations: Array) -> Array:
    """Return the candidate scale δ(Δ) (batch, time, 1), or with one feature per channel (batch, time, hidden).

    With r = Δ / Δ0 and ℓ = log(max(r, ε)): linear r; log log(r + ε) + 1 (negative below r ≈ 0.37);
    log1p log₂(1 + r); scalar exp(w·ℓ); exp exp(damping · MLP(ℓ)); mlp 1 + MLP(ℓ).
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
    """Return the factor on c after a gap (batch, time, hidden): exp(−softplus(w) · max(q − 1, 0)) with q = gap / Δ0."""
    q = gaps[..., None] / layer.stack.reference_duration
    excess = np.where(q.real > 1.0, q - 1.0, 0.0)
    return np.asarray(np.exp(-ACTIVATION_FUNCTIONS["softplus"](weights["memory_decay"]) * excess))
