"""The recurrence in MLX, for `mx.grad`, `mx.compile` and `mx.checkpoint` too.

Arrays have MLX's layout, channels last: `weight_ih` (4·hidden, *kernel, in/groups), `weight_hh` (4·hidden, *kernel,
hidden), `bias` and `norm_scale` (4·hidden), `peephole` (3[, *grid], hidden), gates in the order i, f, g, o; the rest as
in `docs/contract.md`. The loop has no custom gradient rule: on CPU one weight gradient over all steps was slower
than MLX's own. `convolution`, `padding` and `activations` have replacements for missing primitives, and faster forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod

import mlx.core as mx

from convlstm.engine.mlx.activations import ACTIVATION_FUNCTIONS, exp
from convlstm.engine.mlx.convolution import convolve, convolve_state
from convlstm.spec.choices import NORM_EPSILON
from convlstm.spec.durations import network_sizes
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import LayerMasks
from convlstm.spec.options import ConvLSTMSpec

Weights = Mapping[str, mx.array]
State = tuple[mx.array, mx.array]


def input_convolution(layer: LayerSpec, weights: Weights, x: mx.array) -> mx.array:
    """Return W_ih ∗ x (frames, *grid, 4·hidden) for x (frames, *space, in_channels)."""
    widths = pad_widths(tuple(x.shape[1:-1]), layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    groups, group_size = layer.groups, layer.hidden_channels // layer.groups
    weight = weights["weight_ih"]
    if groups > 1:
        # groups divide each gate, whereas one convolution of all gates numbers its outputs group first
        weight = weight.reshape(4, groups, group_size, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
    z = convolve(x, weight, widths, layer.stack.boundary, layer.stride, layer.dilation, groups)
    if groups > 1:
        z = z.reshape(*z.shape[:-1], groups, 4, group_size).swapaxes(-3, -2).reshape(z.shape)
    return z


def recurrent_convolution(layer: LayerSpec, weights: Weights, h: mx.array) -> mx.array:
    """Return W_hh ∗ h (batch, *grid, 4·hidden)."""
    widths, dilation = layer.recurrent_widths, layer.recurrent_dilation
    return convolve_state(h, weights["weight_hh"], widths, layer.stack.boundary, dilation)


def duration_scale(layer: LayerSpec, weights: Weights, durations: mx.array) -> mx.array:
    """Return δ(Δ), the factor on the candidate (batch, time, 1 or hidden)."""
    spec = layer.stack
    r = durations[..., None] / spec.reference_duration
    if callable(spec.duration_strategy):
        scale: mx.array = spec.duration_strategy(r)
        return scale
    if spec.duration_strategy == "linear":
        return r
    if spec.duration_strategy == "log":
        return mx.log(r + spec.duration_eps) + 1.0
    if spec.duration_strategy == "log1p":
        return mx.log1p(r) / log(2.0)
    # unlike maximum, this keeps NaN and has gradient 0 at and below ε
    log_r = mx.log(mx.where(r <= spec.duration_eps, mx.full(r.shape, spec.duration_eps, dtype=r.dtype), r))
    if spec.duration_strategy == "scalar":
        return exp(weights["duration.weight"].astype(r.dtype) * log_r)
    s = _network(layer, weights, log_r)
    return exp(spec.duration_damping * s) if spec.duration_strategy == "exp" else 1.0 + s


def retention(layer: LayerSpec, weights: Weights, gaps: mx.array) -> mx.array:
    """Return the factor on c after a gap (batch, time, hidden)."""
    q = gaps[..., None] / layer.stack.reference_duration
    excess = mx.where(q <= 1.0, mx.zeros_like(q), q - 1.0)
    return exp(-ACTIVATION_FUNCTIONS["softplus"](weights["memory_decay"].astype(q.dtype)) * excess)


def step(
    layer: LayerSpec,
    weights: Weights,
    z_x: mx.array | None,
    state: State,
    *,
    candidate_scale: mx.array | None = None,
    retention: mx.array | None = None,
    masks: LayerMasks | None = None,
    h_is_zero: bool = False,
) -> State:
    """Return h and c after one step; with `h_is_zero`, for a layer with input, h is not convolved."""
    spec, masks = layer.stack, masks or LayerMasks()
    sigma, phi = ACTIVATION_FUNCTIONS[spec.recurrent_activation], ACTIVATION_FUNCTIONS[spec.activation]
    h_before, c_before = state
    if retention is not None:
        c_before = c_before * retention
    z = _gates(layer, weights, z_x, None if h_is_zero else h_before, masks)
    z_i, z_f, z_g, z_o = mx.split(z, 4, axis=-1)
    if spec.peephole != "none":
        p_i, p_f, p_o = weights["peephole"]
        z_i, z_f = z_i + p_i * c_before, z_f + p_f * c_before
    g = phi(z_g)
    if candidate_scale is not None:
        g = g * candidate_scale
    c = sigma(z_f) * c_before + sigma(z_i) * g
    o = sigma(z_o + p_o * c if spec.peephole != "none" else z_o)
    h = (o * phi(c)).astype(h_before.dtype)
    h = _zoneout(h_before, h, spec.zoneout_h, masks.zoneout_h)
    c = _zoneout(c_before, c, spec.zoneout_c, masks.zoneout_c)
    return h, c


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: mx.array | None,
    state: State | None,
    *,
    steps: int,
    reverse: bool = False,
    mask: mx.array | None = None,
    durations: mx.array | None = None,
    gaps: mx.array | None = None,
    masks: LayerMasks | None = None,
) -> tuple[mx.array, State]:
    """Run one layer in one direction over a sequence."""
    spec = layer.stack
    starts_at_zero = state is None
    if state is None:
        state = _zero_state(layer, weights, x)
    h, c = _to_compute_type(weights, state)
    z_x = _input_terms(layer, weights, x, mask, masks)
    candidate_scales = retentions = None
    if durations is not None:
        candidate_scales = duration_scale(layer, weights, _clean(durations, mask))
    if gaps is not None:
        retentions = retention(layer, weights, _clean(gaps, mask))
    output_mask = None if mask is None else _mask_of_output(spec, mask, reverse=reverse)
    zeros = mx.zeros_like(h)
    outputs = [zeros] * steps
    for number, t in enumerate(reversed(range(steps)) if reverse else range(steps)):
        h_new, c_new = step(
            layer,
            weights,
            None if z_x is None else z_x[t],
            (h, c),
            candidate_scale=None if candidate_scales is None else _over_grid(candidate_scales[:, t], spec.spatial_dims),
            retention=None if retentions is None else _over_grid(retentions[:, t], spec.spatial_dims),
            masks=None if masks is None else masks.of_step(t),
            h_is_zero=starts_at_zero and number == 0,
        )
        if mask is None or output_mask is None:
            h, c = h_new, c_new
            outputs[t] = h
        else:
            valid_t = _mask_like(mask[:, t], h)
            h, c = mx.where(valid_t, h_new, h), mx.where(valid_t, c_new, c)
            outputs[t] = mx.where(_mask_like(output_mask[:, t], h), h, zeros)
    return mx.stack(outputs) if steps else mx.zeros((0, *h.shape), dtype=h.dtype), (h, c)


def _mask_of_output(spec: ConvLSTMSpec, mask: mx.array, *, reverse: bool) -> mx.array:
    """Return where the output of a step is h and not zero (batch, time); see `convlstm.engine`."""
    if spec.masked_output == "zero":
        return mask
    return mx.cumsum(mask.astype(mx.int32), axis=1, reverse=reverse) > 0


def _input_terms(
    layer: LayerSpec, weights: Weights, x: mx.array | None, mask: mx.array | None, masks: LayerMasks | None
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
    # the derivative of a split is one concatenation; that of indexing is a sum of arrays as long as the sequence
    return [z_t.squeeze(0) for z_t in mx.split(z.reshape(steps, batch, *z.shape[1:]), steps)]


def _gates(layer: LayerSpec, weights: Weights, z_x: mx.array | None, h: mx.array | None, masks: LayerMasks) -> mx.array:
    """Return z before peepholes; an h of None is zero, where there is an input."""
    spec, z = layer.stack, z_x
    if h is not None:
        if masks.recurrent is not None:
            h = h * masks.recurrent
        recurrent_terms = recurrent_convolution(layer, weights, h)
        z = recurrent_terms if z_x is None else recurrent_terms + z_x
    assert z is not None
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


def _zoneout(before: mx.array, after: mx.array, rate: float, mask: mx.array | None) -> mx.array:
    if mask is None and not rate:
        return after
    share = rate if mask is None else mask.astype(before.dtype)
    return share * before + (1.0 - share) * after


def _over_grid(values: mx.array, rank: int) -> mx.array:
    return values.reshape(values.shape[0], *(1,) * rank, values.shape[1])


def _mask_like(mask: mx.array, x: mx.array) -> mx.array:
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def _clean(values: mx.array, mask: mx.array | None) -> mx.array:
    """Return durations in at least float32; an invalid one becomes NaN, never a finite result."""
    wide = values if values.dtype == mx.float64 else values.astype(mx.float32)
    if mask is not None:
        wide = mx.where(mask, wide, mx.ones_like(wide))
    return mx.where((wide >= 0) & mx.isfinite(wide), wide, mx.full(wide.shape, mx.nan, dtype=wide.dtype))


def _zero_state(layer: LayerSpec, weights: Weights, x: mx.array | None) -> State:
    """Return h and c of zeros for frames x (time, batch, *space, in_channels)."""
    assert x is not None, "a layer without input needs a state"
    zeros = mx.zeros((x.shape[1], *layer.grid(tuple(x.shape[2:-1])), layer.hidden_channels), weights["weight_hh"].dtype)
    return zeros, zeros


def _to_compute_type(weights: Weights, state: State) -> State:
    """Return h in the type that convolutions compute in, and c in at least float32."""
    dtype = weights["weight_hh"].dtype
    wide = mx.float32 if dtype in (mx.bfloat16, mx.float16) else dtype
    return state[0].astype(dtype), state[1].astype(wide)
