"""The recurrence in JAX: pure functions on arrays, channels last, for any transform.

Arrays have Flax's layout: `weight_ih` (*kernel, in/groups, 4·hidden), `weight_hh` (*kernel, hidden, 4·hidden), `bias`
and `norm_scale` (4·hidden), gates in the order i, f, g, o; `peephole` (3[, *grid], hidden), `duration.{n}.weight`
(in, out); the rest as in CONTRACT, Weights.
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
from convlstm.engine.jax.gates import OWN_WEIGHTS, gates, zoned_out
from convlstm.engine.jax.padding import pad
from convlstm.spec.geometry import pad_widths, recurrent_pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.stack import ConvLSTMSpec

Weights = Mapping[str, Array]
_Carry = tuple["State", Array | None]


class State(NamedTuple):
    """The state of a layer; of a stack, a tuple of arrays in each place, indexed layer · D + direction.

    Args:
        h: Hidden state (batch, *grid, hidden), in the type convolutions run in.
        c: Cell state of the same shape, in at least float32.

    Example:
        >>> State(jnp.zeros((2, 16, 16, 8)), jnp.ones((2, 16, 16, 8))).c.shape
        (2, 16, 16, 8)
    """

    h: Any
    c: Any


class Masks(NamedTuple):
    """The random draws of one layer and direction in training (see the reference's `Masks`), channels last."""

    input: Array | None = None
    recurrent: Array | None = None
    zoneout_h: Array | None = None
    zoneout_c: Array | None = None


class _Step(NamedTuple):
    """What belongs to one step; arrays over all steps where it is scanned."""

    x: Array | None = None
    z_x: Array | None = None
    factor: Array | None = None
    kept: Array | None = None
    valid: Array | None = None
    zoneout_h: Array | None = None
    zoneout_c: Array | None = None
    at_rest: Array | None = None


def input_convolution(layer: LayerSpec, weights: Weights, x: Array, *, by_rule: bool = False) -> Array:
    """Return W_ih ∗ x.

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        x: (batch, *space, in_channels).
        by_rule: Take its gradients by the rule of `convolve_in_loop`, which serves what `_stays_in_loop` says.

    Returns:
        (batch, *grid, 4·hidden_channels), gates in the order i, f, g, o.
    """
    widths = pad_widths(tuple(x.shape[1:-1]), layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    x, widths = pad(x, widths, layer.stack.boundary)
    hidden, groups = layer.hidden_channels, layer.groups
    kernel = weights["weight_ih"].astype(x.dtype)
    if by_rule:
        return convolve_in_loop(x, kernel, widths, plain=False)
    if groups > 1:
        # groups act inside each gate, and a fused convolution numbers its outputs group first
        kernel = _swapped(kernel, 4, groups, hidden // groups)
    z = convolve(x, kernel, widths, stride=layer.stride, dilation=layer.dilation, groups=groups)
    return _swapped(z, groups, 4, hidden // groups) if groups > 1 else z


def recurrent_convolution(
    layer: LayerSpec, weights: Weights, h: Array, *, plain: bool = False, at_rest: Array | None = None
) -> Array:
    """Return W_hh ∗ h (batch, *grid, 4·hidden_channels) for h (batch, *grid, hidden_channels), zero if `at_rest`."""
    h, widths = pad(h, recurrent_pad_widths(layer.recurrent_kernel_size), layer.stack.boundary)
    return convolve_in_loop(h, weights["weight_hh"].astype(h.dtype), widths, plain=plain, nothing=at_rest)


def step(
    layer: LayerSpec,
    weights: Weights,
    z_x: Array | None,
    state: State,
    *,
    factor: Array | None = None,
    kept: Array | None = None,
    masks: Masks | None = None,
    plain: bool = False,
    at_rest: Array | None = None,
) -> State:
    """Return the state after one step (equations: `convlstm.reference.recurrence.step`).

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        z_x: W_ih ∗ x_t (batch, *grid, 4·hidden_channels), or None without input.
        state: h and c, each (batch, *grid, hidden_channels); c in float32 where h is in low precision.
        factor: δ, broadcast over the grid.
        kept: What is left of c_{t-1}, likewise.
        masks: Random draws of this step in training.
        plain: Leave every derivative to JAX: slower on CPU, and open to forward mode.
        at_rest: Whether h is zero, which need not be convolved (a scalar); None where nobody knows.

    Returns:
        h_t and c_t.
    """
    spec, masks = layer.stack, masks or Masks()
    h_before, c_before = state
    wide = c_before.dtype
    c_before = c_before if kept is None else c_before * kept.astype(wide)
    h_dropped = h_before if masks.recurrent is None else h_before * masks.recurrent.astype(h_before.dtype)
    z = recurrent_convolution(layer, weights, h_dropped, plain=plain, at_rest=at_rest)
    z = (z if z_x is None else z + z_x).astype(wide)
    # of the gates the loop keeps z alone: to compute them again is quicker than to carry a dozen arrays out of it
    own = {name: weights[name] for name in OWN_WEIGHTS if name in weights}
    h, c = jax.checkpoint(partial(gates, spec), prevent_cse=False)(own, z, c_before, factor)
    h = h.astype(h_before.dtype)
    return State(
        zoned_out(h_before, h, spec.zoneout_h, masks.zoneout_h),
        zoned_out(c_before, c, spec.zoneout_c, masks.zoneout_c),
    )


# compiled here, so that a call outside any `jit` is compiled once per layer and shape and not anew each time
@partial(jax.jit, static_argnames=("layer", "steps", "reverse", "plain", "from_rest"))
def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    state: State,
    *,
    steps: int,
    reverse: bool = False,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Array | None = None,
    masks: Masks | None = None,
    plain: bool = False,
    from_rest: bool = False,
) -> tuple[Array, State]:
    """Run one layer in one direction over a sequence.

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        x: Frames, time first (time, batch, *space, in_channels), or None for a layer without input.
        state: Initial h and c, each (batch, *grid, hidden_channels); convolutions run in the type of h.
        steps: Number of steps, the length of time.
        reverse: Run from the last step to the first; outputs still stand in input order.
        mask: True where a step is valid (batch, time); None means everywhere.
        durations: Δ (batch, time), for a strategy other than none.
        gaps: Time since the last valid frame (batch, time), for memory decay.
        masks: Random draws in training, zoneout's time first.
        plain: Leave every derivative to JAX: slower on CPU, and open to forward mode.
        from_rest: Whether the caller knows that the state is zero.

    Returns:
        Outputs, time first (time, batch, *grid, hidden_channels), and the final state.
    """
    state, masks = to_compute_types(state.h.dtype, state), lax.stop_gradient(masks or Masks())
    if not steps:
        return jnp.zeros((0, *state.h.shape), state.h.dtype), state
    explicit = mesh_is_explicit(state.h if x is None else x)
    by_rule = not (plain or explicit) and _stays_in_loop(layer)
    inputs = _step_inputs(layer, weights, x, state, mask, durations, gaps, masks, hoist=not (explicit or by_rule))
    if from_rest and not (plain or explicit) and jax.default_backend() == "cpu" and isinstance(steps, int):
        # elsewhere the host would have to wait for each answer
        inputs = inputs._replace(at_rest=jnp.arange(steps) == (steps - 1 if reverse else 0))
    advance = partial(_advance, layer, weights, masks.recurrent, plain, by_rule)
    state = State(*(_as_others(array, (inputs, weights, masks, state)) for array in state))
    if explicit:
        first: _Step = jax.tree.map(lambda array: array[0], inputs)
        state = _as_sharded(jax.eval_shape(lambda: advance((state, None), first)[0][0]), state)
    held = jnp.zeros_like(state.h) if mask is not None and layer.stack.masked_output == "hold" else None
    # a single step needs no loop; a length that an export leaves open can neither be compared nor given to a scan
    single, length = isinstance(steps, int) and steps == 1, steps if x is None else None
    carry, outputs = lax.scan(advance, (state, held), inputs, length=length, reverse=reverse, unroll=single)
    return outputs, carry[0]


def to_compute_types(dtype: Any, state: State) -> State:
    """Give h the type convolutions run in, and c at least float32."""
    return State(state.h.astype(dtype), state.c.astype(jnp.promote_types(dtype, jnp.float32)))


def over_grid(values: Array, spec: ConvLSTMSpec) -> Array:
    """Return values (..., channels) as (..., 1, ..., channels), to be spread over a grid."""
    return values.reshape(*values.shape[:-1], *(1,) * spec.spatial_dims, values.shape[-1])


def _step_inputs(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    state: State,
    mask: Array | None,
    durations: Array | None,
    gaps: Array | None,
    masks: Masks,
    *,
    hoist: bool,
) -> _Step:
    """Return what the steps need beside the state, time first; `hoist` takes the input convolutions out of the loop."""
    spec = layer.stack
    factor = None if durations is None else duration_scale(layer, weights, clean(durations, mask))
    kept = None if gaps is None else retention(layer, weights, clean(gaps, mask))
    if x is not None:
        x = x.astype(state.h.dtype)
        x = x if mask is None else jnp.where(_time_first(mask[..., None], spec), x, 0.0)
        x = x if masks.input is None else x * masks.input.astype(x.dtype)
    return _Step(
        x=None if hoist else x,
        z_x=jax.vmap(partial(input_convolution, layer, weights))(x) if hoist and x is not None else None,
        factor=None if factor is None else _time_first(factor, spec),
        kept=None if kept is None else _time_first(kept, spec),
        valid=None if mask is None else _time_first(mask[..., None], spec),
        zoneout_h=masks.zoneout_h,
        zoneout_c=masks.zoneout_c,
    )


def _stays_in_loop(layer: LayerSpec) -> bool:
    """Return whether the input convolution is quicker step by step: on a CPU, in a form that the rule serves.

    The result for all steps would be four times the states, written once and read once, and turned round by XLA.
    """
    unit = layer.groups == 1 and set(layer.stride) == set(layer.dilation) == {1}
    return unit and jax.default_backend() == "cpu"


def _advance(
    layer: LayerSpec, weights: Weights, dropped: Array | None, plain: bool, by_rule: bool, carry: _Carry, now: _Step
) -> tuple[_Carry, Array]:
    """Take one step of the loop: the carry is the state, and the output to hold where masked steps hold it."""
    before, held = carry
    after = step(
        layer,
        weights,
        now.z_x if now.x is None else input_convolution(layer, weights, now.x, by_rule=by_rule),
        before,
        factor=now.factor,
        kept=now.kept,
        masks=Masks(recurrent=dropped, zoneout_h=now.zoneout_h, zoneout_c=now.zoneout_c),
        plain=plain,
        at_rest=now.at_rest,
    )
    if now.valid is None:
        return (after, held), after.h
    state = State(*(jnp.where(now.valid, new, old) for new, old in zip(after, before, strict=True)))
    output = jnp.where(now.valid, state.h, 0.0 if held is None else held)
    return (state, None if held is None else output), output


def _as_others(array: Array, others: Any) -> Array:
    """Return a state that varies over the axes of a `shard_map` as the others do, which a scan wants from the start."""
    return reduce(varying_as, jax.tree.leaves(others), array)


def _as_sharded(like: State, state: State) -> State:
    """Return the state with the shardings it will have after a step, which a scan wants from the start."""
    return State(*(jax.sharding.reshard(a, b.sharding) for a, b in zip(state, like, strict=True)))  # type: ignore[no-untyped-call]


def _time_first(values: Array, spec: ConvLSTMSpec) -> Array:
    """Return values (batch, time, channels) time first, to be spread over a grid."""
    return over_grid(jnp.swapaxes(values, 0, 1), spec)


def _swapped(values: Array, first: int, second: int, size: int) -> Array:
    """Return values whose last axis first · second · size is ordered second, first, size."""
    split = values.reshape(*values.shape[:-1], first, second, size)
    return jnp.swapaxes(split, -3, -2).reshape(values.shape)
