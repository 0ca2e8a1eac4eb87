"""The reference forecaster: encoder–forecaster and feedback rollout, in NumPy float64."""

from __future__ import annotations

import numpy as np

from convlstm.reference import recurrence as reference
from convlstm.reference.activations import ACTIVATION_FUNCTIONS
from convlstm.reference.convolution import convolve
from convlstm.reference.recurrence import Weights
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array

_FORWARD = "forward"


def space_to_depth(frames: Array, patch: int) -> Array:
    """Fold p×p patches of (..., channel, height, width) into channels, in the order c·p² + dy·p + dx."""
    *lead, c, height, width = frames.shape
    split = frames.reshape(*lead, c, height // patch, patch, width // patch, patch)
    folded = np.moveaxis(split, (-3, -1), (-4, -3))  # (..., c, dy, dx, height / p, width / p)
    return folded.reshape(*lead, c * patch**2, height // patch, width // patch)


def depth_to_space(patched: Array, patch: int) -> Array:
    """Undo `space_to_depth`."""
    *lead, c, height, width = patched.shape
    split = patched.reshape(*lead, c // patch**2, patch, patch, height, width)
    unfolded = np.moveaxis(split, (-4, -3), (-3, -1))  # (..., c, height, dy, width, dx)
    return unfolded.reshape(*lead, c // patch**2, height * patch, width * patch)


def forecast(
    spec: ForecasterSpec,
    weights: Weights,
    frames: Array,
    horizon: int,
    *,
    mask: Array | None = None,
    durations: Array | None = None,
    lead_durations: Array | None = None,
    gaps: Array | None = None,
    norm_variances: list[float] | None = None,
) -> Array:
    """Return the `horizon` frames that follow (batch, horizon, channels, height, width) from canonical weights.

    The frames are (batch, time, channels, height, width). The mask, durations and gaps of the input are (batch, time),
    the durations of the forecast (batch, horizon).
    `norm_variances` is a list that receives the least variance in each norm.
    """
    patched = space_to_depth(frames, spec.patch_size)
    valid = np.ones(frames.shape[:2], dtype=bool) if mask is None else mask
    gap_of = None if gaps is None else {_FORWARD: gaps}
    encoder = _part(weights, "encoder.")
    _, states = reference.stack(
        spec.encoder, encoder, patched, mask=mask, durations=durations, gaps=gap_of, norm_variances=norm_variances
    )
    if spec.rollout == "feedback":
        return _feedback(spec, weights, _last_valid(frames, valid), states, horizon, norm_variances)
    hidden = _forecaster_states(spec, weights, states, horizon, lead_durations, norm_variances)
    result = _head(spec, weights, hidden)
    return result + _last_valid(frames, valid)[:, None] if spec.residual else result


def _forecaster_states(
    spec: ForecasterSpec,
    weights: Weights,
    states: list[reference.State],
    horizon: int,
    durations: Array | None,
    norm_variances: list[float] | None,
) -> Array:
    """Return the hidden states of all forecaster layers (batch, horizon, Σ hidden, height, width)."""
    x, outputs = None, []
    for layer in spec.forecaster.layers:
        layer_weights = _part(weights, f"forecaster.layers.{layer.index}.{_FORWARD}.")
        x, _ = reference.sequence(
            layer,
            layer_weights,
            x,
            states[layer.index],
            steps=horizon,
            durations=durations,
            norm_variances=norm_variances,
        )
        outputs.append(x)
    return np.concatenate(outputs, axis=2)


def _feedback(
    spec: ForecasterSpec,
    weights: Weights,
    last: Array,
    states: list[reference.State],
    horizon: int,
    norm_variances: list[float] | None,
) -> Array:
    frames: list[Array] = []
    for _ in range(horizon):
        hidden = states[-1][0][:, None]
        frame = _head(spec, weights, hidden)[:, 0]
        frames.append(frame + last if spec.residual else frame)
        last = frames[-1]
        patched = space_to_depth(last[:, None], spec.patch_size)
        _, states = reference.stack(
            spec.encoder, _part(weights, "encoder."), patched, states, norm_variances=norm_variances
        )
    return np.stack(frames, axis=1)


def _head(spec: ForecasterSpec, weights: Weights, hidden: Array) -> Array:
    batch, steps = hidden.shape[:2]
    flat = hidden.reshape(batch * steps, *hidden.shape[2:])
    patches = convolve(flat, weights["head.weight"], widths=((0, 0), (0, 0)), boundary=("zeros", "zeros"))
    if spec.head_bias:
        patches = patches + weights["head.bias"][:, None, None]
    frames = depth_to_space(patches.reshape(batch, steps, *patches.shape[1:]), spec.patch_size)
    return ACTIVATION_FUNCTIONS[spec.output_activation](frames)


def _last_valid(frames: Array, valid: Array) -> Array:
    """Return the last valid frame of each sample, or zeros if there is none."""
    steps = np.where(valid, np.arange(valid.shape[1]), -1).max(axis=1)
    chosen = frames[np.arange(len(frames)), steps]
    return np.where((steps >= 0)[:, None, None, None], chosen, 0.0)


def _part(weights: Weights, prefix: str) -> Weights:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
