"""The forecaster as a pure function: frames in, any number of future frames out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.jax.recurrence import State
from convlstm.jax import inputs
from convlstm.jax.dropout import sample_masks
from convlstm.jax.functional import layer
from convlstm.jax.stack import run_stack
from convlstm.jax.weights import Params, check_params
from convlstm.spec import calls
from convlstm.spec.forecaster import ForecasterSpec


def forecast(
    spec: ForecasterSpec,
    params: Params,
    frames: ArrayLike,
    horizon: int,
    *,
    mask: ArrayLike | None = None,
    durations: ArrayLike | None = None,
    lead_durations: ArrayLike | None = None,
    gaps: ArrayLike | tuple[ArrayLike, ...] | None = None,
    key: Array | None = None,
    dtype: DTypeLike | None = None,
    generic: bool = False,
) -> Array:
    """Return the forecast frames of `Forecaster` as a pure function of its parameters; arguments: its `__call__`.

    A `key` of None means evaluation, and `horizon` is static under `jit`.
    """
    frames = inputs.as_array("frames", frames)
    check_params(spec, params)
    dtype = inputs.compute_type(params, frames, dtype)
    calls.check_forecast(spec, frames.shape, channels_last=True)
    calls.check_horizon(horizon)
    reader = inputs.CallReader(frames, frames.shape[0], horizon)
    lead = reader.lead_durations(spec.uses_durations, lead_durations)
    if key is not None:
        inputs.check_key("key", key)
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    options: dict[str, Any] = {"dtype": dtype, "generic": generic}
    patched = space_to_depth(frames, spec.patch_size)
    times: dict[str, Any] = {"mask": mask, "durations": durations, "gaps": gaps}
    (h, c), _ = layer(spec.encoder, params["encoder"], patched, key=keys[0], **times, **options)
    states = [State(*pair) for pair in zip(h, c, strict=True)]
    last = _last_valid(frames, mask).astype(jnp.promote_types(frames.dtype, dtype))
    if spec.rollout == "feedback":
        return _feedback(spec, params, last, states, horizon, keys[1], generic)
    hidden = _hidden(spec, params, states, horizon, lead, keys[1], generic)
    future = _head(spec, params, hidden)
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
        frame = _head(spec, params, states[-1].h)
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


def _head(spec: ForecasterSpec, params: Params, hidden: Array) -> Array:
    head = params["head"]
    patches = hidden @ head["kernel"][0, 0].astype(hidden.dtype)  # a 1×1 convolution
    patches = patches + head["bias"].astype(hidden.dtype) if spec.head_bias else patches
    return ACTIVATION_FUNCTIONS[spec.output_activation](depth_to_space(patches, spec.patch_size))


def _last_valid(frames: Array, mask: Any) -> Array:
    """Return each row's last valid frame, zeros where there is none."""
    if mask is None:
        return frames[:, -1]
    last = jnp.where(jnp.asarray(mask).astype(bool), jnp.arange(frames.shape[1]), -1).max(axis=1)
    chosen = frames[jnp.arange(frames.shape[0]), last]
    return jnp.where((last >= 0)[:, None, None, None], chosen, 0)
