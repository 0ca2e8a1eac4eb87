"""Durations in JAX: the scale δ of the candidate, and the retention of c after a gap."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from convlstm.engine.jax.activations import ACTIVATION_FUNCTIONS
from convlstm.spec.durations import network_sizes
from convlstm.spec.layer import LayerSpec

Weights = Mapping[str, Array]


def duration_scale(layer: LayerSpec, weights: Weights, durations: Array) -> Array:
    """Return δ(Δ), the factor on the candidate (batch, time, 1 or hidden)."""
    spec = layer.stack
    r = durations[..., None] / spec.reference_duration
    if callable(spec.duration_strategy):
        return jnp.asarray(spec.duration_strategy(r))
    if spec.duration_strategy == "linear":
        return r
    if spec.duration_strategy == "log":
        return jnp.log(r + spec.duration_eps) + 1.0
    if spec.duration_strategy == "log1p":
        return jnp.log1p(r) / jnp.log(jnp.asarray(2.0, r.dtype))
    # unlike maximum, this keeps NaN and has gradient 0 at and below ε
    log_r = jnp.log(jnp.where(r <= spec.duration_eps, spec.duration_eps, r))
    if spec.duration_strategy == "scalar":
        return jnp.exp(weights["duration.weight"].astype(r.dtype) * log_r)
    s = _network(layer, weights, log_r)
    return jnp.exp(spec.duration_damping * s) if spec.duration_strategy == "exp" else 1.0 + s


def retention(layer: LayerSpec, weights: Weights, gaps: Array) -> Array:
    """Return the factor on c after a gap (batch, time, hidden)."""
    q = gaps[..., None] / layer.stack.reference_duration
    excess = jnp.where(q <= 1.0, 0.0, q - 1.0)
    return jnp.exp(-ACTIVATION_FUNCTIONS["softplus"](weights["memory_decay"].astype(q.dtype)) * excess)


def clean(values: Array, mask: Array | None = None) -> Array:
    """Return durations in at least float32; an invalid one becomes NaN, never a finite result."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if mask is not None:
        wide = jnp.where(mask, wide, 1.0)
    return jnp.where((wide >= 0) & jnp.isfinite(wide), wide, jnp.nan)


def _network(layer: LayerSpec, weights: Weights, x: Array) -> Array:
    phi = ACTIVATION_FUNCTIONS[layer.stack.duration_activation]
    count = len(network_sizes(layer))
    for n in range(count):
        weight, bias = (weights[f"duration.{n}.{part}"].astype(x.dtype) for part in ("weight", "bias"))
        x = x @ weight + bias
        x = phi(x) if n < count - 1 else x
    return x
