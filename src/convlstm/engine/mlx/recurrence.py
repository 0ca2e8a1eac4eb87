"""The recurrence in MLX, open to `mx.grad`, `mx.compile` and `mx.checkpoint`.

Arrays have MLX's layout, channels last: `weight_ih` (4·hidden, *kernel, in/groups), `weight_hh` (4·hidden, *kernel,
hidden), `bias` and `norm_scale` (4·hidden), `peephole` (3[, *grid], hidden), gates in the order i, f, g, o; the rest as
in CONTRACT, Weights. There is no derivative rule around the loop: on CPU one weight gradient over all steps was slower
than MLX's own. Missing primitives, and quicker forms: `convlstm.engine.mlx.convolution`, `mlx_padding` and
`mlx_activations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod

import mlx.core as mx

from convlstm.engine.mlx.activations import ACTIVATION_FUNCTIONS, exp
from convlstm.engine.mlx.convolution import convolve, convolve_state
from convlstm.spec.durations import network_sizes
from convlstm.spec.geometry import pad_widths, recurrent_pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.options import NORM_EPSILON

Weights = Mapping[str, mx.array]
State = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Masks:
    """The random draws of one layer and direction in training, channels last (see the reference's `Masks`)."""

    input: mx.array | None = None
    recurrent: mx.array | None = None
    zoneout_h: mx.array | None = None
    zoneout_c: mx.array | None = None


def input_convolution(layer: LayerSpec, weights: Weights, x: mx.array) -> mx.array:
    """Return W_ih ∗ x for all frames at once.

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        x: (frames, *space, in_channels).

    Returns:
        (frames, *grid, 4·hidden_channels), gates in the order i, f, g, o.
    """
    widths = pad_widths(tuple(x.shape[1:-1]), layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    groups, part = layer.groups, layer.hidden_channels // layer.groups
    weight = weights["weight_ih"]
    if groups > 1:
        # groups act inside each gate, and a fused convolution numbers its outputs group first
        weight = weight.reshape(4, groups, part, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
    z = convolve(x, weight, widths, layer.stack.boundary, layer.stride, layer.dilation, groups)
    if groups > 1:
        z = z.reshape(*z.shape[:-1], groups, 4, part).swapaxes(-3, -2).reshape(z.shape)
    return z


def recurrent_convolution(layer: LayerSpec, weights: Weights, h: mx.array) -> mx.array:
    """Return W_hh ∗ h (batch, *grid, 4·hidden_channels) for h (batch, *grid, hidden_channels)."""
    widths = recurrent_pad_widths(layer.recurrent_kernel_size)
    return convolve_state(h, weights["weight_hh"], widths, layer.stack.boundary)


def duration_scale(layer: LayerSpec, weights: Weights, durations: mx.array) -> mx.array:
    """Return δ(Δ), the factor on the candidate (batch, time, 1 or hidden_channels), in at least float32."""
    spec = layer.stack
    r = durations[..., None] / spec.reference_duration
    if callable(spec.duration_strategy):
        factor: mx.array = spec.duration_strategy(r)
        return factor
    if spec.duration_strategy == "linear":
        return r
    if spec.duration_strategy == "log":
        return mx.log(r + spec.duration_eps) + 1.0
    if spec.duration_strategy == "log1p":
        return mx.log1p(r) / log(2.0)
    # this order keeps NaN, and gives gradient 0 below ε
    log_r = mx.log(mx.where(r <= spec.duration_eps, mx.full(r.shape, spec.duration_eps, dtype=r.dtype), r))
    if spec.duration_strategy == "scalar":
        return exp(weights["duration.weight"].astype(r.dtype) * log_r)
    s = _network(layer, weights, log_r)
    return exp(spec.duration_damping * s) if spec.duration_strategy == "exp" else 1.0 + s


def retention(layer: LayerSpec, weights: Weights, gaps: mx.array) -> mx.array:
    """Return what is left of c after a gap (batch, time, hidden_channels), in at least float32."""
    q = gaps[..., None] / layer.stack.reference_duration
    excess = mx.where(q <= 1.0, mx.zeros_like(q), q - 1.0)
    return exp(-ACTIVATION_FUNCTIONS["softplus"](weights["memory_decay"].astype(q.dtype)) * excess)


def step(
    layer: LayerSpec,
    weights: Weights,
    z_x: mx.array | None,
    state: State,
    *,
    factor: mx.array | None = None,
    kept: mx.array | None = None,
    masks: Masks | None = None,
    t: int = 0,
    at_rest: bool = False,
) -> State:
    """Return the state after one step (equations: `convlstm.reference.recurrence.step`).

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        z_x: W_ih ∗ x_t (batch, *grid, 4·hidden_channels), or None without input.
        state: h and c, each (batch, *grid, hidden_channels); c in float32 where h is in low precision.
        factor: δ, broadcast over the grid.
        kept: What is left of c_{t-1}, likewise.
        masks: Random draws in training.
        t: Step, to pick the zoneout masks.
        at_rest: Whether the state is known to be zero, so that there is nothing to convolve.

    Returns:
        h_t and c_t.
    """
    spec, masks = layer.stack, masks or Masks()
    sigma, phi = ACTIVATION_FUNCTIONS[spec.recurrent_activation], ACTIVATION_FUNCTIONS[spec.activation]
    h_before, c_before = state
    c_before = c_before if kept is None else c_before * kept
    z_i, z_f, z_g, z_o = mx.split(_gates(layer, weights, z_x, None if at_rest else h_before, masks), 4, axis=-1)
    if spec.peephole != "none":
        p_i, p_f, p_o = weights["peephole"]
        z_i, z_f = z_i + p_i * c_before, z_f + p_f * c_before
    g = phi(z_g)
    c = sigma(z_f) * c_before + sigma(z_i) * (g if factor is None else g * factor)
    o = sigma(z_o + p_o * c if spec.peephole != "none" else z_o)
    h = (o * phi(c)).astype(h_before.dtype)
    h = _zoned_out(h_before, h, spec.zoneout_h, None if masks.zoneout_h is None else masks.zoneout_h[t])
    c = _zoned_out(c_before, c, spec.zoneout_c, None if masks.zoneout_c is None else masks.zoneout_c[t])
    return h, c


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: mx.array | None,
    state: State,
    *,
    steps: int,
    reverse: bool = False,
    mask: mx.array | None = None,
    durations: mx.array | None = None,
    gaps: mx.array | None = None,
    masks: Masks | None = None,
    from_rest: bool = False,
) -> tuple[mx.array, State]:
    """Run one layer in one direction over a sequence.

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        x: Frames, time first (time, batch, *space, in_channels), or None for a layer without input.
        state: Initial h and c, each (batch, *grid, hidden_channels).
        steps: Number of steps, the length of time.
        reverse: Run from the last step to the first; outputs still stand in input order.
        mask: True where a step is valid (batch, time); None means everywhere.
        durations: Δ (batch, time), for a strategy other than none.
        gaps: Time since the last valid frame (batch, time), for memory decay.
        masks: Random draws in training.
        from_rest: Whether the caller knows that the state is zero.

    Returns:
        Outputs, time first (time, batch, *grid, hidden_channels), and the final (h, c).
    """
    spec = layer.stack
    h, c = _to_compute_type(weights, state)
    z_x = _input_terms(layer, weights, x, mask, masks)
    factors = None if durations is None else duration_scale(layer, weights, _clean(durations, mask))
    kept = None if gaps is None else retention(layer, weights, _clean(gaps, mask))
    previous = mx.zeros_like(h)
    outputs = [previous] * steps
    for number, t in enumerate(reversed(range(steps)) if reverse else range(steps)):
        h_new, c_new = step(
            layer,
            weights,
            None if z_x is None else z_x[t],
            (h, c),
            factor=None if factors is None else _over_grid(factors[:, t], spec.spatial_dims),
            kept=None if kept is None else _over_grid(kept[:, t], spec.spatial_dims),
            masks=masks,
            t=t,
            at_rest=from_rest and number == 0 and z_x is not None,
        )
        if mask is None:
            h, c = h_new, c_new
            outputs[t] = h
        else:
            here = _mask_like(mask[:, t], h)
            h, c = mx.where(here, h_new, h), mx.where(here, c_new, c)
            previous = mx.where(here, h, previous if spec.masked_output == "hold" else mx.zeros_like(h))
            outputs[t] = previous
    return mx.stack(outputs) if steps else mx.zeros((0, *h.shape), dtype=h.dtype), (h, c)


def _input_terms(
    layer: LayerSpec, weights: Weights, x: mx.array | None, mask: mx.array | None, masks: Masks | None
) -> list[mx.array] | None:
    """Return W_ih ∗ x_t of every step."""
    if x is None or not x.shape[0]:
        return None
    if mask is not None:
        x = mx.where(_mask_like(mask.T, x), x, mx.zeros_like(x))
    if masks is not None and masks.input is not None:
        x = x * masks.input
    steps, batch = x.shape[:2]
    z = input_convolution(layer, weights, x.reshape(steps * batch, *x.shape[2:]))
    # the derivative of a split is one concatenation; that of indexing would be a sum over whole sequences
    return [part.squeeze(0) for part in mx.split(z.reshape(steps, batch, *z.shape[1:]), steps)]


def _gates(layer: LayerSpec, weights: Weights, z_x: mx.array | None, h: mx.array | None, masks: Masks) -> mx.array:
    spec, terms = layer.stack, [] if z_x is None else [z_x]
    if h is not None:
        h = h if masks.recurrent is None else h * masks.recurrent
        terms.insert(0, recurrent_convolution(layer, weights, h))
    z = sum(terms[1:], terms[0])
    if spec.norm != "none" and z.size:
        z = _normalised(z, spec.norm_groups or 1) * weights["norm_scale"]
    return z + weights["bias"].astype(z.dtype) if spec.bias else z


def _normalised(z: mx.array, groups: int) -> mx.array:
    wide = z.astype(mx.float32) if z.dtype in (mx.bfloat16, mx.float16) else z
    parts = wide.reshape(z.shape[0], prod(z.shape[1:-1]), 4, groups, z.shape[-1] // (4 * groups))
    centred = parts - mx.mean(parts, axis=(1, 4), keepdims=True)
    variance = mx.mean(mx.square(centred), axis=(1, 4), keepdims=True)
    return (centred / mx.sqrt(variance + NORM_EPSILON)).reshape(z.shape).astype(z.dtype)


def _network(layer: LayerSpec, weights: Weights, x: mx.array) -> mx.array:
    phi = ACTIVATION_FUNCTIONS[layer.stack.duration_activation]
    count = len(network_sizes(layer))
    for n in range(count):
        weight, bias = (weights[f"duration.{n}.{part}"].astype(x.dtype) for part in ("weight", "bias"))
        x = x @ weight.T + bias
        x = phi(x) if n < count - 1 else x
    return x


def _zoned_out(before: mx.array, after: mx.array, rate: float, mask: mx.array | None) -> mx.array:
    if mask is None and not rate:
        return after
    keep = rate if mask is None else mask.astype(before.dtype)
    return keep * before + (1.0 - keep) * after


def _over_grid(values: mx.array, rank: int) -> mx.array:
    return values.reshape(values.shape[0], *(1,) * rank, values.shape[1])


def _mask_like(mask: mx.array, x: mx.array) -> mx.array:
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def _clean(values: mx.array, mask: mx.array | None) -> mx.array:
    """Return durations in at least float32; a bad one that nobody could check turns into NaN, never a finite result."""
    wide = values if values.dtype == mx.float64 else values.astype(mx.float32)
    wide = wide if mask is None else mx.where(mask, wide, mx.ones_like(wide))
    return mx.where((wide >= 0) & mx.isfinite(wide), wide, mx.full(wide.shape, mx.nan, dtype=wide.dtype))


def _to_compute_type(weights: Weights, state: State) -> State:
    """Give h the type convolutions run in, and c at least float32."""
    dtype = weights["weight_hh"].dtype
    wide = mx.float32 if dtype in (mx.bfloat16, mx.float16) else dtype
    return state[0].astype(dtype), state[1].astype(wide)
