"""The forecaster as a pure function: frames in, any number of future frames out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.jax.convolution import convolve
from convlstm.engine.jax.recurrence import State
from convlstm.jax import inputs
from convlstm.jax.dropout import sample_masks
from convlstm.jax.functional import layer
from convlstm.jax.stack import run_stack
from convlstm.jax.weights import Params, check_params
from convlstm.spec import calls
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import enlargement


def forecast(
    spec: ForecasterSpec,
    params: Params,
    frames: ArrayLike,
    horizon: int,
    *,
    carry: State | None = None,
    lengths: ArrayLike | Sequence[int] | None = None,
    mask: ArrayLike | None = None,
    durations: ArrayLike | None = None,
    lead_durations: ArrayLike | None = None,
    gaps: ArrayLike | tuple[ArrayLike, ...] | None = None,
    key: Array | None = None,
    dtype: DTypeLike | None = None,
    generic: bool = False,
    return_carry: bool = False,
) -> Any:
    """Return the forecast of `Forecaster` as a pure function of its parameters; arguments: its `__call__`.

    A `key` of None means evaluation, and `horizon` is static under `jit`.
    """
    frames = inputs.as_array("frames", frames)
    check_params(spec, params)
    dtype = inputs.compute_type(params, frames, dtype, "frames")
    calls.check_forecast(spec, frames.shape, channels_last=True)
    calls.check_horizon(horizon)
    lead = inputs.CallReader(frames, frames.shape[0], horizon).lead_durations(spec, lead_durations)
    reader = inputs.CallReader(frames, frames.shape[0], frames.shape[1])
    valid = reader.valid_steps(lengths, mask)
    reader.check_last_frames(spec, carry, valid, "carry")
    if key is not None:
        inputs.check_key("key", key)
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    options: dict[str, Any] = {"dtype": dtype, "generic": generic}
    patched = space_to_depth(frames, spec.patch_size)
    times: dict[str, Any] = {"mask": valid, "durations": durations, "gaps": gaps}
    after, _ = layer(spec.encoder, params["encoder"], patched, carry, key=keys[0], **times, **options)
    states = [State(*pair) for pair in zip(after.h, after.c, strict=True)]
    future = _future(spec, params, frames, valid, states, horizon, lead, keys[1], dtype, generic)
    return (after, future) if return_carry else future


def _future(
    spec: ForecasterSpec,
    params: Params,
    frames: Array,
    mask: Array | None,
    states: list[State],
    horizon: int,
    lead: Array | None,
    key: Array | None,
    dtype: Any,
    generic: bool,
) -> Array:
    """Return the forecast from the encoder's states after the last frame."""
    last = _last_valid(frames, mask).astype(jnp.promote_types(frames.dtype, dtype))
    if spec.rollout == "feedback":
        return _feedback(spec, params, last, states, horizon, key, generic)
    hidden = _hidden(spec, params, states, horizon, lead, key, generic)
    if spec.detail_channels:
        output = _detailed_output(spec, params, hidden, _last_frames(frames, mask, spec.detail_frames))
    else:
        output = depth_to_space(_pointwise(params["head"], hidden), spec.patch_size)
    if spec.thresholds:
        return _ordered_logits(output)
    future = ACTIVATION_FUNCTIONS[spec.output_activation](output)
    return future + last[:, None] if spec.residual else future


def space_to_depth(frames: Array, patch: int) -> Array:
    """Fold p×p patches into channels, channel order c·p² + dy·p + dx (channels last)."""
    *lead, height, width, c = frames.shape
    split = frames.reshape(*lead, height // patch, patch, width // patch, patch, c)
    folded = jnp.moveaxis(split, (-1, -4), (-3, -2))  # (..., height / p, width / p, c, dy, dx)
    return folded.reshape(*lead, height // patch, width // patch, c * patch**2)


def depth_to_space(patched: Array, patch: int) -> Array:
    """Undo `space_to_depth`."""
    *lead, height, width, c = patched.shape
    split = patched.reshape(*lead, height, width, c // patch**2, patch, patch)
    unfolded = jnp.moveaxis(split, (-3, -2), (-1, -4))  # (..., height, dy, width, dx, c)
    return unfolded.reshape(*lead, height * patch, width * patch, c // patch**2)


def _hidden(
    spec: ForecasterSpec,
    params: Params,
    states: list[State],
    horizon: int,
    lead: Array | None,
    key: Array | None,
    generic: bool,
) -> Array:
    """Return the hidden states of all forecaster layers (batch, horizon, height, width, Σ hidden)."""
    stack, h = spec.forecaster, states[0].h
    outputs, _ = run_stack(
        stack,
        params["forecaster"],
        None,
        states,
        steps=horizon,
        durations=lead,
        dropout_masks=sample_masks(stack, key, h.shape[0], tuple(h.shape[1:-1]), horizon, h.dtype),
        generic=generic,
    )
    return jnp.swapaxes(jnp.concatenate([parts[0] for parts in outputs], axis=-1), 0, 1)


def _feedback(
    spec: ForecasterSpec,
    params: Params,
    last: Array,
    states: list[State],
    horizon: int,
    key: Array | None,
    generic: bool,
) -> Array:
    """Return the frames of the roll-out; in training each fed-back step is a call with its own dropout masks."""
    stack, dtype = spec.encoder, states[0].h.dtype

    def show(states: list[State], last: Array) -> Array:
        patches = _pointwise(params["head"], states[-1].h)
        frame = ACTIVATION_FUNCTIONS[spec.output_activation](depth_to_space(patches, spec.patch_size))
        return (frame + last if spec.residual else frame).astype(last.dtype)

    def advance(carry: tuple[Array, list[State]], t: Array) -> tuple[tuple[Array, list[State]], Array]:
        last, states = carry
        patched = space_to_depth(last, spec.patch_size)[None].astype(dtype)
        step_key = None if key is None else jax.random.fold_in(key, t)
        dropout_masks = sample_masks(stack, step_key, patched.shape[1], tuple(patched.shape[2:-1]), 1, dtype)
        _, states = run_stack(
            stack, params["encoder"], patched, states, steps=1, dropout_masks=dropout_masks, generic=generic
        )
        frame = show(states, last)
        return (frame, states), frame

    first = show(states, last)
    _, others = lax.scan(advance, (first, states), jnp.arange(horizon - 1))
    return jnp.concatenate([first[:, None], jnp.swapaxes(others, 0, 1)], axis=1)


def _detailed_output(spec: ForecasterSpec, params: Params, hidden: Array, last: Array) -> Array:
    """Return the output (batch, horizon, height, width, output_channels) from features of the last frames."""
    last = last.astype(hidden.dtype)
    convolved = jax.nn.silu(_convolve_same(params["detail_0"], last))
    convolved = convolved + jax.nn.silu(_convolve_same(params["detail_1"], convolved))
    features = jnp.concatenate([convolved, last], axis=-1)
    fine = _enlarge(_pointwise(params["head"], hidden), spec.patch_size)
    gain, offset = jnp.split(fine, 2, axis=-1)
    modulated = features[:, None] * (1 + gain) + offset
    channels = spec.detail_channels
    modulated = jnp.concatenate([jax.nn.silu(modulated[..., :channels]), modulated[..., channels:]], axis=-1)
    return _pointwise(params["output"], modulated)


def _pointwise(convolution: Params, x: Array) -> Array:
    """Return a 1×1 convolution of x (..., channel) in the type of x."""
    return _add_bias(convolution, x @ convolution["kernel"][0, 0].astype(x.dtype))


def _convolve_same(convolution: Params, x: Array) -> Array:
    """Return a convolution of x (batch, height, width, channel) in the type of x, with zeros around x."""
    kernel = convolution["kernel"].astype(x.dtype)
    widths = tuple((side // 2, side // 2) for side in kernel.shape[:-2])
    return _add_bias(convolution, convolve(x, kernel, widths))


def _add_bias(convolution: Params, z: Array) -> Array:
    return z + convolution["bias"].astype(z.dtype) if "bias" in convolution else z


def _enlarge(x: Array, factor: int) -> Array:
    """Enlarge height and width of x (..., height, width, channel) by linear interpolation."""
    rows, columns = (jnp.asarray(enlargement(n, factor), x.dtype) for n in x.shape[-3:-1])
    # by default an accelerator rounds both factors of a float32 product
    product_of = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product_of("xw,...ywc->...yxc", columns, product_of("yh,...hwc->...ywc", rows, x))


def _ordered_logits(output: Array) -> Array:
    """Return logits that never increase with the threshold: logit k is logit k − 1 minus softplus(output k)."""
    logits = [output[..., :1]]
    for k in range(1, output.shape[-1]):  # a sum in another order could increase by its rounding
        logits.append(logits[-1] - jax.nn.softplus(output[..., k : k + 1]))
    return jnp.concatenate(logits, axis=-1)


def _last_frames(frames: Array, mask: Any, count: int) -> Array:
    """Return the last frames as channels (batch, height, width, count · channel); masked or absent ones are zero."""
    last = frames[:, -count:]
    if mask is not None:
        last = jnp.where(jnp.asarray(mask).astype(bool)[:, -count:, None, None, None], last, 0)
    last = jnp.moveaxis(last, 1, -2)
    last = last.reshape(*last.shape[:-2], last.shape[-2] * last.shape[-1])
    absent = count * frames.shape[-1] - last.shape[-1]
    return jnp.pad(last, ((0, 0), (0, 0), (0, 0), (absent, 0)))


def _last_valid(frames: Array, mask: Any) -> Array:
    """Return each row's last valid frame, zeros where there is none."""
    if mask is None:
        return frames[:, -1]
    last = jnp.where(jnp.asarray(mask).astype(bool), jnp.arange(frames.shape[1]), -1).max(axis=1)
    chosen = frames[jnp.arange(frames.shape[0]), last]
    return jnp.where((last >= 0)[:, None, None, None], chosen, 0)
