"""The reference forecaster: encoder–forecaster and feedback rollout, in NumPy float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlstm.reference import recurrence as reference
from convlstm.reference.activations import ACTIVATION_FUNCTIONS, sigmoid
from convlstm.reference.convolution import convolve
from convlstm.reference.recurrence import Weights
from convlstm.spec.calls import check_last_frames
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import enlargement
from convlstm.spec.types import Array

_FORWARD = "forward"
_ZEROS = ("zeros", "zeros")


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
    states: Sequence[reference.State] | None = None,
    norm_variances: list[float] | None = None,
) -> Array:
    """Return the `horizon` frames that follow (batch, horizon, output_channels, height, width) from canonical weights.

    The frames are (batch, time, channels, height, width). With thresholds, the result are logits. The mask, durations
    and gaps of the input are (batch, time), the durations of the forecast (batch, horizon), by default the reference
    duration. `states` are the initial states of the encoder; None means zeros. With `residual` or `detail_channels`, a
    row that continues from a state needs a valid frame, or a `StateError` is raised.
    `norm_variances` is a list that receives the least variance in each norm.
    """
    return forecast_and_states(
        spec,
        weights,
        frames,
        horizon,
        mask=mask,
        durations=durations,
        lead_durations=lead_durations,
        gaps=gaps,
        states=states,
        norm_variances=norm_variances,
    )[0]


def forecast_and_states(
    spec: ForecasterSpec,
    weights: Weights,
    frames: Array,
    horizon: int,
    *,
    mask: Array | None = None,
    durations: Array | None = None,
    lead_durations: Array | None = None,
    gaps: Array | None = None,
    states: Sequence[reference.State] | None = None,
    norm_variances: list[float] | None = None,
) -> tuple[Array, list[reference.State]]:
    """Return the result of `forecast`, and the states of the encoder after the last frame, one per layer."""
    patched = space_to_depth(frames, spec.patch_size)
    valid = np.ones(frames.shape[:2], dtype=bool) if mask is None else mask
    if states is not None:
        check_last_frames(spec, valid)
    gap_of = None if gaps is None else {_FORWARD: gaps}
    encoder = _part(weights, "encoder.")
    _, after = reference.stack(
        spec.encoder,
        encoder,
        patched,
        states,
        mask=mask,
        durations=durations,
        gaps=gap_of,
        norm_variances=norm_variances,
    )
    if spec.rollout == "feedback":
        return _feedback(spec, weights, _last_valid(frames, valid), after, horizon, norm_variances), after
    if spec.uses_durations and lead_durations is None:
        lead_durations = np.full((len(frames), horizon), spec.encoder.reference_duration)
    hidden = _forecaster_states(spec, weights, after, horizon, lead_durations, norm_variances)
    if spec.detail_channels:
        output = _detailed_output(spec, weights, hidden, frames, valid)
    else:
        output = depth_to_space(_head(spec, weights, hidden), spec.patch_size)
    if spec.thresholds:
        return _ordered_logits(output), after
    result = ACTIVATION_FUNCTIONS[spec.output_activation](output)
    return (result + _last_valid(frames, valid)[:, None] if spec.residual else result), after


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
        patches = _head(spec, weights, hidden)[:, 0]
        frame = ACTIVATION_FUNCTIONS[spec.output_activation](depth_to_space(patches, spec.patch_size))
        frames.append(frame + last if spec.residual else frame)
        last = frames[-1]
        patched = space_to_depth(last[:, None], spec.patch_size)
        _, states = reference.stack(
            spec.encoder, _part(weights, "encoder."), patched, states, norm_variances=norm_variances
        )
    return np.stack(frames, axis=1)


def _head(spec: ForecasterSpec, weights: Weights, hidden: Array) -> Array:
    """Return the 1×1 convolution of the hidden states (batch, horizon, head_outputs, height, width)."""
    batch, steps = hidden.shape[:2]
    flat = hidden.reshape(batch * steps, *hidden.shape[2:])
    result = convolve(flat, weights["head.weight"], widths=((0, 0), (0, 0)), boundary=_ZEROS)
    if spec.head_bias:
        result = result + weights["head.bias"][:, None, None]
    return result.reshape(batch, steps, *result.shape[1:])


def _detailed_output(spec: ForecasterSpec, weights: Weights, hidden: Array, frames: Array, valid: Array) -> Array:
    """Return the output (batch, horizon, output_channels, height, width) from features of the last frames.

    The features are those of two convolutions, and the frames. The gain and the offset of each feature and lead time
    are the head's output, enlarged to the grid of the frames. Equations: `docs/contract.md`.
    """
    last = last_frames(frames, valid, spec.detail_frames)
    first = _silu(_convolve_same(last, weights, "detail.0"))
    second = first + _silu(_convolve_same(first, weights, "detail.1"))
    features = np.concatenate([second, last], axis=1)
    fine = enlarge(_head(spec, weights, hidden), spec.patch_size)
    gain, offset = np.split(fine, 2, axis=2)
    modulated = features[:, None] * (1.0 + gain) + offset
    convolved, passed = np.split(modulated, [spec.detail_channels], axis=2)
    modulated = np.concatenate([_silu(convolved), passed], axis=2)
    batch, steps = modulated.shape[:2]
    output = _convolve_same(modulated.reshape(batch * steps, *modulated.shape[2:]), weights, "output")
    return output.reshape(batch, steps, *output.shape[1:])


def last_frames(frames: Array, valid: Array, count: int) -> Array:
    """Return the last frames as channels (batch, count · channel, height, width); masked or absent ones are zero."""
    batch, time, channels, height, width = frames.shape
    kept = min(count, time)
    stacked = np.zeros((batch, count, channels, height, width), dtype=frames.dtype)
    stacked[:, count - kept :] = np.where(valid[:, -kept:, None, None, None], frames[:, -kept:], 0.0)
    return stacked.reshape(batch, count * channels, height, width)


def enlarge(x: Array, factor: int) -> Array:
    """Enlarge the last two axes by linear interpolation between the centres of the cells; edges are repeated."""
    rows, columns = (enlargement(n, factor) for n in x.shape[-2:])
    enlarged: Array = np.einsum("yh,...hw,xw->...yx", rows, x, columns)
    return enlarged


def _ordered_logits(output: Array) -> Array:
    """Return logits that never increase with the threshold: logit k is logit k − 1 minus softplus(output k)."""
    decrease = ACTIVATION_FUNCTIONS["softplus"](output[:, :, 1:])
    first = output[:, :, :1]
    return np.concatenate([first, first - np.cumsum(decrease, axis=2)], axis=2)


def _convolve_same(x: Array, weights: Weights, name: str) -> Array:
    kernel = weights[f"{name}.weight"]
    width = (kernel.shape[-1] // 2,) * 2
    bias: Array = weights[f"{name}.bias"][:, None, None]
    return convolve(x, kernel, widths=(width, width), boundary=_ZEROS) + bias


def _silu(x: Array) -> Array:
    return x * sigmoid(x)


def _last_valid(frames: Array, valid: Array) -> Array:
    """Return the last valid frame of each sample, or zeros if there is none."""
    if not frames.shape[1]:
        return np.zeros((len(frames), *frames.shape[2:]))
    steps = np.where(valid, np.arange(valid.shape[1]), -1).max(axis=1)
    chosen = frames[np.arange(len(frames)), steps]
    return np.where((steps >= 0)[:, None, None, None], chosen, 0.0)


def _part(weights: Weights, prefix: str) -> Weights:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
