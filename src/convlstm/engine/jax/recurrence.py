"""The recurrence in JAX: pure functions on arrays, channels last, for every transform.

Arrays have Flax's layout: `weight_ih` (*kernel, in/groups, 4·hidden), `weight_hh` (*kernel, hidden, 4·hidden), `bias`
and `norm_scale` (4·hidden), gates in the order i, f, g, o; `peephole` (3[, *grid], hidden), `duration.{n}.weight`
(in, out); the rest as in `docs/contract.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from convlstm.engine.jax.convolution import convolve, convolve_in_loop, mesh_is_explicit, varying_as
from convlstm.engine.jax.durations import clean, duration_scale, retention
from convlstm.engine.jax.gates import GATE_WEIGHTS, gates, zoneout
from convlstm.engine.jax.padding import pad
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import LayerMasks
from convlstm.spec.options import ConvLSTMSpec

Weights = Mapping[str, Array]


class State(NamedTuple):
    """The state of a layer; of a stack, a tuple of arrays in each field, indexed layer · D + direction.

    Args:
        h: Hidden state (batch, *grid, hidden), in the type convolutions run in.
        c: Cell state of the same shape, in at least float32.

    Example:
        >>> State(jnp.zeros((2, 16, 16, 8)), jnp.ones((2, 16, 16, 8))).c.shape
        (2, 16, 16, 8)
    """

    h: Any
    c: Any


class _StepInputs(NamedTuple):
    """The inputs of one step; with a leading time axis, those of all steps."""

    x: Array | None = None
    z_x: Array | None = None
    candidate_scale: Array | None = None
    retention: Array | None = None
    valid: Array | None = None
    zoneout_h: Array | None = None
    zoneout_c: Array | None = None
    output_mask: Array | None = None
    h_is_zero: Array | None = None


def input_convolution(layer: LayerSpec, weights: Weights, x: Array, *, by_rule: bool = False) -> Array:
    """Return W_ih ∗ x (frames, *grid, 4·hidden) for x (frames, *space, in_channels).

    `by_rule` takes the gradients by the rule of `convolve_in_loop`; only where `_convolves_in_loop` holds.
    """
    widths = pad_widths(tuple(x.shape[1:-1]), layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    x, widths = pad(x, widths, layer.stack.boundary)
    hidden, groups = layer.hidden_channels, layer.groups
    kernel = weights["weight_ih"].astype(x.dtype)
    if by_rule:
        return convolve_in_loop(x, kernel, widths, layer.dilation, generic=False)
    if groups > 1:
        # groups divide each gate, whereas one convolution of all gates numbers its outputs group first
        kernel = _swapped(kernel, 4, groups, hidden // groups)
    z = convolve(x, kernel, widths, stride=layer.stride, dilation=layer.dilation, groups=groups)
    return _swapped(z, groups, 4, hidden // groups) if groups > 1 else z


def recurrent_convolution(
    layer: LayerSpec, weights: Weights, h: Array, *, generic: bool = False, h_is_zero: Array | None = None
) -> Array:
    """Return W_hh ∗ h (batch, *grid, 4·hidden), without a convolution where the scalar `h_is_zero` is true."""
    h, widths = pad(h, layer.recurrent_widths, layer.stack.boundary)
    kernel = weights["weight_hh"].astype(h.dtype)
    return convolve_in_loop(h, kernel, widths, layer.recurrent_dilation, generic=generic, is_zero=h_is_zero)


def step(
    layer: LayerSpec,
    weights: Weights,
    z_x: Array | None,
    state: State,
    *,
    candidate_scale: Array | None = None,
    retention: Array | None = None,
    masks: LayerMasks | None = None,
    generic: bool = False,
    h_is_zero: Array | None = None,
) -> State:
    """Return h and c after one step; where the scalar `h_is_zero` is true, h is not convolved."""
    spec, masks = layer.stack, masks or LayerMasks()
    h_before, c_before = state
    wide = c_before.dtype
    if retention is not None:
        c_before = c_before * retention.astype(wide)
    h_dropped = h_before
    if masks.recurrent is not None:
        h_dropped = h_before * masks.recurrent.astype(h_before.dtype)
    z = recurrent_convolution(layer, weights, h_dropped, generic=generic, h_is_zero=h_is_zero)
    if z_x is not None:
        z = z + z_x
    z = z.astype(wide)
    # the loop saves only z of the gates: recomputing them is faster than carrying a dozen arrays out of it
    gate_weights = {name: weights[name] for name in GATE_WEIGHTS if name in weights}
    h, c = jax.checkpoint(partial(gates, spec), prevent_cse=False)(gate_weights, z, c_before, candidate_scale)
    h = h.astype(h_before.dtype)
    return State(
        zoneout(h_before, h, spec.zoneout_h, masks.zoneout_h),
        zoneout(c_before, c, spec.zoneout_c, masks.zoneout_c),
    )


# compiled here, so that calls outside any `jit` compile once per layer and shape, not each time
@partial(jax.jit, static_argnames=("layer", "steps", "reverse", "generic"))
def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    state: State | None,
    *,
    steps: int,
    reverse: bool = False,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Array | None = None,
    masks: LayerMasks | None = None,
    generic: bool = False,
    output_mask: Array | None = None,
) -> tuple[Array, State]:
    """Run one layer in one direction over a sequence; convolutions run in the type of h, or without a state of x.

    `generic` leaves every derivative to JAX: slower on a CPU, but it supports forward mode. A segment of a longer
    sequence needs `output_mask`, the part for its steps of `mask_of_output` for all steps.
    """
    # the scan carries arrays, so that a flag for each step says where h is zero
    starts_at_zero = state is None
    if state is None:
        state = _zero_state(layer, x)
    state = to_compute_types(state.h.dtype, state)
    masks = lax.stop_gradient(masks or LayerMasks())
    if not steps:
        return jnp.zeros((0, *state.h.shape), state.h.dtype), state
    is_explicit = mesh_is_explicit(state.h if x is None else x)
    has_rule = not generic and not is_explicit
    by_rule = has_rule and _convolves_in_loop(layer)
    hoist = not is_explicit and not by_rule
    inputs = _step_inputs(layer, weights, x, state, mask, durations, gaps, masks, hoist=hoist)
    if mask is not None:
        if output_mask is None:
            output_mask = mask_of_output(layer.stack, mask, reverse=reverse)
        inputs = inputs._replace(output_mask=_time_first(output_mask[..., None], layer.stack))
    # only on CPU: elsewhere the host would wait for each value of the condition
    if starts_at_zero and has_rule and jax.default_backend() == "cpu" and isinstance(steps, int):
        first_step = steps - 1 if reverse else 0
        inputs = inputs._replace(h_is_zero=jnp.arange(steps) == first_step)
    scan_step = partial(_scan_step, layer, weights, masks.recurrent, generic, by_rule)
    start = State(*(_varying_as_all(array, (inputs, weights, masks, state)) for array in state))
    if is_explicit:
        inputs_of_first: _StepInputs = jax.tree.map(lambda array: array[0], inputs)
        after_first = jax.eval_shape(lambda: scan_step(start, inputs_of_first)[0])
        start = _reshard(after_first, start)
    # a single step needs no loop; a length that an export leaves open can be neither compared nor passed to a scan
    is_single = isinstance(steps, int) and steps == 1
    length = steps if x is None else None
    final, outputs = lax.scan(scan_step, start, inputs, length=length, reverse=reverse, unroll=is_single)
    return outputs, final


def mask_of_output(spec: ConvLSTMSpec, mask: Array, *, reverse: bool) -> Array:
    """Return where the output of a step is h and not zero (batch, time); see `convlstm.engine`."""
    if spec.masked_output == "zero":
        return mask
    return lax.cummax(mask.astype(jnp.int32), axis=1, reverse=reverse) > 0


def to_compute_types(dtype: Any, state: State) -> State:
    """Return h in the type that convolutions compute in, and c in at least float32."""
    return State(state.h.astype(dtype), state.c.astype(jnp.promote_types(dtype, jnp.float32)))


def _zero_state(layer: LayerSpec, x: Array | None) -> State:
    """Return h and c of zeros for frames x (time, batch, *space, in_channels)."""
    assert x is not None, "a layer without input needs a state"
    zeros = jnp.zeros((x.shape[1], *layer.grid(tuple(x.shape[2:-1])), layer.hidden_channels), x.dtype)
    return State(zeros, zeros)


def _step_inputs(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    state: State,
    mask: Array | None,
    durations: Array | None,
    gaps: Array | None,
    masks: LayerMasks,
    *,
    hoist: bool,
) -> _StepInputs:
    """Return the inputs of all steps, time first; `hoist` moves the input convolutions out of the loop."""
    spec = layer.stack
    z_x = candidate_scales = retentions = valid = None
    if durations is not None:
        candidate_scales = _time_first(duration_scale(layer, weights, clean(durations, mask)), spec)
    if gaps is not None:
        retentions = _time_first(retention(layer, weights, clean(gaps, mask)), spec)
    if x is not None:
        x = x.astype(state.h.dtype)
    if mask is not None:
        valid = _time_first(mask[..., None], spec)
        x = None if x is None else jnp.where(valid, x, 0.0)
    if x is not None and masks.input is not None:
        x = x * masks.input.astype(x.dtype)
    if x is not None and hoist:
        z_x = jax.vmap(partial(input_convolution, layer, weights))(x)
    return _StepInputs(
        x=None if hoist else x,
        z_x=z_x,
        candidate_scale=candidate_scales,
        retention=retentions,
        valid=valid,
        zoneout_h=masks.zoneout_h,
        zoneout_c=masks.zoneout_c,
    )


def _convolves_in_loop(layer: LayerSpec) -> bool:
    """Return whether the input convolution is faster step by step: on a CPU, where the rule supports its form.

    The result for all steps would be four times as large as the states, written and read once, and transposed by XLA.
    """
    has_unit_form = layer.groups == 1 and set(layer.stride) == set(layer.dilation) == {1}
    return has_unit_form and jax.default_backend() == "cpu"


def _scan_step(
    layer: LayerSpec,
    weights: Weights,
    recurrent_mask: Array | None,
    generic: bool,
    by_rule: bool,
    before: State,
    inputs: _StepInputs,
) -> tuple[State, Array]:
    """Compute one step of the scan: the state after it, and its output."""
    z_x = inputs.z_x
    if inputs.x is not None:
        z_x = input_convolution(layer, weights, inputs.x, by_rule=by_rule)
    after = step(
        layer,
        weights,
        z_x,
        before,
        candidate_scale=inputs.candidate_scale,
        retention=inputs.retention,
        masks=LayerMasks(recurrent=recurrent_mask, zoneout_h=inputs.zoneout_h, zoneout_c=inputs.zoneout_c),
        generic=generic,
        h_is_zero=inputs.h_is_zero,
    )
    if inputs.valid is None or inputs.output_mask is None:
        return after, after.h
    state = State(*(jnp.where(inputs.valid, new, old) for new, old in zip(after, before, strict=True)))
    return state, jnp.where(inputs.output_mask, state.h, 0.0)


def _varying_as_all(array: Array, others: Any) -> Array:
    """Return a state that varies over the same axes of a `shard_map` as the others, as a scan requires."""
    return reduce(varying_as, jax.tree.leaves(others), array)


def _reshard(like: State, state: State) -> State:
    """Return the state with the shardings it has after a step, as a scan requires."""
    return State(*(jax.sharding.reshard(a, b.sharding) for a, b in zip(state, like, strict=True)))  # type: ignore[no-untyped-call]


def _time_first(values: Array, spec: ConvLSTMSpec) -> Array:
    """Return values (batch, time, channels) time first, to broadcast over a grid."""
    values = jnp.swapaxes(values, 0, 1)
    return values.reshape(*values.shape[:-1], *(1,) * spec.spatial_dims, values.shape[-1])


def _swapped(values: Array, first: int, second: int, size: int) -> Array:
    """Return values whose last axis first · second · size is ordered second, first, size."""
    split = values.reshape(*values.shape[:-1], first, second, size)
    return jnp.swapaxes(split, -3, -2).reshape(values.shape)
