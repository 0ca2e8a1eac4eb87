"""The gate arithmetic in JAX, from the convolutions of a step to its state."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from convlstm.engine.jax.activations import ACTIVATION_FUNCTIONS
from convlstm.spec.choices import NORM_EPSILON
from convlstm.spec.options import ConvLSTMSpec

Weights = Mapping[str, Array]

GATE_WEIGHTS = ("bias", "norm_scale", "peephole")
"""The arrays of a layer that the gates need."""


def gates(
    spec: ConvLSTMSpec, weights: Weights, z: Array, c_before: Array, candidate_scale: Array | None
) -> tuple[Array, Array]:
    """Return h and c after a step, all in the type of c, from z (batch, *grid, 4·hidden) and c after the retention."""
    sigma, phi = ACTIVATION_FUNCTIONS[spec.recurrent_activation], ACTIVATION_FUNCTIONS[spec.activation]
    z_i, z_f, z_g, z_o = jnp.split(_with_bias(spec, weights, z), 4, axis=-1)
    if spec.peephole != "none":
        p_i, p_f, p_o = weights["peephole"].astype(z.dtype)
        z_i, z_f = z_i + p_i * c_before, z_f + p_f * c_before
    g = phi(z_g)
    if candidate_scale is not None:
        g = g * candidate_scale.astype(z.dtype)
    c = sigma(z_f) * c_before + sigma(z_i) * g
    o = sigma(z_o + p_o * c if spec.peephole != "none" else z_o)
    return o * phi(c), c


def zoneout(before: Array, after: Array, rate: float, mask: Array | None) -> Array:
    """Return a state that keeps a share of its old values: where the mask is 1, or without a mask in expectation."""
    if mask is None and not rate:
        return after
    share = rate if mask is None else mask.astype(before.dtype)
    return share * before + (1.0 - share) * after


def _with_bias(spec: ConvLSTMSpec, weights: Weights, z: Array) -> Array:
    if spec.norm != "none":
        z = _normalised(z, spec.norm_groups or 1) * weights["norm_scale"].astype(z.dtype)
    return z + weights["bias"].astype(z.dtype) if spec.bias else z


def _normalised(z: Array, groups: int) -> Array:
    parts = z.reshape(*z.shape[:-1], 4, groups, z.shape[-1] // (4 * groups))
    axes = (*range(1, z.ndim - 1), -1)
    centred = parts - parts.mean(axes, keepdims=True)
    variance = jnp.square(centred).mean(axes, keepdims=True)
    return (centred / jnp.sqrt(variance + NORM_EPSILON)).reshape(z.shape)
